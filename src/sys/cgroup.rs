//! The control groups that this process is in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel's control groups are mounted: version 2, alone or beside version 1, and the service
/// manager's own hierarchy of version 1.
const MOUNTS: [(&str, &[&str]); 2] = [
    ("0::", &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]),
    ("name=systemd:", &["/sys/fs/cgroup/systemd"]),
];

/// The directory of our own group in each hierarchy, that of version 2 first. It may be that nothing is
/// mounted there.
///
/// # Errors
/// /proc cannot be read.
pub fn own_groups() -> io::Result<Vec<PathBuf>> {
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    let group = |line: &str| {
        // `7:name=systemd:/system.slice/x.service`, or `0::/system.slice/x.service`
        let (prefix, mounts) = MOUNTS.into_iter().find(|(prefix, _)| {
            let at = line.find(prefix);
            at.is_some_and(|at| at == 0 || line[..at].ends_with(':'))
        })?;
        let (_, path) = line.split_once(prefix)?;
        // Outside of what a container sees.
        let path = Path::new(path.strip_prefix('/')?);
        if path.starts_with("..") {
            return None;
        }
        let is_mounted = |mount: &&&str| Path::new(mount).join("cgroup.procs").exists();
        let mount = mounts.iter().find(is_mounted).or(mounts.first())?;
        Some(Path::new(mount).join(path))
    };
    // The kernel tells of version 2 last.
    Ok(membership.lines().rev().filter_map(group).collect())
}
