//! Filesystems that a freeze could not freeze or hold. Each is opened exactly as a freeze opens it, and closed again.

use super::{CheckContext, CheckResult, Subject};
use crate::deadline::Pool;
use crate::freeze::ops::OpenError;
use crate::freeze::plan::Target;
use crate::freeze::reach;
use crate::freeze::report::Hold;
use crate::tools::plan::expected_hold;
use nix::libc;

const ABOUT: Subject = Subject::Filesystems;
const EXCLUDE: &str = "or exclude it: fsfreeze-exclude in [qemu-ga-rs]";
const CRASH: &str = "the level is crash";

pub(super) fn check(context: &CheckContext<'_>) -> Vec<CheckResult> {
    let targets = &context.plan.targets;
    let limit = context.config.limits.step;
    let opened = reach::open(&Pool::default(), limit, context.mounts, targets);
    let opened = targets.iter().zip(opened);
    let mut results: Vec<CheckResult> = opened
        .filter_map(|(target, opened)| match opened {
            Ok(_) => check_hold(target),
            Err(error) => check_unopened(context, target, &error),
        })
        .collect();
    let skipped = context.plan.skipped.iter();
    results.extend(skipped.filter(|skipped| skipped.writable).map(|skipped| {
        let name = String::from_utf8_lossy(&skipped.mountpoint);
        CheckResult::finding(
            ABOUT,
            format!("{name} is not frozen, so {CRASH}"),
            &skipped.reason,
            format!("mount it so that it can be frozen, {EXCLUDE}"),
        )
    }));
    results
}

fn check_unopened(
    context: &CheckContext<'_>,
    target: &Target,
    error: &OpenError,
) -> Option<CheckResult> {
    // Only root can open every mount point, and the agent is root.
    let is_denied =
        matches!(error, OpenError::Failed(error) if error.raw_os_error() == Some(libc::EACCES));
    let is_rights = is_denied && !nix::unistd::geteuid().is_root();
    let is_harmless = target.is_read_only && error.is_hidden();
    if matches!(error, OpenError::Refused(_)) || is_rights || is_harmless {
        return None;
    }
    let name = target.filesystem.name();
    let is_tolerated = error.is_hidden() && !context.config.policy.strict;
    let effect = match is_tolerated {
        _ if target.optional => "which may fail",
        true => "so the level is crash",
        false => "so every freeze fails",
    };
    let what = format!("{name} cannot be frozen, {effect}");
    let why = error.to_string();
    Some(match target.optional {
        true => CheckResult::note(ABOUT, what, why),
        false => CheckResult::finding(
            ABOUT,
            what,
            why,
            format!("unmount what hides it, {EXCLUDE}"),
        ),
    })
}

fn check_hold(target: &Target) -> Option<CheckResult> {
    let (name, fstype) = (target.filesystem.name(), &target.filesystem.fstype);
    let what = format!("{name} ({fstype}) cannot be frozen");
    match expected_hold(target) {
        Some(Hold::Frozen | Hold::ReadOnly) => None,
        Some(Hold::Unchanged) => Some(CheckResult::note(
            ABOUT,
            what,
            format!("it is flushed, and {CRASH} if its device is written to before the thaw"),
        )),
        None => Some(CheckResult::finding(
            ABOUT,
            format!("{what}, so {CRASH}"),
            "writes to its device are not counted",
            format!(
                "echo 1 >/sys/dev/block/{}:{}/queue/iostats, mount it read-only, {EXCLUDE}",
                target.filesystem.major, target.filesystem.minor
            ),
        )),
    }
}
