//! Adapter for Google Cloud's application-consistent snapshots: pre.sh and post.sh in /etc/google/snapshots, called
//! with the names of the disks, separated by commas. As on Google Cloud, a failure prevents the snapshot: the freeze
//! fails.

use std::path::Path;
use std::time::Duration;

use super::script::{self, Group, PairContract, ScriptErrorKind};
use crate::hooks::adapter::{Adapter, Discovered, DiscoveryContext};
use crate::hooks::settings::OnFailure;
use crate::hooks::{self, HookStatus, Phase, from_words};

pub(super) const ADAPTER: Adapter = Adapter {
    name: NAME,
    discover: find,
    error_name,
    ..Adapter::DEFAULT
};

const NAME: &str = "google";
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);
const CONTRACT: PairContract = PairContract {
    group: Group {
        name: NAME,
        on_failure: OnFailure::Abort,
        paths: &["pre", "post"],
        has_timeout: true,
    },
    places: [
        "etc/google/snapshots/pre.sh",
        "etc/google/snapshots/post.sh",
    ],
    timeout: SCRIPT_TIMEOUT,
};

const NOT_FOUND: &str = "SCRIPT_NOT_FOUND";
const BAD_CONFIG: &str = "INVALID_CONFIG";

fn find(context: &DiscoveryContext<'_>) -> Discovered {
    let (mut found, used) = CONTRACT.find(context);
    let Some((mut pair, policy)) = used else {
        return found;
    };
    pair.args = vec![disks(context.devices).into()];
    let check = |path: &Path| script::open_checked(path, script::MAX_MODE_READABLE).map(drop);
    let task = pair.task(policy, &check, &|rejected| {
        Some(match rejected {
            ScriptErrorKind::Missing => NOT_FOUND,
            ScriptErrorKind::NotExecutable | ScriptErrorKind::Forbidden => BAD_CONFIG,
        })
    });
    found.tasks.push(task);
    found
}

fn disks(devices: &str) -> String {
    let mut disks: Vec<String> = Vec::new();
    for device in from_words(devices) {
        if !disks.contains(&device) {
            disks.push(device);
        }
    }
    disks.join(",")
}

fn error_name(_: Phase, status: &HookStatus) -> Option<&'static str> {
    Some(match status {
        HookStatus::Exited(0) => "NO_ERROR",
        HookStatus::Skipped(_) => return None,
        HookStatus::TimedOut
        | HookStatus::NotRun {
            status: hooks::TIMED_OUT,
            ..
        } => "SCRIPT_TIMED_OUT",
        HookStatus::NotRun {
            status: hooks::NOT_FOUND,
            ..
        } => NOT_FOUND,
        HookStatus::Exited(_)
        | HookStatus::Signaled(_)
        | HookStatus::NotRun { .. }
        | HookStatus::Cancelled => "UNHANDLED_SCRIPT_ERROR",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_once_each() {
        assert_eq!(
            disks("/dev/vda1 8:1 /dev/vda1 a\\040b"),
            "/dev/vda1,8:1,a b"
        );
        assert_eq!(disks(""), "");
    }

    #[test]
    fn every_end_has_a_name() {
        let name = |status| error_name(Phase::Freeze, &status).unwrap();
        let not_run = |status| HookStatus::NotRun {
            status,
            reason: String::new(),
        };
        assert_eq!(name(HookStatus::Exited(0)), "NO_ERROR");
        assert_eq!(name(HookStatus::Exited(77)), "UNHANDLED_SCRIPT_ERROR");
        assert_eq!(name(HookStatus::Signaled(9)), "UNHANDLED_SCRIPT_ERROR");
        assert_eq!(name(HookStatus::TimedOut), "SCRIPT_TIMED_OUT");
        assert_eq!(name(not_run(127)), "SCRIPT_NOT_FOUND");
        assert_eq!(name(not_run(126)), "UNHANDLED_SCRIPT_ERROR");
    }
}
