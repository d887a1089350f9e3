//! Opening log files in directories that others may write.

use nix::libc;
use nix::unistd::geteuid;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Opens the log at `path` for appending, with further open(2) flags; a new one gets `mode`, less the umask. A link is
/// followed only if it is root's or this user's: others could lead root's log to any file.
///
/// # Errors
/// Those of open(2), or the name of the user whose link it is.
pub fn open_to_append(path: &Path, mode: u32, flags: libc::c_int) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(mode);
    // First without following, so that the link cannot be exchanged after its owner was looked at.
    match options.custom_flags(flags | libc::O_NOFOLLOW).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            let owner = fs::symlink_metadata(path)?.uid();
            if owner != 0 && owner != geteuid().as_raw() {
                return Err(io::Error::other(format!(
                    "a link that belongs to user {owner}"
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
            assert_eq!(error.to_string(), "a link that belongs to user 1");
        }
    }
}
