//! The mount table of a mount namespace (proc_pid_mountinfo(5)). Floor 1.
//!
//! Paths are bytes, because path names need not be UTF-8. A line that cannot be understood is left out, and the order
//! of the file is kept, because it is the order of mounting. The table is long on container hosts, so parsing takes
//! linear time.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::System;
use nix::sys::stat::{major, minor};

pub(crate) type DeviceNumber = (u32, u32);

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The kernel may give it to another mount after an unmount.
    pub(crate) mount_id: u64,
    pub(crate) parent_id: u64,
    /// 0 without a block device of its own.
    pub(crate) major: u32,
    pub(crate) minor: u32,
    /// The directory of the filesystem that is mounted; not `/` for a bind mount of a subdirectory or for a subvolume.
    pub(crate) root: Vec<u8>,
    pub(crate) mountpoint: Vec<u8>,
    pub(crate) mount_options: String,
    /// For FUSE with the subtype after a dot.
    pub(crate) fstype: String,
    pub(crate) source: Vec<u8>,
    pub(crate) super_options: String,
}

impl Mount {
    pub(crate) fn device(&self) -> DeviceNumber {
        (self.major, self.minor)
    }

    /// Whether the filesystem is read-only, whatever the options of one mount: another mount may be writable.
    pub(crate) fn is_filesystem_read_only(&self) -> bool {
        is_never_written(&self.fstype) || self.super_options.split(',').next() == Some("ro")
    }
}

/// From the text of an attribute `dev` of sysfs: `8:1`.
pub(crate) fn parse_device_number(text: &str) -> Option<DeviceNumber> {
    device_number(text.trim().as_bytes())
}

pub(crate) fn is_never_written(fstype: &str) -> bool {
    matches!(
        fstype,
        "squashfs" | "erofs" | "iso9660" | "cramfs" | "romfs"
    )
}

/// The mounts of a table, in the order of the file.
pub fn parse(table: &[u8]) -> Vec<Mount> {
    table
        .split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

pub(crate) fn read(system: &System) -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read(system.path("/proc/self/mountinfo"))?))
}

pub(crate) fn block_device(system: &System, path: &[u8]) -> Option<DeviceNumber> {
    let path = Path::new(OsStr::from_bytes(path));
    // A source like `tmpfs` or `host:/dir` is not a path.
    if !path.is_absolute() {
        return None;
    }
    let metadata = fs::metadata(system.path(path)).ok()?;
    if !metadata.file_type().is_block_device() {
        return None;
    }
    let device = metadata.rdev();
    // The kernel has 12 bits for the major and 20 for the minor number (include/linux/kdev_t.h).
    Some((
        u32::try_from(major(device)).ok()?,
        u32::try_from(minor(device)).ok()?,
    ))
}

/// The device, as in a mount table, of a task's `descriptor`. The kernel knows the mount id in proc_pid_fdinfo(5),
/// whereas stat(2) asks the filesystem and may hang; and the result is the same for all subvolumes of a btrfs.
pub(crate) fn device_of(system: &System, task: &Path, descriptor: &str) -> Option<DeviceNumber> {
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
    // A dash ends the optional tags, such as `shared:1`.
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

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device_number(field: &[u8]) -> Option<DeviceNumber> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn text(field: &[u8]) -> String {
    super::into_text(unescape(field))
}

/// Decodes `\NNN` (octal, mangle_path in the kernel's fs/seq_file.c) and `\\`; any other backslash is kept.
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
    fn the_table_is_read_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path()).unwrap();
        assert!(read(&system).is_err());
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::write(root.path().join("proc/self/mountinfo"), TABLE).unwrap();
        assert_eq!(read(&system).unwrap(), parse(TABLE));
    }

    #[test]
    fn only_a_block_device_has_a_number() {
        assert_eq!(block_device(&System::host(), b"/dev/null"), None);
        assert_eq!(block_device(&System::host(), b"relative"), None);
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
        fn any_bytes_are_parsed(table in proptest::collection::vec(any::<u8>(), 0..400)) {
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
