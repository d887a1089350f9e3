//! Google Cloud's application-consistent snapshots: pre.sh and post.sh in /etc/google/snapshots, each
//! called with the names of the disks, separated by commas.
//!
//! As there, a failure means that there is no snapshot: the freeze fails.

use std::time::Duration;

use super::script::{self, Flaw};
use super::{Adapter, Found, Scene, Use};
use crate::hooks::policy::{OnFailure, limit};
use crate::hooks::step::{Call, Fitness, Step};
use crate::hooks::{self, HookStatus, Phase, from_words};

/// The adapter.
pub const GOOGLE: Adapter = Adapter {
    name: NAME,
    tags: &[],
    find,
};

const NAME: &str = "google";
/// The usual places, below the root.
const PRE: &str = "etc/google/snapshots/pre.sh";
const POST: &str = "etc/google/snapshots/post.sh";
const TIMEOUT: Duration = Duration::from_secs(60);

const NOT_FOUND: &str = "SCRIPT_NOT_FOUND";
const BAD_CONFIG: &str = "INVALID_CONFIG";

fn find(scene: &Scene<'_>) -> Found {
    let (mut pre, mut post, mut timeout) = (None, None, Some(TIMEOUT));
    let settings = script::settings(scene, NAME, OnFailure::Abort, &mut |key, value| {
        match key {
            "pre" => pre = Some(script::absolute(value)?),
            "post" => post = Some(script::absolute(value)?),
            "timeout" => timeout = limit(value)?,
            _ => return script::unknown(),
        }
        Ok(())
    });
    let mut found = Found {
        warnings: settings.warnings,
        ..Found::default()
    };
    let is_named = pre.is_some() || post.is_some();
    let pre = pre.unwrap_or_else(|| scene.root.join(PRE));
    let post = post.unwrap_or_else(|| scene.root.join(POST));
    let is_wanted = is_named || settings.used == Use::Yes || pre.exists() || post.exists();
    if settings.used == Use::No || !is_wanted {
        return found;
    }
    let mut step = Step::new(NAME, pre.display().to_string(), settings.policy);
    step.error_name = error_name;
    for path in [&pre, &post] {
        if let Err(flaw) = script::look(path, script::READABLE) {
            let error = match flaw {
                Flaw::Missing(_) => NOT_FOUND,
                Flaw::Inert(_) | Flaw::Forbidden(_) => BAD_CONFIG,
            };
            step.fitness = Fitness::Unfit {
                reason: flaw.into_text(),
                error: Some(error),
            };
            break;
        }
    }
    let disks = disks(scene.devices);
    let call = |program| Call {
        program,
        args: vec![disks.clone().into()],
        timeout,
        retries: 0,
    };
    step.freeze = Some(call(pre));
    step.thaw = Some(call(post));
    found.steps.push(step);
    found
}

/// Each device once.
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
