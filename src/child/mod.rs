//! Child processes (floor 2): hooks, the hook master, shutdown, hwclock, chpasswd. All calls block.
//!
//! What always holds: the child has a session or process group of its own, no blocked signals, the default SIGPIPE, and
//! no descriptors of ours except those passed on purpose. Output is read as it arrives and kept up to a limit, so a
//! child never blocks on it. The wait ends with the child itself: a background process that keeps our pipe open delays
//! nothing. At a timeout all processes of the child's [`Family`] are killed before `run` returns, and for a
//! [`Child::tracked`] one also those that have left it. Those that cannot be killed are named.

mod family;
pub(crate) mod launcher;
mod run;
mod scope;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::sys::identity::Identity;
pub(crate) use crate::sys::process::{Family, PreExecWrite};
use crate::sys::spawn::WaitStatus;
use crate::sys::strerror;
pub use run::{ChildEvent, Running, reap_later};

/// For a running leader that another process has started. `wait` is called between checks and waits for the given time.
/// Returns the processes that are left, each as `NUMBER (NAME)`.
pub fn end_family(leader: i32, family: Family, wait: &mut dyn FnMut(Duration)) -> Vec<String> {
    family::Members::new(leader, family, None).end(DEFAULT_KILL_GRACE, wait)
}

pub const DEFAULT_OUTPUT_LIMIT: usize = 64 * 1024;
pub const DEFAULT_KILL_GRACE: Duration = Duration::from_secs(5);
/// From the child's end to the end of its output.
pub const DEFAULT_OUTPUT_GRACE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Child {
    program: OsString,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    stdin: Option<Vec<u8>>,
    stdin_from: Option<OwnedFd>,
    /// With the variable that gets the descriptor's number.
    passed: Vec<(OwnedFd, Option<OsString>)>,
    announcements: Vec<PreExecWrite>,
    output: Option<File>,
    output_limit: usize,
    timeout: Option<Duration>,
    stopped_limit: Option<Duration>,
    kill_grace: Duration,
    output_grace: Duration,
    cancel: Option<OwnedFd>,
    family: Family,
    is_tracked: bool,
    user: Option<Identity>,
}

impl Child {
    /// With our environment. A name without a slash is searched in PATH.
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
            output_limit: DEFAULT_OUTPUT_LIMIT,
            timeout: None,
            stopped_limit: None,
            kill_grace: DEFAULT_KILL_GRACE,
            output_grace: DEFAULT_OUTPUT_GRACE,
            cancel: None,
            family: Family::Session,
            is_tracked: false,
            user: None,
        }
    }

    /// /proc/self/exe is the running program even if an upgrade has replaced the file. Unit tests get a path that does
    /// not exist: they are not qemu-ga and would run themselves without end.
    pub fn self_exe() -> Child {
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

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Child {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Child {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Child {
        self.env
            .push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Child {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Without this, stdin is /dev/null.
    pub fn stdin(mut self, input: Vec<u8>) -> Child {
        self.stdin = Some(input);
        self
    }

    pub fn stdin_from(mut self, fd: OwnedFd) -> Child {
        self.stdin_from = Some(fd);
        self
    }

    /// Leaves `fd` open in the child and sets the variable `name` to its number.
    pub fn pass_fd(mut self, fd: OwnedFd, name: impl AsRef<OsStr>) -> Child {
        self.passed.push((fd, Some(name.as_ref().to_owned())));
        self
    }

    /// Leaves `fd` open in the child under the same number.
    pub fn keep_fd(mut self, fd: OwnedFd) -> Child {
        self.passed.push((fd, None));
        self
    }

    pub fn announce(mut self, announcements: Vec<PreExecWrite>) -> Child {
        self.announcements = announcements;
        self
    }

    /// Redirects stdout and stderr, which are not captured then. Background processes can continue to write there.
    pub fn output_to(mut self, file: File) -> Child {
        self.output = Some(file);
        self
    }

    /// The rest is read and counted.
    pub fn output_limit(mut self, bytes: usize) -> Child {
        self.output_limit = bytes;
        self
    }

    /// None: no limit.
    pub fn timeout(mut self, limit: Option<Duration>) -> Child {
        self.timeout = limit;
        self
    }

    /// Kills the family if a signal has stopped the child for about `limit` and it was not continued.
    pub fn stopped_limit(mut self, limit: Duration) -> Child {
        self.stopped_limit = Some(limit);
        self
    }

    pub fn kill_grace(mut self, grace: Duration) -> Child {
        self.kill_grace = grace;
        self
    }

    #[cfg(test)]
    pub fn output_grace(mut self, grace: Duration) -> Child {
        self.output_grace = grace;
        self
    }

    /// Kills the family once `fd` is readable (an eventfd, a signalfd, a closed pipe). Nothing is read from it.
    pub fn cancel_on(mut self, fd: OwnedFd) -> Child {
        self.cancel = Some(fd);
        self
    }

    pub fn family(mut self, family: Family) -> Child {
        self.family = family;
        self
    }

    /// Kills with the family also processes that have left it: those in the child's control group, if one can be
    /// created, those with its [`MARK_ENV`], and their children.
    pub fn tracked(mut self) -> Child {
        self.is_tracked = true;
        self
    }

    pub fn user(mut self, identity: Identity) -> Child {
        self.user = Some(identity);
        self
    }

    /// Fails if the child cannot be started or followed. A program that cannot be executed is a [`ChildOutcome`] with
    /// exit status 1, because QEMU's agent reports it on the wire in the same way.
    pub fn run(self) -> Result<ChildOutcome, ChildError> {
        self.run_with(&mut |_| ())
    }

    /// `seen` gets every piece of captured output as it arrives, without a limit.
    pub fn run_with(mut self, seen: &mut dyn FnMut(&[u8])) -> Result<ChildOutcome, ChildError> {
        let started = Instant::now();
        let cancel = self.cancel.take();
        let (output_grace, stopped_limit) = (self.output_grace, self.stopped_limit);
        // A limit that overflows the clock is as good as none.
        let due = self.timeout.and_then(|limit| started.checked_add(limit));
        let program = self.program.clone();
        match self.start(seen) {
            Ok(mut running) => {
                running.stopped_limit = stopped_limit;
                running.follow(started, due, cancel.as_ref(), output_grace)
            }
            Err(ChildError::Exec(error)) => {
                Ok(ChildOutcome::not_executed(&program, &error, started))
            }
            Err(error) => Err(error),
        }
    }

    /// The caller follows and reaps the child. Timeout, output grace period and cancel descriptor are not used.
    pub fn start(self, seen: &mut dyn FnMut(&[u8])) -> Result<Running<'_>, ChildError> {
        run::start(self, seen)
    }
}

/// Marks all processes of one tracked child; its children inherit it.
pub const MARK_ENV: &str = "QGA_HOOK_START";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildStatus {
    Exited(i32),
    Signaled(i32),
    TimedOut,
    Stopped,
    Cancelled,
}

impl From<WaitStatus> for ChildStatus {
    fn from(status: WaitStatus) -> ChildStatus {
        match status {
            WaitStatus::Exited(code) => ChildStatus::Exited(code),
            WaitStatus::Signaled(signal) => ChildStatus::Signaled(signal),
        }
    }
}

#[derive(Debug)]
pub struct ChildOutcome {
    pub status: ChildStatus,
    /// The beginning of stdout and stderr, in the order in which they were written.
    pub output: Vec<u8>,
    /// Reading end of the output, if a background process still has the writing end open.
    pub leftover: Option<File>,
    /// Processes that could not be killed, each as `NUMBER (NAME)`.
    pub survivors: Vec<String>,
    pub elapsed: Duration,
    /// Of execve(2), if the program could not be executed.
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
            leftover: None,
            survivors: Vec::new(),
            elapsed: started.elapsed(),
            exec_errno: error.raw_os_error(),
        }
    }

    /// The error on the wire, as QEMU's agent has it; None if the child exited with 0. Output ends at its first NUL.
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

#[derive(Debug)]
pub enum ChildError {
    Pipe(io::Error),
    /// fork(2) failed, or an argument or variable contains a NUL.
    Create(io::Error),
    /// execve(2) failed; [`Child::run`] returns a [`ChildOutcome`] instead.
    Exec(io::Error),
    /// EPIPE is not an error: the child may close its stdin.
    Write(io::Error),
    Read(io::Error),
    /// waitid(2) failed for this process id.
    Wait(u32, io::Error),
}

impl ChildError {
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

impl From<ChildError> for io::Error {
    fn from(error: ChildError) -> io::Error {
        match error {
            ChildError::Pipe(error)
            | ChildError::Create(error)
            | ChildError::Exec(error)
            | ChildError::Write(error)
            | ChildError::Read(error)
            | ChildError::Wait(_, error) => error,
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
