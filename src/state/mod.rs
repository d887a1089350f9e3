//! Floor 2: the state directory, shared with the original agent so that one can replace the
//! other while filesystems are frozen.
//!
//! | file | content |
//! |---|---|
//! | `qga.state` | keyfile with the counter for file handles; made at start if missing |
//! | `qga.state.isfrozen` | empty; exists exactly while the agent holds filesystems frozen |
//! | `qga.state.expired` | a freeze that ended before its thaw, until that thaw has heard of it |
//! | `qga.reports.json` | what the last freezes did, the newest first (ours alone) |

mod counter;

use crate::sys::localtime::{DATE, format_local};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// First number of a file handle in a fresh state file.
const FIRST_HANDLE: u32 = 1000;

/// The directory, and the files in it. Nothing is read or written before a method is called.
#[derive(Debug, Clone)]
pub struct StateDir {
    dir: PathBuf,
}

/// A freeze that ended before its thaw came; the next thaw must hear of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Expiry {
    /// When it was ended: seconds since the epoch.
    pub when: f64,
    /// How long it was held, in seconds.
    pub held: f64,
    /// Why, as half a sentence.
    pub reason: String,
    /// How many filesystems were thawed then.
    pub count: u64,
}

impl std::fmt::Display for Expiry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let when = UNIX_EPOCH + Duration::try_from_secs_f64(self.when).unwrap_or_default();
        write!(
            f,
            "the freeze was ended at {} after {:.0} s, {} filesystems were thawed, because {}; a snapshot taken after that is not consistent",
            format_local(when, DATE),
            self.held,
            self.count,
            self.reason
        )
    }
}

/// A state file that could not be examined or written, with what to do.
#[derive(Debug)]
pub struct StateError {
    /// One line for the log: the file, the reason.
    pub text: String,
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for StateError {}

impl StateDir {
    /// The state directory `dir`; it is never created.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The marker's path.
    pub fn marker(&self) -> PathBuf {
        self.dir.join("qga.state.isfrozen")
    }

    /// Whether an earlier instance left filesystems frozen.
    ///
    /// # Errors
    /// The marker cannot be examined, so nobody knows.
    pub fn is_marked_frozen(&self) -> Result<bool, StateError> {
        let marker = self.marker();
        match fs::symlink_metadata(&marker) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(StateError {
                text: format!(
                    "unable to access state file at path {}: {}",
                    marker.display(),
                    reason(&e)
                ),
            }),
        }
    }

    /// Makes the marker (mode 0600).
    ///
    /// # Errors
    /// It cannot be made; a restart would then not know of the freeze.
    pub fn mark_frozen(&self) -> Result<(), StateError> {
        let marker = self.marker();
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&marker)
            .map(drop)
            .map_err(|e| StateError {
                text: format!(
                    "unable to create {}: {}; if the agent dies now, its successor will not know that filesystems are frozen (make {} writable)",
                    marker.display(),
                    reason(&e),
                    self.dir.display()
                ),
            })
    }

    /// Removes the marker; one that is gone already is fine.
    ///
    /// # Errors
    /// It stays, so the next start would believe that filesystems are frozen.
    pub fn mark_thawed(&self) -> Result<(), StateError> {
        let marker = self.marker();
        match fs::remove_file(&marker) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StateError {
                text: format!(
                    "unable to delete {}: {}; delete it by hand, or the next start will believe that filesystems are frozen",
                    marker.display(),
                    reason(&e)
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Remembers that a freeze ended before its thaw.
    ///
    /// # Errors
    /// It cannot be written; a late thaw would then look like success.
    pub fn mark_expired(&self, expiry: &Expiry) -> Result<(), StateError> {
        let path = self.expired();
        let write = || self.replace(&path, &serde_json::to_vec(expiry)?);
        write().map_err(|e| StateError {
            text: format!(
                "unable to write {}: {}; the next guest-fsfreeze-thaw will not say that it came too late",
                path.display(),
                reason(&e)
            ),
        })
    }

    /// What [`StateDir::mark_expired`] remembered, once.
    pub fn take_expired(&self) -> Option<Expiry> {
        let path = self.expired();
        let text = fs::read(&path).ok()?;
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!("unable to delete {}: {}", path.display(), reason(&error));
        }
        serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!("{}: {error}", path.display()))
            .ok()
    }

    /// What [`StateDir::mark_expired`] remembered, without taking it from the thaw that must hear
    /// of it.
    pub fn peek_expired(&self) -> Option<Expiry> {
        serde_json::from_slice(&fs::read(self.expired()).ok()?).ok()
    }

    fn expired(&self) -> PathBuf {
        self.dir.join("qga.state.expired")
    }

    /// Makes `qga.state` if it is missing, which also shows at start that the directory is
    /// writable; one that is there must be readable.
    ///
    /// # Errors
    /// The directory is missing or not writable, or the file is no key file.
    pub fn prepare(&self) -> Result<(), StateError> {
        let path = self.dir.join("qga.state");
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o666)
            .open(&path);
        let result = match made {
            Ok(mut file) => writeln!(file, "[global]\nfd_counter={FIRST_HANDLE}"),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return self.next_handle().map(drop);
            }
            Err(e) => Err(e),
        };
        result.map_err(|e| StateError {
            text: format!(
                "unable to create state file at path {}: {} (the state directory must exist and be writable; choose it with --statedir)",
                path.display(),
                reason(&e)
            ),
        })
    }

    /// Where the reports of the last freezes lie.
    pub fn reports(&self) -> PathBuf {
        self.dir.join("qga.reports.json")
    }

    /// Replaces the reports; they are readable by root alone.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write_reports(&self, json: &[u8]) -> io::Result<()> {
        self.replace(&self.reports(), json)
    }

    /// Temporary file and rename: whoever reads finds the old content or the new.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let mut file: File = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        fs::rename(&temporary, path)
    }
}

/// The system's own words for an error, without Rust's `(os error N)`.
fn reason(error: &io::Error) -> String {
    crate::sys::strerror(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_marker_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        assert!(!state.is_marked_frozen().unwrap());
        state.mark_frozen().unwrap();
        state.mark_frozen().unwrap();
        assert!(state.is_marked_frozen().unwrap());
        let meta = fs::metadata(dir.path().join("qga.state.isfrozen")).unwrap();
        assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (0, 0o600));
        state.mark_thawed().unwrap();
        state.mark_thawed().unwrap();
        assert!(!state.is_marked_frozen().unwrap());
    }

    #[test]
    fn a_marker_that_cannot_be_examined_is_an_error_not_a_guess() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = StateDir::new(&file).is_marked_frozen().unwrap_err();
        assert!(
            error
                .text
                .starts_with("unable to access state file at path "),
            "{error}"
        );
        assert!(error.text.ends_with(": Not a directory"), "{error}");
    }

    #[test]
    fn an_expired_freeze_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        assert_eq!(state.take_expired(), None);
        let expiry = Expiry {
            when: 1.7e9,
            held: 900.0,
            reason: "of the test".into(),
            count: 2,
        };
        state.mark_expired(&expiry).unwrap();
        assert_eq!(state.peek_expired(), Some(expiry.clone()));
        assert_eq!(state.take_expired(), Some(expiry.clone()));
        assert_eq!(state.take_expired(), None);
        let text = expiry.to_string();
        assert!(text.contains("after 900 s, 2 filesystems") && text.contains("of the test"));
        fs::write(dir.path().join("qga.state.expired"), "{torn").unwrap();
        assert_eq!(state.take_expired(), None);
    }

    #[test]
    fn prepare_makes_the_file_once_and_names_a_missing_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        state.prepare().unwrap();
        let path = dir.path().join("qga.state");
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "[global]\nfd_counter=1000\n"
        );
        fs::write(&path, "[global]\nfd_counter=1007\n").unwrap();
        state.prepare().unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "[global]\nfd_counter=1007\n"
        );
        let missing = StateDir::new(dir.path().join("none"))
            .prepare()
            .unwrap_err();
        assert!(
            missing
                .text
                .contains("none/qga.state: No such file or directory"),
            "{missing}"
        );
    }
}
