//! Which mounts count as filesystems of their own: those that freeze, trim and get-fsinfo act on. Floor 1.
//!
//! The rule is that of QEMU's agent: a mount counts if its filesystem has a block device number, and of several mounts
//! of one device the first does. Every other mount is returned with the reason, so that nothing is left out silently.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use super::mountinfo::{DeviceNumber, Mount};

/// A mounted filesystem with a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    pub(crate) mountpoint: Vec<u8>,
    pub(crate) fstype: String,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mount_id: u64,
}

impl Filesystem {
    /// Major and minor number.
    pub fn device(&self) -> DeviceNumber {
        (self.major, self.minor)
    }

    pub(crate) fn name(&self) -> String {
        String::from_utf8_lossy(&self.mountpoint).into_owned()
    }
}

/// A mount that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub(crate) mountpoint: Vec<u8>,
    pub(crate) fstype: String,
    pub(crate) reason: SkipReason,
}

/// Why a mount is left out. The `Display` text completes 'skipped: …'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SkipReason {
    /// Made by the kernel or in memory: proc, sysfs, tmpfs …
    Pseudo,
    Network,
    /// On the hypervisor's host: 9p, virtiofs …
    HostShare,
    Fuse,
    Layered,
    /// A further mount (bind mount, subvolume) of a device that already counts.
    SecondMount {
        first: Vec<u8>,
    },
    BtrfsSource {
        source: Vec<u8>,
    },
    /// On disks, but the kernel shows no device number: zfs, bcachefs …
    NoDeviceNumber,
    /// Of an unknown type, and without a device number.
    NoDevice,
    /// Mounted, but not in the agent's mount table; with the place.
    Elsewhere(String),
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pseudo => f.write_str("a pseudo filesystem, nothing of it is on a disk"),
            Self::Network => f.write_str("a network filesystem, its data are on another machine"),
            Self::HostShare => f.write_str("shared by the host, its data are not on a guest disk"),
            Self::Fuse => f.write_str("FUSE without a block device, it cannot be frozen"),
            Self::Layered => f.write_str("made of directories of other filesystems"),
            Self::SecondMount { first } => {
                write!(
                    f,
                    "the same filesystem as {}",
                    String::from_utf8_lossy(first)
                )
            }
            Self::BtrfsSource { source } => {
                let source = String::from_utf8_lossy(source);
                write!(f, "btrfs whose source '{source}' is not a block device")
            }
            Self::NoDeviceNumber => {
                f.write_str("it has no block device number, so it cannot be frozen from here")
            }
            Self::Elsewhere(place) => f.write_str(place),
            Self::NoDevice => f.write_str("it has no block device"),
        }
    }
}

/// Splits a mount table, in file order, into the filesystems that count and the other mounts. `stat_source` returns the
/// number of the block device at a path; it is called for btrfs only, whose number in the table is anonymous.
pub fn block_filesystems(
    mounts: &[Mount],
    stat_source: &dyn Fn(&[u8]) -> Option<DeviceNumber>,
) -> (Vec<Filesystem>, Vec<Skipped>) {
    let mut filesystems = Vec::new();
    let mut skipped = Vec::new();
    let mut first_of: BTreeMap<DeviceNumber, &Mount> = BTreeMap::new();
    for mount in mounts {
        let reason = match device_of(mount, stat_source) {
            Ok((major, minor)) => match first_of.entry((major, minor)) {
                Entry::Vacant(none) => {
                    none.insert(mount);
                    filesystems.push(Filesystem {
                        mountpoint: mount.mountpoint.clone(),
                        fstype: mount.fstype.clone(),
                        major,
                        minor,
                        mount_id: mount.mount_id,
                    });
                    continue;
                }
                Entry::Occupied(first) => SkipReason::SecondMount {
                    first: first.get().mountpoint.clone(),
                },
            },
            Err(reason) => reason,
        };
        skipped.push(Skipped {
            mountpoint: mount.mountpoint.clone(),
            fstype: mount.fstype.clone(),
            reason,
        });
    }
    (filesystems, skipped)
}

pub(crate) fn device_number(
    mount: &Mount,
    stat_source: &dyn Fn(&[u8]) -> Option<DeviceNumber>,
) -> Option<DeviceNumber> {
    device_of(mount, stat_source).ok()
}

fn device_of(
    mount: &Mount,
    stat_source: &dyn Fn(&[u8]) -> Option<DeviceNumber>,
) -> Result<DeviceNumber, SkipReason> {
    if mount.major != 0 {
        return Ok(mount.device());
    }
    // The number of a btrfs is anonymous, because it may have several devices (fs/btrfs/super.c).
    if mount.fstype != "btrfs" {
        return Err(reason_without_device(&mount.fstype));
    }
    stat_source(&mount.source).ok_or_else(|| SkipReason::BtrfsSource {
        source: mount.source.clone(),
    })
}

fn reason_without_device(fstype: &str) -> SkipReason {
    let family = fstype.split_once('.').map_or(fstype, |(family, _)| family);
    match family {
        "fuse" => SkipReason::Fuse,
        "overlay" | "overlayfs" | "aufs" | "ecryptfs" | "unionfs" | "shiftfs" => {
            SkipReason::Layered
        }
        "nfs" | "nfs4" | "cifs" | "smb3" | "smbfs" | "ceph" | "afs" | "lustre" | "glusterfs"
        | "orangefs" | "beegfs" | "gpfs" | "coda" | "ncpfs" => SkipReason::Network,
        "9p" | "virtiofs" | "vboxsf" | "vmhgfs" | "prl_fs" => SkipReason::HostShare,
        "zfs" | "bcachefs" | "ubifs" | "jffs2" => SkipReason::NoDeviceNumber,
        "autofs" | "binfmt_misc" | "bpf" | "cgroup" | "cgroup2" | "configfs" | "debugfs"
        | "devpts" | "devtmpfs" | "efivarfs" | "fusectl" | "hugetlbfs" | "mqueue" | "nfsd"
        | "nsfs" | "proc" | "pstore" | "ramfs" | "resctrl" | "rootfs" | "rpc_pipefs"
        | "securityfs" | "selinuxfs" | "smackfs" | "sysfs" | "tmpfs" | "tracefs" | "xenfs" => {
            SkipReason::Pseudo
        }
        _ => SkipReason::NoDevice,
    }
}

#[cfg(test)]
mod tests {
    use super::super::mountinfo;
    use super::*;

    fn stat(source: &[u8]) -> Option<DeviceNumber> {
        match source {
            b"/dev/vdb" => Some((254, 16)),
            b"/dev/vda1" => Some((254, 1)),
            _ => None,
        }
    }

    fn split(table: &str) -> (Vec<Filesystem>, Vec<Skipped>) {
        block_filesystems(&mountinfo::parse(table.as_bytes()), &stat)
    }

    fn points(filesystems: &[Filesystem]) -> Vec<&str> {
        filesystems
            .iter()
            .map(|fs| std::str::from_utf8(&fs.mountpoint).unwrap())
            .collect()
    }

    #[test]
    fn every_block_device_counts_once_in_file_order() {
        let (filesystems, skipped) = split(
            "28 1 254:1 / / rw - ext4 /dev/vda1 rw\n\
             30 28 7:0 / /snap/x ro - squashfs /dev/loop0 ro\n\
             31 28 254:1 /srv /mnt/bind rw - ext4 /dev/vda1 rw\n\
             32 28 254:2 / /boot/efi rw - vfat /dev/vda2 rw\n\
             33 28 8:1 / /mnt/ntfs rw - fuseblk /dev/sda1 rw\n",
        );
        assert_eq!(
            points(&filesystems),
            ["/", "/snap/x", "/boot/efi", "/mnt/ntfs"]
        );
        assert_eq!(
            filesystems[0],
            Filesystem {
                mountpoint: b"/".to_vec(),
                fstype: "ext4".into(),
                major: 254,
                minor: 1,
                mount_id: 28
            }
        );
        assert_eq!(skipped.len(), 1);
        assert_eq!(skipped[0].mountpoint, b"/mnt/bind");
        assert_eq!(skipped[0].reason.to_string(), "the same filesystem as /");
    }

    #[test]
    fn btrfs_counts_by_its_source() {
        let (filesystems, skipped) = split(
            "28 1 0:30 /@ / rw - btrfs /dev/vdb rw\n\
             29 28 0:30 /@home /home rw - btrfs /dev/vdb rw\n\
             30 28 0:31 / /mnt/lost rw - btrfs /dev/gone rw\n\
             31 28 254:1 / /mnt/same rw - ext4 /dev/vda1 rw\n\
             32 28 0:33 / /mnt/clash rw - btrfs /dev/vda1 rw\n",
        );
        assert_eq!(points(&filesystems), ["/", "/mnt/same"]);
        assert_eq!(filesystems[0].device(), (254, 16));
        assert_eq!(
            skipped[0].reason,
            SkipReason::SecondMount {
                first: b"/".to_vec()
            }
        );
        assert_eq!(
            skipped[1].reason.to_string(),
            "btrfs whose source '/dev/gone' is not a block device"
        );
        assert_eq!(
            skipped[2].reason,
            SkipReason::SecondMount {
                first: b"/mnt/same".to_vec()
            }
        );
    }

    #[test]
    fn every_other_mount_has_its_reason() {
        let kinds = [
            ("tmpfs", SkipReason::Pseudo),
            ("proc", SkipReason::Pseudo),
            ("nfs4", SkipReason::Network),
            ("virtiofs", SkipReason::HostShare),
            ("fuse.sshfs", SkipReason::Fuse),
            ("fuse", SkipReason::Fuse),
            ("overlay", SkipReason::Layered),
            ("zfs", SkipReason::NoDeviceNumber),
            ("newfs", SkipReason::NoDevice),
        ];
        for (fstype, reason) in kinds {
            let (filesystems, skipped) = split(&format!("30 1 0:9 / /m rw - {fstype} x rw\n"));
            assert!(filesystems.is_empty());
            assert_eq!(
                (skipped[0].fstype.as_str(), &skipped[0].reason),
                (fstype, &reason)
            );
            assert!(!reason.to_string().is_empty());
        }
    }

    #[test]
    fn a_container_host_is_accounted_for_whole() {
        let mut table = String::from("28 1 254:1 / / rw - ext4 /dev/vda1 rw\n");
        for id in 0..10_000 {
            table += &format!("{id} 28 0:{id} / /c/{id} rw - overlay overlay rw\n");
            table += &format!("{id} 28 254:1 /c/{id} /b/{id} rw - ext4 /dev/vda1 rw\n");
        }
        let (filesystems, skipped) = split(&table);
        assert_eq!(points(&filesystems), ["/"]);
        assert_eq!(skipped.len(), 20_000);
    }
}
