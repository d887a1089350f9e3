//! Whether a path may be run as root: only root (or the user of this process) can change it or any directory
//! or link that leads to it. A user who can write to a directory can replace what is in it.
//!
//! Every program, directory and settings file of the hooks passes this check. It examines opened descriptors,
//! so that no name can be exchanged during the check.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::diagnostic::Diagnostic;
use crate::sys::acl::{self, Named};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open as open_place, openat, readlinkat};
use nix::sys::stat::Mode;
use nix::unistd::{getegid, geteuid};

const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;
/// What every fault here leads to.
const REFUSING: &str = "refusing to run hooks";
/// Longest settings file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The limit of path_resolution(7) for symbolic links.
const MAX_LINKS: u32 = 40;

/// Checks `path` (a hook or the hooks' directory) and every directory and link that leads to it.
///
/// # Errors
/// As [`open`].
pub fn check(path: &Path) -> Result<(), Diagnostic> {
    open(path).map(drop)
}

/// As [`check`], but accepts a path that does not exist or cannot be examined: running it fails with a more
/// precise error.
///
/// # Errors
/// The first fault found.
pub fn check_program(path: &Path) -> Result<(), Diagnostic> {
    match walk(path) {
        Err(TrustFault::Unsafe(fault)) => Err(fault),
        Err(TrustFault::Unseen(_)) | Ok(_) => Ok(()),
    }
}

enum TrustFault {
    Unseen(Diagnostic),
    Unsafe(Diagnostic),
}

/// Resolves `path` as the kernel does. Each directory is held open and checked before the next name is looked
/// up in it. If no check fails, only root can make the path lead elsewhere, so a program that is run under
/// this path afterwards is the one that was checked. Returns the file opened with O_PATH.
///
/// # Errors
/// The first fault found, or the path cannot be examined.
pub fn open(path: &Path) -> Result<File, Diagnostic> {
    walk(path).map_err(|wrong| match wrong {
        TrustFault::Unseen(fault) | TrustFault::Unsafe(fault) => fault,
    })
}

/// The content of a settings file that only root can change; None if it does not exist.
///
/// # Errors
/// As [`open`], or the file cannot be read, is not a regular file, or is too long.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Diagnostic> {
    let refused = |why: &str| {
        let why = format!("{} {why}", quoted(path));
        Diagnostic::new(REFUSING, why, "fix it, or move it away")
    };
    let unreadable =
        |error: io::Error| refused(&format!("cannot be read: {}", crate::sys::strerror(&error)));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        _ => fs::metadata(path).map_err(unreadable)?,
    };
    let place = open(path)?;
    if !place.metadata().map_err(unreadable)?.is_file() {
        return Err(refused("is not a regular file"));
    }
    let mut text = Vec::new();
    File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(refused("is longer than 1 MiB"));
    }
    Ok(Some(text))
}

fn walk(path: &Path) -> Result<File, TrustFault> {
    let path = absolute(path);
    let failed = |errno: Errno| unseen(&path, &errno.into());
    let place = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = || open_place("/", place, Mode::empty()).map_err(failed);
    let mut here = File::from(root()?);
    let mut shown = PathBuf::from("/");
    // Open parent directories, for `..`.
    let mut stack: Vec<File> = Vec::new();
    let mut names: Vec<OsString> = rest_of(&path);
    let mut links = 0;
    while let Some(name) = names.pop() {
        if name == ".." {
            here = match stack.pop() {
                Some(above) => above,
                None => File::from(root()?),
            };
            shown.pop();
            continue;
        }
        check_one(&shown, &here, false)?;
        let next =
            File::from(openat(&here, name.as_os_str(), place, Mode::empty()).map_err(failed)?);
        let data = next.metadata().map_err(|error| unseen(&path, &error))?;
        if data.is_symlink() {
            // In a directory with the sticky bit such as /tmp, the link's owner alone can replace it.
            if data.uid() != 0 && data.uid() != geteuid().as_raw() {
                let fault = Fault::Owner.diagnostic(&shown.join(&name), &data);
                return Err(TrustFault::Unsafe(fault));
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(failed(Errno::ELOOP));
            }
            let target = PathBuf::from(readlinkat(&here, name.as_os_str()).map_err(failed)?);
            if target.is_absolute() {
                here = File::from(root()?);
                shown = PathBuf::from("/");
                stack.clear();
            }
            names.extend(rest_of(&target));
            continue;
        }
        shown.push(&name);
        stack.push(std::mem::replace(&mut here, next));
    }
    check_one(&shown, &here, true)?;
    Ok(here)
}

/// The components of a path in reverse order, for use as a stack.
fn rest_of(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut names: Vec<OsString> = names.collect();
    names.reverse();
    names
}

fn check_one(path: &Path, file: &File, leaf: bool) -> Result<(), TrustFault> {
    let data = file.metadata().map_err(|error| unseen(path, &error))?;
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let mut found = fault(&data, leaf, uid, gid);
    // With an access control list the group bits are the list's mask (acl(5)), so they may be set without the
    // group being able to write, and the list may name other users.
    if found.is_none() && data.mode() & GROUP_WRITE != 0 && !is_excused(&data, leaf) {
        let writers = acl::read_writers(file).map_err(|error| unseen(path, &error))?;
        let is_untrusted = |named: &Named| match named {
            Named::User(id) => *id != 0 && *id != uid,
            Named::Group(id) => *id != 0 && *id != gid,
        };
        found = writers.into_iter().find(is_untrusted).map(Fault::List);
    }
    match found {
        None => Ok(()),
        Some(fault) => Err(TrustFault::Unsafe(fault.diagnostic(path, &data))),
    }
}

fn unseen(path: &Path, error: &io::Error) -> TrustFault {
    let why = crate::sys::strerror(error);
    let why = format!("{} cannot be looked at: {why}", path.display());
    TrustFault::Unseen(Diagnostic::new(REFUSING, why, ""))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Owner,
    Group,
    Others,
    /// A user or group in the access control list.
    List(Named),
}

/// In a directory with the sticky bit a user cannot replace a file of another user. This excuses parent
/// directories, not the path itself.
fn is_excused(data: &Metadata, leaf: bool) -> bool {
    !leaf && data.is_dir() && data.mode() & STICKY != 0
}

fn fault(data: &Metadata, leaf: bool, uid: u32, gid: u32) -> Option<Fault> {
    let excused = is_excused(data, leaf);
    if data.uid() != 0 && data.uid() != uid {
        return Some(Fault::Owner);
    }
    if data.mode() & OTHERS_WRITE != 0 && !excused {
        return Some(Fault::Others);
    }
    // Members of root's group and of this process's group are trusted.
    let trusted = data.gid() == 0 || data.gid() == gid;
    (data.mode() & GROUP_WRITE != 0 && !trusted && !excused).then_some(Fault::Group)
}

impl Fault {
    fn diagnostic(self, path: &Path, data: &Metadata) -> Diagnostic {
        let path = quoted(path);
        let mode = data.mode() & 0o7777;
        let (fault, command) = match self {
            Fault::Owner => (
                format!("is owned by user {}, not by root", data.uid()),
                "chown root:",
            ),
            Fault::Group => (format!("is writable by group {}", data.gid()), "chmod g-w"),
            Fault::List(named) => (format!("has an ACL that lets {named} write"), "setfacl -b"),
            Fault::Others => ("is writable by all users".to_owned(), "chmod go-w"),
        };
        Diagnostic::new(
            REFUSING,
            format!("{path} {fault} (mode {mode:04o})"),
            format!("after checking its content, fix it with: {command} {path}"),
        )
    }
}

/// Quoted for sh(1), if necessary.
pub fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// The path relative to the current directory made absolute; links are not resolved.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
