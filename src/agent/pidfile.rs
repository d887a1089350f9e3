//! The pid file of a daemon: created 0600, held open under a lock for the daemon's life.

use crate::sys::strerror;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A locked pid file; dropped, it is removed.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    _lock: File,
}

impl PidFile {
    /// Makes and locks the file, and writes this process's id.
    ///
    /// # Errors
    /// One line: another instance holds the lock, or the file cannot be made or written.
    pub fn create(path: &Path) -> Result<Self, String> {
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)
                .map_err(|e| format!("Could not create '{}': {}", path.display(), strerror(&e)))?;
            lock(&file).map_err(|e| {
                format!(
                    "Cannot lock pid file: {} ({} belongs to a running agent)",
                    strerror(&e.into()),
                    path.display()
                )
            })?;
            // Between open and lock an ending instance may have removed the file it had locked.
            let ours = file
                .metadata()
                .map_err(|e| format!("Cannot stat file: {}", strerror(&e)))?;
            match std::fs::metadata(path) {
                Ok(there) if there.ino() == ours.ino() && there.dev() == ours.dev() => {}
                _ => continue,
            }
            file.set_len(0)
                .map_err(|e| format!("Failed to truncate pid file: {}", strerror(&e)))?;
            writeln!(file, "{}", std::process::id())
                .map_err(|e| format!("Failed to write pid file: {}", strerror(&e)))?;
            return Ok(Self {
                path: path.to_owned(),
                _lock: file,
            });
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.path) {
            tracing::warn!(
                "cannot remove pid file {}: {}",
                self.path.display(),
                strerror(&e)
            );
        }
    }
}

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
        assert!(
            missing.ends_with("none/pid': No such file or directory"),
            "{missing}"
        );
    }
}
