//! The snapshot file: what a copy of a disk says about the freeze in which it was taken (floor 3).
//!
//! The engine writes it on a filesystem that it is about to freeze, and replaces it after the thaw. So it says `frozen`
//! on a disk only if the disk was copied, or the machine died, in between. [`super::restored`] reads it when an agent
//! starts, `qemu-ga inspect` reads it in a copy. Its serde names are a file format.

use super::report::Report;
use crate::hooks::HookStatus;
use crate::probe::System;
use crate::probe::machine::MachineIds;
use crate::state::{MAX_SIZE, boot_id, open_regular, replace};
use crate::sys::strerror;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where the packages make a directory for it.
pub const DEFAULT_PATH: &str = "/var/lib/qemu-ga/snapshot.json";

/// For reading or writing the file: its filesystem may be frozen by another process, or be out of reach.
pub(crate) const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(1);

const VERSION: u32 = 1;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotState {
    /// The freeze of the run was about to begin, and its thaw had not ended.
    Frozen,
    /// The run was over.
    Finished,
    /// The machine was started from a copy, and has frozen nothing since.
    Restored,
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Snapshot {
    /// Of the format.
    pub(crate) version: u32,
    /// What the file says.
    pub state: SnapshotState,
    /// The kernel's boot id when it was written.
    #[serde(default)]
    pub boot_id: String,
    /// The machine that wrote it.
    #[serde(default)]
    pub machine: MachineIds,
    /// The run; while frozen as if everything had been frozen. `None` if it was not completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Box<Report>>,
    /// From which run this machine was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Box<Restored>>,
}

/// Why a machine finds a file that says `frozen` at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It was started from a copy.
    Copy,
    /// It died in the run, and was started again.
    Died,
    /// One of the two.
    Unknown,
}

/// A start from a copy that was taken in a run, or after a death in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Restored {
    /// When the agent found out, in seconds since the epoch.
    pub found: f64,
    /// Of that boot.
    pub(crate) boot_id: String,
    /// Copy, death, or unknown.
    pub origin: Origin,
    /// What shows that, one line.
    pub because: String,
    /// The machine that was frozen.
    pub machine: MachineIds,
    /// The run in which the copy was taken, with the level that it could reach.
    pub run: Box<Report>,
    /// The restore hooks that were started, in order.
    #[serde(default)]
    pub hooks: Vec<RestoreHook>,
    /// No restore hook is left to run.
    #[serde(default)]
    pub complete: bool,
    /// Why restore hooks were not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One restore hook, with its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RestoreHook {
    /// The hook's path.
    pub path: String,
    /// How it ended; `cancelled` if the run of the hooks was stopped or killed while it ran.
    pub status: HookStatus,
    /// Whether it did what it had to do.
    pub succeeded: bool,
    /// From its start to its end.
    pub seconds: f64,
    /// The end of a failed hook's output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

impl Snapshot {
    fn new(state: SnapshotState, run: Option<&Report>) -> Self {
        Self {
            version: VERSION,
            state,
            boot_id: boot_id(),
            machine: MachineIds::read(&System::host()),
            run: run.map(|run| Box::new(run.clone())),
            restored: None,
        }
    }

    /// Of a start in a copy, before the next freeze.
    pub(crate) fn restored(restored: Restored) -> Self {
        Self {
            restored: Some(Box::new(restored)),
            ..Self::new(SnapshotState::Restored, None)
        }
    }
}

/// The file's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile(PathBuf);

impl From<PathBuf> for SnapshotFile {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl SnapshotFile {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The directory, opened, whose filesystem decides whether the file is written. The agent never creates it.
    pub(crate) fn open_directory(&self) -> io::Result<File> {
        let parent = self.0.parent().unwrap_or(Path::new("/"));
        File::open(parent)
    }

    /// `None` if there is none.
    ///
    /// # Errors
    /// Why it cannot be used: it cannot be read, is a link, another user's, cut short, or no snapshot file.
    pub fn read(&self) -> Result<Option<Snapshot>, String> {
        let unusable = |why: String| format!("cannot use {}: {why}", self.0.display());
        match open_regular(&self.0, OpenOptions::new().read(true)) {
            Ok(file) => parse(file).map(Some).map_err(unusable),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unusable(open_error(&error))),
        }
    }

    /// Before the freeze. Not written any more once `is_given_up`: a call that hung may continue after the thaw.
    pub(crate) fn write_frozen(&self, run: &Report, is_given_up: &AtomicBool) -> io::Result<()> {
        let snapshot = Snapshot {
            // What cannot be used is replaced.
            restored: self.read().ok().flatten().and_then(|old| old.restored),
            ..Snapshot::new(SnapshotState::Frozen, Some(run))
        };
        if is_given_up.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.write(&snapshot, false)?;
        if is_given_up.load(Ordering::Relaxed) {
            self.withdraw()?;
        }
        Ok(())
    }

    /// A file of this boot no longer says `frozen`. Returns whether it did.
    pub(crate) fn withdraw(&self) -> io::Result<bool> {
        let Some(old) = self.read().ok().flatten() else {
            return Ok(false);
        };
        if old.state != SnapshotState::Frozen || old.boot_id != boot_id() {
            return Ok(false);
        }
        match old.restored {
            None => fs::remove_file(&self.0)?,
            restored => {
                let state = SnapshotState::Finished;
                let snapshot = Snapshot {
                    restored,
                    ..Snapshot::new(state, None)
                };
                self.write(&snapshot, false)?;
            }
        }
        Ok(true)
    }

    /// After the run, so that it is on the disk even if the machine dies now.
    pub(crate) fn write_finished(&self, run: &Report) -> io::Result<()> {
        let snapshot = Snapshot {
            restored: self.read().ok().flatten().and_then(|old| old.restored),
            ..Snapshot::new(SnapshotState::Finished, Some(run))
        };
        self.write(&snapshot, true)
    }

    pub(crate) fn write(&self, snapshot: &Snapshot, sync: bool) -> io::Result<()> {
        replace(&self.0, &serde_json::to_vec(snapshot)?, 0o600, sync)?;
        if sync {
            // The rename, too.
            self.open_directory()?.sync_all()?;
        }
        Ok(())
    }
}

pub(crate) fn open_error(error: &io::Error) -> String {
    match error.raw_os_error() {
        // open(2) with O_NOFOLLOW.
        Some(nix::libc::ELOOP) => "it is a symbolic link".to_owned(),
        _ => strerror(error),
    }
}

/// Reads an open file. Only root and the user of this process may be able to write to it: what it says leads to a run
/// of hooks.
pub(crate) fn parse(file: File) -> Result<Snapshot, String> {
    let data = file.metadata().map_err(|error| strerror(&error))?;
    if data.uid() != 0 && data.uid() != geteuid().as_raw() {
        return Err(format!(
            "it is owned by user {}, not by root; remove it",
            data.uid()
        ));
    }
    if data.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(format!(
            "other users may write to it (mode {:04o}); remove it",
            data.mode() & 0o7777
        ));
    }
    let mut text = Vec::new();
    file.take(MAX_SIZE + 1)
        .read_to_end(&mut text)
        .map_err(|error| strerror(&error))?;
    if text.len() as u64 > MAX_SIZE {
        return Err("it is larger than 16 MiB".into());
    }
    serde_json::from_slice(&text)
        .map_err(|error| format!("it is damaged or no snapshot file: {error}"))
}

/// With every member.
#[cfg(test)]
pub(crate) fn sample() -> Snapshot {
    let id = || Some("x".to_owned());
    let machine = MachineIds {
        machine_id: id(),
        product_uuid: id(),
        instance_id: id(),
        generation_id: id(),
    };
    let run = Report {
        end: Some(crate::freeze::report::RunEnd::Thaw),
        ..Report::default()
    };
    let hook = RestoreHook {
        path: "/x".into(),
        status: HookStatus::Exited(1),
        succeeded: false,
        seconds: 0.5,
        output: "x".into(),
    };
    let restored = Restored {
        found: 1.0,
        boot_id: "x".into(),
        origin: Origin::Copy,
        because: "x".into(),
        machine: machine.clone(),
        run: Box::new(run.clone()),
        hooks: vec![hook],
        complete: true,
        error: id(),
    };
    Snapshot {
        run: Some(Box::new(run)),
        machine,
        ..Snapshot::restored(restored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn run(id: &str) -> Report {
        Report {
            id: id.into(),
            ..Report::default()
        }
    }

    fn write(file: &SnapshotFile, id: &str) {
        let wanted = AtomicBool::new(false);
        file.write_frozen(&run(id), &wanted).unwrap();
    }

    #[test]
    fn it_says_frozen_until_it_is_withdrawn_and_then_how_the_run_ended() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile(dir.path().join("s.json"));
        assert_eq!(file.read(), Ok(None));
        assert!(!file.withdraw().unwrap());
        write(&file, "7");
        let read = file.read().unwrap().unwrap();
        assert_eq!(
            (read.state, read.boot_id),
            (SnapshotState::Frozen, boot_id())
        );
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert!(file.withdraw().unwrap() && !file.withdraw().unwrap());
        assert_eq!(file.read(), Ok(None));
        file.write_finished(&run("7")).unwrap();
        let read = file.read().unwrap().unwrap();
        assert_eq!(read.state, SnapshotState::Finished);
        assert_eq!(read.run.unwrap().id, "7");
        assert!(!file.withdraw().unwrap());
    }

    #[test]
    fn what_another_boot_wrote_is_not_withdrawn_and_a_start_from_a_copy_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile(dir.path().join("s.json"));
        let other = Snapshot {
            boot_id: "another".into(),
            ..Snapshot::new(SnapshotState::Frozen, Some(&run("1")))
        };
        file.write(&other, false).unwrap();
        assert!(!file.withdraw().unwrap());
        let restored = Restored {
            found: 1.0,
            boot_id: boot_id(),
            origin: Origin::Copy,
            because: "of the test".into(),
            machine: MachineIds::default(),
            run: Box::new(run("1")),
            hooks: Vec::new(),
            complete: true,
            error: None,
        };
        file.write(&Snapshot::restored(restored.clone()), true)
            .unwrap();
        write(&file, "2");
        assert!(file.withdraw().unwrap());
        let read = file.read().unwrap().unwrap();
        assert_eq!((read.state, &read.run), (SnapshotState::Finished, &None));
        assert_eq!(read.restored.as_deref(), Some(&restored));
        file.write_finished(&run("2")).unwrap();
        let read = file.read().unwrap().unwrap();
        assert_eq!(read.restored.as_deref(), Some(&restored));
    }

    #[test]
    fn a_write_that_was_given_up_leaves_nothing_that_says_frozen() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile(dir.path().join("s.json"));
        let late = file.write_frozen(&run("1"), &AtomicBool::new(true));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(file.read(), Ok(None));
        assert!(
            SnapshotFile(dir.path().join("none/s.json"))
                .write_finished(&run("1"))
                .is_err()
        );
    }

    #[test]
    fn what_is_not_ours_is_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile(dir.path().join("s.json"));
        write(&file, "1");
        let whole = fs::read(file.path()).unwrap();
        let refusal = |file: &SnapshotFile| file.read().unwrap_err();
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(file.path(), &whole[..length]).unwrap();
            assert!(refusal(&file).contains("damaged"), "{length}");
        }
        for foreign in ["{}", "[]", "null", "{\"version\":1}", "\u{fffd}"] {
            fs::write(file.path(), foreign).unwrap();
            assert!(refusal(&file).contains("damaged"), "{foreign}");
        }
        fs::write(file.path(), &whole).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o622)).unwrap();
        assert!(refusal(&file).contains("other users may write to it (mode 0622)"));
        let link = SnapshotFile(dir.path().join("link"));
        symlink(file.path(), link.path()).unwrap();
        assert!(refusal(&link).contains("symbolic link"));
        assert!(refusal(&SnapshotFile(dir.path().to_owned())).contains("not a regular file"));
        let text = refusal(&link);
        assert!(text.starts_with("cannot use /") && !text.contains('\n'));
    }
}
