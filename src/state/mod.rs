//! Floor 2: the state directory. QEMU's agent uses the same files, so that one agent can replace the other while
//! filesystems are frozen.
//!
//! | file | content |
//! |---|---|
//! | `qga.state` | keyfile with the counter for file handles; made at start if missing |
//! | `qga.state.isfrozen` | exists exactly while the agent holds filesystems frozen; says which ([`Marker`]) |
//! | `qga.state.expired` | a freeze that ended before its thaw, until that thaw has heard of it |
//! | `qga.reports.json` | what the last freezes did, the newest first (ours alone) |
//! | `qga.lock` | empty; locked while an agent uses the directory (ours alone) |
//!
//! A file may be incomplete, of another version, or not a regular file. Reading it never blocks and follows no link,
//! and the agent starts in any case.

mod counter;
mod lock;
pub(crate) mod writer;

use crate::sys::localtime::{DATE, format_seconds};
use nix::libc;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// As in QEMU's agent.
const FIRST_HANDLE: i64 = 1000;

/// Of a file that is read, in bytes: 20 reports of several thousand filesystems.
pub const MAX_SIZE: u64 = 16 << 20;

const MARKER: &str = "qga.state.isfrozen";
const EXPIRED: &str = "qga.state.expired";
const REPORTS: &str = "qga.reports.json";

type Unwritten = Vec<(&'static str, Vec<u8>)>;
#[derive(Debug, Clone)]
pub struct StateDir {
    dir: PathBuf,
    /// Content that could not be written, by file name. This process uses it as long as it runs; all clones share it.
    unwritten: Arc<Mutex<Unwritten>>,
}

/// A freeze that ended before its thaw; the next guest-fsfreeze-thaw must return an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Expiry {
    /// When it ended, in seconds since the epoch.
    pub when: f64,
    /// In seconds.
    pub held: f64,
    /// As the second half of a sentence.
    pub reason: String,
    pub count: u64,
}

impl Expiry {
    pub const HOLD_LIMIT: &str = "no guest-fsfreeze-thaw came within the hold limit";
    pub const OPERATOR: &str = "somebody ran qemu-ga thaw --now";
    pub const SHUTDOWN: &str = "the system is going down";
}

impl std::fmt::Display for Expiry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the freeze was ended at {} after {:.0} s, {} filesystems were thawed, because {}; a snapshot taken after that is not consistent",
            format_seconds(self.when, DATE),
            self.held,
            self.count,
            self.reason
        )
    }
}

/// The content of the marker, for a successor that finds no guardian. The marker of QEMU's agent is empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Marker {
    /// The kernel's boot id: a freeze does not survive a reboot.
    pub boot: String,
    pub id: String,
    /// When the freeze began, on CLOCK_MONOTONIC.
    pub since_ms: u64,
    /// The hold limit; None: no limit.
    pub limit_ms: Option<u64>,
    pub hook: Option<PathBuf>,
    pub devices: Vec<String>,
}

pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim_end().to_owned()
}

#[derive(Debug)]
pub struct StateError {
    pub text: String,
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for StateError {}

impl StateDir {
    /// The directory is never created.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            unwritten: Arc::default(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    pub fn marker(&self) -> PathBuf {
        self.dir.join(MARKER)
    }

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

    pub fn mark_frozen(&self, content: &Marker) -> Result<(), StateError> {
        let marker = self.marker();
        let written = match writer::current() {
            Some(writer) => writer.write_marker(content),
            None => write_marker(&marker, content),
        };
        written.map_err(|e| StateError {
                text: format!(
                    "unable to create {}: {}; if the agent dies now, its successor will not know that filesystems are frozen (make {} writable)",
                    marker.display(),
                    reason(&e),
                    self.dir.display()
                ),
            })
    }

    /// None if it is empty or cannot be read. The marker alone still means that filesystems are frozen.
    pub fn read_marker(&self) -> Option<Marker> {
        let marker = self.marker();
        let warn_unusable = |why: String| {
            tracing::warn!(
                "{} cannot be used: {why}; all filesystems are assumed to be frozen",
                marker.display()
            );
        };
        let text = read(&marker)
            .map_err(|e| warn_unusable(reason(&e)))
            .ok()??;
        if text.is_empty() {
            return None;
        }
        serde_json::from_slice(&text)
            .map_err(|e| warn_unusable(e.to_string()))
            .ok()
    }

    /// Returns whether the marker existed. unlink(2) succeeds for one caller only, so of several processes that end the
    /// same freeze exactly one gets `true`.
    pub fn mark_thawed(&self) -> Result<bool, StateError> {
        let marker = self.marker();
        let removed = match writer::current() {
            Some(writer) => writer.remove_marker(),
            None => fs::remove_file(&marker),
        };
        match removed {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(StateError {
                text: format!(
                    "unable to delete {}: {}; delete it by hand, or the next start will believe that filesystems are frozen",
                    marker.display(),
                    reason(&e)
                ),
            }),
        }
    }

    /// In memory if the file cannot be written: a late thaw through another agent would then look like a success.
    pub fn mark_expired(&self, expiry: &Expiry) -> Result<(), StateError> {
        let write = || self.save(EXPIRED, serde_json::to_vec(expiry)?);
        write().map_err(|e| StateError {
            text: format!(
                "unable to write {}: {}; an agent that starts later will not say that guest-fsfreeze-thaw came too late",
                self.dir.join(EXPIRED).display(),
                reason(&e)
            ),
        })
    }

    pub fn take_expired(&self) -> Option<Expiry> {
        let expiry = self.peek_expired()?;
        self.unwritten().retain(|(name, _)| *name != EXPIRED);
        let path = self.dir.join(EXPIRED);
        let removed = match writer::current() {
            Some(writer) => writer.remove_expiry(),
            None => fs::remove_file(&path),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("unable to delete {}: {}", path.display(), reason(&error));
            }
            _ => {}
        }
        Some(expiry)
    }

    /// The record stays for the next thaw. A file that cannot be read still shows that a freeze ended early.
    pub fn peek_expired(&self) -> Option<Expiry> {
        let expiry = self.load(EXPIRED).and_then(|content| {
            let parse = |content: Vec<u8>| Ok(serde_json::from_slice(&content)?);
            content.map(parse).transpose()
        });
        expiry.unwrap_or_else(|error| {
            let reason = format!(
                "of something unknown: {} cannot be read: {}",
                self.dir.join(EXPIRED).display(),
                reason(&error)
            );
            Some(Expiry {
                when: -1.0,
                held: 0.0,
                reason,
                count: 0,
            })
        })
    }

    /// Creates `qga.state` if it is missing or cannot be read; this shows at start whether the directory is writable.
    pub fn prepare(&self) -> Result<(), StateError> {
        let (next, is_kept) = match self.read_counter() {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => (FIRST_HANDLE, false),
            Err(why) => (self.unused_handle(&why), true),
        };
        match self.set_next_handle(next) {
            Err(error) if !is_kept => Err(StateError {
                text: format!(
                    "unable to create state file at path {}: {} (the state directory must exist and be writable; choose it with --statedir)",
                    self.counter().display(),
                    reason(&error)
                ),
            }),
            // If the file cannot be replaced, guest-file-open fails later and reports the reason.
            _ => Ok(()),
        }
    }

    pub fn reports(&self) -> PathBuf {
        self.dir.join(REPORTS)
    }

    /// Those of [`StateDir::write_reports`] even if they could not be written.
    pub fn read_reports(&self) -> io::Result<Option<Vec<u8>>> {
        self.load(REPORTS)
    }

    pub fn write_reports(&self, json: Vec<u8>) -> io::Result<()> {
        self.save(REPORTS, json)
    }

    fn unwritten(&self) -> MutexGuard<'_, Unwritten> {
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let unwritten = self.unwritten();
        match unwritten.iter().find(|(known, _)| *known == name) {
            Some((_, content)) => Ok(Some(content.clone())),
            None => read(&self.dir.join(name)),
        }
    }

    /// Only root can read the file. If it cannot be written, the content is kept in memory.
    fn save(&self, name: &'static str, content: Vec<u8>) -> io::Result<()> {
        let done = match writer::current() {
            Some(writer) => writer.replace(name, &content),
            None => replace(&self.dir.join(name), &content, 0o600, false),
        };
        let mut unwritten = self.unwritten();
        unwritten.retain(|(known, _)| *known != name);
        if done.is_err() {
            unwritten.push((name, content));
        }
        done
    }
}

fn write_marker(path: &Path, content: &Marker) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .mode(0o600)
        .open(path)?;
    file.write_all(&serde_json::to_vec(content)?)
}

/// None if it does not exist.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match open_regular(path, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_SIZE {
        return Err(io::Error::other("larger than 16 MiB"));
    }
    Ok(Some(content))
}

/// Does not follow a link, and does not wait for a FIFO's other end.
pub(crate) fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

/// Renames a temporary file, so that a reader finds the old content or the new. `sync`: also after a power failure.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32, sync: bool) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    // An existing file is the rest of an agent that died, or not ours at all: it is removed and never written to.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(content)?;
    if sync {
        file.sync_data()?;
    }
    fs::rename(&temporary, path)
}

/// Without Rust's suffix `(os error N)`.
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
        let content = Marker {
            id: "7".into(),
            devices: vec!["8:1".into()],
            ..Marker::default()
        };
        state.mark_frozen(&Marker::default()).unwrap();
        state.mark_frozen(&content).unwrap();
        assert_eq!(state.read_marker(), Some(content));
        assert!(state.is_marked_frozen().unwrap());
        let meta = fs::metadata(dir.path().join("qga.state.isfrozen")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        state.mark_thawed().unwrap();
        state.mark_thawed().unwrap();
        assert!(!state.is_marked_frozen().unwrap());
    }

    #[test]
    fn a_marker_that_says_nothing_of_use_is_still_one() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        for text in [&b""[..], b"\0\0\0\0", b"{\"boot\":\"a", b"{\"boot\":7}"] {
            fs::write(state.marker(), text).unwrap();
            assert_eq!(state.read_marker(), None, "{}", text.escape_ascii());
            assert!(state.is_marked_frozen().unwrap());
        }
        fs::write(state.marker(), "{\"unheard\":1}").unwrap();
        assert_eq!(state.read_marker(), Some(Marker::default()));
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
        // An incomplete file still shows that there was one.
        fs::write(dir.path().join("qga.state.expired"), "{torn").unwrap();
        let text = state.take_expired().unwrap().to_string();
        assert!(
            text.contains("at an unknown time")
                && text.contains("qga.state.expired cannot be read: "),
            "{text}"
        );
        assert_eq!(state.take_expired(), None);
    }

    #[test]
    fn what_cannot_be_written_is_known_to_every_clone() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("later"));
        let expiry = Expiry {
            when: 1e19,
            held: 1e19,
            reason: "of the test".into(),
            count: 2,
        };
        let clone = state.clone();
        assert!(state.mark_expired(&expiry).is_err());
        assert!(state.write_reports(b"[]".to_vec()).is_err());
        assert_eq!(clone.read_reports().unwrap(), Some(b"[]".to_vec()));
        assert_eq!(clone.take_expired(), Some(expiry));
        assert_eq!(state.take_expired(), None);
        fs::create_dir(state.path()).unwrap();
        state.write_reports(b"[1]".to_vec()).unwrap();
        assert_eq!(clone.read_reports().unwrap(), Some(b"[1]".to_vec()));
        assert!(clone.unwritten().is_empty());
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
