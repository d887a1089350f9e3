//! Whether RCU grace periods are expedited while a freeze calls FIFREEZE, as `plan` and `check` show it. Only the state
//! is read; [`crate::sys::rcu`] changes it during a freeze.

use crate::freeze::policy::FreezePolicy;
use crate::sys::rcu::{self, Expedition};
use std::path::Path;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GracePeriods {
    Expedited,
    AlreadyExpedited,
    Normal {
        reason: String,
        remedy: &'static str,
    },
}

impl GracePeriods {
    pub(super) fn find(policy: &FreezePolicy, sys: &Path) -> Self {
        let normal = |reason: String, remedy| Self::Normal { reason, remedy };
        match rcu::read_state(sys) {
            Expedition::AlreadyOn => Self::AlreadyExpedited,
            _ if policy.normal_rcu => normal(
                "fsfreeze-normal-rcu is set".into(),
                "if short interrupts of all processors do no harm here, remove fsfreeze-normal-rcu from \
                 the configuration",
            ),
            Expedition::Available => Self::Expedited,
            Expedition::Overruled => normal(
                "rcu_normal is set".into(),
                "unless this is a real-time system, boot without rcupdate.rcu_normal and \
                 rcupdate.rcu_normal_after_boot, or write 0 to /sys/kernel/rcu_normal",
            ),
            Expedition::Unavailable(error) => normal(
                error,
                "mount /sys writable; in a service with ProtectKernelTunables=, set \
                 ReadWritePaths=-/sys/kernel/rcu_expedited",
            ),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Expedited => "expedited",
            Self::AlreadyExpedited => "already-expedited",
            Self::Normal { .. } => "normal",
        }
    }

    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::Normal { reason, .. } => Some(reason),
            Self::Expedited | Self::AlreadyExpedited => None,
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Expedited => "expedited while freezing".into(),
            Self::AlreadyExpedited => "already expedited".into(),
            Self::Normal { reason, .. } => format!("normal: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_policy_and_the_files_decide() {
        let dir = tempfile::tempdir().unwrap();
        let sys = dir.path();
        fs::create_dir(sys.join("kernel")).unwrap();
        let write = |name: &str, text: &str| fs::write(sys.join("kernel").join(name), text);
        let mut policy = FreezePolicy::default();
        let found = |policy: &FreezePolicy| {
            let found = GracePeriods::find(policy, sys);
            assert_eq!(found.reason().is_some(), found.name() == "normal");
            (found.name(), found.text())
        };
        let (name, text) = found(&policy);
        assert_eq!(name, "normal");
        assert!(
            text.ends_with("/kernel/rcu_expedited: No such file or directory"),
            "{text}"
        );
        write("rcu_expedited", "0\n").unwrap();
        assert_eq!(
            found(&policy),
            ("expedited", "expedited while freezing".into())
        );
        write("rcu_normal", "1\n").unwrap();
        assert_eq!(
            found(&policy),
            ("normal", "normal: rcu_normal is set".into())
        );
        policy.normal_rcu = true;
        assert_eq!(
            found(&policy),
            ("normal", "normal: fsfreeze-normal-rcu is set".into())
        );
        write("rcu_expedited", "1\n").unwrap();
        assert_eq!(
            found(&policy),
            ("already-expedited", "already expedited".into())
        );
    }
}
