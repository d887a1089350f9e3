//! Which filesystem holds a file, by its path and the mount table. Floor 1.
//!
//! The path is one that the kernel shows, so it is absolute and has no symbolic links. The mount with the longest mount
//! point that is a prefix of it holds the file, the latest one if there are several. A file that is not there (deleted,
//! covered, or in another mount namespace or a detached mount) is found by the device number of its filesystem, if the
//! caller knows it. A file on an overlay is held by the filesystems of the overlay's layers. The plan orders filesystems
//! with loop devices and swap files by this.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::System;
use super::filesystems::device_number;
use super::mountinfo::{DeviceNumber, Mount};

/// More than the two that the kernel allows (FILESYSTEM_MAX_STACK_DEPTH in include/linux/fs.h).
const MAX_OVERLAYS: usize = 4;

/// The number of the block device at a path.
pub type StatSource<'a> = &'a dyn Fn(&[u8]) -> Option<DeviceNumber>;

pub struct Locator<'a> {
    system: &'a System,
    mounts: &'a [Mount],
    stat_source: StatSource<'a>,
    /// In mount order.
    at: HashMap<&'a [u8], Vec<usize>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// Mount point and type of its filesystem; `None` if it is not in this mount table.
    pub mount: Option<(Vec<u8>, String)>,
    /// One, several for an overlay, none for a file in memory or on another machine.
    pub devices: Vec<DeviceNumber>,
}

impl<'a> Locator<'a> {
    pub fn new(system: &'a System, mounts: &'a [Mount], stat_source: StatSource<'a>) -> Self {
        let mut at: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for (index, mount) in mounts.iter().enumerate() {
            at.entry(&mount.mountpoint).or_default().push(index);
        }
        Self {
            system,
            mounts,
            stat_source,
            at,
        }
    }

    /// If `path` does not lead to the file, `device` returns the number of its filesystem, `(0, n)` without a block
    /// device. The path of a file in use is looked up without I/O, because the kernel has its directories in memory;
    /// but not on filesystems of other machines, which may not answer.
    pub fn locate_file(&self, path: &[u8], device: &dyn Fn() -> Option<DeviceNumber>) -> Location {
        // The kernel appends this to the path of a deleted file (d_path in fs/d_path.c); but a name may really end so.
        let (path, is_deleted) = match path.strip_suffix(b" (deleted)") {
            Some(bare) if !self.exists(path) => (bare, true),
            _ => (path, false),
        };
        let by_path = self.mounts_before(path).next();
        if let Some(mount) = by_path {
            if !self.answers_locally(mount) || (!is_deleted && self.exists(path)) {
                return self.on(mount);
            }
        }
        // Last, because finding out the number may cost ioctls.
        let by_number = device().and_then(|n| self.mounts.iter().find(|m| m.device() == n));
        by_number.map_or_else(Location::default, |mount| self.on(mount))
    }

    fn on(&self, mount: &Mount) -> Location {
        Location {
            mount: Some((mount.mountpoint.clone(), mount.fstype.clone())),
            devices: self.holders(mount, MAX_OVERLAYS),
        }
    }

    fn directory(&self, path: &[u8], overlays: usize) -> Vec<DeviceNumber> {
        self.mounts_before(path)
            .next()
            .map(|mount| self.holders(mount, overlays))
            .unwrap_or_default()
    }

    pub fn device(&self, mount: &Mount) -> Option<DeviceNumber> {
        device_number(mount, self.stat_source)
    }

    /// The filesystems with a block device that hold an overlay's layers, each once. None for any other filesystem.
    pub fn layers(&self, mount: &Mount) -> Vec<DeviceNumber> {
        self.layers_within(mount, MAX_OVERLAYS)
    }

    fn layers_within(&self, mount: &Mount, overlays: usize) -> Vec<DeviceNumber> {
        let mut found = Vec::new();
        let Some(overlays) = overlays.checked_sub(1) else {
            return found;
        };
        for layer in layer_paths(mount) {
            for device in self.directory(&layer, overlays) {
                if !found.contains(&device) {
                    found.push(device);
                }
            }
        }
        found
    }

    fn holders(&self, mount: &Mount, overlays: usize) -> Vec<DeviceNumber> {
        match self.device(mount) {
            Some(device) => vec![device],
            None => self.layers_within(mount, overlays),
        }
    }

    /// The mounts whose mount point is a prefix of `path`, the longest and latest first.
    fn mounts_before(&self, path: &[u8]) -> impl Iterator<Item = &'a Mount> {
        let ancestors = (0..=path.len()).rev().filter_map(move |end| {
            match (path.get(..end)?, path.get(end)) {
                (b"", _) if path.first() == Some(&b'/') => Some(&b"/"[..]),
                (b"/" | b"", _) => None,
                (head, None | Some(b'/')) => Some(head),
                _ => None,
            }
            .map(<[u8]>::to_vec)
        });
        ancestors
            .filter_map(|ancestor| self.at.get(ancestor.as_slice()))
            .flat_map(|indices| indices.iter().rev())
            .filter_map(|&index| self.mounts.get(index))
    }

    /// Whether a path there can be looked up without another machine or a program in user space.
    fn answers_locally(&self, mount: &Mount) -> bool {
        matches!(
            mount.fstype.as_str(),
            "tmpfs" | "ramfs" | "rootfs" | "devtmpfs"
        ) || !self.holders(mount, MAX_OVERLAYS).is_empty()
    }

    fn exists(&self, path: &[u8]) -> bool {
        let mount = self.mounts_before(path).next();
        mount.is_some_and(|mount| self.answers_locally(mount))
            && self
                .system
                .path(OsStr::from_bytes(path))
                .symlink_metadata()
                .is_ok()
    }
}

/// The absolute paths of an overlay's layers, or of the lower directory of ecryptfs. Relative ones are left out: their
/// base is not in the mount table.
fn layer_paths(mount: &Mount) -> Vec<Vec<u8>> {
    let paths: Vec<Vec<u8>> = match mount.fstype.as_str() {
        "ecryptfs" => vec![mount.source.clone()],
        "overlay" => split_unescaped(mount.super_options.as_bytes(), b',')
            .iter()
            .filter_map(|option| {
                let at = option.iter().position(|&byte| byte == b'=')?;
                let (key, value) = (option.get(..at)?, option.get(at + 1..)?);
                Some(match key {
                    b"lowerdir" | b"lowerdir+" | b"datadir+" => split_unescaped(value, b':'),
                    b"upperdir" => vec![value.to_vec()],
                    _ => Vec::new(),
                })
            })
            .flatten()
            .map(|path| unescape(&path))
            .collect(),
        _ => Vec::new(),
    };
    paths
        .into_iter()
        .filter(|path| path.first() == Some(&b'/'))
        .collect()
}

/// Splits at separators without a backslash before them; backslashes are kept.
fn split_unescaped(text: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut escaped = false;
    for &byte in text {
        if byte == separator && !escaped {
            parts.push(Vec::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(byte);
        }
        escaped = byte == b'\\' && !escaped;
    }
    parts
}

/// A backslash makes the next character a plain one, unlike in [`super::mountinfo::unescape`], which was applied before.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = text.iter();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => *bytes.next().unwrap_or(&byte),
            other => other,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::super::mountinfo;
    use super::*;

    const TABLE: &str = "\
28 1 254:1 / / rw - ext4 /dev/vda1 rw
29 28 254:2 / /data rw - xfs /dev/vda2 rw
30 28 0:30 / /run rw - tmpfs tmpfs rw
31 29 0:31 / /data/nfs rw - nfs4 host:/x rw
32 28 0:32 / /merged rw - overlay overlay rw,lowerdir=/data/a\\134:b:/lower::rel,upperdir=/data/up\\134,per,workdir=/run/w
33 28 0:33 / /twice rw - overlay overlay rw,lowerdir+=/merged/sub,lowerdir+=/run/x
34 28 254:3 / /data/deep rw - ext4 /dev/vda3 rw
35 34 254:4 / /data/deep rw - ext4 /dev/vda4 rw
";

    fn located(files: &[&str], path: &str, number: Option<DeviceNumber>) -> Location {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(&file[1..]);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let system = System::at(root.path()).unwrap();
        let mounts = mountinfo::parse(TABLE.as_bytes());
        Locator::new(&system, &mounts, &|_| None).locate_file(path.as_bytes(), &|| number)
    }

    fn on(mountpoint: &str, fstype: &str, devices: &[DeviceNumber]) -> Location {
        Location {
            mount: Some((mountpoint.into(), fstype.into())),
            devices: devices.to_vec(),
        }
    }

    #[test]
    fn the_longest_and_latest_mountpoint_holds_a_file() {
        for (path, mountpoint, fstype, device) in [
            ("/x.img", "/", "ext4", (254, 1)),
            ("/database", "/", "ext4", (254, 1)),
            ("/data/x.img", "/data", "xfs", (254, 2)),
            ("/data/deeper", "/data", "xfs", (254, 2)),
            ("/data/deep/x", "/data/deep", "ext4", (254, 4)),
        ] {
            // What the path leads to needs no number.
            let found = located(&[path], path, Some((9, 9)));
            assert_eq!(found, on(mountpoint, fstype, &[device]), "{path}");
        }
        assert_eq!(located(&[], "relative", None), Location::default());
    }

    #[test]
    fn memory_and_other_machines_hold_it_on_no_device() {
        let file = "/run/x.img";
        assert_eq!(located(&[file], file, None), on("/run", "tmpfs", &[]));
        // Other machines are not asked.
        let file = "/data/nfs/x.img";
        assert_eq!(
            located(&[], file, Some((254, 1))),
            on("/data/nfs", "nfs4", &[])
        );
    }

    #[test]
    fn a_file_that_the_path_does_not_lead_to_is_found_by_its_number() {
        for path in ["/data/deep/gone", "/data/x (deleted)", "/x", "/run/x", "?"] {
            let found = |number| located(&[], path, Some(number));
            assert_eq!(found((254, 2)), on("/data", "xfs", &[(254, 2)]), "{path}");
            assert_eq!(found((0, 30)), on("/run", "tmpfs", &[]));
            assert_eq!(
                found((0, 32)),
                on("/merged", "overlay", &[(254, 2), (254, 1)])
            );
            assert_eq!(found((254, 77)), Location::default());
        }
        // A number that the kernel made up says nothing.
        assert_eq!(located(&[], "/x", Some((0, 77))), Location::default());
    }

    #[test]
    fn without_a_number_it_is_nowhere() {
        for path in ["/data/deep/gone", "/data/deep/gone (deleted)"] {
            assert_eq!(located(&[], path, None), Location::default());
        }
        // A name may really end so.
        let odd = "/data/x (deleted)";
        assert_eq!(located(&[odd], odd, None).devices, [(254, 2)]);
        // Another file took the name.
        assert_eq!(located(&["/data/x"], odd, None), Location::default());
    }

    #[test]
    fn overlays_come_down_to_their_layers() {
        for path in ["/merged/x.img", "/twice/x.img"] {
            let found = located(&[path], path, None);
            assert_eq!(found.devices, [(254, 2), (254, 1)]);
        }
    }

    #[test]
    fn layers_are_read_in_the_notation_of_mount() {
        let mounts = mountinfo::parse(TABLE.as_bytes());
        let paths = |index: usize| -> Vec<String> {
            layer_paths(&mounts[index])
                .into_iter()
                .map(|path| String::from_utf8(path).unwrap())
                .collect()
        };
        assert_eq!(paths(4), ["/data/a:b", "/lower", "/data/up,per"]);
        assert_eq!(paths(5), ["/merged/sub", "/run/x"]);
        assert!(paths(0).is_empty());
    }
}
