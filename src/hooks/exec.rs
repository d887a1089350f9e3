//! Starts one program of a task, once: its environment and user, its output into the log, its end.
//!
//! Every program is checked right before its start: between discovery and start another user may have changed it. It
//! runs in a process group or session of its own and is ended with everything that it started.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::hook_run::HookRun;
use super::log::{HookLog, Lines};
use super::restore::RESTORED;
use super::settings::HookSettings;
use super::task::CommandLine;
use super::{
    ALIVE_ENV, BINARY_ENV, DEADLINE_ENV, DEVICES_ENV, HOLD_LIMIT_ENV, HookStatus, MOUNTPOINTS_ENV,
    ONLY_RUN_ENV, PHASE_ENV, REASON_ENV, RECORDS_ENV, RUN_ENV, STATE_ENV, trust,
};
use crate::child::{Child, ChildError, ChildOutcome, ChildStatus, Family};
use crate::diagnostic::Diagnostic;
use crate::sys::identity::Identity;
use crate::sys::strerror;

pub const MAX_TAIL_BYTES: usize = 2048;
/// Bytes of output that are kept in memory for a task that runs in parallel with others.
const MAX_BUFFERED_OUTPUT: u64 = 64 * 1024;

#[derive(Debug)]
pub struct CommandOutcome {
    pub status: HookStatus,
    pub tail: Vec<u8>,
}

impl From<HookStatus> for CommandOutcome {
    fn from(status: HookStatus) -> CommandOutcome {
        CommandOutcome {
            status,
            tail: Vec::new(),
        }
    }
}

/// A value to set, or None to remove a variable of the master's own.
pub fn environment(
    hook_run: &HookRun,
    time: Option<Duration>,
) -> Vec<(&'static str, Option<String>)> {
    let info = &hook_run.run;
    let non_empty = |text: &String| (!text.is_empty()).then(|| text.clone());
    let phase = match &hook_run.restored {
        Some(_) => RESTORED,
        None => hook_run.phase.as_str(),
    };
    let is_of_freeze = hook_run.restored.is_none();
    let mut variables = vec![
        (PHASE_ENV, Some(phase.into())),
        (
            REASON_ENV,
            hook_run.reason.map(|reason| reason.as_str().into()),
        ),
        (RUN_ENV, non_empty(&info.id)),
        (MOUNTPOINTS_ENV, non_empty(&info.mountpoints)),
        (DEVICES_ENV, non_empty(&info.devices)),
        (
            HOLD_LIMIT_ENV,
            is_of_freeze.then(|| info.hold_limit.to_string()),
        ),
        (
            DEADLINE_ENV,
            time.map(|time| time.as_secs_f64().to_string()),
        ),
        (RECORDS_ENV, None),
        (ALIVE_ENV, None),
        (STATE_ENV, None),
        (ONLY_RUN_ENV, None),
        (BINARY_ENV, None),
    ];
    for (name, value) in hook_run.restored.iter().flatten() {
        variables.push((name, Some(value.clone())));
    }
    variables
}

/// The user that `user=` in the settings names; None: the master's.
pub fn user(name: Option<&str>) -> Result<Option<(Identity, nix::unistd::User)>, Diagnostic> {
    let Some(name) = name else {
        return Ok(None);
    };
    match Identity::find(name) {
        Ok(Some(found)) => Ok(Some(found)),
        Ok(None) => Err(Diagnostic::new(
            format!("unknown user '{name}'"),
            "",
            "check user= in the hook's settings",
        )),
        Err(error) => Err(Diagnostic::new(
            format!("user {name} cannot be looked up"),
            strerror(&error),
            "",
        )),
    }
}

pub fn with_user(child: Child, user: Option<(Identity, nix::unistd::User)>) -> Child {
    let Some((identity, user)) = user else {
        return child;
    };
    child
        .env("HOME", user.dir)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .user(identity)
}

pub fn check_not_writable(program: &Path) -> Option<HookStatus> {
    let refusal = trust::check(program).err()?;
    Some(match program.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            HookStatus::missing("it was there when the run began, and is gone")
        }
        _ => HookStatus::cannot_run(refusal.to_string()),
    })
}

/// With `is_alone` the output goes into the log as it arrives, else in one piece at the end, so that the output of
/// parallel hooks does not mix.
pub fn run_once(
    hook_run: &HookRun,
    policy: &HookSettings,
    command: &CommandLine,
    is_alone: bool,
) -> CommandOutcome {
    if let Some(status) = check_not_writable(&command.program) {
        return status.into();
    }
    let user = match user(policy.user.as_deref()) {
        Ok(user) => user,
        Err(why) => return HookStatus::cannot_run(why.to_string()).into(),
    };
    let limit = if is_alone {
        policy.output_limit
    } else {
        policy.output_limit.min(MAX_BUFFERED_OUTPUT)
    };
    let mut output = Output::new(limit);
    let child = child(hook_run, policy, command, user);
    let outcome = child.run_with(&mut |bytes| output.take(bytes, is_alone.then_some(hook_run)));
    log_end(&mut hook_run.log(), &command.program, outcome, output)
}

fn child(
    hook_run: &HookRun,
    policy: &HookSettings,
    command: &CommandLine,
    user: Option<(Identity, nix::unistd::User)>,
) -> Child {
    let time = hook_run.time_for(command.timeout);
    // With the master's controlling terminal the other user could insert input by TIOCSTI (ioctl_tty(2)),
    // which the operator's shell would run. A session of its own has no controlling terminal.
    let family = match user.is_some() && File::open("/dev/tty").is_ok() {
        true => Family::Session,
        false => Family::Group,
    };
    // `tracked`: it is ended with everything that it started. A group keeps it in the master's session, so
    // that the agent can still end it after the master died.
    let child = Child::new(&command.program)
        .args(&command.args)
        .family(family)
        .tracked()
        .timeout(time)
        .kill_grace(policy.kill_after)
        .output_limit(0);
    let child = with_user(with_environment(child, environment(hook_run, time)), user);
    match hook_run.stop.as_ref().and_then(|fd| fd.try_clone().ok()) {
        Some(stop) => child.cancel_on(stop),
        None => child,
    }
}

fn log_end(
    log: &mut HookLog,
    program: &Path,
    outcome: Result<ChildOutcome, ChildError>,
    mut output: Output,
) -> CommandOutcome {
    log.output(&output.held);
    log.end_output();
    if output.dropped > 0 {
        let (dropped, limit) = (output.dropped, output.limit);
        let note =
            format!("[{dropped} more bytes of output are left out; output-limit is {limit}]\n");
        log.output(note.as_bytes());
    }
    let mut outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return HookStatus::cannot_run(error.to_string()).into(),
    };
    let program = program.display();
    if let Some(reader) = outcome.leftover.take() {
        let room = output.limit.saturating_sub(output.taken);
        if let Err(error) = drain(reader, log.file(), room) {
            let why = strerror(&error);
            log.line(&format!(
                "what {program} left running may end when it prints: {why}"
            ));
        }
    }
    if let Some(note) = note_survivors(&outcome.survivors) {
        log.line(&format!("{program} {note}"));
        output.tail.extend_from_slice(note.as_bytes());
    }
    CommandOutcome {
        status: status_of(&outcome),
        tail: output.tail,
    }
}

/// Keeps reading what a background process of the hook prints: without a reader SIGPIPE would kill it.
fn drain(reader: File, log: Option<File>, room: u64) -> io::Result<()> {
    // The drain process blocks in read(2); the master needed O_NONBLOCK.
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty()))?;
    let hook_run_log = log.map_or_else(|| File::options().write(true).open("/dev/null"), Ok)?;
    let child = Child::self_exe()
        .args(["hook", "drain", &room.to_string()])
        .stdin_from(reader.into())
        .output_to(hook_run_log);
    let mut ignore = |_: &[u8]| ();
    child.start(&mut ignore).map(drop).map_err(io::Error::other)
}

pub fn note_survivors(survivors: &[String]) -> Option<String> {
    let names = survivors.join(", ");
    (!names.is_empty()).then(|| format!("left running what could not be ended: {names}"))
}

/// `qemu-ga hook drain ROOM`: copies the first ROOM bytes of stdin to stdout and discards the rest.
pub fn drain_cli(room: u64) -> u8 {
    let mut input = io::stdin().lock();
    let mut first = io::Read::take(&mut input, room);
    // A log that cannot be written must not end the writer: the rest is read all the same.
    let passed = pass_lines(&mut first);
    let rest = io::copy(&mut input, &mut io::sink());
    u8::from(passed.is_err() || rest.is_err())
}

/// Copies in whole lines, because the hook master writes to the same log.
fn pass_lines(input: &mut impl io::Read) -> io::Result<()> {
    let (mut lines, mut piece) = (Lines::default(), [0; 4096]);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    loop {
        let length = input.read(&mut piece)?;
        let ready = match length {
            0 => lines.end(),
            length => lines.take(&piece[..length]),
        };
        io::Write::write_all(&mut output, &ready)?;
        if length == 0 {
            return Ok(());
        }
    }
}

struct Output {
    limit: u64,
    taken: u64,
    dropped: u64,
    held: Vec<u8>,
    tail: Vec<u8>,
}

impl Output {
    fn new(limit: u64) -> Output {
        Output {
            limit,
            taken: 0,
            dropped: 0,
            held: Vec::new(),
            tail: Vec::new(),
        }
    }

    fn take(&mut self, bytes: &[u8], hook_run_log: Option<&HookRun>) {
        self.tail
            .extend_from_slice(&bytes[bytes.len().saturating_sub(MAX_TAIL_BYTES)..]);
        self.tail
            .drain(..self.tail.len().saturating_sub(MAX_TAIL_BYTES));
        let room = usize::try_from(self.limit - self.taken).unwrap_or(usize::MAX);
        let (kept, dropped) = bytes.split_at(room.min(bytes.len()));
        self.taken += kept.len() as u64;
        self.dropped += dropped.len() as u64;
        match hook_run_log {
            Some(hook_run) => hook_run.log().output(kept),
            None => self.held.extend_from_slice(kept),
        }
    }
}

fn status_of(outcome: &ChildOutcome) -> HookStatus {
    if let Some(errno) = outcome.exec_errno {
        return HookStatus::not_started(&io::Error::from_raw_os_error(errno));
    }
    HookStatus::from(outcome.status)
}

pub fn with_environment(child: Child, environment: Vec<(&'static str, Option<String>)>) -> Child {
    let set = |child: Child, (name, value): (_, Option<String>)| match value {
        Some(value) => child.env(name, value),
        None => child.env_remove(name),
    };
    environment.into_iter().fold(child, set)
}

impl From<ChildStatus> for HookStatus {
    fn from(status: ChildStatus) -> HookStatus {
        match status {
            ChildStatus::Exited(code) => HookStatus::Exited(code),
            ChildStatus::Signaled(signal) => HookStatus::Signaled(signal),
            ChildStatus::TimedOut | ChildStatus::Stopped => HookStatus::TimedOut,
            ChildStatus::Cancelled => HookStatus::Cancelled,
        }
    }
}
