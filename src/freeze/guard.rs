//! The guard of development builds: FIFREEZE acts on the real filesystem, and a test that froze
//! the machine's own would hang it. A debug build touches nothing but loop devices, and only
//! where the mount table's root is a tmpfs, as in a namespace made for the purpose.

use crate::probe::filesystems::Filesystem;
use crate::probe::mountinfo::Mount;

/// Major number of loop devices (devices.txt).
pub const LOOP_MAJOR: u32 = 7;

/// Why this build refuses to open `filesystem` for freezing; `None`: it may.
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
