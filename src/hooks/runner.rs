//! Our own hook master: every hook of one directory, in order, one at a time, each with one
//! argument, its start, output and status in the log.
//!
//! A hook's failure changes nothing for the others, and the master still succeeds: a freeze goes
//! on, as with the stock script. Only a directory or hook that others could have changed is
//! refused, before anything runs. A hook that is not executable is named in the log with the
//! remedy.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{AccessFlags, eaccess};

use super::log::HookLog;
use super::trust::{self, Refusal, quoted};
use super::{ALIVE_ENV, HookRecord, HookStatus, Phase, RECORDS_ENV};
use crate::child::{Child, Family, Outcome, Status};
use crate::sys::strerror;

/// How much of a failed hook's last output goes into its record, in bytes.
pub const TAIL: usize = 2048;
/// Time that a hook has between SIGTERM and SIGKILL. Shorter than what the agent gives the
/// master, so that the master can still write the hook's status.
const GRACE: Duration = Duration::from_secs(2);

/// Names that are left over by package managers and editors, or are samples.
const SKIPPED_ENDINGS: [&str; 14] = [
    "~",
    ".bak",
    ".orig",
    ".rpmnew",
    ".rpmorig",
    ".rpmsave",
    ".sample",
    ".dpkg-old",
    ".dpkg-new",
    ".dpkg-tmp",
    ".dpkg-dist",
    ".dpkg-bak",
    ".dpkg-backup",
    ".dpkg-remove",
];

/// How to run the hooks of one directory.
#[derive(Debug)]
pub struct Options {
    /// Where the hooks are.
    pub dir: PathBuf,
    /// Where their story goes.
    pub log: HookLog,
    /// Time for each hook; None: as long as it takes.
    pub deadline: Option<Duration>,
    /// Ends the running hook, and the run, when it becomes readable.
    pub stop: Option<OwnedFd>,
    /// Takes one JSON line a hook.
    pub records: Option<File>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Summary {
    /// Each hook in the order called, those that are not executable first.
    pub hooks: Vec<HookRecord>,
    /// True if the run was told to stop; later hooks were not called.
    pub stopped: bool,
    /// Lines of the log that nobody took.
    pub lost_lines: u64,
}

/// Runs the hooks of `options.dir` with `phase`: in byte order of their names on freeze, in the
/// reverse order on thaw. A directory that does not exist has no hooks.
///
/// # Errors
/// The directory, or a hook that would run, could have been changed by others, or the directory
/// cannot be read: nothing was run, and the log has the line too.
pub fn run(phase: Phase, options: Options) -> Result<Summary, Refusal> {
    let Options {
        dir,
        mut log,
        deadline,
        stop,
        mut records,
    } = options;
    let candidates = match candidates(&trust::absolute(&dir), phase) {
        Ok(candidates) => candidates,
        Err(refusal) => {
            log.line(&refusal.0);
            return Err(refusal);
        }
    };
    let mut summary = Summary {
        hooks: Vec::new(),
        stopped: false,
        lost_lines: 0,
    };
    for candidate in candidates {
        if stop.as_ref().is_some_and(is_readable) {
            summary.stopped = true;
            log.line("stopped by a signal; the hooks that follow are not called");
            break;
        }
        let record = match candidate {
            Candidate::Hook(path) => run_one(&path, phase, &mut log, deadline, stop.as_ref()),
            Candidate::Unfit(path, why) => {
                log.line(&format!("{} skipped: {why}", path.display()));
                record(&path, phase, HookStatus::Skipped(why))
            }
        };
        if let Some(file) = &mut records
            && tell(file, &record).is_err()
        {
            // The agent has gone, or gave us something else: the log has it all the same.
            records = None;
        }
        summary.stopped |= record.status == HookStatus::Cancelled;
        summary.hooks.push(record);
    }
    summary.lost_lines = log.lost();
    Ok(summary)
}

fn is_readable(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
}

fn record(path: &Path, phase: Phase, status: HookStatus) -> HookRecord {
    let path = path.to_string_lossy().into_owned();
    HookRecord {
        path,
        phase,
        status,
        elapsed: 0.0,
        output: String::new(),
    }
}

fn tell(file: &mut File, record: &HookRecord) -> io::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// Something in the hooks' directory.
#[derive(Debug, PartialEq, Eq)]
pub enum Candidate {
    /// Run.
    Hook(PathBuf),
    /// Not run, and why, with the remedy.
    Unfit(PathBuf, String),
}

/// What [`run`] would run and pass over, in its order; names that it ignores are not among them. A
/// directory that does not exist has no hooks.
///
/// # Errors
/// What [`run`] refuses.
pub fn candidates(dir: &Path, phase: Phase) -> Result<Vec<Candidate>, Refusal> {
    let unreadable = |error: io::Error| {
        let why = strerror(&error);
        Refusal(format!(
            "cannot read the hook directory {}: {why}",
            dir.display()
        ))
    };
    // The directory is checked before it is read: what is in one that others may write is not
    // worth a look.
    match fs::metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
        Ok(data) if !data.is_dir() => {
            return Err(unreadable(io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        Ok(_) => trust::check(dir)?,
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        names.push(entry.map_err(unreadable)?.file_name());
    }
    names.retain(|name| !is_skipped(name));
    sort(&mut names, phase);
    let mut found = Vec::new();
    for name in names {
        found.extend(examine(dir.join(name))?);
    }
    Ok(found)
}

/// OsString orders by bytes, whatever the locale.
fn sort(names: &mut [OsString], phase: Phase) {
    names.sort_unstable();
    if phase == Phase::Thaw {
        names.reverse();
    }
}

fn is_skipped(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".")
        || SKIPPED_ENDINGS
            .iter()
            .any(|end| name.ends_with(end.as_bytes()))
}

/// None for what is no hook at all: a directory, a socket.
fn examine(path: PathBuf) -> Result<Option<Candidate>, Refusal> {
    let data = match fs::metadata(&path) {
        Ok(data) => data,
        Err(error) => {
            let why = strerror(&error);
            return Ok(Some(Candidate::Unfit(
                path,
                format!("it leads nowhere: {why}"),
            )));
        }
    };
    if !data.is_file() {
        return Ok(None);
    }
    if eaccess(&path, AccessFlags::X_OK).is_err() {
        let mode = data.mode() & 0o7777;
        let why = if mode & 0o111 == 0 {
            format!(
                "not executable (mode {mode:04o}); to have it run: chmod +x {}",
                quoted(&path)
            )
        } else {
            format!(
                "not executable for us, though its mode is {mode:04o}; is its filesystem mounted noexec?"
            )
        };
        return Ok(Some(Candidate::Unfit(path, why)));
    }
    trust::check(&path)?;
    Ok(Some(Candidate::Hook(path)))
}

fn run_one(
    path: &Path,
    phase: Phase,
    log: &mut HookLog,
    deadline: Option<Duration>,
    stop: Option<&OwnedFd>,
) -> HookRecord {
    let shown = path.display();
    log.line(&format!("execute {shown} {}", phase.as_str()));
    // A group of its own, so that it can be ended with all it started; our session, so that the
    // agent can end it if we are gone.
    let mut child = Child::new(path)
        .arg(phase.as_str())
        .env_remove(RECORDS_ENV)
        .env_remove(ALIVE_ENV)
        .family(Family::Group)
        .deadline(deadline)
        .grace(GRACE)
        .cap(0);
    if let Some(stop) = stop.and_then(|fd| fd.try_clone().ok()) {
        child = child.cancel_on(stop);
    }
    let direct = log.stdio();
    let is_direct = direct.is_some();
    if let Some(file) = direct {
        child = child.output_to(file);
    }
    let mut lines = Lines::default();
    let outcome = child.run_with(&mut |bytes| lines.take(bytes, &mut |line| log.output_line(line)));
    lines.end(&mut |line| log.output_line(line));
    let tail = if is_direct {
        log.end_output(TAIL)
    } else {
        lines.tail
    };
    let (status, elapsed) = match outcome {
        Ok(outcome) => (status_of(&outcome), outcome.elapsed),
        Err(error) => {
            let reason = error.to_string();
            (
                HookStatus::NotRun {
                    status: 126,
                    reason,
                },
                Duration::ZERO,
            )
        }
    };
    if let Some(more) = explanation(&status, deadline) {
        log.line(&format!("{shown} {more}"));
    }
    log.line(&format!("{shown} finished with status={}", status.number()));
    let mut record = record(path, phase, status);
    record.elapsed = elapsed.as_secs_f64();
    if !record.is_success() {
        record.output = String::from_utf8_lossy(&tail).into_owned();
    }
    record
}

fn status_of(outcome: &Outcome) -> HookStatus {
    if let Some(errno) = outcome.exec_errno {
        let reason = strerror(&io::Error::from_raw_os_error(errno));
        let status = if errno == libc::ENOENT { 127 } else { 126 };
        return HookStatus::NotRun { status, reason };
    }
    match outcome.status {
        Status::Exited(code) => HookStatus::Exited(code),
        Status::Signaled(signal) => HookStatus::Signaled(signal),
        Status::TimedOut => HookStatus::TimedOut,
        Status::Cancelled => HookStatus::Cancelled,
    }
}

/// What the status number alone does not say.
fn explanation(status: &HookStatus, deadline: Option<Duration>) -> Option<String> {
    match status {
        HookStatus::NotRun {
            status: 127,
            reason,
        } => Some(format!(
            "cannot be run: {reason}; check that the interpreter in its first line is installed"
        )),
        HookStatus::NotRun { reason, .. } => Some(format!("cannot be run: {reason}")),
        HookStatus::TimedOut => {
            let seconds = deadline.unwrap_or_default().as_secs_f64();
            Some(format!("did not finish within {seconds} s and was ended"))
        }
        HookStatus::Cancelled => Some("was ended because the run was stopped".to_owned()),
        HookStatus::Exited(_) | HookStatus::Signaled(_) | HookStatus::Skipped(_) => None,
    }
}

/// Cuts captured output into lines for the system log, and keeps its end.
#[derive(Default)]
struct Lines {
    open: Vec<u8>,
    tail: Vec<u8>,
}

impl Lines {
    /// A line without end is passed on in pieces of this length.
    const LONGEST: usize = 4096;

    fn take(&mut self, bytes: &[u8], line: &mut dyn FnMut(&[u8])) {
        self.tail
            .extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            for part in piece.chunks(Lines::LONGEST) {
                self.open.extend_from_slice(part);
                if self.open.ends_with(b"\n") || self.open.len() >= Lines::LONGEST {
                    self.end(line);
                }
            }
        }
    }

    fn end(&mut self, line: &mut dyn FnMut(&[u8])) {
        if !self.open.is_empty() {
            line(self.open.strip_suffix(b"\n").unwrap_or(&self.open));
            self.open.clear();
        }
    }
}
