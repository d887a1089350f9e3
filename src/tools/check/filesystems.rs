//! What a freeze could not hold: it is opened here as a freeze would.

use super::{CheckContext, CheckResult};
use crate::deadline::Pool;
use crate::freeze::ops::OpenError;
use crate::freeze::plan::Target;
use crate::freeze::reach;
use crate::freeze::report::Hold;
use crate::tools::plan::expected_hold;
use nix::libc;

const ABOUT: &str = "filesystems";
const EXCLUDE: &str = "or exclude it: fsfreeze-exclude in [qemu-ga-rs]";

pub fn check(scene: &CheckContext<'_>) -> Vec<CheckResult> {
    let targets = &scene.plan.targets;
    let limit = scene.config.limits.step;
    let opened = reach::open(&Pool::default(), limit, scene.mounts, targets);
    let opened = targets.iter().zip(opened);
    let mut results: Vec<CheckResult> = opened
        .filter_map(|(target, opened)| match opened {
            Ok(_) => unfreezable(target),
            Err(error) => unopened(scene, target, &error),
        })
        .collect();
    for left_out in scene.plan.skipped.iter().filter(|left| left.writable) {
        let name = String::from_utf8_lossy(&left_out.mountpoint);
        results.push(CheckResult::finding(
            ABOUT,
            format!(
                "{name} cannot be frozen, so the level is crash: {}",
                left_out.reason
            ),
            format!("mount it so that it can be, {EXCLUDE}"),
        ));
    }
    results
}

fn unopened(scene: &CheckContext<'_>, target: &Target, error: &OpenError) -> Option<CheckResult> {
    let is_denied =
        matches!(error, OpenError::Failed(error) if error.raw_os_error() == Some(libc::EACCES));
    let is_ours = nix::unistd::geteuid().is_root() || !is_denied;
    if matches!(error, OpenError::Refused(_))
        || !is_ours
        || (target.is_read_only && error.is_hidden())
    {
        return None;
    }
    let name = target.filesystem.name();
    let passes = target.optional || (error.is_hidden() && !scene.config.policy.strict);
    let so = match passes {
        true if target.optional => "it may fail",
        true => "the level is crash",
        false => "every freeze fails",
    };
    let text = format!("{name} cannot be frozen, so {so}: {error}");
    Some(match target.optional {
        true => CheckResult::note(ABOUT, text),
        false => CheckResult::finding(ABOUT, text, format!("unmount what hides it, {EXCLUDE}")),
    })
}

/// A filesystem of a type that cannot be frozen.
fn unfreezable(target: &Target) -> Option<CheckResult> {
    let (name, fstype) = (target.filesystem.name(), &target.filesystem.fstype);
    match expected_hold(target) {
        Some(Hold::Frozen | Hold::ReadOnly) => None,
        Some(Hold::Unchanged) => Some(CheckResult::note(
            ABOUT,
            format!(
                "{name} ({fstype}) cannot be frozen; it is flushed, and the level is crash only if its device is \
                 written to until the thaw"
            ),
        )),
        None => Some(CheckResult::finding(
            ABOUT,
            format!(
                "{name} ({fstype}) cannot be frozen, and writes to its device are not counted: the level is crash"
            ),
            format!(
                "echo 1 >/sys/dev/block/{}:{}/queue/iostats, mount it read-only, {EXCLUDE}",
                target.filesystem.major, target.filesystem.minor
            ),
        )),
    }
}
