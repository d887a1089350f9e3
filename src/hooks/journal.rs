//! The journal from freeze to thaw: `qga.hooks` in the agent's state directory, one JSON object a line.
//!
//! The hook master enters a hook before its freeze starts, with everything that its thaw needs, and marks it
//! done when its thaw has ended. So the next thaw covers exactly the hooks that were started, each once, even
//! if the settings have changed or another master runs it. A hook whose thaw cannot be run stays in the
//! journal until it runs or the operator dismisses it. The file is locked: one master runs at a time.

mod started;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{getpid, getsid};
use serde_json::{Value, json};

use super::task::HookTask;
use super::{Phase, trust};
use crate::child::{Family, end_family};
use crate::diagnostic::Diagnostic;
use crate::state::{boot_id, open_regular};
use crate::sys::process::stat;
use crate::sys::strerror;

pub use started::StartedTask;
use started::text as text_of;

const FILE: &str = "qga.hooks";
/// The directory if an operator calls the master by hand: the agent's default state directory.
pub const DEFAULT_DIR: &str = "/run";
/// Time to wait for another master; less than the guardian's limit for the whole thaw.
const JOURNAL_LOCK_TIMEOUT: Duration = Duration::from_secs(240);
/// Bytes of the journal that are read.
const MAX_JOURNAL_BYTES: u64 = 1 << 24;
/// A journal above this length, in bytes, is rewritten at the next freeze.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// Key of a task that is about to start.
const STARTED: &str = "started";
/// Key of a task whose thaw has ended, or that has none.
const SETTLED: &str = "settled";
/// Key of a task whose thaw could not be run.
const OWED: &str = "owed";
/// Key of the running master, see [`own_session`]; empty when it has ended.
const MASTER: &str = "master";

/// The facts of a freeze that hooks get in their environment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunInfo {
    /// The run's id, as in the report.
    pub id: String,
    /// The mount points, in the form of [`super::MOUNTPOINTS_ENV`].
    pub mountpoints: String,
    /// Their devices, in the form of [`super::DEVICES_ENV`].
    pub devices: String,
    /// Seconds until the agent thaws by itself; 0: never.
    pub hold_limit: f64,
}

/// The content of the journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JournalContent {
    /// The facts of the freeze.
    pub run: RunInfo,
    /// Tasks to thaw, in the order of their start.
    pub started: Vec<StartedTask>,
    /// Tasks that are done.
    settled: Vec<StartedTask>,
    /// The master that was running when it last wrote; empty if it has ended by itself.
    master: String,
    /// The journal is complete: a hook that is not in it was not started.
    pub is_whole: bool,
    /// Why it is incomplete or cannot be used.
    pub warning: Option<String>,
}

impl JournalContent {
    /// Whether it has an entry for `task`.
    pub fn contains(&self, task: &HookTask) -> bool {
        let mut entries = self.started.iter().chain(&self.settled);
        entries.any(|started| started.names(task))
    }

    /// Parses a journal, as far as it can be read.
    pub fn parse(text: &[u8]) -> JournalContent {
        let mut content = JournalContent::default();
        let mut is_damaged = !text.ends_with(b"\n");
        let mut has_run = false;
        for line in text.split(|&byte| byte == b'\n').filter(|l| !l.is_empty()) {
            // Each line is an object with one key.
            let read = serde_json::from_slice(line).ok();
            let known = read
                .as_ref()
                .and_then(|line: &Value| line.as_object()?.iter().next());
            let Some((key, value)) = known else {
                is_damaged = true;
                continue;
            };
            let task = StartedTask::from_value(value);
            match &key[..] {
                "run" => {
                    has_run = true;
                    content.run = RunInfo {
                        id: text_of(value, "id"),
                        mountpoints: text_of(value, "mountpoints"),
                        devices: text_of(value, "devices"),
                        hold_limit: value["hold-limit"].as_f64().unwrap_or_default(),
                    };
                }
                MASTER => content.master = value.as_str().unwrap_or_default().to_owned(),
                _ if task.name.is_empty() => is_damaged = true,
                STARTED | SETTLED => {
                    content.started.retain(|known| !known.is(&task));
                    let list = match &key[..] {
                        STARTED => &mut content.started,
                        _ => &mut content.settled,
                    };
                    list.push(task);
                }
                OWED => {
                    for known in content.started.iter_mut().filter(|known| known.is(&task)) {
                        known.why.clone_from(&task.why);
                    }
                }
                _ => is_damaged = true,
            }
        }
        content.is_whole = has_run && !is_damaged;
        content
    }
}

/// What opening the file results in.
enum OpenedJournal {
    Locked {
        file: Flock<File>,
        is_new: bool,
    },
    /// The previous master has thawed every hook and removed the file.
    Removed,
    Failed(io::Error),
}

/// The journal of one freeze.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    phase: Phase,
    /// Locked.
    file: Option<Flock<File>>,
    /// Tasks that are not yet thawed.
    open: Vec<StartedTask>,
    /// The existing content is intact and short enough for new lines to follow it.
    is_sound: bool,
    /// Why the file could not be opened.
    open_error: Option<io::Error>,
}

impl Journal {
    /// The journal in the state directory `dir`; nothing is read or written yet.
    pub fn in_dir(dir: &Path) -> Journal {
        Journal {
            path: dir.join(FILE),
            phase: Phase::Freeze,
            file: None,
            open: Vec::new(),
            is_sound: false,
            open_error: None,
        }
    }

    /// Waits until no other master runs, and reads what the last one left. `pause` waits briefly and returns
    /// whether to give up.
    ///
    /// # Errors
    /// Another master does not end, or `pause` gave up.
    pub fn open(
        &mut self,
        phase: Phase,
        pause: &dyn Fn() -> bool,
    ) -> Result<JournalContent, Diagnostic> {
        self.phase = phase;
        let mut problem = None;
        let (file, is_new) = match self.open_locked(pause, &mut problem)? {
            OpenedJournal::Locked { file, is_new } => (file, is_new),
            OpenedJournal::Removed => {
                return Ok(JournalContent {
                    is_whole: true,
                    ..JournalContent::default()
                });
            }
            OpenedJournal::Failed(error) => {
                self.open_error = Some(error);
                return Ok(self.with_warning(JournalContent::default(), problem));
            }
        };
        let read = read_content(&file);
        let text = read.as_deref().unwrap_or_default();
        let mut content = JournalContent::parse(text);
        self.file = Some(file);
        self.open.clone_from(&content.started);
        self.is_sound = content.is_whole && text.len() < MAX_KEPT_BYTES;
        if !(content.is_whole || is_new && text.is_empty()) {
            let why = read.as_ref().err().map(strerror);
            problem = Some(why.unwrap_or_else(|| "it is damaged".into()));
            if !text.ends_with(b"\n") {
                // A line that is half written must not swallow the next one.
                self.write(b"\n").ok();
            }
        }
        if problem.is_some() {
            content = self.with_warning(content, problem);
        }
        end_session(&content.master);
        self.write_master(own_session());
        Ok(content)
    }

    /// Opens and locks the file. `problem` gets the reason why something else under its name was removed.
    fn open_locked(
        &self,
        pause: &dyn Fn() -> bool,
        problem: &mut Option<String>,
    ) -> Result<OpenedJournal, Diagnostic> {
        let until = Instant::now() + JOURNAL_LOCK_TIMEOUT;
        loop {
            let (file, is_new) = match open_file(&self.path) {
                Ok(opened) => opened,
                // The directory is the agent's, so anything else under this name is removed.
                Err(error) if problem.is_none() && self.path.symlink_metadata().is_ok() => {
                    fs::remove_file(&self.path)
                        .or_else(|_| fs::remove_dir(&self.path))
                        .ok();
                    *problem = Some(strerror(&error));
                    continue;
                }
                Err(error) => return Ok(OpenedJournal::Failed(error)),
            };
            let file = self.lock(file, pause, until)?;
            if is_at(&file, &self.path) {
                return Ok(OpenedJournal::Locked { file, is_new });
            }
            if self.phase == Phase::Thaw {
                return Ok(OpenedJournal::Removed);
            }
        }
    }

    fn lock(
        &self,
        mut file: File,
        pause: &dyn Fn() -> bool,
        until: Instant,
    ) -> Result<Flock<File>, Diagnostic> {
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(locked),
                Err((file, _)) => file,
            };
            if pause() || Instant::now() > until {
                let what = format!("another hook master has locked {}", self.path.display());
                return Err(Diagnostic::new(what, "", "no hook is called"));
            }
        }
    }

    fn with_warning(&self, mut content: JournalContent, why: Option<String>) -> JournalContent {
        let then = match self.phase {
            Phase::Freeze => "a new journal is started",
            Phase::Thaw => "hooks of which it says nothing are told to thaw, too",
        };
        content.warning = why.map(|why| format!("{}: {why}; {then}", self.path.display()));
        content
    }

    /// Starts the journal of a freeze; entries that are not yet thawed stay.
    ///
    /// # Errors
    /// Nothing will be recorded, so the thaw will call every hook.
    pub fn begin(&mut self, run: &RunInfo) -> Result<(), Diagnostic> {
        if let Some(error) = self.open_error.take() {
            return Err(self.unwritable(&error));
        }
        let kept = match &self.file {
            Some(_) if self.is_sound && !self.open.is_empty() => Vec::new(),
            Some(file) => {
                file.set_len(0).ok();
                self.open.clone()
            }
            None => return Ok(()),
        };
        let value = json!({
            "id": run.id,
            "mountpoints": run.mountpoints,
            "devices": run.devices,
            "hold-limit": run.hold_limit,
        });
        self.write_entry("run", value)?;
        self.write_master(own_session());
        for started in kept {
            self.write_entry(STARTED, started.to_value())?;
        }
        Ok(())
    }

    /// Records a task that is about to start. Does nothing without [`Journal::begin`].
    ///
    /// # Errors
    /// As there.
    pub fn start(&mut self, task: StartedTask) -> Result<(), Diagnostic> {
        self.open.retain(|known| !known.is(&task));
        let value = task.to_value();
        self.open.push(task);
        self.write_entry(STARTED, value)
    }

    /// Records that a task must not be thawed any more.
    ///
    /// # Errors
    /// A later thaw may call the hook again.
    pub fn mark_done(&mut self, task: &StartedTask) -> Result<(), Diagnostic> {
        let before = self.open.len();
        self.open.retain(|known| !known.is(task));
        if self.open.len() == before {
            return Ok(());
        }
        self.write_entry(
            SETTLED,
            StartedTask::named(&task.source, &task.name).to_value(),
        )
    }

    /// Records why a task's thaw could not be run.
    ///
    /// # Errors
    /// As [`Journal::mark_done`].
    pub fn mark_owed(&mut self, task: &StartedTask, why: &str) -> Result<(), Diagnostic> {
        let mut known = self.open.iter_mut();
        let Some(known) = known.find(|known| known.is(task) && known.why != why) else {
            return Ok(());
        };
        why.clone_into(&mut known.why);
        let mut owed = StartedTask::named(&task.source, &task.name);
        owed.why = why.to_owned();
        self.write_entry(OWED, owed.to_value())
    }

    fn write_entry(&mut self, key: &str, value: Value) -> Result<(), Diagnostic> {
        let Err(error) = self.write_line(key, value) else {
            return Ok(());
        };
        if self.phase == Phase::Freeze {
            // With an incomplete journal, hooks that are missing from it would not be thawed. Without one,
            // all are.
            fs::remove_file(&self.path).ok();
            self.file = None;
            return Err(self.unwritable(&error));
        }
        let then = "another thaw may call this hook again";
        Err(self.write_error(&error, then))
    }

    /// Records the running master. An error is ignored: entries of hooks then cannot be written either, and
    /// that is reported.
    fn write_master(&mut self, master: Option<String>) {
        if let Some(master) = master {
            self.write_line(MASTER, master.into()).ok();
        }
    }

    fn write_line(&mut self, key: &str, value: Value) -> io::Result<()> {
        let line = json!({ key: value }).to_string() + "\n";
        self.write(line.as_bytes())
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        self.file
            .as_mut()
            .map_or(Ok(()), |file| file.write_all(text))
    }

    fn unwritable(&self, error: &io::Error) -> Diagnostic {
        let then = "the thaw will call every hook, and holding hooks cannot be used";
        self.write_error(error, then)
    }

    fn write_error(&self, error: &io::Error, then: &str) -> Diagnostic {
        let what = format!("cannot write {}", self.path.display());
        Diagnostic::new(what, strerror(error), then)
    }

    /// Whether entries are recorded, without which a later thaw cannot find a holding hook.
    pub fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Tasks that are not yet thawed.
    pub fn left(&self) -> &[StartedTask] {
        &self.open
    }

    /// Ends this master's use of the journal. After a thaw the file is removed, unless a task is not yet
    /// thawed.
    ///
    /// # Errors
    /// The next thaw may use the journal of an old freeze.
    pub fn close(&mut self) -> Result<(), Diagnostic> {
        if self.file.is_none() || self.phase == Phase::Freeze || !self.open.is_empty() {
            self.keep_open();
            return Ok(());
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Diagnostic::new(
                format!("cannot remove {}", self.path.display()),
                strerror(&error),
                "remove it by hand",
            )),
            _ => Ok(()),
        }
    }

    /// Records that this master has ended.
    pub fn keep_open(&mut self) {
        self.write_master(Some(String::new()));
    }

    /// The socket of the holder of the run's holding hook number `number`.
    pub fn holder_socket(&self, number: usize) -> PathBuf {
        self.path.with_extension(format!("hooks.{number}"))
    }
}

/// The tasks whose thaw is pending by the journal in the state directory `dir`; one whose thaw could not be
/// run has a `why`. While a master runs only these are returned, because it will thaw the others.
pub fn owed(dir: &Path) -> Vec<StartedTask> {
    let (mut owed, is_at_work) = peek(dir);
    if is_at_work {
        owed.retain(|task| !task.why.is_empty());
    }
    owed
}

/// Whether the journal in `dir` has hooks to thaw, or a master runs whose agent is dead. That master may
/// freeze more hooks, so the thaw must wait for it.
pub fn is_open(dir: &Path) -> bool {
    let (started, is_at_work) = peek(dir);
    is_at_work || !started.is_empty()
}

/// The pending tasks, and whether a master runs: it holds the lock.
fn peek(dir: &Path) -> (Vec<StartedTask>, bool) {
    let path = dir.join(FILE);
    let Ok(file) = existing(&path, OpenOptions::new().read(true)) else {
        return Default::default();
    };
    let text = read_content(&file).unwrap_or_default();
    let is_at_work = Flock::lock(file, FlockArg::LockSharedNonblock).is_err();
    (JournalContent::parse(&text).started, is_at_work)
}

/// Removes pending thaws that could not be run: of the hook with this path or file name, or all. Returns
/// their names.
///
/// # Errors
/// Another master runs, or the journal cannot be written.
pub fn dismiss(dir: &Path, name: Option<&str>) -> Result<Vec<String>, Diagnostic> {
    let is_meant = |task: &StartedTask| {
        let file = task.name.rsplit('/').next();
        !task.why.is_empty() && name.is_none_or(|name| name == task.name || Some(name) == file)
    };
    let mut names = Vec::new();
    if owed(dir).iter().any(is_meant) {
        let mut journal = Journal::in_dir(dir);
        let known = journal.open(Phase::Thaw, &|| {
            std::thread::sleep(Duration::from_millis(50));
            false
        })?;
        for task in known.started.iter().filter(|task| is_meant(task)) {
            journal.mark_done(task)?;
            names.push(task.name.clone());
        }
        journal.close()?;
    }
    Ok(names)
}

/// This master's session id and the boot id. None if the session was not created for this master: the agent
/// starts it in a session of its own, a shell does not, and then other processes are in the session.
fn own_session() -> Option<String> {
    let pid = getpid();
    (getsid(None) == Ok(pid)).then(|| format!("{pid} {}", boot_id()))
}

/// Kills the processes that a killed master had started: a hook must not thaw while it still freezes, nor run
/// twice at once.
fn end_session(master: &str) {
    let Some((pid, of)) = master.split_once(' ') else {
        return;
    };
    // A running process with this number is another one, because the dead master's lock was free.
    let is_dead = |pid: i32| stat(pid).is_none_or(|stat| !stat.is_running);
    if let Some(pid) = pid
        .parse()
        .ok()
        .filter(|&pid| of == boot_id() && is_dead(pid))
    {
        end_family(pid, Family::Session, &mut std::thread::sleep);
    }
}

/// The opened file and whether it is new.
fn open_file(path: &Path) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(0o600);
    let (mut opened, mut is_new) = (existing(path, &mut options), false);
    match opened.as_ref().map_err(io::Error::kind) {
        Err(io::ErrorKind::NotFound) => {
            is_new = true;
            opened = existing(path, options.create(true));
        }
        // Entries from before the filesystem became read-only can still be read.
        Err(io::ErrorKind::ReadOnlyFilesystem) => {
            opened = existing(path, OpenOptions::new().read(true));
        }
        _ => (),
    }
    opened.map(|file| (file, is_new))
}

/// Opens a regular file without blocking. The file decides which processes are killed and which programs run,
/// so only root may be able to change it.
fn existing(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = open_regular(path, options)?;
    trust::check(path).map_err(io::Error::other)?;
    Ok(file)
}

fn read_content(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(MAX_JOURNAL_BYTES);
    let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut text, 0)?;
    Ok(text)
}

/// Whether `path` still leads to this file: the master that held the lock may have removed it.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |data: fs::Metadata| (data.dev(), data.ino());
    let there = path.symlink_metadata().map(id);
    file.metadata().map(id).ok() == there.ok()
}
