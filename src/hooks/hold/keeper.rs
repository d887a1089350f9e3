//! `qemu-ga hook keep`: the process that keeps one holding hook.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{geteuid, pipe2};

use super::{Order, Word};
use crate::child::{Status, end_family, plain};
use crate::hooks::call::{user, user_environment};
use crate::hooks::{HookStatus, ThawReason};
use crate::sys::guardian::listen;
use crate::sys::poll::{is_readable, timeout};
use crate::sys::process::{self, Family, PidFd, become_user, prepare};
use crate::sys::strerror;

/// The descriptor on which a hook says that it is ready: a number that a shell can write.
const READY_FD: i32 = 3;
/// Most output that is kept in memory.
const MOST_OUTPUT: u64 = 256 * 1024;
/// How long a visitor has to say what he wants.
const MANNERS: Duration = Duration::from_secs(5);
/// How long the story of a hook that has ended is kept for whoever thaws.
const REMEMBRANCE: Duration = Duration::from_secs(86_400);

/// Runs `qemu-ga hook keep`; the order comes over stdin, and what became of the start goes to stdout.
pub fn cli() -> u8 {
    process::call_self(c"qga-hook-keeper");
    crate::sys::guardian::outlive_memory_pressure().ok();
    u8::from(keep().is_err())
}

fn keep() -> io::Result<()> {
    let (ready, tell_ready) = ready_pipe()?;
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text)?;
    let order: Order = serde_json::from_slice(&text)?;
    let mut hook = match Hook::start(&order, ready, tell_ready) {
        Ok(hook) => hook,
        Err(status) => return say(&ended(status, "")),
    };
    let due = after(Instant::now(), order.timeout);
    match hook.until_ready(due)? {
        Start::Ready => (),
        Start::Ended => {
            let status = hook.reap();
            return say(&ended(status, &hook.take_output()));
        }
        Start::Late => {
            hook.end(order.grace());
            hook.reap();
            return say(&ended(HookStatus::TimedOut, &hook.take_output()));
        }
        Start::Alone => {
            hook.let_go(None, &order);
            return Ok(());
        }
    }
    let listener = match listen(&order.door) {
        Ok(listener) => listener,
        Err(error) => {
            hook.let_go(None, &order);
            let why = format!("{}: {}", order.door.display(), strerror(&error));
            return say(&ended(HookStatus::cannot_run(why), &hook.take_output()));
        }
    };
    let output = hook.take_output();
    say(&Word {
        output,
        ..Word::default()
    })?;
    // The master waits for the end of this.
    nix::unistd::dup2_stdout(File::open("/dev/null")?)?;
    let result = hold(&mut hook, &order, &listener);
    fs::remove_file(&order.door)?;
    result
}

fn ended(status: HookStatus, output: &str) -> Word {
    Word {
        status: Some(status),
        output: output.to_owned(),
        ..Word::default()
    }
}

fn say(said: &Word) -> io::Result<()> {
    io::stdout().write_all(&serde_json::to_vec(said)?)?;
    io::stdout().flush()
}

/// The reading end, and the writing end under the number that the hook knows.
fn ready_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let away = above(&read, READY_FD + 1)?;
    // It may have had the number that the other end must get.
    drop(read);
    let write = if write.as_raw_fd() == READY_FD {
        write
    } else {
        // Ours alone, and nothing else can have it yet: this process has opened nothing before.
        above(&write, READY_FD)?
    };
    Ok((away, write))
}

fn above(fd: &OwnedFd, least: i32) -> io::Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(least))?;
    crate::sys::guardian::inherited_file(number).map(OwnedFd::from)
}

/// From ready to released.
fn hold(hook: &mut Hook, order: &Order, listener: &UnixListener) -> io::Result<()> {
    let since = Instant::now();
    let due = after(since, order.hold);
    let mut lost = None;
    loop {
        let due = match &lost {
            None => due,
            Some(_) => since.checked_add(REMEMBRANCE),
        };
        match hook.wait(Some(listener.as_fd()), due)? {
            Event::Ended => {
                let held = since.elapsed().as_secs_f64();
                lost = Some((hook.reap(), held));
            }
            Event::Other => {
                let Ok((visitor, _)) = listener.accept() else {
                    continue;
                };
                let Some(reason) = wish(&visitor) else {
                    continue;
                };
                return answer(visitor, hook, order, lost, &reason);
            }
            Event::Due if lost.is_some() => return Ok(()),
            Event::Due => {
                let held = since.elapsed().as_secs_f64();
                hook.let_go(Some(ThawReason::TimedOut.as_str()), order);
                lost = Some((HookStatus::TimedOut, held));
            }
        }
    }
}

/// What the visitor wants; None: he may not want anything here, or says nothing.
fn wish(visitor: &UnixStream) -> Option<String> {
    let peer = getsockopt(visitor, PeerCredentials).ok()?;
    if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
        return None;
    }
    visitor.set_read_timeout(Some(MANNERS)).ok()?;
    let mut line = String::new();
    BufReader::new(visitor).read_line(&mut line).ok()?;
    let line = line.trim_end().to_owned();
    (!line.is_empty()).then_some(line)
}

fn answer(
    mut visitor: UnixStream,
    hook: &mut Hook,
    order: &Order,
    lost: Option<(HookStatus, f64)>,
    reason: &str,
) -> io::Result<()> {
    let (status, held) = match lost {
        Some((status, held)) => (status, Some(held)),
        None => (hook.let_go(Some(reason), order), None),
    };
    let told = Word {
        status: Some(status),
        lost: held,
        output: hook.take_output(),
    };
    visitor.write_all(&serde_json::to_vec(&told)?)
}

enum Start {
    Ready,
    Ended,
    Late,
    /// Nobody listens to us any more.
    Alone,
}

enum Event {
    Ended,
    /// The other descriptor is ready.
    Other,
    Due,
}

struct Hook {
    process: Child,
    leader: i32,
    /// None: it has ended, and that was seen.
    pidfd: Option<PidFd>,
    reader: Option<File>,
    ready: File,
    limit: u64,
    output: Vec<u8>,
    dropped: u64,
}

impl Hook {
    fn start(order: &Order, ready: OwnedFd, tell_ready: OwnedFd) -> Result<Hook, HookStatus> {
        let failed = |error: io::Error| HookStatus::cannot_run(strerror(&error));
        let user = user(order.user.as_deref()).map_err(HookStatus::cannot_run)?;
        let prepared = || -> io::Result<(File, OwnedFd)> {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            Ok((read.into(), write))
        };
        let (reader, writer) = prepared().map_err(failed)?;
        let second = writer.try_clone().map_err(failed)?;
        let mut command = plain::command(order.program.as_ref(), None);
        command
            .args(&order.args)
            .stdin(Stdio::piped())
            .stdout(writer)
            .stderr(second);
        let keep = vec![tell_ready.as_raw_fd()];
        prepare(&mut command, Family::Session, keep, Vec::new());
        if let Some((identity, user)) = &user {
            command.envs(user_environment(user));
            become_user(&mut command, identity);
        }
        let spawned = command.spawn();
        let mut process = spawned.map_err(|error| HookStatus::not_started(&error))?;
        let leader = i32::try_from(process.id()).unwrap_or(0);
        let pidfd = PidFd::open(leader).map_err(|error| {
            // Without one its end would go unseen; the end of its input tells it to go.
            process.stdin.take();
            let why = strerror(&error);
            HookStatus::cannot_run(format!("holding hooks need Linux 5.3: {why}"))
        })?;
        Ok(Hook {
            pidfd: Some(pidfd),
            process,
            leader,
            reader: Some(reader),
            ready: ready.into(),
            limit: order.output_limit.min(MOST_OUTPUT),
            output: Vec::new(),
            dropped: 0,
        })
    }

    /// Its end and its output, for poll.
    fn watched(&self) -> impl Iterator<Item = PollFd<'_>> {
        let end = self.pidfd.as_ref().map(AsFd::as_fd);
        let output = self.reader.as_ref().map(AsFd::as_fd);
        let watched = end.into_iter().chain(output);
        watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN))
    }

    fn until_ready(&mut self, due: Option<Instant>) -> io::Result<Start> {
        let stdout = io::stdout();
        let mut heard = Vec::new();
        let mut ready = Some(self.ready.try_clone()?);
        loop {
            // An end of ours that nobody reads from is in error.
            let mut fds = vec![PollFd::new(stdout.as_fd(), PollFlags::empty())];
            fds.extend(self.watched());
            fds.extend(
                ready
                    .as_ref()
                    .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)),
            );
            let count = poll(&mut fds, timeout(left(due)))?;
            let alone = fds[0].any().unwrap_or(false);
            drop(fds);
            self.take_in();
            if alone {
                return Ok(Start::Alone);
            }
            if let Some(file) = &mut ready {
                let mut buffer = [0; 64];
                let is_told = is_readable(file.as_fd(), Duration::ZERO);
                match is_told.then(|| file.read(&mut buffer)) {
                    Some(Ok(0) | Err(_)) => ready = None,
                    Some(Ok(length)) => heard.extend_from_slice(&buffer[..length]),
                    None => (),
                }
                if heard.contains(&b'\n') {
                    return Ok(Start::Ready);
                }
            }
            if self.has_ended() {
                return Ok(Start::Ended);
            }
            if count == 0 && due.is_some_and(|due| due <= Instant::now()) {
                return Ok(Start::Late);
            }
        }
    }

    /// Until it ends, or `other` is ready, or it is time; its output is taken in meanwhile.
    fn wait(&mut self, other: Option<BorrowedFd<'_>>, due: Option<Instant>) -> io::Result<Event> {
        loop {
            let mut fds: Vec<PollFd<'_>> = self.watched().collect();
            fds.extend(other.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            poll(&mut fds, timeout(left(due)))?;
            drop(fds);
            self.take_in();
            if self.pidfd.is_some() && self.has_ended() {
                self.pidfd = None;
                return Ok(Event::Ended);
            }
            if other.is_some_and(|fd| is_readable(fd, Duration::ZERO)) {
                return Ok(Event::Other);
            }
            if due.is_some_and(|due| due <= Instant::now()) {
                return Ok(Event::Due);
            }
        }
    }

    fn has_ended(&self) -> bool {
        process::has_ended(self.leader).unwrap_or(true)
    }

    fn take_in(&mut self) {
        let mut buffer = [0; 4096];
        while let Some(reader) = &mut self.reader {
            match reader.read(&mut buffer) {
                Ok(0) => self.reader = None,
                Ok(length) => {
                    let room = self.limit.saturating_sub(self.output.len() as u64);
                    let room = usize::try_from(room).unwrap_or(0).min(length);
                    self.output.extend_from_slice(&buffer[..room]);
                    self.dropped += (length - room) as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.reader = None,
            }
        }
    }

    fn take_output(&mut self) -> String {
        self.take_in();
        let output = std::mem::take(&mut self.output);
        let mut text = String::from_utf8_lossy(&output).into_owned();
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            text.push_str(&format!(
                "\n[{dropped} more bytes of output are left out]\n"
            ));
        }
        text
    }

    /// Tells it to let the application go on, and sees to it that it ends.
    fn let_go(&mut self, reason: Option<&str>, order: &Order) -> HookStatus {
        if let (Some(mut input), Some(reason)) = (self.process.stdin.take(), reason) {
            // One that has ended, or does not read, gets it by the end of its input.
            input.write_all(format!("{reason}\n").as_bytes()).ok();
        }
        let due = after(Instant::now(), order.timeout);
        match self.wait(None, due) {
            Ok(Event::Ended) => self.reap(),
            _ => {
                self.end(order.grace());
                self.reap();
                HookStatus::TimedOut
            }
        }
    }

    fn end(&mut self, grace: Duration) {
        let leader = self.leader;
        end_family(leader, Family::Session, grace, &mut |time| {
            self.take_in();
            std::thread::sleep(time);
        });
    }

    fn reap(&mut self) -> HookStatus {
        self.pidfd = None;
        match self.process.wait() {
            Ok(status) => Status::from(status).into(),
            Err(error) => HookStatus::cannot_run(strerror(&error)),
        }
    }
}

/// So many seconds after a moment; None: never.
fn after(moment: Instant, seconds: Option<f64>) -> Option<Instant> {
    let time = Duration::try_from_secs_f64(seconds?).ok()?;
    moment.checked_add(time)
}

/// What is left until then; None: no end.
fn left(due: Option<Instant>) -> Option<Duration> {
    due.map(|due| due.saturating_duration_since(Instant::now()))
}

impl Order {
    /// Time between SIGTERM and SIGKILL.
    fn grace(&self) -> Duration {
        Duration::try_from_secs_f64(self.kill_after).unwrap_or_default()
    }
}
