//! Whether a path may be run as root: nobody but root (or ourselves) can change it or what leads
//! to it. Links are followed first, and every directory above is looked at too: who may rename a
//! directory may replace what is in it.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{getegid, geteuid};

const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Why no hook is run: one line that names the thing, the reason and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Checks `path` (a hook or the hooks' directory) and everything above it.
///
/// # Errors
/// The first fault found, or that the path cannot be looked at.
pub fn check(path: &Path) -> Result<(), Refusal> {
    let real = look(path, fs::canonicalize(path))?;
    check_one(&real, true)?;
    // A link can be replaced by whoever may write the directory it lies in.
    let named = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let named = match named {
        Some(parent) => look(parent, fs::canonicalize(parent))?,
        None => look(Path::new("."), fs::canonicalize("."))?,
    };
    for chain in [real.parent(), Some(named.as_path())].into_iter().flatten() {
        chain
            .ancestors()
            .try_for_each(|above| check_one(above, false))?;
    }
    Ok(())
}

fn check_one(path: &Path, leaf: bool) -> Result<(), Refusal> {
    let data = look(path, fs::metadata(path))?;
    match fault(&data, leaf, geteuid().as_raw(), getegid().as_raw()) {
        None => Ok(()),
        Some(fault) => Err(Refusal(fault.line(path, &data))),
    }
}

fn look<T>(path: &Path, result: std::io::Result<T>) -> Result<T, Refusal> {
    result.map_err(|error| {
        let why = crate::sys::strerror(&error);
        Refusal(format!(
            "refusing to run hooks: {} cannot be looked at: {why}",
            path.display()
        ))
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Owner,
    Group,
    Others,
}

/// The sticky bit excuses only what stands above: in it, nobody can replace a name of another's.
fn fault(data: &Metadata, leaf: bool, uid: u32, gid: u32) -> Option<Fault> {
    let excused = !leaf && data.is_dir() && data.mode() & STICKY != 0;
    if data.uid() != 0 && data.uid() != uid {
        return Some(Fault::Owner);
    }
    if data.mode() & OTHERS_WRITE != 0 && !excused {
        return Some(Fault::Others);
    }
    // Root's own group and ours hold nobody who is not trusted anyway.
    let trusted = data.gid() == 0 || data.gid() == gid;
    (data.mode() & GROUP_WRITE != 0 && !trusted && !excused).then_some(Fault::Group)
}

impl Fault {
    fn line(self, path: &Path, data: &Metadata) -> String {
        let path = quoted(path);
        let mode = data.mode() & 0o7777;
        let (what, remedy) = match self {
            Fault::Owner => (
                format!("is owned by user {}, not by root", data.uid()),
                "chown root:",
            ),
            Fault::Group => (format!("is writable by group {}", data.gid()), "chmod g-w"),
            Fault::Others => ("is writable by everybody".to_owned(), "chmod go-w"),
        };
        format!(
            "refusing to run hooks: {path} {what} (mode {mode:04o}); after checking its content, \
             mend it with: {remedy} {path}"
        )
    }
}

/// As a shell takes it; bare where it needs no quotes.
pub fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// The path made absolute by the current directory, links and all kept as they are.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
