//! The journal from freeze to thaw: `qga.hooks` in the agent's state directory, one JSON object a
//! line.
//!
//! A hook is entered before its freeze starts, with all that its thaw needs, and struck out when its
//! thaw has ended. So whoever thaws undoes just what was started, each once, whatever happened to the
//! settings or to another master. What cannot be run stays until it was run or dismissed. One master
//! at a time: the file is locked.

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
use crate::state::{boot_id, open_regular};
use crate::sys::process::stat;
use crate::sys::strerror;

pub use started::StartedTask;
use started::text as text_of;

/// The file's name.
const FILE: &str = "qga.hooks";
/// Where it is if the master is called by hand: the agent's own default.
pub const DEFAULT_DIR: &str = "/run";
/// How long another master is waited for; somewhat less than the guardian gives the whole thaw.
const JOURNAL_LOCK_TIMEOUT: Duration = Duration::from_secs(240);
/// Most of it that is read, in bytes.
const MAX_JOURNAL_BYTES: u64 = 1 << 24;
/// A longer one is written anew where it could grow, in bytes.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// A step is about to be started.
const STARTED: &str = "started";
/// Its thaw has ended, or it has none.
const SETTLED: &str = "settled";
/// Its thaw could not be run.
const OWED: &str = "owed";
/// Who is at work, as [`own_session`] has it; empty: nobody any more.
const MASTER: &str = "master";

/// What hooks are told about the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunInfo {
    /// The run's id, as in the report.
    pub id: String,
    /// The mountpoints, as the variable has them.
    pub mountpoints: String,
    /// Their devices, as the variable has them.
    pub devices: String,
    /// Seconds after which the agent thaws; 0: never.
    pub hold_limit: f64,
}

/// What the journal holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JournalContent {
    /// The freeze's own facts.
    pub run: RunInfo,
    /// What is to be undone, in the order of starting.
    pub started: Vec<StartedTask>,
    /// What needs nothing more.
    settled: Vec<StartedTask>,
    /// The master that did not end by itself.
    master: String,
    /// It tells of every hook: one that is not in it was not started.
    pub is_whole: bool,
    /// Why it is not believed, or cannot be used.
    pub warning: Option<String>,
}

impl JournalContent {
    /// Whether it says something of `step`.
    pub fn contains(&self, task: &HookTask) -> bool {
        let mut content = self.started.iter().chain(&self.settled);
        content.any(|started| started.names(task))
    }

    /// Reads a journal: what can be understood of it.
    pub fn parse(text: &[u8]) -> JournalContent {
        let mut content = JournalContent::default();
        let mut is_damaged = !text.ends_with(b"\n");
        let mut has_run = false;
        for line in text.split(|&byte| byte == b'\n').filter(|l| !l.is_empty()) {
            // One word a line, with what belongs to it.
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

/// The journal of one freeze.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    phase: Phase,
    /// Locked.
    file: Option<Flock<File>>,
    /// What is still to be undone.
    open: Vec<StartedTask>,
    /// New lines may follow those that are there.
    is_sound: bool,
    /// Why nothing can be written.
    open_error: Option<String>,
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

    /// Waits until no other master is at work, and reads what the last one left. `pause` waits a
    /// little, and says whether to give up.
    ///
    /// # Errors
    /// Another master does not end, or the run is to stop.
    pub fn open(
        &mut self,
        phase: Phase,
        pause: &dyn Fn() -> bool,
    ) -> Result<JournalContent, String> {
        self.phase = phase;
        let until = Instant::now() + JOURNAL_LOCK_TIMEOUT;
        let mut problem = None;
        let (file, is_new) = loop {
            let (mut file, is_new) = match open_file(&self.path) {
                Ok(opened) => opened,
                // What is no journal is only in the way: the directory is the agent's.
                Err(why) if problem.is_none() && self.path.symlink_metadata().is_ok() => {
                    fs::remove_file(&self.path)
                        .or_else(|_| fs::remove_dir(&self.path))
                        .ok();
                    problem = Some(why);
                    continue;
                }
                Err(why) => {
                    self.open_error = Some(why);
                    return Ok(self.with_warning(JournalContent::default(), problem));
                }
            };
            let locked = loop {
                file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    Ok(locked) => break locked,
                    Err((file, _)) => file,
                };
                if pause() || Instant::now() > until {
                    let path = self.path.display();
                    return Err(format!(
                        "another hook master has locked {path}; no hook is called"
                    ));
                }
            };
            if is_at(&locked, &self.path) {
                break (locked, is_new);
            }
            if phase == Phase::Thaw {
                // The one that had it has told every hook.
                return Ok(JournalContent {
                    is_whole: true,
                    ..JournalContent::default()
                });
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
                // What follows is not to be taken for the rest of that line.
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

    fn with_warning(&self, mut content: JournalContent, why: Option<String>) -> JournalContent {
        let then = match self.phase {
            Phase::Freeze => "it is begun anew",
            Phase::Thaw => "hooks of which it says nothing are told to thaw, too",
        };
        content.warning = why.map(|why| format!("{}: {why}; {then}", self.path.display()));
        content
    }

    /// Begins anew, for a freeze; what is still to be undone is kept.
    ///
    /// # Errors
    /// One line: nothing will be remembered, so the thaw will call every hook.
    pub fn begin(&mut self, run: &RunInfo) -> Result<(), String> {
        if let Some(why) = self.open_error.take() {
            return Err(self.unwritable(&why));
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

    /// Notes a step that is about to be started; without [`Journal::begin`] nothing happens.
    ///
    /// # Errors
    /// One line, as there.
    pub fn start(&mut self, task: StartedTask) -> Result<(), String> {
        self.open.retain(|known| !known.is(&task));
        let value = task.to_value();
        self.open.push(task);
        self.write_entry(STARTED, value)
    }

    /// Notes that a step is not to be undone any more.
    ///
    /// # Errors
    /// One line: it may be called again.
    pub fn mark_done(&mut self, task: &StartedTask) -> Result<(), String> {
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

    /// Notes why a step's thaw could not be run.
    ///
    /// # Errors
    /// As [`Journal::mark_done`].
    pub fn mark_owed(&mut self, task: &StartedTask, why: &str) -> Result<(), String> {
        let mut known = self.open.iter_mut();
        let Some(known) = known.find(|known| known.is(task) && known.why != why) else {
            return Ok(());
        };
        why.clone_into(&mut known.why);
        let mut owed = StartedTask::named(&task.source, &task.name);
        owed.why = why.to_owned();
        self.write_entry(OWED, owed.to_value())
    }

    fn write_entry(&mut self, key: &str, value: Value) -> Result<(), String> {
        let Err(error) = self.write_line(key, value) else {
            return Ok(());
        };
        let why = strerror(&error);
        if self.phase == Phase::Freeze {
            // Half a memory would leave hooks without their thaw.
            fs::remove_file(&self.path).ok();
            self.file = None;
            return Err(self.unwritable(&why));
        }
        let path = self.path.display();
        Err(format!(
            "cannot write {path}: {why}; another thaw may call this hook again"
        ))
    }

    /// Notes who is at work. Where that cannot be written, what is more important cannot either, and
    /// that is told.
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

    fn unwritable(&self, why: &str) -> String {
        let path = self.path.display();
        format!(
            "cannot write {path}: {why}; the thaw will call every hook, and holding hooks cannot be used"
        )
    }

    /// Whether a holding hook could be found again.
    pub fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// What is still to be undone.
    pub fn left(&self) -> &[StartedTask] {
        &self.open
    }

    /// The master has done its work. After a thaw the freeze is forgotten, unless something is still to
    /// be undone.
    ///
    /// # Errors
    /// One line: the next thaw may believe in an old freeze.
    pub fn close(&mut self) -> Result<(), String> {
        if self.file.is_none() || self.phase == Phase::Freeze || !self.open.is_empty() {
            self.keep_open();
            return Ok(());
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!(
                "cannot remove {}: {}; remove it by hand",
                self.path.display(),
                strerror(&error)
            )),
            _ => Ok(()),
        }
    }

    /// Notes that this master is at work no more.
    pub fn keep_open(&mut self) {
        self.write_master(Some(String::new()));
    }

    /// Where the keeper of the run's holding hook number `number` is to be reached.
    pub fn holder_socket(&self, number: usize) -> PathBuf {
        self.path.with_extension(format!("hooks.{number}"))
    }
}

/// The steps whose thaw is owed by the journal in the state directory `dir`: one that could not be run
/// has a `why`. While a master is at work these alone count, for it will tell the others.
pub fn owed(dir: &Path) -> Vec<StartedTask> {
    let (mut owed, is_at_work) = peek(dir);
    if is_at_work {
        owed.retain(|task| !task.why.is_empty());
    }
    owed
}

/// Whether hooks are to be told to thaw: by the journal in `dir`, or since a master is at work whose agent is
/// dead. It may freeze more of them; whoever thaws waits for it.
pub fn is_open(dir: &Path) -> bool {
    let (started, is_at_work) = peek(dir);
    is_at_work || !started.is_empty()
}

/// What the journal holds, and whether a master is at work.
fn peek(dir: &Path) -> (Vec<StartedTask>, bool) {
    let path = dir.join(FILE);
    let Ok(file) = existing(&path, OpenOptions::new().read(true)) else {
        return Default::default();
    };
    let text = read_content(&file).unwrap_or_default();
    let is_at_work = Flock::lock(file, FlockArg::LockSharedNonblock).is_err();
    (JournalContent::parse(&text).started, is_at_work)
}

/// Gives up the thaws that could not be run: of the hook of this path or file name, or all. Returns
/// their names.
///
/// # Errors
/// Another master is at work, or the journal cannot be written.
pub fn dismiss(dir: &Path, name: Option<&str>) -> Result<Vec<String>, String> {
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

/// This master's session and the system's boot, if its hooks are the only others in it: the agent
/// starts it so, a shell does not.
fn own_session() -> Option<String> {
    let pid = getpid();
    (getsid(None) == Ok(pid)).then(|| format!("{pid} {}", boot_id()))
}

/// Ends what a master that was killed had started and that is still at work: a hook must not thaw
/// while it freezes, nor twice at once.
fn end_session(master: &str) {
    let Some((pid, of)) = master.split_once(' ') else {
        return;
    };
    // A process of that number is a stranger: we have the dead one's lock.
    let is_dead = |pid: i32| stat(pid).is_none_or(|stat| !stat.is_running);
    if let Some(pid) = pid
        .parse()
        .ok()
        .filter(|&pid| of == boot_id() && is_dead(pid))
    {
        end_family(pid, Family::Session, &mut std::thread::sleep);
    }
}

/// Opened, and whether it is new; if it cannot be, why.
fn open_file(path: &Path) -> Result<(File, bool), String> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(0o600);
    let (mut opened, mut is_new) = (existing(path, &mut options), false);
    match opened.as_ref().map_err(io::Error::kind) {
        Err(io::ErrorKind::NotFound) => {
            is_new = true;
            opened = existing(path, options.create(true));
        }
        // What was written before is still to be read.
        Err(io::ErrorKind::ReadOnlyFilesystem) => {
            opened = existing(path, OpenOptions::new().read(true));
        }
        _ => (),
    }
    opened
        .map(|file| (file, is_new))
        .map_err(|error| strerror(&error))
}

/// A regular file of root's, opened without waiting. It says which process is spoken to and what is
/// run: root's word alone counts.
fn existing(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = open_regular(path, options)?;
    trust::check(path).map_err(|refusal| io::Error::other(refusal.0))?;
    Ok(file)
}

fn read_content(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(MAX_JOURNAL_BYTES);
    let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut text, 0)?;
    Ok(text)
}

/// Whether the file is still the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |data: fs::Metadata| (data.dev(), data.ino());
    let there = path.symlink_metadata().map(id);
    file.metadata().map(id).ok() == there.ok()
}
