//! The pid file of a daemon. Floor 5.
//!
//! It is created with mode 0600 and held open under a lock as long as the daemon runs, so that a second agent with the
//! same file does not start; a file without a lock is left from a crash and is used again. `app` creates it after the fork,
//! because a lock of fcntl(2) does not pass to a child.

use crate::state::writer::{open_pid_file, remove_pid_file};
use crate::sys::strerror;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A locked pid file; dropped, it is removed.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    _lock: File,
}

#[derive(Debug)]
pub(crate) enum PidFileError {
    Create(PathBuf, io::Error),
    Lock(PathBuf, io::Error),
    Stat(io::Error),
    Truncate(io::Error),
    Write(io::Error),
}

/// The original's texts, which scripts of operators may know.
impl fmt::Display for PidFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(path, e) => {
                write!(f, "Could not create '{}': {}", path.display(), strerror(e))
            }
            Self::Lock(path, e) => write!(
                f,
                "Cannot lock pid file: {} ({} belongs to a running agent)",
                strerror(e),
                path.display()
            ),
            Self::Stat(e) => write!(f, "Cannot stat file: {}", strerror(e)),
            Self::Truncate(e) => write!(f, "Failed to truncate pid file: {}", strerror(e)),
            Self::Write(e) => write!(f, "Failed to write pid file: {}", strerror(e)),
        }
    }
}

impl std::error::Error for PidFileError {}

impl PidFile {
    pub(crate) fn create(path: &Path) -> Result<Self, PidFileError> {
        loop {
            let mut file =
                open_pid_file(path).map_err(|e| PidFileError::Create(path.to_owned(), e))?;
            lock(&file).map_err(|e| PidFileError::Lock(path.to_owned(), e.into()))?;
            // An agent that ends may have removed the file between open and lock: then this is a lock on a file without
            // a name, and the next agent would get one of its own.
            let ours = file.metadata().map_err(PidFileError::Stat)?;
            match std::fs::metadata(path) {
                Ok(named) if named.ino() == ours.ino() && named.dev() == ours.dev() => {}
                _ => continue,
            }
            file.set_len(0).map_err(PidFileError::Truncate)?;
            writeln!(file, "{}", std::process::id()).map_err(PidFileError::Write)?;
            return Ok(Self {
                path: path.to_owned(),
                _lock: file,
            });
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(e) = remove_pid_file(&self.path) {
            tracing::warn!(
                "cannot remove pid file {}: {}",
                self.path.display(),
                strerror(&e)
            );
        }
    }
}

/// By fcntl(2): it ends with the process, whatever descriptors its children keep.
fn lock(file: &File) -> Result<(), Errno> {
    let whole_file = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_SETLK(&whole_file)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_pid_and_goes_with_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        std::fs::write(&path, "99999999 stale").unwrap();
        let file = PidFile::create(&path).unwrap();
        let content = std::fs::read_to_string(&path).unwrap();
        assert_eq!(content, format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        let missing = PidFile::create(&dir.path().join("none/pid")).unwrap_err();
        let missing = missing.to_string();
        assert!(
            missing.ends_with("none/pid': No such file or directory"),
            "{missing}"
        );
    }
}
