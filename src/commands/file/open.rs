//! Opens a file for guest-file-open. Floor 4.
//!
//! The modes are those of fopen(3). A file that is created has mode 0666, as in the original, but only if this call really
//! created it: an existing file keeps its mode, and a symbolic link in its place is not followed to create its target.

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
struct OpenMode {
    read: bool,
    write: bool,
    create: bool,
    truncate: bool,
    append: bool,
}

/// Without the C library's extensions.
fn parse_mode(name: &str) -> Option<OpenMode> {
    let (read, write, create, truncate, append) = match name {
        "r" | "rb" => (true, false, false, false, false),
        "w" | "wb" => (false, true, true, true, false),
        "a" | "ab" => (false, true, true, false, true),
        "r+" | "rb+" | "r+b" => (true, true, false, false, false),
        "w+" | "wb+" | "w+b" => (true, true, true, true, false),
        "a+" | "ab+" | "a+b" => (true, true, true, false, true),
        _ => return None,
    };
    Some(OpenMode {
        read,
        write,
        create,
        truncate,
        append,
    })
}

/// A file that is created gets permissions 0666 whatever the umask.
pub fn open(path: &str, name: &str) -> Result<Stream, CommandError> {
    let Some(mode) = parse_mode(name) else {
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
    let (opened, created) = open_or_create(&file, mode).map_err(|e| fail("open file", &e))?;
    if created {
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

/// Whether the file was created is known from O_EXCL only, which also follows no link: so two calls of open(2). Mode 0
/// at first: nobody else opens the file before its permissions are set.
fn open_or_create(path: &Path, mode: OpenMode) -> io::Result<(File, bool)> {
    if mode.create {
        let created = options(mode).create_new(true).mode(0o000).open(path);
        match created {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|file| (file, true)),
        }
    }
    let existing = options(mode).truncate(mode.truncate).open(path);
    existing.map(|file| (file, false))
}

fn options(mode: OpenMode) -> OpenOptions {
    let mut options = OpenOptions::new();
    // A terminal must not become the agent's controlling terminal, and a FIFO without a peer must not block the agent.
    options
        .read(mode.read)
        .write(mode.write && !mode.append)
        .append(mode.append)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK);
    options
}
