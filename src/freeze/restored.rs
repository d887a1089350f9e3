//! A machine that finds at its start that it was frozen: it was started from a copy, or died in the run (floor 3).
//!
//! The agent calls [`StartCheck::new`] when it starts. If restore hooks may have to run, it starts `qemu-ga hook
//! restored`, which is [`cli`], and answers no command that acts until that has ended. The snapshot file is the record:
//! a hook is entered before it starts, so that a hook that has begun is never started again, whatever was killed.

use super::report::Report;
use super::snapshot::{Origin, RestoreHook, Restored, Snapshot, SnapshotFile, SnapshotState};
use crate::child::{Child, ChildStatus};
use crate::hooks::journal::RunInfo;
use crate::hooks::log::DEFAULT_PATH;
use crate::hooks::restore::{LEVEL_ENV, ORIGIN_ENV, RESTORED, RestoreHooks, TIME_ENV};
use crate::hooks::{HookStatus, stop_signals, words};
use crate::probe::System;
use crate::probe::machine::MachineIds;
use crate::state::boot_id;
use crate::sys::localtime::{DATE, format_seconds};
use crate::sys::{process, strerror};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// In every report of a restored machine: the copy was made before this could be known.
const UNKNOWN_END: &str = "whether the freeze lasted until the copy was complete cannot be seen in the copy; the machine that \
     was copied reports it";

/// What an agent finds at its start.
pub(crate) struct StartCheck {
    file: SnapshotFile,
    /// `None`: they are switched off.
    hooks: Option<PathBuf>,
}

impl StartCheck {
    /// Logs one line if this machine was started from a copy and no agent has recorded that yet, or why it is not known.
    /// `None`: nothing has to be recorded, and no restore hook has to run.
    pub(crate) fn new(file: SnapshotFile, hooks: Option<PathBuf>) -> Option<Self> {
        let snapshot = match file.read() {
            Ok(snapshot) => snapshot?,
            Err(why) => {
                tracing::warn!("{why}; whether this machine was started from a copy is not known");
                return None;
            }
        };
        let restored = find(&snapshot)?;
        let is_new = snapshot.state == SnapshotState::Frozen;
        if is_new {
            tracing::warn!("{restored}");
        }
        (is_new || !restored.complete).then_some(Self { file, hooks })
    }

    /// Runs the restore hooks that were not started yet, and waits for their end or until `stop` is readable.
    pub(crate) fn run_hooks(self, stop: Option<OwnedFd>) {
        let mut child = Child::self_exe().args(arguments(&self.file, self.hooks.as_deref()));
        if let Some(stop) = stop {
            child = child.cancel_on(stop);
        }
        let what = "cannot run the restore hooks";
        match child.run() {
            Ok(outcome) if outcome.status == ChildStatus::Exited(0) => {}
            Ok(outcome) => {
                let text = String::from_utf8_lossy(&outcome.output).into_owned();
                match text.trim_end() {
                    "" => tracing::error!("{what}: {:?}", outcome.status),
                    text => tracing::error!("{text}"),
                }
            }
            Err(error) => tracing::error!("{}", error.text("execute the restore hooks")),
        }
        let read = self.file.read().ok().flatten();
        if let Some(restored) = read.and_then(|snapshot| snapshot.restored) {
            restored.log_hooks();
        }
    }
}

/// With which arguments this program runs the restore hooks.
pub(crate) fn arguments(file: &SnapshotFile, hooks: Option<&Path>) -> Vec<OsString> {
    let paths = [Some(file.path()), hooks];
    let words = ["hook", RESTORED].map(OsString::from).into_iter();
    words
        .chain(paths.into_iter().flatten().map(Into::into))
        .collect()
}

/// What the file says of a start from a copy, also if no process has recorded it there yet.
pub(crate) fn read(file: &SnapshotFile) -> Result<Option<Restored>, String> {
    Ok(file.read()?.as_ref().and_then(find))
}

/// The restore hook that runs now. `None` also if this may not be known to the user who asks.
pub(crate) fn running_hook(file: &SnapshotFile) -> Option<String> {
    let directory = file.open_directory().ok()?;
    // The process that runs them holds the lock.
    match Flock::lock(directory, FlockArg::LockSharedNonblock) {
        Err((_, Errno::EWOULDBLOCK)) => {}
        _ => return None,
    }
    let restored = file.read().ok()??.restored?;
    let last = restored.hooks.last()?;
    // It is recorded so before it starts.
    (!restored.complete && last.status == HookStatus::Cancelled).then(|| last.path.clone())
}

fn find(snapshot: &Snapshot) -> Option<Restored> {
    match &snapshot.run {
        Some(run) if snapshot.state == SnapshotState::Frozen && snapshot.boot_id != boot_id() => {
            let here = MachineIds::read(&System::host());
            Some(Restored::new(run, &snapshot.machine, &here))
        }
        _ => snapshot.restored.as_deref().cloned(),
    }
}

impl Restored {
    fn new(run: &Report, machine: &MachineIds, here: &MachineIds) -> Self {
        let (origin, because) = match machine.difference(here) {
            Some(identity) => (Origin::Copy, format!("the {identity} is another one")),
            None if machine.is_same_generation(here) => {
                (Origin::Died, "the VM generation id is the same".to_owned())
            }
            None => (
                Origin::Unknown,
                "nothing that identifies the machine has changed".to_owned(),
            ),
        };
        let mut run = run.clone();
        run.level_reasons.push(UNKNOWN_END.into());
        let found = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            found: found.unwrap_or_default().as_secs_f64(),
            boot_id: boot_id(),
            origin,
            because,
            machine: machine.clone(),
            run: Box::new(run),
            hooks: Vec::new(),
            // The machine was not copied.
            complete: origin == Origin::Died,
            error: None,
        }
    }

    fn log_hooks(&self) {
        if let Some(why) = &self.error {
            tracing::warn!("restore hooks were not run: {why}");
        }
        for hook in self.hooks.iter().filter(|hook| !hook.succeeded) {
            tracing::warn!("{hook}");
        }
        let failed = self.hooks.iter().filter(|hook| !hook.succeeded).count();
        let count = self.hooks.len();
        if count > 0 {
            tracing::info!(target: crate::AUDIT, "restored: {count} hooks ran, {failed} failed");
        }
    }

    /// For the hooks.
    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            (ORIGIN_ENV, self.origin.name().into()),
            (LEVEL_ENV, self.run.level.name().into()),
            (TIME_ENV, self.run.started.to_string()),
        ]
    }

    fn run_info(&self) -> RunInfo {
        let filesystems = &self.run.filesystems;
        RunInfo {
            id: self.run.id.clone(),
            mountpoints: words(filesystems.iter().map(|f| &f.mountpoint)),
            devices: words(filesystems.iter().map(|f| &f.device)),
            hold_limit: 0.0,
        }
    }
}

impl Origin {
    /// Name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Died => "died",
            Self::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for Restored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (run, level) = (&self.run.id, self.run.level.name());
        let when = format_seconds(self.run.started, DATE);
        let because = &self.because;
        match self.origin {
            Origin::Copy => write!(
                f,
                "this machine was started from a copy that was taken in the freeze {run} of {when}"
            ),
            Origin::Died => write!(f, "this machine died in the freeze {run} of {when}"),
            Origin::Unknown => write!(
                f,
                "this machine died in the freeze {run} of {when}, or was started from a copy that was taken in it"
            ),
        }?;
        write!(f, ": {because}; consistency at most {level}")
    }
}

impl std::fmt::Display for RestoreHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = match &self.status {
            HookStatus::Exited(code) => format!("exit status {code}"),
            HookStatus::Signaled(signal) => format!("ended by signal {signal}"),
            HookStatus::NotRun { reason, .. } => reason.clone(),
            HookStatus::Skipped(why) => why.clone(),
            HookStatus::TimedOut => "not finished in time".to_owned(),
            HookStatus::Cancelled => "stopped while it ran; it is not run again".to_owned(),
        };
        write!(f, "restore hook {}: {how}", self.path)?;
        match self.output.trim_end().lines().next_back() {
            Some(last) => write!(f, "; its last output: {last}"),
            None => Ok(()),
        }
    }
}

/// `qemu-ga hook restored FILE DIR`, which only the agent starts.
pub(crate) fn cli(args: &[OsString]) -> u8 {
    process::set_process_name(c"qga-hook");
    let Some((file, dir)) = args.split_first() else {
        return fail("only the agent starts it");
    };
    let file = SnapshotFile::from(PathBuf::from(file));
    match run_hooks(&file, dir.first().map(Path::new)) {
        Ok(()) => 0,
        Err(why) => fail(&format!("restore hooks are not run: {why}")),
    }
}

/// An error is ignored because no place is left for the message; the exit status still shows the failure.
fn fail(why: &str) -> u8 {
    let _ = io::stderr().write_all(format!("{why}\n").as_bytes());
    1
}

/// `dir`: `None`: they are switched off.
fn run_hooks(file: &SnapshotFile, dir: Option<&Path>) -> Result<(), String> {
    // That of an agent that was killed may still run them.
    let directory = file.open_directory().map_err(|error| strerror(&error))?;
    let _lock = Flock::lock(directory, FlockArg::LockExclusive)
        .map_err(|(_, errno)| strerror(&errno.into()))?;
    let Some(mut restored) = read(file)? else {
        return Ok(());
    };
    restored.error = None;
    restored.complete |= dir.is_none();
    let mut record = Record { file, restored };
    // Without a record a hook would run at every start.
    record.save()?;
    let Some(dir) = dir.filter(|_| !record.restored.complete) else {
        return Ok(());
    };
    let stop = stop_signals();
    let (run, variables) = (record.restored.run_info(), record.restored.variables());
    let hooks = match RestoreHooks::find(dir, Path::new(DEFAULT_PATH), run, variables, stop) {
        Ok(hooks) => hooks,
        Err(refusal) => {
            record.restored.error = Some(refusal.to_string());
            return record.save();
        }
    };
    record.run(&hooks)
}

/// The record in the snapshot file.
struct Record<'a> {
    file: &'a SnapshotFile,
    restored: Restored,
}

impl Record<'_> {
    fn save(&self) -> Result<(), String> {
        let old = self.file.read()?;
        let recorded = old.filter(|old| old.state != SnapshotState::Frozen);
        let snapshot = match recorded {
            Some(old) => Snapshot {
                restored: Some(Box::new(self.restored.clone())),
                ..old
            },
            None => Snapshot::restored(self.restored.clone()),
        };
        let path = self.file.path().display();
        self.file
            .write(&snapshot, true)
            .map_err(|error| format!("cannot write {path}: {}", strerror(&error)))
    }

    fn run(&mut self, hooks: &RestoreHooks) -> Result<(), String> {
        for task in &hooks.tasks {
            if self
                .restored
                .hooks
                .iter()
                .any(|hook| hook.path == task.name)
            {
                continue;
            }
            if hooks.is_stopped() {
                self.restored.error =
                    Some("stopped by a signal; the rest runs at the next start".into());
                return self.save();
            }
            self.restored.hooks.push(RestoreHook {
                path: task.name.clone(),
                status: HookStatus::Cancelled,
                succeeded: false,
                seconds: 0.0,
                output: String::new(),
            });
            self.save()?;
            let done = hooks.run(task);
            if let Some(entry) = self.restored.hooks.last_mut() {
                entry.status = done.status;
                entry.succeeded = done.succeeded;
                entry.seconds = done.took.as_secs_f64();
                entry.output = done.output;
            }
            self.save()?;
        }
        self.restored.complete = true;
        self.save()
    }
}
