//! Filesystems that are mounted, but not in the mount table of this process: those of other mount namespaces (containers,
//! services with PrivateMounts), and those that were unmounted while in use (umount -l). Floor 1.
//!
//! The drivers of ext4, XFS, F2FS and NILFS2 have a directory in /sys/fs for each filesystem, named after its device.
//! Others have none (vfat) or name no device (btrfs), and are not found. The mount tables of all processes are searched
//! only if a filesystem is missing. The plan warns of these, because a freeze does not include them.

use super::System;
use super::mountinfo::{self, DeviceNumber, Mount};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The directories of the drivers; ext2 and ext3 are mounted by ext4.
pub const DRIVERS: [&str; 4] = ["ext4", "xfs", "f2fs", "nilfs2"];

/// This delays the freeze.
const PROC_SEARCH_TIMEOUT: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    pub device: String,
    /// The driver's, if the mount was not found.
    pub fstype: String,
    /// A mount point, and a process in whose mount namespace that is.
    pub place: Option<(Vec<u8>, i32)>,
    number: DeviceNumber,
}

/// Writable ones only.
pub fn find_elsewhere(system: &System, mounts: &[Mount]) -> Vec<Elsewhere> {
    let known: HashSet<DeviceNumber> = mounts.iter().map(Mount::device).collect();
    let mut found = Vec::new();
    for driver in DRIVERS {
        let Ok(dir) = std::fs::read_dir(system.path("/sys/fs").join(driver)) else {
            continue;
        };
        for entry in dir.flatten() {
            let name = entry.file_name();
            let device = Path::new("/sys/class/block").join(&name);
            // The directory also has `features` and the like.
            let number = mountinfo::parse_device_number(&system.attribute(&device.join("dev")));
            let Some(number) = number.filter(|number| !known.contains(number)) else {
                continue;
            };
            if system.attribute(&device.join("ro")).trim() != "1" {
                found.push(Elsewhere {
                    // The kernel writes the slash of names such as `cciss/c0d0` as `!` in sysfs.
                    device: format!("/dev/{}", name.to_string_lossy().replace('!', "/")),
                    fstype: driver.to_owned(),
                    place: None,
                    number,
                });
            }
        }
    }
    if !found.is_empty() {
        find_places(system, &mut found);
    }
    found
}

/// Searches the mount namespaces of all processes; removes those that are read-only there.
fn find_places(system: &System, found: &mut Vec<Elsewhere>) {
    let until = Instant::now() + PROC_SEARCH_TIMEOUT;
    let mut seen: HashSet<PathBuf> = HashSet::new();
    let mut is_read_only: HashSet<DeviceNumber> = HashSet::new();
    for entry in std::fs::read_dir(system.path("/proc"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok());
        let namespace = std::fs::read_link(entry.path().join("ns/mnt"));
        let (Some(pid), Ok(namespace)) = (pid, namespace) else {
            continue;
        };
        // Of each namespace one process is enough.
        if !seen.insert(namespace) || Instant::now() >= until {
            continue;
        }
        let table = system
            .bytes(format!("/proc/{pid}/mountinfo"))
            .unwrap_or_default();
        for mount in mountinfo::parse(&table) {
            let mut missing = found.iter_mut();
            let Some(missing) = missing.find(|missing| missing.number == mount.device()) else {
                continue;
            };
            if mount.is_filesystem_read_only() {
                is_read_only.insert(missing.number);
            }
            missing.fstype.clone_from(&mount.fstype);
            missing.place.get_or_insert((mount.mountpoint, pid));
        }
    }
    // After the search, because a filesystem may be mounted in several namespaces.
    found.retain(|missing| !is_read_only.contains(&missing.number));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_the_mount_table_does_not_show_is_found_with_its_place() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (name, number) in [
            ("sda1", "8:1"),
            ("sdb", "8:16"),
            ("sdc", "8:32"),
            ("sdd", "8:48"),
        ] {
            write(
                &format!("sys/class/block/{name}/dev"),
                &format!("{number}\n"),
            );
            write(&format!("sys/class/block/{name}/ro"), "0\n");
            fs::create_dir_all(root.path().join("sys/fs/ext4").join(name)).unwrap();
        }
        fs::create_dir_all(root.path().join("sys/fs/ext4/features")).unwrap();
        write(
            "proc/7/mountinfo",
            "1 0 8:16 / /data rw - ext4 /dev/sdb rw\n\
             2 0 8:32 / /image ro - ext4 /dev/sdc ro\n",
        );
        fs::create_dir(root.path().join("proc/7/ns")).unwrap();
        symlink("mnt:[1]", root.path().join("proc/7/ns/mnt")).unwrap();
        let system = System::at(root.path()).unwrap();
        let own = mountinfo::parse(b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n");
        let mut found = find_elsewhere(&system, &own);
        found.sort_by(|a, b| a.device.cmp(&b.device));
        let found: Vec<_> = found.into_iter().map(|e| (e.device, e.place)).collect();
        let expected = [
            ("/dev/sdb".to_owned(), Some((b"/data".to_vec(), 7))),
            ("/dev/sdd".to_owned(), None),
        ];
        assert_eq!(found, expected);
    }
}
