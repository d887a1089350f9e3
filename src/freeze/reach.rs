//! Opens the filesystems of a plan, each within a time limit: before and after the hooks, and for `qemu-ga check`
//! (floor 3).

use super::guard;
use super::ops::OpenError;
use super::plan::Target;
use crate::deadline::{Pace, Pool};
use crate::probe::mount_root::{MountRoot, NO_DIRECTORY, is_covered};
use crate::probe::mountinfo::Mount;
use nix::libc;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::time::Duration;

/// One result each. If the first mount point is covered, it tries the others.
pub fn open(
    pool: &Pool,
    limit: Option<Duration>,
    mounts: &[Mount],
    targets: &[Target],
) -> Vec<Result<File, OpenError>> {
    let refusal = |target: &Target| guard::refusal(mounts, &target.filesystem);
    let refusals: Vec<_> = targets.iter().map(refusal).collect();
    let open = |target: &Target, path: &[u8]| {
        let root = MountRoot::of(mounts, &target.filesystem, path);
        move || root.open()
    };
    let allowed = targets.iter().zip(&refusals);
    let allowed = allowed.filter(|(_, refusal)| refusal.is_none());
    let calls = allowed.map(|(target, _)| open(target, &target.filesystem.mountpoint));
    let opened = pool.run(Pace::SideBySide, limit, drop, calls);
    let mut opened = opened.into_iter();
    let mut roots = Vec::with_capacity(targets.len());
    for (target, refusal) in targets.iter().zip(refusals) {
        if let Some(why) = refusal {
            roots.push(Err(OpenError::Refused(why)));
            continue;
        }
        let first = opened
            .next()
            .map_or(Err(ErrorKind::Interrupted.into()), |o| o.result);
        let root = first.or_else(|error| {
            let mut others = target.alternatives.iter();
            // If all fail, the error of the first mount point is reported.
            let other = others.find_map(|path| {
                let call = open(target, path);
                pool.run_one(limit, drop, call).ok()
            });
            other.ok_or(error)
        });
        roots.push(root.map_err(|error| reason(mounts, target, error)));
    }
    roots
}

/// The meaning of an error of open. What the mount table does not show as covered has been moved.
fn reason(mounts: &[Mount], target: &Target, error: io::Error) -> OpenError {
    if error.raw_os_error() == Some(NO_DIRECTORY as i32) {
        return OpenError::NoDirectory;
    }
    // Below a mount that is covered the path leads to other directories, or to none.
    let leads_elsewhere = error.kind() == ErrorKind::CrossesDevices
        || matches!(
            error.raw_os_error(),
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
        );
    if leads_elsewhere && is_covered(mounts, target.filesystem.mount_id) {
        return OpenError::Covered;
    }
    OpenError::Failed(error)
}
