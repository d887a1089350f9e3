//! Opening a file for a client (floor 4): modes, and creation that cannot be led elsewhere by a
//! link.

use super::stream::Stream;
use crate::protocol::error::CommandError;
use crate::protocol::text;
use crate::sys::strerror;
use nix::libc;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mode {
    read: bool,
    write: bool,
    create: bool,
    truncate: bool,
    append: bool,
}

/// What fopen(3) makes of `name`, without its extensions.
fn mode(name: &str) -> Option<Mode> {
    let (read, write, create, truncate, append) = match name {
        "r" | "rb" => (true, false, false, false, false),
        "w" | "wb" => (false, true, true, true, false),
        "a" | "ab" => (false, true, true, false, true),
        "r+" | "rb+" | "r+b" => (true, true, false, false, false),
        "w+" | "wb+" | "w+b" => (true, true, true, true, false),
        "a+" | "ab+" | "a+b" => (true, true, true, false, true),
        _ => return None,
    };
    Some(Mode {
        read,
        write,
        create,
        truncate,
        append,
    })
}

/// Opens `path`, as the wire names it, in the mode `name`.
///
/// A file that is made gets permissions 0666 whatever the umask.
///
/// # Errors
/// No such mode, or the system's refusal, with path and mode.
pub fn open(path: &str, name: &str) -> Result<Stream, CommandError> {
    let Some(mode) = mode(name) else {
        return Err(CommandError::generic(format!(
            "invalid file open mode '{name}'"
        )));
    };
    let file = PathBuf::from(OsString::from_vec(text::to_os_bytes(path)));
    let fail = |what: &str, error: &io::Error| {
        CommandError::generic(format!(
            "failed to {what} '{path}' (mode: '{name}'): {}",
            strerror(error)
        ))
    };
    let (opened, made) = open_or_make(&file, mode).map_err(|e| fail("open file", &e))?;
    if made {
        if let Err(error) = opened.set_permissions(Permissions::from_mode(0o666)) {
            let error = fail("set permission 0666 on new file", &error);
            if let Err(e) = fs::remove_file(&file) {
                tracing::warn!(
                    "cannot remove new file {}: {}",
                    file.display(),
                    strerror(&e)
                );
            }
            return Err(error);
        }
    }
    Stream::new(opened, mode.read, mode.write).map_err(|e| fail("open file", &e))
}

/// Opens `path`; true if it was made. Two steps, because whoever makes the file decides on its
/// permissions, and because open(2) with O_EXCL does not follow a link.
fn open_or_make(path: &Path, mode: Mode) -> io::Result<(File, bool)> {
    if mode.create {
        let made = options(mode).create_new(true).mode(0o000).open(path);
        match made {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|file| (file, true)),
        }
    }
    let there = options(mode).truncate(mode.truncate).open(path);
    there.map(|file| (file, false))
}

fn options(mode: Mode) -> OpenOptions {
    let mut options = OpenOptions::new();
    // A terminal must not become ours, a pipe without a peer must not hold us.
    options
        .read(mode.read)
        .write(mode.write && !mode.append)
        .append(mode.append)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK);
    options
}
