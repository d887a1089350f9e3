//! The safeguard of debug builds: a test that froze a filesystem of the developer's machine would hang it. So a debug
//! build opens only loop devices, and only where the mount table's root is a tmpfs, as in the namespace that tests
//! make.

use crate::probe::filesystems::Filesystem;
use crate::probe::mountinfo::Mount;

/// Major number of loop devices (the kernel's Documentation/admin-guide/devices.txt).
pub const LOOP_MAJOR: u32 = 7;

/// Why this build refuses to open `filesystem` for a freeze; `None`: it does not.
pub fn refusal(mounts: &[Mount], filesystem: &Filesystem) -> Option<String> {
    if !cfg!(debug_assertions) {
        return None;
    }
    if filesystem.major != LOOP_MAJOR {
        return Some("a debug build freezes nothing but loop devices (use a release build)".into());
    }
    let sandboxed = mounts
        .iter()
        .any(|m| m.mountpoint == b"/" && m.fstype == "tmpfs");
    (!sandboxed).then(|| "a debug build freezes only where the root is a tmpfs".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::mountinfo::parse;

    fn filesystem(major: u32) -> Filesystem {
        Filesystem {
            mountpoint: b"/m".into(),
            fstype: "ext4".into(),
            major,
            minor: 1,
            mount_id: 1,
        }
    }

    #[test]
    fn only_loop_devices_below_a_tmpfs_root_pass() {
        let real = parse(b"27 1 254:0 / / rw - ext4 /dev/vda rw\n");
        let sandbox = parse(b"27 1 0:40 / / rw - tmpfs tmpfs rw\n");
        assert!(refusal(&real, &filesystem(254)).is_some());
        assert!(refusal(&real, &filesystem(7)).is_some());
        assert!(refusal(&sandbox, &filesystem(254)).is_some());
        assert!(refusal(&sandbox, &filesystem(7)).is_none());
        assert!(refusal(&[], &filesystem(7)).is_some());
    }
}
