//! Starts a child and follows it in one poll(2) loop over its output, stdin, pidfd and the caller's own descriptors. It
//! is reaped only after its family was killed or was left alone on purpose.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::pipe2;

use super::family::Members;
use super::scope::Scope;
use super::{Child, ChildError, ChildOutcome, ChildStatus, MARK_ENV, launcher};
use crate::sys::poll::timeout;
use crate::sys::process::{Family, PidFd, StopCheck, has_ended};
use crate::sys::spawn::{self, Program, SpawnError, above_stdio, candidates};

/// Interval of checks where the kernel has no pidfd (before Linux 5.3).
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// For ETXTBSY: another process has the program open for writing, as during an upgrade.
const BUSY_TRIES: u32 = 20;
/// If PATH is not set, see execvp(3).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

pub fn start(mut child: Child, seen: &mut dyn FnMut(&[u8])) -> Result<Running<'_>, ChildError> {
    let scope = child.is_tracked.then(Scope::new);
    if let Some(scope) = &scope {
        child = child.env(MARK_ENV, scope.mark());
        child.announcements.extend(scope.entry());
    }
    let (reader, output) = output_pair(child.output.take())?;
    let (input, writer) = match child.stdin_from.take() {
        Some(input) => (input, None),
        None => input_pair(child.stdin.take())?,
    };
    let pid = fork(&child, &output, &input)?;
    Ok(Running {
        pid,
        // Before Linux 5.3, or without a free descriptor: the end is then found by polling.
        pidfd: PidFd::open(pid).ok(),
        has_ended: false,
        reader,
        writer,
        output: Vec::new(),
        dropped: 0,
        output_limit: child.output_limit,
        family: child.family,
        stopped_limit: None,
        kill_grace: child.kill_grace,
        scope,
        seen,
    })
}

/// The reading end for us, if output is captured, and the child's stdout and stderr.
fn output_pair(file: Option<File>) -> Result<(Option<File>, OwnedFd), ChildError> {
    if let Some(file) = file {
        return Ok((None, file.into()));
    }
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(pipe_error)?;
    nonblocking(&read).map_err(ChildError::Pipe)?;
    Ok((Some(read.into()), write))
}

fn input_pair(bytes: Option<Vec<u8>>) -> Result<(OwnedFd, Option<Input>), ChildError> {
    let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else {
        let null = File::open("/dev/null").map_err(ChildError::Pipe)?;
        return Ok((null.into(), None));
    };
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(pipe_error)?;
    nonblocking(&write).map_err(ChildError::Pipe)?;
    let pipe = write.into();
    Ok((read, Some(Input { pipe, bytes, at: 0 })))
}

fn pipe_error(errno: Errno) -> ChildError {
    ChildError::Pipe(errno.into())
}

/// On our end only: the flag belongs to the open file description, and each end of a pipe has its own.
fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

fn environment(child: &Child) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let mut set = |name: &OsString, value: Option<OsString>| {
        environment.retain(|(known, _)| known != name);
        environment.extend(value.map(|value| (name.clone(), value)));
    };
    for (name, value) in &child.env {
        set(name, value.clone());
    }
    for (fd, name) in &child.passed {
        if let Some(name) = name {
            set(name, Some(fd.as_raw_fd().to_string().into()));
        }
    }
    environment
}

fn fork(child: &Child, output: &OwnedFd, input: &OwnedFd) -> Result<i32, ChildError> {
    let mut tries = 0;
    loop {
        let started = match launcher::current() {
            Some(launcher) => launcher.spawn(child, [input, output]),
            None => prepared(child, [input, output], spawn::spawn)?,
        };
        match started {
            Ok(pid) => return Ok(pid),
            Err(SpawnError::Exec(error))
                if error.raw_os_error() == Some(libc::ETXTBSY) && tries < BUSY_TRIES =>
            {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(SpawnError::Exec(error)) => return Err(ChildError::Exec(error)),
            Err(SpawnError::Fork(error)) => return Err(ChildError::Create(error)),
        }
    }
}

/// Calls `spawn` with the program of `child`, and stdin and output of `stdio`.
pub(super) fn prepared<T>(
    child: &Child,
    stdio: [&OwnedFd; 2],
    spawn: impl FnOnce(&Program<'_>) -> T,
) -> Result<T, ChildError> {
    let text = |text: OsString| {
        CString::new(text.into_vec()).map_err(|error| ChildError::Create(error.into()))
    };
    let environment = environment(child);
    let path = environment.iter().find(|(name, _)| name == "PATH");
    let path = path.map_or(DEFAULT_PATH, |(_, path)| path.as_bytes());
    let program = text(child.program.clone())?;
    let candidates = candidates(program.as_bytes(), path);
    let first = child.arg0.as_deref().unwrap_or(&child.program);
    let words = std::iter::once(first).chain(child.args.iter().map(OsString::as_os_str));
    let argv: Vec<CString> = words
        .map(|word| text(word.to_owned()))
        .collect::<Result<_, _>>()?;
    let variables = environment.into_iter().map(|(mut name, value)| {
        name.push(OsStr::new("="));
        name.push(value);
        text(name)
    });
    let env: Vec<CString> = variables.collect::<Result<_, _>>()?;
    let high = |fd: &OwnedFd| above_stdio(fd.try_clone()?);
    let [input, output] = stdio;
    let input = high(input).map_err(ChildError::Pipe)?;
    let output = high(output).map_err(ChildError::Pipe)?;
    let keep: Vec<_> = child.passed.iter().map(|(fd, _)| fd.as_raw_fd()).collect();
    Ok(spawn(&Program {
        candidates: &candidates,
        argv: &argv,
        env: Some(&env),
        stdio: [input.as_fd(), output.as_fd(), output.as_fd()],
        family: Some(child.family),
        keep: &keep,
        announcements: &child.announcements,
        user: child.user.as_ref(),
    }))
}

struct Input {
    pipe: File,
    bytes: Vec<u8>,
    at: usize,
}

impl Drop for Input {
    fn drop(&mut self) {
        // The input may be a password (chpasswd), so it is overwritten; black_box keeps the compiler from removing
        // that.
        self.bytes.fill(0);
        std::hint::black_box(&mut self.bytes);
    }
}

/// Dropping it neither kills nor reaps the child.
pub struct Running<'a> {
    pid: i32,
    pidfd: Option<PidFd>,
    /// The end was seen, so poll(2) no longer waits for it.
    has_ended: bool,
    reader: Option<File>,
    writer: Option<Input>,
    output: Vec<u8>,
    dropped: u64,
    output_limit: usize,
    family: Family,
    pub(super) stopped_limit: Option<Duration>,
    kill_grace: Duration,
    scope: Option<Scope>,
    seen: &'a mut dyn FnMut(&[u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildEvent {
    /// Returned again until the child is reaped.
    Ended,
    Readable(usize),
    Due,
}

struct Ready {
    ended: bool,
    output: bool,
    input: bool,
    other: Option<usize>,
}

impl Running<'_> {
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The output since the last call, and the number of bytes that were not kept.
    pub fn take_output(&mut self) -> Result<(Vec<u8>, u64), ChildError> {
        self.read_rest()?;
        let dropped = std::mem::take(&mut self.dropped);
        Ok((std::mem::take(&mut self.output), dropped))
    }

    pub(super) fn follow(
        mut self,
        started: Instant,
        due: Option<Instant>,
        cancel: Option<&OwnedFd>,
        output_grace: Duration,
    ) -> Result<ChildOutcome, ChildError> {
        let cancel: Vec<_> = cancel.iter().map(|fd| fd.as_fd()).collect();
        let (followed, mut survivors) = (self.wait_unless_stopped(&cancel, due), Vec::new());
        let forced = match followed {
            Ok(Some(ChildEvent::Ended)) => {
                self.read_late_output(output_grace)?;
                None
            }
            // Also after an error: the child must not continue without supervision.
            _ => {
                survivors = self.end();
                Some(match followed {
                    Ok(Some(ChildEvent::Due)) => ChildStatus::TimedOut,
                    Ok(None) => ChildStatus::Stopped,
                    _ => ChildStatus::Cancelled,
                })
            }
        };
        let ended = self.reap()?;
        followed?;
        // Whoever cancels may have signaled the child, too.
        let is_cancelled = matches!(ended, Some(ChildStatus::Signaled(_)))
            && cancel
                .iter()
                .any(|&fd| crate::sys::poll::is_readable(fd, Duration::ZERO));
        let forced = forced.or(is_cancelled.then_some(ChildStatus::Cancelled));
        Ok(ChildOutcome {
            status: forced.or(ended).unwrap_or(ChildStatus::TimedOut),
            output: self.output,
            leftover: self.reader,
            survivors,
            elapsed: started.elapsed(),
            exec_errno: None,
        })
    }

    /// None if it stays stopped by a signal.
    fn wait_unless_stopped(
        &mut self,
        others: &[BorrowedFd<'_>],
        due: Option<Instant>,
    ) -> Result<Option<ChildEvent>, ChildError> {
        let Some(limit) = self.stopped_limit else {
            return self.wait(others, due).map(Some);
        };
        let mut stop_check = StopCheck::default();
        loop {
            // Two checks with half the limit between them: a child that was stopped for a moment is not killed.
            let next_check = Instant::now() + limit / 2;
            let is_due = due.is_some_and(|due| due <= next_check);
            match self.wait(
                others,
                Some(due.map_or(next_check, |due| due.min(next_check))),
            )? {
                ChildEvent::Due if !is_due => {}
                event => return Ok(Some(event)),
            }
            if stop_check.stays_stopped(self.pid) {
                return Ok(None);
            }
        }
    }

    /// Meanwhile the child's output is read and its stdin is written.
    pub fn wait(
        &mut self,
        others: &[BorrowedFd<'_>],
        due: Option<Instant>,
    ) -> Result<ChildEvent, ChildError> {
        loop {
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            let ready = self.poll(others, left)?;
            if ready.output {
                self.read_output()?;
            }
            if ready.input {
                self.write_input()?;
            }
            if !self.has_ended && (ready.ended || self.pidfd.is_none() && self.is_zombie()?) {
                self.writer = None;
                return Ok(ChildEvent::Ended);
            }
            if let Some(other) = ready.other {
                return Ok(ChildEvent::Readable(other));
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(ChildEvent::Due);
            }
        }
    }

    fn is_zombie(&self) -> Result<bool, ChildError> {
        has_ended(self.pid).map_err(|error| self.wait_error(error))
    }

    fn wait_error(&self, error: io::Error) -> ChildError {
        ChildError::Wait(self.pid.unsigned_abs(), error)
    }

    fn poll(&self, others: &[BorrowedFd<'_>], left: Option<Duration>) -> Result<Ready, ChildError> {
        let left = match self.pidfd {
            None if !self.has_ended => {
                Some(left.map_or(EXIT_POLL_INTERVAL, |left| left.min(EXIT_POLL_INTERVAL)))
            }
            _ => left,
        };
        let pidfd = self.pidfd.as_ref().filter(|_| !self.has_ended);
        let writer = self.writer.as_ref().map(|input| input.pipe.as_fd());
        let watched = [
            (pidfd.map(AsFd::as_fd), PollFlags::POLLIN),
            (self.reader.as_ref().map(AsFd::as_fd), PollFlags::POLLIN),
            (writer, PollFlags::POLLOUT),
        ];
        let present = watched.iter().filter_map(|&(fd, flags)| Some((fd?, flags)));
        let others = others.iter().map(|&fd| (fd, PollFlags::POLLIN));
        let mut fds: Vec<PollFd<'_>> = present
            .chain(others)
            .map(|(fd, flags)| PollFd::new(fd, flags))
            .collect();
        match poll(&mut fds, timeout(left)) {
            Ok(_) | Err(Errno::EINTR) => (),
            Err(errno) => return Err(ChildError::Read(errno.into())),
        }
        let mut found = fds.iter().map(|fd| fd.any().unwrap_or(true));
        // The same order as in `watched`.
        let [ended, output, input] =
            watched.map(|(fd, _)| fd.is_some() && found.next().unwrap_or(false));
        Ok(Ready {
            ended,
            output,
            input,
            other: found.position(|is_ready| is_ready),
        })
    }

    fn read_output(&mut self) -> Result<(), ChildError> {
        let Some(reader) = &mut self.reader else {
            return Ok(());
        };
        let mut buffer = [0; 16 * 1024];
        match reader.read(&mut buffer) {
            Ok(0) => self.reader = None,
            Ok(length) => self.keep_output(&buffer[..length]),
            Err(error) if is_temporary(&error) => (),
            Err(error) => return Err(ChildError::Read(error)),
        }
        Ok(())
    }

    fn keep_output(&mut self, bytes: &[u8]) {
        (self.seen)(bytes);
        let room = self
            .output_limit
            .saturating_sub(self.output.len())
            .min(bytes.len());
        self.output.extend_from_slice(&bytes[..room]);
        self.dropped += (bytes.len() - room) as u64;
    }

    /// EPIPE ends the input: the child has closed its stdin.
    fn write_input(&mut self) -> Result<(), ChildError> {
        let Some(input) = &mut self.writer else {
            return Ok(());
        };
        match input.pipe.write(&input.bytes[input.at..]) {
            Ok(length) => {
                input.at += length;
                if input.at == input.bytes.len() {
                    self.writer = None;
                }
            }
            Err(error) if is_temporary(&error) => (),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.writer = None,
            Err(error) => return Err(ChildError::Write(error)),
        }
        Ok(())
    }

    /// Reads also what other processes in the child's pipeline (such as a `tee`) write within `grace` after its end.
    fn read_late_output(&mut self, grace: Duration) -> Result<(), ChildError> {
        self.has_ended = true;
        let until = Instant::now() + grace;
        while self.reader.is_some() {
            let left = until.saturating_duration_since(Instant::now());
            let has_output = self.poll(&[], Some(left))?.output;
            if left.is_zero() {
                break;
            }
            if has_output {
                self.read_output()?;
            }
        }
        self.read_rest()
    }

    /// Reads the rest of the pipe, at most its largest size (1 MiB without privileges, pipe(7)).
    fn read_rest(&mut self) -> Result<(), ChildError> {
        for _ in 0..64 {
            if self.reader.is_none() || !self.poll(&[], Some(Duration::ZERO))?.output {
                break;
            }
            self.read_output()?;
        }
        Ok(())
    }

    /// SIGTERM, then SIGKILL after the grace period. Returns the processes that could not be killed.
    pub fn end(&mut self) -> Vec<String> {
        self.writer = None;
        let mut scope = self.scope.take();
        let mut members = Members::new(self.pid, self.family, scope.as_mut());
        let grace = self.kill_grace;
        let survivors = members.end(grace, &mut |time| {
            let until = Instant::now() + time;
            // Continue to read output, so that no member blocks on it. An error only loses the rest of the output; the
            // family is killed all the same.
            loop {
                let left = until.saturating_duration_since(Instant::now());
                let has_output = match self.reader {
                    None => false,
                    Some(_) => self.poll_output(left),
                };
                if !(has_output && self.read_output().is_ok()) {
                    std::thread::sleep(until.saturating_duration_since(Instant::now()));
                    return;
                }
            }
        });
        self.scope = scope;
        if self.read_rest().is_err() {
            self.reader = None;
        }
        survivors
    }

    fn poll_output(&self, time: Duration) -> bool {
        let reader = self.reader.as_ref();
        reader.is_some_and(|reader| crate::sys::poll::is_readable(reader.as_fd(), time))
    }

    /// Also removes the child's control group; processes in it move to ours. None if the child has not ended after
    /// SIGKILL, because it sleeps uninterruptibly (as on a frozen filesystem): a thread then waits for it.
    pub fn reap(&mut self) -> Result<Option<ChildStatus>, ChildError> {
        let pid = self.pid;
        let ended = if self.is_zombie()? {
            let ended = spawn::reap(pid).map_err(|error| self.wait_error(error))?;
            Some(ended.into())
        } else {
            reap_later(pid).map_err(|error| self.wait_error(error))?;
            None
        };
        self.has_ended = true;
        self.scope = None;
        Ok(ended)
    }
}

/// On a thread, as soon as the child has ended.
pub fn reap_later(pid: i32) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("reaper".to_owned());
    let started = thread.stack_size(64 * 1024).spawn(move || spawn::reap(pid));
    started.map(drop)
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
