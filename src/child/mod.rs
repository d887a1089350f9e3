//! Helper processes (floor 2): hooks, shutdown, hwclock, chpasswd. Blocking: call it from a worker
//! thread, never from the protocol's task.
//!
//! What always holds: the child has a session (or group) of its own, no signal blocked, SIGPIPE at
//! its default, stdin that is /dev/null or the given bytes, and no descriptor of ours but those
//! passed on purpose. Output is read as it comes and kept up to a cap, so a child never blocks on
//! it. The wait ends with the child itself: what it leaves in the background with our pipe open
//! delays nothing. With a deadline, nothing of the child's family is left when `run` returns.

mod family;
pub mod plain;
mod run;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use crate::sys::identity::Identity;
pub use crate::sys::process::{Announcement, Family};
use crate::sys::strerror;
pub use family::end as end_family;

/// How much output is kept if the caller sets no cap, in bytes.
pub const DEFAULT_CAP: usize = 64 * 1024;
/// Time between SIGTERM and SIGKILL if the caller sets none.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);
/// How long the end of the output is awaited once the child itself has ended.
pub const DEFAULT_LINGER: Duration = Duration::from_millis(100);

/// A program to run; built up, then consumed by [`Child::run`].
#[derive(Debug)]
pub struct Child {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    stdin: Option<Vec<u8>>,
    passed: Vec<(OwnedFd, OsString)>,
    announcements: Vec<Announcement>,
    output: Option<File>,
    cap: usize,
    deadline: Option<Duration>,
    grace: Duration,
    linger: Duration,
    cancel: Option<OwnedFd>,
    family: Family,
    user: Option<Identity>,
}

impl Child {
    /// A child that runs `program`, searched in PATH if it has no slash, with our environment.
    pub fn new(program: impl AsRef<OsStr>) -> Child {
        Child {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: None,
            passed: Vec::new(),
            announcements: Vec::new(),
            output: None,
            cap: DEFAULT_CAP,
            deadline: None,
            grace: DEFAULT_GRACE,
            linger: DEFAULT_LINGER,
            cancel: None,
            family: Family::Session,
            user: None,
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

    /// Leaves `fd` open in the child, which finds its number in the variable `name`.
    pub fn pass_fd(mut self, fd: OwnedFd, name: impl AsRef<OsStr>) -> Child {
        self.passed.push((fd, name.as_ref().to_owned()));
        self
    }

    /// Has the child say so when it starts.
    pub fn announce(mut self, announcements: Vec<Announcement>) -> Child {
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

    /// Has the child run as that user.
    pub fn user(mut self, identity: Identity) -> Child {
        self.user = Some(identity);
        self
    }

    /// Runs the child to its end.
    ///
    /// # Errors
    /// Only what kept us from starting it or following it; a program that cannot be executed is an
    /// [`Outcome`] with exit status 1, as the protocol reference has it (4.13).
    pub fn run(self) -> Result<Outcome, ChildError> {
        self.run_with(&mut |_| ())
    }

    /// As [`Child::run`]; `seen` gets every piece of captured output as it comes, uncapped.
    ///
    /// # Errors
    /// As [`Child::run`].
    pub fn run_with(self, seen: &mut dyn FnMut(&[u8])) -> Result<Outcome, ChildError> {
        run::run(self, seen)
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// With this exit status.
    Exited(i32),
    /// By this signal, which was not ours.
    Signaled(i32),
    /// Not within the deadline; its family was ended.
    TimedOut,
    /// Its caller gave up on it; its family was ended.
    Cancelled,
}

impl From<ExitStatus> for Status {
    fn from(status: ExitStatus) -> Status {
        match (status.code(), status.signal()) {
            (Some(code), _) => Status::Exited(code),
            (None, Some(signal)) => Status::Signaled(signal),
            (None, None) => Status::Exited(status.into_raw()),
        }
    }
}

/// What came of a child.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// The beginning of its stdout and stderr, in the order written.
    pub output: Vec<u8>,
    /// How many bytes of output followed and were not kept.
    pub dropped: u64,
    /// The reading end of its output, if something that it left behind still holds the other.
    pub leftover: Option<File>,
    /// From before the start until all of it was over.
    pub elapsed: Duration,
    /// The error number of execve(2), if the program could not be executed at all.
    pub exec_errno: Option<i32>,
}

impl Outcome {
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
            (Status::Exited(0), _) => return None,
            (Status::Exited(_), false) => format!("child process has failed to {action}: {text}"),
            (Status::Exited(code), true) => {
                format!("child process has failed to {action}: exit status {code}")
            }
            (Status::Signaled(_), false) => {
                format!("child process has terminated abnormally: {text}")
            }
            (Status::Signaled(_), true) => "child process has terminated abnormally".to_owned(),
            (Status::TimedOut, _) => format!(
                "child process has failed to {action}: not finished in time, ended after \
                 {seconds} s{}",
                after_colon(&text)
            ),
            (Status::Cancelled, _) => format!(
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
            | ChildError::Write(error)
            | ChildError::Read(error)
            | ChildError::Wait(_, error) => Some(error),
        }
    }
}
