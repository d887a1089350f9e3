//! The mount table of the agent's own mount namespace (proc_pid_mountinfo(5)). Floor 1.
//!
//! Paths stay bytes: Linux path names need not be UTF-8. Octal escapes are decoded, a line that
//! can't be understood is left out, and file order is kept, for it is the order of mounting.
//! Parsing costs time linear in the table, which is long on container hosts.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::System;
use nix::sys::stat::{major, minor};

/// Major and minor number of a device.
pub type DeviceNumber = (u32, u32);

/// One mount, as one line of the table describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number of this mount; 0 if read from the table without numbers.
    pub mount_id: u64,
    /// Number of the mount it is mounted on; 0 if read from the table without numbers.
    pub parent_id: u64,
    /// Major device number of the filesystem; 0 for one without a block device of its own.
    pub major: u32,
    /// Minor device number of the filesystem.
    pub minor: u32,
    /// Directory inside the filesystem that is mounted; not `/` for a bind mount of a
    /// subdirectory or for a subvolume.
    pub root: Vec<u8>,
    /// Where it is mounted.
    pub mountpoint: Vec<u8>,
    /// Options of this mount, comma-separated.
    pub mount_options: String,
    /// Filesystem type, with the subtype after a dot for FUSE.
    pub fstype: String,
    /// What is mounted: a device, a host and path, or any word.
    pub source: Vec<u8>,
    /// Options of the filesystem, comma-separated.
    pub super_options: String,
}

impl Mount {
    /// Major and minor device number.
    pub fn device(&self) -> DeviceNumber {
        (self.major, self.minor)
    }

    /// Whether nothing can be written by any mount of this filesystem. The options of one mount do not tell, and the
    /// table without numbers has no others.
    pub fn is_filesystem_read_only(&self) -> bool {
        is_never_written(&self.fstype)
            || (self.mount_id != 0 && self.super_options.split(',').next() == Some("ro"))
    }
}

/// The number in an attribute of sysfs: `8:1`.
pub fn number_of(text: &str) -> Option<DeviceNumber> {
    device_number(text.trim().as_bytes())
}

/// Whether filesystems of this type are made once and mounted read-only.
pub fn is_never_written(fstype: &str) -> bool {
    matches!(
        fstype,
        "squashfs" | "erofs" | "iso9660" | "cramfs" | "romfs"
    )
}

/// The mounts of a mountinfo table, in file order.
pub fn parse(table: &[u8]) -> Vec<Mount> {
    table
        .split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// Reads `<root>/proc/self/mountinfo`. If that can't be opened, `<root>/proc/self/mounts` has to
/// do, with device numbers taken from the mounted block devices.
///
/// # Errors
/// Neither table can be read; the error is that of the last one tried.
pub fn read(root: &Path) -> io::Result<Vec<Mount>> {
    match fs::File::open(root.join("proc/self/mountinfo")) {
        Ok(mut file) => {
            let mut table = Vec::new();
            io::Read::read_to_end(&mut file, &mut table)?;
            Ok(parse(&table))
        }
        Err(_) => {
            let table = fs::read(root.join("proc/self/mounts"))?;
            let stat = |source: &[u8]| block_device(root, source);
            Ok(parse_mounts(&table, &stat))
        }
    }
}

/// Major and minor number of the block device at `path` (taken below `root`), or `None` if there
/// is none.
pub fn block_device(root: &Path, path: &[u8]) -> Option<DeviceNumber> {
    let relative = path.strip_prefix(b"/")?;
    let metadata = fs::metadata(root.join(OsStr::from_bytes(relative))).ok()?;
    if !metadata.file_type().is_block_device() {
        return None;
    }
    let device = metadata.rdev();
    // Linux device numbers have 12 bits of major and 20 of minor.
    Some((
        u32::try_from(major(device)).ok()?,
        u32::try_from(minor(device)).ok()?,
    ))
}

/// The filesystem, as a mount table has it, of a descriptor of the task whose directory in /proc is `task` (proc_pid_fdinfo(5)).
/// Unlike stat(2) this never asks the filesystem, and of a btrfs it is the same for all subvolumes.
pub fn device_of(system: &System, task: &Path, descriptor: &str) -> Option<DeviceNumber> {
    let info = task.join("fdinfo").join(descriptor);
    let info = system.text(info).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    let id: u64 = id.trim().parse().ok()?;
    let mounts = parse(&system.bytes(task.join("mountinfo")).ok()?);
    Some(mounts.iter().find(|mount| mount.mount_id == id)?.device())
}

/// `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG…] - TYPE SOURCE SUPER-OPTIONS`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mount_id = number(fields.next()?)?;
    let parent_id = number(fields.next()?)?;
    let (major, minor) = device_number(fields.next()?)?;
    let root = unescape(fields.next()?);
    let mountpoint = unescape(fields.next()?);
    if mountpoint.is_empty() {
        return None;
    }
    let mount_options = text(fields.next()?);
    // Any number of tags such as `shared:1` end at a lone dash.
    fields.find(|field| *field == b"-")?;
    let fstype = text(fields.next().filter(|field| !field.is_empty())?);
    let source = unescape(fields.next()?);
    let super_options = fields.next().map(text).unwrap_or_default();
    Some(Mount {
        mount_id,
        parent_id,
        major,
        minor,
        root,
        mountpoint,
        mount_options,
        fstype,
        source,
        super_options,
    })
}

/// The older table, fstab(5)'s format: `SOURCE MOUNTPOINT TYPE OPTIONS 0 0`.
fn parse_mounts(table: &[u8], stat: &dyn Fn(&[u8]) -> Option<DeviceNumber>) -> Vec<Mount> {
    let line = |line: &[u8]| {
        let mut fields = line.split(|&byte| byte == b' ');
        let source = unescape(fields.next()?);
        let mountpoint = unescape(fields.next().filter(|field| !field.is_empty())?);
        let fstype = text(fields.next().filter(|field| !field.is_empty())?);
        let mount_options = text(fields.next()?);
        let (major, minor) = stat(&source).unwrap_or((0, 0));
        Some(Mount {
            mount_id: 0,
            parent_id: 0,
            major,
            minor,
            root: b"/".to_vec(),
            mountpoint,
            super_options: mount_options.clone(),
            mount_options,
            fstype,
            source,
        })
    };
    table
        .split(|&byte| byte == b'\n')
        .filter_map(line)
        .collect()
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device_number(field: &[u8]) -> Option<DeviceNumber> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn text(field: &[u8]) -> String {
    String::from_utf8(unescape(field))
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Decodes `\NNN` (octal) and `\\`; any other backslash stands for itself.
pub fn unescape(field: &[u8]) -> Vec<u8> {
    if !field.contains(&b'\\') {
        return field.to_vec();
    }
    let mut decoded = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match (byte, tail) {
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                decoded.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                after
            }
            (b'\\', [b'\\', after @ ..]) => {
                decoded.push(b'\\');
                after
            }
            _ => {
                decoded.push(byte);
                tail
            }
        };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &[u8] = b"\
22 28 0:20 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
40 28 8:17 / /mnt/sp\\040ace\\134\\011x ro,noatime - xfs /dev/disk/by-label/a\\040b rw,attr2
41 28 0:42 /@home /home rw shared:3 master:2 propagate_from:1 - btrfs /dev/vdb rw,subvol=/@home
42 28 0:50 / /empty rw -  none rw
43 28 0:51 / /nosource rw - tmpfs  rw
";

    #[test]
    fn fields_of_a_line() {
        let mounts = parse(TABLE);
        assert_eq!(
            mounts[1],
            Mount {
                mount_id: 28,
                parent_id: 1,
                major: 254,
                minor: 1,
                root: b"/".to_vec(),
                mountpoint: b"/".to_vec(),
                mount_options: "rw,relatime".into(),
                fstype: "ext4".into(),
                source: b"/dev/vda1".to_vec(),
                super_options: "rw,errors=remount-ro".into(),
            }
        );
        assert_eq!(mounts[2].mountpoint, b"/mnt/sp ace\\\tx");
        assert_eq!(mounts[2].source, b"/dev/disk/by-label/a b");
        assert_eq!(mounts[2].device(), (8, 17));
        assert_eq!(
            (mounts[3].root.as_slice(), mounts[3].fstype.as_str()),
            (&b"/@home"[..], "btrfs")
        );
        // Without a type the line says nothing; without a source it still does.
        assert_eq!(mounts.len(), 5);
        assert_eq!(
            (mounts[4].mountpoint.as_slice(), mounts[4].source.len()),
            (&b"/nosource"[..], 0)
        );
    }

    #[test]
    fn odd_lines_are_left_out_and_the_others_stay() {
        let table = b"\n\
x 28 8:1 / /a rw - ext4 /dev/a rw\n\
1 28 8 / /b rw - ext4 /dev/a rw\n\
1 28 8:1 / /c rw ext4 /dev/a rw\n\
1 28 8:1 / /d rw -\n\
1 28 99999999999:1 / /e rw - ext4 /dev/a rw\n\
1 28 8:1 / /ok\xff rw - ext4 /dev/a rw";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].mountpoint, b"/ok\xff");
    }

    #[test]
    fn backslashes_that_are_no_escape_stay() {
        assert_eq!(unescape(b"a\\"), b"a\\");
        assert_eq!(unescape(b"\\04"), b"\\04");
        assert_eq!(unescape(b"\\400"), b"\\400");
        assert_eq!(unescape(b"\\089"), b"\\089");
        assert_eq!(unescape(b"\\\\040"), b"\\040");
        assert_eq!(unescape(b"\\377\\012"), b"\xff\n");
    }

    #[test]
    fn reads_below_the_root_with_the_older_table_as_fallback() {
        let root = tempfile::tempdir().unwrap();
        assert!(read(root.path()).is_err());
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::write(
            root.path().join("proc/self/mounts"),
            "proc /proc proc rw 0 0\n/dev/gone /mnt/a\\040b ext4 ro 0 0\nshort\n",
        )
        .unwrap();
        let mounts = read(root.path()).unwrap();
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[1].mountpoint, b"/mnt/a b");
        assert_eq!(mounts[1].device(), (0, 0));
        fs::write(root.path().join("proc/self/mountinfo"), TABLE).unwrap();
        assert_eq!(read(root.path()).unwrap(), parse(TABLE));
    }

    #[test]
    fn the_older_table_takes_numbers_from_the_devices() {
        let stat = |source: &[u8]| (source == b"/dev/vda1").then_some((254, 1));
        let mounts = parse_mounts(b"/dev/vda1 / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n", &stat);
        assert_eq!(mounts[0].device(), (254, 1));
        assert_eq!(mounts[1].device(), (0, 0));
    }

    #[test]
    fn only_a_block_device_has_a_number() {
        assert_eq!(block_device(Path::new("/"), b"/dev/null"), None);
        assert_eq!(block_device(Path::new("/"), b"relative"), None);
    }

    #[test]
    fn a_long_table_is_parsed_whole() {
        let mut table = Vec::new();
        for id in 0..20_000 {
            table.extend_from_slice(
                format!("{id} 1 0:{id} / /var/lib/c/{id}/merged rw - overlay overlay rw\n")
                    .as_bytes(),
            );
        }
        assert_eq!(parse(&table).len(), 20_000);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(table in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse(&table);
        }

        #[test]
        fn any_path_comes_back(path in proptest::collection::vec(1u8.., 1..60)) {
            // The kernel escapes space, tab, newline, backslash and the hash sign.
            let escaped: String = path.iter().map(|byte| format!("\\{byte:03o}")).collect();
            let line = format!("1 0 8:1 / {escaped} rw - ext4 /dev/a rw");
            prop_assert_eq!(&parse(line.as_bytes())[0].mountpoint, &path);
        }
    }
}
