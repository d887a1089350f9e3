//! Starting a child and following it to its end: one poll(2) loop over its output, its input, its
//! pidfd and the caller's cancel descriptor.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::{self, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::pipe2;

use super::{Child, ChildError, Outcome, Status, family, plain};
use crate::sys::poll::timeout;
use crate::sys::process::{Family, PidFd, become_user, has_ended, prepare};
use crate::sys::strerror;

/// How often a child is looked at where the kernel has no pidfd.
const LOOK: Duration = Duration::from_millis(20);
/// Tries of a program that somebody has open for writing just now (an upgrade).
const BUSY_TRIES: u32 = 20;

/// Runs `child`; see [`Child::run_with`].
pub fn run(mut child: Child, seen: &mut dyn FnMut(&[u8])) -> Result<Outcome, ChildError> {
    let started = Instant::now();
    let (reader, output) = output_pair(child.output.take())?;
    let (input, writer) = input_pair(child.stdin.take())?;
    let process = match start(&mut child, output, input)? {
        Ok(process) => process,
        Err(error) => return Ok(not_executed(&child, &error, started)),
    };
    // Ours were for the child alone.
    child.passed.clear();
    let pid = process.id();
    let leader = i32::try_from(pid)
        .map_err(|_| ChildError::Wait(pid, io::Error::from_raw_os_error(libc::ECHILD)))?;
    let mut watch = Watch {
        leader,
        pidfd: PidFd::open(leader).ok(),
        reader,
        writer,
        cancel: child.cancel.take(),
        output: Vec::new(),
        dropped: 0,
        cap: child.cap,
        seen,
    };
    let due = child.deadline.and_then(|limit| started.checked_add(limit));
    let followed = watch.follow(due);
    let forced = match followed {
        Ok(None) => {
            watch.linger(child.linger)?;
            None
        }
        Ok(Some(status)) => {
            watch.cancel = None;
            watch.end_family(child.family, child.grace);
            Some(status)
        }
        Err(error) => {
            // Never leave it running unwatched.
            watch.end_family(child.family, child.grace);
            reap(process, leader)?;
            return Err(error);
        }
    };
    let (output, dropped, leftover) = (watch.output, watch.dropped, watch.reader);
    let ended = reap(process, leader)?;
    Ok(Outcome {
        status: forced.or(ended).unwrap_or(Status::TimedOut),
        output,
        dropped,
        leftover,
        elapsed: started.elapsed(),
        exec_errno: None,
    })
}

/// The reading end for us, if output is captured, and what the child gets as stdout and stderr.
fn output_pair(file: Option<File>) -> Result<(Option<File>, OwnedFd), ChildError> {
    if let Some(file) = file {
        return Ok((None, file.into()));
    }
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(pipe_error)?;
    nonblocking(&read).map_err(ChildError::Pipe)?;
    Ok((Some(read.into()), write))
}

/// The child's stdin, and our end with the bytes still to write.
fn input_pair(bytes: Option<Vec<u8>>) -> Result<(Stdio, Option<Feed>), ChildError> {
    let Some(bytes) = bytes else {
        return Ok((Stdio::null(), None));
    };
    if bytes.is_empty() {
        return Ok((Stdio::null(), None));
    }
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(pipe_error)?;
    nonblocking(&write).map_err(ChildError::Pipe)?;
    Ok((
        read.into(),
        Some(Feed {
            pipe: write.into(),
            bytes,
            at: 0,
        }),
    ))
}

fn pipe_error(errno: Errno) -> ChildError {
    ChildError::Pipe(errno.into())
}

/// Our end alone: the flag belongs to the open file, and each end of a pipe is one of its own.
fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Forks and executes. The inner error is execve(2)'s.
fn start(
    child: &mut Child,
    output: OwnedFd,
    input: Stdio,
) -> Result<Result<process::Child, io::Error>, ChildError> {
    let second = output.try_clone().map_err(ChildError::Pipe)?;
    let path = child.env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.and_then(|(_, value)| value.as_deref());
    let mut command = plain::command(&child.program, path);
    command
        .args(&child.args)
        .stdin(input)
        .stdout(output)
        .stderr(second);
    for (name, value) in &child.env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut keep = Vec::with_capacity(child.passed.len());
    for (fd, name) in &child.passed {
        command.env(name, fd.as_raw_fd().to_string());
        keep.push(fd.as_raw_fd());
    }
    prepare(
        &mut command,
        child.family,
        keep,
        std::mem::take(&mut child.announcements),
    );
    if let Some(identity) = &child.user {
        become_user(&mut command, identity);
    }
    let mut tries = 0;
    loop {
        let error = match command.spawn() {
            Ok(process) => return Ok(Ok(process)),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::ETXTBSY) if tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            // What fork and its pipe can run into; no answer about the program. None: a NUL.
            Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) | None => {
                return Err(ChildError::Create(error));
            }
            Some(_) => return Ok(Err(error)),
        }
    }
}

fn not_executed(child: &Child, error: &io::Error, started: Instant) -> Outcome {
    let mut output = b"failed to exec '".to_vec();
    output.extend_from_slice(child.program.as_bytes());
    output.extend_from_slice(format!("': {}\n", strerror(error)).as_bytes());
    Outcome {
        status: Status::Exited(1),
        output,
        dropped: 0,
        leftover: None,
        elapsed: started.elapsed(),
        exec_errno: error.raw_os_error(),
    }
}

/// Takes the zombie away. None: it has not even heeded SIGKILL (it sleeps uninterruptibly, on a
/// frozen or unreachable filesystem): then a thread waits for it, so that we can go on.
fn reap(mut process: process::Child, leader: i32) -> Result<Option<Status>, ChildError> {
    let pid = process.id();
    let wait_error = |error| ChildError::Wait(pid, error);
    if has_ended(leader).map_err(wait_error)? {
        return process
            .wait()
            .map(|status| Some(status.into()))
            .map_err(wait_error);
    }
    std::thread::Builder::new()
        .name("reaper".to_owned())
        .stack_size(64 * 1024)
        .spawn(move || process.wait())
        .map_err(wait_error)?;
    Ok(None)
}

struct Feed {
    pipe: File,
    bytes: Vec<u8>,
    at: usize,
}

impl Drop for Feed {
    fn drop(&mut self) {
        // It may have been a password.
        self.bytes.fill(0);
        std::hint::black_box(&mut self.bytes);
    }
}

struct Watch<'a> {
    leader: i32,
    pidfd: Option<PidFd>,
    reader: Option<File>,
    writer: Option<Feed>,
    cancel: Option<OwnedFd>,
    output: Vec<u8>,
    dropped: u64,
    cap: usize,
    seen: &'a mut dyn FnMut(&[u8]),
}

/// What poll(2) found.
struct Ready {
    ended: bool,
    output: bool,
    input: bool,
    cancel: bool,
}

impl Watch<'_> {
    /// Until the child itself has ended (None) or must be ended, and why.
    fn follow(&mut self, due: Option<Instant>) -> Result<Option<Status>, ChildError> {
        loop {
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            let ready = self.poll(left)?;
            if ready.output {
                self.take_output()?;
            }
            if ready.input {
                self.feed()?;
            }
            if ready.ended || self.pidfd.is_none() && self.has_ended()? {
                return Ok(None);
            }
            if ready.cancel {
                return Ok(Some(Status::Cancelled));
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Some(Status::TimedOut));
            }
        }
    }

    fn has_ended(&self) -> Result<bool, ChildError> {
        has_ended(self.leader).map_err(|error| ChildError::Wait(self.leader.unsigned_abs(), error))
    }

    fn poll(&self, left: Option<Duration>) -> Result<Ready, ChildError> {
        let look = if self.pidfd.is_none() {
            Some(LOOK)
        } else {
            None
        };
        let left = match (left, look) {
            (Some(left), Some(look)) => Some(left.min(look)),
            (left, look) => left.or(look),
        };
        let ended = self.pidfd.as_ref().map(AsFd::as_fd);
        let output = self.reader.as_ref().map(AsFd::as_fd);
        let input = self.writer.as_ref().map(|feed| feed.pipe.as_fd());
        let cancel = self.cancel.as_ref().map(AsFd::as_fd);
        let watched = [ended, output, input, cancel];
        let flags = [
            PollFlags::POLLIN,
            PollFlags::POLLIN,
            PollFlags::POLLOUT,
            PollFlags::POLLIN,
        ];
        let present = watched.iter().zip(flags);
        let mut fds: Vec<PollFd<'_>> = present
            .filter_map(|(fd, flags)| Some(PollFd::new((*fd)?, flags)))
            .collect();
        match poll(&mut fds, timeout(left)) {
            Ok(_) | Err(Errno::EINTR) => (),
            Err(errno) => return Err(ChildError::Read(errno.into())),
        }
        let mut found = fds.iter();
        let mut is_ready = |fd: &Option<_>| {
            fd.is_some() && found.next().is_some_and(|fd| fd.any().unwrap_or(true))
        };
        // In the order of `watched`.
        Ok(Ready {
            ended: is_ready(&ended),
            output: is_ready(&output),
            input: is_ready(&input),
            cancel: is_ready(&cancel),
        })
    }

    /// Takes in what is there now; at the end of file the pipe is closed.
    fn take_output(&mut self) -> Result<(), ChildError> {
        let Some(reader) = &mut self.reader else {
            return Ok(());
        };
        let mut buffer = [0; 16 * 1024];
        match reader.read(&mut buffer) {
            Ok(0) => self.reader = None,
            Ok(length) => self.keep(&buffer[..length]),
            Err(error) if not_now(&error) => (),
            Err(error) => return Err(ChildError::Read(error)),
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) {
        (self.seen)(bytes);
        let room = self.cap.saturating_sub(self.output.len()).min(bytes.len());
        self.output.extend_from_slice(&bytes[..room]);
        self.dropped += (bytes.len() - room) as u64;
    }

    /// Writes what the pipe takes now; a child that closed its stdin is done with it.
    fn feed(&mut self) -> Result<(), ChildError> {
        let Some(feed) = &mut self.writer else {
            return Ok(());
        };
        match feed.pipe.write(&feed.bytes[feed.at..]) {
            Ok(length) => {
                feed.at += length;
                if feed.at == feed.bytes.len() {
                    self.writer = None;
                }
            }
            Err(error) if not_now(&error) => (),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.writer = None,
            Err(error) => return Err(ChildError::Write(error)),
        }
        Ok(())
    }

    /// After the child's end: all that it wrote is in the pipe by now. What follows within
    /// `linger` (a `tee` behind it, say) is taken too, but not awaited longer.
    fn linger(&mut self, linger: Duration) -> Result<(), ChildError> {
        self.pidfd = None;
        self.writer = None;
        self.cancel = None;
        let until = Instant::now() + linger;
        while self.reader.is_some() {
            let left = until.saturating_duration_since(Instant::now());
            if !self.poll(Some(left))?.output {
                if left.is_zero() {
                    break;
                }
                continue;
            }
            self.take_output()?;
            if left.is_zero() {
                self.drain()?;
                break;
            }
        }
        Ok(())
    }

    /// What is left in the pipe, at most its largest size (1 MiB without privilege).
    fn drain(&mut self) -> Result<(), ChildError> {
        for _ in 0..64 {
            if !self.poll(Some(Duration::ZERO))?.output {
                break;
            }
            self.take_output()?;
        }
        Ok(())
    }

    fn end_family(&mut self, family: Family, grace: Duration) {
        self.writer = None;
        let leader = self.leader;
        family::end(leader, family, grace, &mut |time| {
            let until = Instant::now() + time;
            // Output goes on being read so that no member blocks on it; an error here only means
            // that the rest of it is lost, and the family is ended all the same.
            self.pidfd = None;
            loop {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                if self.reader.is_none() {
                    std::thread::sleep(left);
                } else if !self.poll(Some(left)).is_ok_and(|ready| ready.output)
                    || self.take_output().is_err()
                {
                    std::thread::sleep(until.saturating_duration_since(Instant::now()));
                }
            }
        });
        if self.drain().is_err() {
            self.reader = None;
        }
    }
}

fn not_now(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
