//! Helper processes (floor 2): hooks, shutdown, hwclock, chpasswd. Blocking: call it from a worker
//! thread, never from the protocol's task.
//!
//! What always holds: the child has a session (or group) of its own, no signal blocked, SIGPIPE at
//! its default, stdin that is /dev/null or the given bytes, and no descriptor of ours but those
//! passed on purpose. Output is read as it comes and kept up to a cap, so a child never blocks on
//! it. The wait ends with the child itself: what it leaves in the background with our pipe open
//! delays nothing. With a deadline, nothing of the child's family is left when `run` returns, and of one
//! that is [`Child::tracked`] nothing that it started, wherever that has gone; what cannot be ended is
//! named. [`Child::run`] follows one child to its end, [`Child::start`] leaves that to the caller.

mod family;
mod run;
mod scope;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::sys::identity::Identity;
pub use crate::sys::process::{Family, PreExecWrite};
use crate::sys::spawn::Ended;
use crate::sys::strerror;
pub use run::{ChildEvent, Running, reap_later};

/// Ends the family of a leader that another process has started and that still runs, as at a time limit; `wait`
/// is called between looks and passes the given time. What is left all the same, each as `NUMBER (NAME)`.
pub fn end_family(leader: i32, family: Family, wait: &mut dyn FnMut(Duration)) -> Vec<String> {
    family::Members::new(leader, family, None).end(DEFAULT_KILL_GRACE, wait)
}

/// How much output is kept if the caller sets no cap, in bytes.
pub const DEFAULT_OUTPUT_LIMIT: usize = 64 * 1024;
/// Time between SIGTERM and SIGKILL if the caller sets none.
pub const DEFAULT_KILL_GRACE: Duration = Duration::from_secs(5);
/// How long the end of the output is awaited once the child itself has ended.
pub const DEFAULT_OUTPUT_GRACE: Duration = Duration::from_millis(100);

/// A program to run; built up, then consumed by [`Child::run`].
#[derive(Debug)]
pub struct Child {
    program: OsString,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    stdin: Option<Vec<u8>>,
    stdin_from: Option<OwnedFd>,
    passed: Vec<OwnedFd>,
    announcements: Vec<PreExecWrite>,
    output: Option<File>,
    cap: usize,
    deadline: Option<Duration>,
    stopped_limit: Option<Duration>,
    grace: Duration,
    linger: Duration,
    cancel: Option<OwnedFd>,
    family: Family,
    is_tracked: bool,
    user: Option<Identity>,
}

impl Child {
    /// A child that runs `program`, searched in PATH if it has no slash, with our environment.
    pub fn new(program: impl AsRef<OsStr>) -> Child {
        Child {
            program: program.as_ref().to_owned(),
            arg0: None,
            args: Vec::new(),
            env: Vec::new(),
            stdin: None,
            stdin_from: None,
            passed: Vec::new(),
            announcements: Vec::new(),
            output: None,
            cap: DEFAULT_OUTPUT_LIMIT,
            deadline: None,
            stopped_limit: None,
            grace: DEFAULT_KILL_GRACE,
            linger: DEFAULT_OUTPUT_GRACE,
            cancel: None,
            family: Family::Session,
            is_tracked: false,
            user: None,
        }
    }

    /// This very program, once more, for a part of its work; it is the one that runs, also when its file
    /// was replaced meanwhile. Not in the library's own tests, which are no qemu-ga and would run
    /// themselves without end.
    pub fn own_program() -> Child {
        let program = if cfg!(test) {
            "/nonexistent/qemu-ga"
        } else {
            "/proc/self/exe"
        };
        Child {
            arg0: Some("qemu-ga".into()),
            ..Child::new(program)
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Child {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Child {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable over our own environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Child {
        self.env
            .push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Withholds a variable of our own environment.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Child {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Feeds `input` to stdin and closes it; without this stdin is /dev/null.
    pub fn stdin(mut self, input: Vec<u8>) -> Child {
        self.stdin = Some(input);
        self
    }

    /// Makes `fd` its stdin.
    pub fn stdin_from(mut self, fd: OwnedFd) -> Child {
        self.stdin_from = Some(fd);
        self
    }

    /// Leaves `fd` open in the child, which finds its number in the variable `name`.
    pub fn pass_fd(self, fd: OwnedFd, name: impl AsRef<OsStr>) -> Child {
        let number = fd.as_raw_fd().to_string();
        self.keep_fd(fd).env(name, number)
    }

    /// Leaves `fd` open in the child, which knows its number.
    pub fn keep_fd(mut self, fd: OwnedFd) -> Child {
        self.passed.push(fd);
        self
    }

    /// Has the child say so when it starts.
    pub fn announce(mut self, announcements: Vec<PreExecWrite>) -> Child {
        self.announcements = announcements;
        self
    }

    /// Sends stdout and stderr to `file` in place of capturing them: what the child leaves running
    /// can go on writing there.
    pub fn output_to(mut self, file: File) -> Child {
        self.output = Some(file);
        self
    }

    /// Keeps the first `bytes` of output; the rest is read and counted.
    pub fn cap(mut self, bytes: usize) -> Child {
        self.cap = bytes;
        self
    }

    /// Ends the child and its whole family if it has not ended after `limit`; None waits for ever.
    pub fn deadline(mut self, limit: Option<Duration>) -> Child {
        self.deadline = limit;
        self
    }

    /// Ends the child and its whole family when a signal has stopped it for about that time and nobody has continued it.
    pub fn stopped_limit(mut self, limit: Duration) -> Child {
        self.stopped_limit = Some(limit);
        self
    }

    /// Time between SIGTERM and SIGKILL when a deadline passed or the run was cancelled.
    pub fn grace(mut self, grace: Duration) -> Child {
        self.grace = grace;
        self
    }

    /// How long the end of the output is awaited once the child itself has ended.
    pub fn linger(mut self, linger: Duration) -> Child {
        self.linger = linger;
        self
    }

    /// Ends the child and its whole family as soon as `fd` becomes readable (an eventfd, a
    /// signalfd, a pipe whose other end was closed). Nothing is read from it.
    pub fn cancel_on(mut self, fd: OwnedFd) -> Child {
        self.cancel = Some(fd);
        self
    }

    /// What the child leaves our family for; a session of its own if this is not called.
    pub fn family(mut self, family: Family) -> Child {
        self.family = family;
        self
    }

    /// Ends with its family also what left that: what is in the control group that it is started in,
    /// where one can be made, what has the variable [`MARK_ENV`] of it, and the children of these.
    pub fn tracked(mut self) -> Child {
        self.is_tracked = true;
        self
    }

    /// Has the child run as that user.
    pub fn user(mut self, identity: Identity) -> Child {
        self.user = Some(identity);
        self
    }

    /// Runs the child to its end.
    ///
    /// # Errors
    /// Only what kept us from starting it or following it; a program that cannot be executed is an
    /// [`ChildOutcome`] with exit status 1, as the protocol reference has it (4.13).
    pub fn run(self) -> Result<ChildOutcome, ChildError> {
        self.run_with(&mut |_| ())
    }

    /// As [`Child::run`]; `seen` gets every piece of captured output as it comes, uncapped.
    ///
    /// # Errors
    /// As [`Child::run`].
    pub fn run_with(mut self, seen: &mut dyn FnMut(&[u8])) -> Result<ChildOutcome, ChildError> {
        let started = Instant::now();
        let cancel = self.cancel.take();
        let (due, linger, stopped_limit) = (self.deadline, self.linger, self.stopped_limit);
        let due = due.and_then(|limit| started.checked_add(limit));
        let program = self.program.clone();
        match self.start(seen) {
            Ok(mut running) => {
                running.stopped_limit = stopped_limit;
                running.follow(started, due, cancel.as_ref(), linger)
            }
            Err(ChildError::Exec(error)) => {
                Ok(ChildOutcome::not_executed(&program, &error, started))
            }
            Err(error) => Err(error),
        }
    }

    /// Starts the child; the caller follows it, and reaps it. Deadline, linger and cancel are his, too.
    ///
    /// # Errors
    /// It could not be started, or ([`ChildError::Exec`]) not be executed.
    pub fn start(self, seen: &mut dyn FnMut(&[u8])) -> Result<Running<'_>, ChildError> {
        run::start(self, seen)
    }
}

/// The variable that marks what belongs to one tracked child; every child of it inherits it.
pub const MARK_ENV: &str = "QGA_HOOK_START";

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildStatus {
    /// With this exit status.
    Exited(i32),
    /// By this signal, which was not ours.
    Signaled(i32),
    /// Not within the deadline; its family was ended.
    TimedOut,
    /// A signal stopped it for too long; its family was ended.
    Stopped,
    /// Its caller gave up on it; its family was ended.
    Cancelled,
}

impl From<Ended> for ChildStatus {
    fn from(ended: Ended) -> ChildStatus {
        match ended {
            Ended::Exited(code) => ChildStatus::Exited(code),
            Ended::Signaled(signal) => ChildStatus::Signaled(signal),
        }
    }
}

/// What came of a child.
#[derive(Debug)]
pub struct ChildOutcome {
    /// How it ended.
    pub status: ChildStatus,
    /// The beginning of its stdout and stderr, in the order written.
    pub output: Vec<u8>,
    /// How many bytes of output followed and were not kept.
    pub dropped: u64,
    /// The reading end of its output, if something that it left behind still holds the other.
    pub leftover: Option<File>,
    /// What could not be ended, each as `NUMBER (NAME)`.
    pub survivors: Vec<String>,
    /// From before the start until all of it was over.
    pub elapsed: Duration,
    /// The error number of execve(2), if the program could not be executed at all.
    pub exec_errno: Option<i32>,
}

impl ChildOutcome {
    fn not_executed(program: &OsStr, error: &io::Error, started: Instant) -> ChildOutcome {
        let mut output = b"failed to exec '".to_vec();
        output.extend_from_slice(program.as_encoded_bytes());
        output.extend_from_slice(format!("': {}\n", strerror(error)).as_bytes());
        ChildOutcome {
            status: ChildStatus::Exited(1),
            output,
            dropped: 0,
            leftover: None,
            survivors: Vec::new(),
            elapsed: started.elapsed(),
            exec_errno: error.raw_os_error(),
        }
    }

    /// The wire's text for a child that failed to `action`, or None if it exited with 0
    /// (protocol reference 4.13). The output is cut at its first NUL.
    pub fn failure(&self, action: &str) -> Option<String> {
        let text = self
            .output
            .split(|&byte| byte == 0)
            .next()
            .unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let seconds = self.elapsed.as_secs();
        Some(match (self.status, text.is_empty()) {
            (ChildStatus::Exited(0), _) => return None,
            (ChildStatus::Exited(_), false) => {
                format!("child process has failed to {action}: {text}")
            }
            (ChildStatus::Exited(code), true) => {
                format!("child process has failed to {action}: exit status {code}")
            }
            (ChildStatus::Signaled(_), false) => {
                format!("child process has terminated abnormally: {text}")
            }
            (ChildStatus::Signaled(_), true) => {
                "child process has terminated abnormally".to_owned()
            }
            (ChildStatus::TimedOut, _) => format!(
                "child process has failed to {action}: not finished in time, ended after \
                 {seconds} s{}",
                after_colon(&text)
            ),
            (ChildStatus::Stopped, _) => format!(
                "child process has failed to {action}: stopped by a signal, ended after {seconds} s{}",
                after_colon(&text)
            ),
            (ChildStatus::Cancelled, _) => format!(
                "child process has failed to {action}: cancelled after {seconds} s{}",
                after_colon(&text)
            ),
        })
    }
}

fn after_colon(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

/// Why a child could not be started or followed.
#[derive(Debug)]
pub enum ChildError {
    /// No pipe to be had.
    Pipe(io::Error),
    /// fork(2) failed, or an argument or variable holds a NUL.
    Create(io::Error),
    /// The program cannot be executed; [`Child::run`] makes an [`ChildOutcome`] of it.
    Exec(io::Error),
    /// Its stdin could not be fed; that the child closed it is no error.
    Write(io::Error),
    /// Its output could not be read.
    Read(io::Error),
    /// It could not be waited for.
    Wait(u32, io::Error),
}

impl ChildError {
    /// The wire's text for a child that was to `action` (protocol reference 4.13).
    pub fn text(&self, action: &str) -> String {
        match self {
            ChildError::Pipe(_) => "cannot create pipe FDs".to_owned(),
            ChildError::Create(error) => {
                format!("failed to create child process: {}", strerror(error))
            }
            ChildError::Exec(error) => {
                format!("failed to execute child process: {}", strerror(error))
            }
            ChildError::Write(error) => {
                format!("{action}: cannot write to stdin pipe: {}", strerror(error))
            }
            ChildError::Read(error) => {
                format!(
                    "{action}: cannot read from stdout/stderr pipe: {}",
                    strerror(error)
                )
            }
            ChildError::Wait(pid, error) => {
                format!("failed to wait for child (pid: {pid}): {}", strerror(error))
            }
        }
    }
}

impl std::fmt::Display for ChildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ChildError::Pipe(error) => write!(f, "cannot create a pipe: {}", strerror(error)),
            other => f.write_str(&other.text("child process")),
        }
    }
}

impl std::error::Error for ChildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ChildError::Pipe(error)
            | ChildError::Create(error)
            | ChildError::Exec(error)
            | ChildError::Write(error)
            | ChildError::Read(error)
            | ChildError::Wait(_, error) => Some(error),
        }
    }
}
