//! Opens mounted filesystems safely, even if a user renames directories above them. Floor 1.
//!
//! A path of the mount table may lead through directories of an ordinary user, who can exchange one of them for a symbolic
//! link while root opens the path: to a device node, which has effects when it is opened, or to another filesystem, so
//! that the right one is not frozen. So a path is resolved without links to a descriptor that has no effects (O_PATH), and
//! only what was identified is opened, by /proc/self/fd. If a path leads elsewhere, it is read from the mount table again.
//! Freeze and trim open filesystems by this.

use super::System;
use super::filesystems::Filesystem;
use super::mountinfo::{self, DeviceNumber, Mount, device_of};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::libc;
use nix::sys::stat::{Mode, makedev};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Attempts for one mount point. Each fails with a probability of about one half against a user who renames all the time.
const MAX_ATTEMPTS: usize = 50;

/// The error for a bind mount of a socket, FIFO or device node, which cannot be opened for an ioctl of its filesystem.
pub const NO_DIRECTORY: Errno = Errno::ENXIO;

#[derive(Debug, Default)]
pub struct MountRoot {
    mountpoint: Vec<u8>,
    /// None if the mount was not in the table, which must not happen.
    mount_id: Option<u64>,
    table_device: Option<DeviceNumber>,
    /// st_dev of the root; None for btrfs, whose subvolumes have anonymous devices that no table shows.
    device: Option<u64>,
}

impl MountRoot {
    /// `mountpoint` is one of those in `mounts`.
    pub fn of(mounts: &[Mount], filesystem: &Filesystem, mountpoint: &[u8]) -> Self {
        let is_first = |mount: &&Mount| {
            mount.mount_id == filesystem.mount_id && mount.mountpoint == filesystem.mountpoint
        };
        let table_device = mounts.iter().find(is_first).map(Mount::device);
        let is_here =
            |mount: &&Mount| Some(mount.device()) == table_device && mount.mountpoint == mountpoint;
        let device = makedev(filesystem.major.into(), filesystem.minor.into());
        Self {
            mountpoint: mountpoint.to_owned(),
            mount_id: mounts.iter().find(is_here).map(|mount| mount.mount_id),
            table_device,
            device: (filesystem.fstype != "btrfs").then_some(device),
        }
    }

    #[cfg(test)]
    pub fn mountpoint(&self) -> &[u8] {
        &self.mountpoint
    }

    /// May block, for example on a filesystem of another machine. `CrossesDevices`: the path leads to something else,
    /// also after it was read again. Other errors are those of open(2).
    pub fn open(mut self) -> io::Result<File> {
        let mut attempt = 1;
        loop {
            let error = match self.open_once() {
                Ok(root) => return Ok(root),
                Err(error) => error,
            };
            // A directory on the path may have been renamed, removed, or replaced by one without permissions.
            let may_be_moved = error.kind() == ErrorKind::CrossesDevices
                || matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES)
                );
            match self.find_again().filter(|_| may_be_moved) {
                Some(mountpoint) if attempt < MAX_ATTEMPTS => self.mountpoint = mountpoint,
                _ => return Err(error),
            }
            attempt += 1;
        }
    }

    fn open_once(&self) -> io::Result<File> {
        let path = OsStr::from_bytes(&self.mountpoint);
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let how = OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
        let found = match openat2(AT_FDCWD, path, how) {
            // Linux before 5.6, or a seccomp filter that does not know the call. With links followed this is safe, too:
            // O_PATH opens without effects, and the result is identified below.
            Err(Errno::ENOSYS | Errno::EPERM) => open(path, flags, Mode::empty()),
            Err(Errno::ELOOP) => return Err(leads_elsewhere()),
            found => found,
        };
        let found = File::from(found?);
        let metadata = found.metadata()?;
        let is_own = match self.device {
            Some(device) => metadata.dev() == device,
            None => {
                let descriptor = found.as_raw_fd().to_string();
                let own = Path::new("/proc/self");
                self.mount_id.is_none()
                    || device_of(&System::host(), own, &descriptor) == self.table_device
            }
        };
        // A mount of a single file is opened, but not a device node or FIFO: opening these has effects or blocks.
        if is_own && !metadata.is_dir() && !metadata.is_file() && self.is_mount(&found) {
            return Err(NO_DIRECTORY.into());
        }
        if !is_own || !(metadata.is_dir() || metadata.is_file()) {
            return Err(leads_elsewhere());
        }
        // Opening the link in /proc does not resolve the path again.
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", found.as_raw_fd()))
    }

    fn is_mount(&self, found: &File) -> bool {
        let info = format!("/proc/self/fdinfo/{}", found.as_raw_fd());
        let info = std::fs::read_to_string(info).unwrap_or_default();
        let mut lines = info.lines();
        let id = lines.find_map(|line| line.strip_prefix("mnt_id:"));
        id.and_then(|id| id.trim().parse().ok()) == self.mount_id
    }

    /// `None` if it is unknown, or covered by another mount.
    fn find_again(&self) -> Option<Vec<u8>> {
        // If the table cannot be read now, the error of the first attempt says more.
        let mounts = mountinfo::read(&System::host()).ok()?;
        let id = self.mount_id?;
        // The kernel may have given the id of an unmounted filesystem to another one.
        let is_it =
            |mount: &Mount| mount.mount_id == id && Some(mount.device()) == self.table_device;
        let mount = mounts.iter().find(|mount| is_it(mount))?;
        (!is_covered(&mounts, id)).then(|| mount.mountpoint.clone())
    }
}

fn leads_elsewhere() -> io::Error {
    let text = "its path leads elsewhere: a mount covers it, or a directory above it was moved";
    io::Error::new(ErrorKind::CrossesDevices, text)
}

/// Whether the path of a mount leads to another one, or the mount is not in the table. Nothing is opened.
pub fn is_covered(mounts: &[Mount], mount_id: u64) -> bool {
    let find = |id: u64| mounts.iter().find(|mount| mount.mount_id == id);
    let Some(mut mount) = find(mount_id) else {
        return true;
    };
    let is_on = |parent: u64, path: &[u8]| {
        let on = |other: &&Mount| other.parent_id == parent && other.mountpoint == path;
        mounts.iter().any(|other| on(&other))
    };
    if is_on(mount.mount_id, &mount.mountpoint) {
        return true;
    }
    // At most as often as there are mounts, in case the table has a cycle.
    for _ in mounts {
        let path = Path::new(OsStr::from_bytes(&mount.mountpoint));
        let mut above = path.ancestors().skip(1);
        if above.any(|path| is_on(mount.parent_id, path.as_os_str().as_bytes())) {
            return true;
        }
        match find(mount.parent_id) {
            Some(parent) if parent.mount_id != mount.mount_id => mount = parent,
            _ => break,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::mountinfo::parse;
    use std::fs;

    const TABLE: &[u8] = b"\
21 1 8:1 / / rw - ext4 /dev/a rw
22 21 8:2 / /data rw - ext4 /dev/b rw
23 22 8:3 / /data/sub rw - ext4 /dev/c rw
24 21 8:4 / /z/low rw - ext4 /dev/d rw
25 21 0:40 / /z rw - tmpfs none rw
26 21 8:5 / /two rw - ext4 /dev/e rw
27 26 8:6 / /two rw - ext4 /dev/f rw
28 26 8:7 / /two/below rw - ext4 /dev/g rw
29 21 8:8 / /dat rw - ext4 /dev/h rw
30 21 0:50 /@a /b rw - btrfs /dev/i rw
31 21 0:50 /@b /c rw - btrfs /dev/i rw
";

    #[test]
    fn what_is_mounted_over_a_mount_or_above_it_covers_it() {
        let mounts = parse(TABLE);
        let covered: Vec<u64> = mounts
            .iter()
            .map(|mount| mount.mount_id)
            .filter(|&id| is_covered(&mounts, id))
            .collect();
        assert_eq!(covered, [24, 26, 28]);
        assert!(is_covered(&mounts, 99), "gone");
        // A cycle of parents.
        let cycle = parse(b"1 2 8:1 / /a rw - x x rw\n2 1 8:2 / /b rw - x x rw\n");
        assert!(!is_covered(&cycle, 1));
    }

    fn filesystem(mount: &Mount, fstype: &str) -> Filesystem {
        Filesystem {
            mountpoint: mount.mountpoint.clone(),
            fstype: fstype.into(),
            major: mount.major,
            minor: mount.minor,
            mount_id: mount.mount_id,
        }
    }

    #[test]
    fn a_btrfs_goes_by_the_mount_table() {
        let mounts = parse(TABLE);
        let mut btrfs = filesystem(&mounts[9], "btrfs");
        // That of the device it names as its source.
        (btrfs.major, btrfs.minor) = (8, 9);
        let root = MountRoot::of(&mounts, &btrfs, b"/c");
        assert_eq!((root.mount_id, root.device), (Some(31), None));
        assert_eq!(root.table_device, Some((0, 50)));
    }

    #[test]
    fn only_what_is_meant_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("real")).unwrap();
        fs::write(path("file"), "").unwrap();
        std::os::unix::fs::symlink("real", path("link")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), Mode::S_IRUSR).unwrap();
        let device = fs::metadata(dir.path()).unwrap().dev();
        let open = |name: &str, device: u64| {
            let mountpoint = path(name).as_os_str().as_bytes().to_vec();
            let root = MountRoot {
                mountpoint,
                device: Some(device),
                ..MountRoot::default()
            };
            root.open().map_err(|error| error.kind())
        };
        assert!(open("real", device).unwrap().metadata().unwrap().is_dir());
        assert!(open("file", device).unwrap().metadata().unwrap().is_file());
        let elsewhere = Err(ErrorKind::CrossesDevices);
        for (name, device) in [("real", device + 1), ("link", device), ("fifo", device)] {
            assert_eq!(open(name, device).map(drop), elsewhere, "{name}");
        }
        assert_eq!(open("gone", device).map(drop), Err(ErrorKind::NotFound));
    }
}
