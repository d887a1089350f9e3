//! Opens log files in directories where other users may create files, such as a `/var/log/qemu-ga` of a service user.
//!
//! The agent's log and the hook log are opened by this.

use nix::libc;
use nix::unistd::geteuid;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A new file gets `mode`, less the umask. A link is followed only if it belongs to root or to this user: others could
/// direct root's log to any file.
pub fn open_to_append(path: &Path, mode: u32, flags: libc::c_int) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(mode);
    // Without following first: otherwise a file could be exchanged for a link after the check. The link itself can be
    // exchanged only by its owner, who was checked, or by the owner of the directory.
    match options.custom_flags(flags | libc::O_NOFOLLOW).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            let owner = fs::symlink_metadata(path)?.uid();
            if owner != 0 && owner != geteuid().as_raw() {
                return Err(io::Error::other(format!(
                    "it is a link that belongs to user {owner}"
                )));
            }
            options.custom_flags(flags).open(path)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{lchown, symlink};

    #[test]
    fn a_link_is_followed_if_it_is_root_s_or_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        symlink(&file, &link).unwrap();
        open_to_append(&link, 0o600, 0).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        // Only root can give a link away.
        if !crate::left_out::needs_root() {
            lchown(&link, Some(1), None).unwrap();
            let error = open_to_append(&link, 0o600, 0).unwrap_err();
            assert_eq!(error.to_string(), "it is a link that belongs to user 1");
        }
    }
}
