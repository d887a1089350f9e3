//! The control groups of this process (cgroups(7)).
//!
//! The guardian leaves the agent's service by them, and a tracked child gets a group below its own. Without control
//! groups both do without.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Prefixes of lines in /proc/self/cgroup, each with the usual mount points of the hierarchy: version 2, alone or
/// together with version 1, and systemd's own hierarchy of version 1.
const MOUNTS: [(&str, &[&str]); 2] = [
    ("0::", &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]),
    ("name=systemd:", &["/sys/fs/cgroup/systemd"]),
];

/// In each hierarchy, that of version 2 first. Fails without /proc; the hierarchy may not be mounted there.
pub fn own_groups() -> io::Result<Vec<PathBuf>> {
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    let group = |line: &str| {
        // `7:name=systemd:/system.slice/x.service`, or `0::/system.slice/x.service`
        let (prefix, mounts) = MOUNTS.into_iter().find(|(prefix, _)| {
            let at = line.find(prefix);
            at.is_some_and(|at| at == 0 || line[..at].ends_with(':'))
        })?;
        let (_, path) = line.split_once(prefix)?;
        // In a cgroup namespace, a group outside of its root is shown as `/../…`.
        let path = Path::new(path.strip_prefix('/')?);
        if path.starts_with("..") {
            return None;
        }
        let is_mounted = |mount: &&&str| Path::new(mount).join("cgroup.procs").exists();
        let mount = mounts.iter().find(is_mounted).or(mounts.first())?;
        Some(Path::new(mount).join(path))
    };
    // Version 2 has hierarchy number 0 and comes last (proc_cgroup_show in kernel/cgroup/cgroup.c).
    Ok(membership.lines().rev().filter_map(group).collect())
}
