//! `qemu-ga hook hold`: the holder, the process that runs one holding hook.
//!
//! The master passes a request on stdin and gets one response when the hook is ready. Then the holder listens
//! at its socket until a master sends a release, and responds with the hook's end. A hook for which no master
//! waits is released at once.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::{HOLDER_SEND_TIMEOUT, HolderRequest, HolderResponse};
use crate::child::{Child, ChildError, ChildEvent, Running};
use crate::hooks::exec::{note_survivors, user, with_user};
use crate::hooks::{HookStatus, ThawReason};
use crate::ipc::Connection;
use crate::sys::guardian::{bind_guardian_socket, line_from_agent};
use crate::sys::poll::is_readable;
use crate::sys::{process, strerror};

/// The descriptor to which a hook writes a line when it is ready: a number with one digit, which a shell can
/// redirect to.
const READY_FD: i32 = 3;
/// Most output of the hook in memory, in bytes: nothing can be written to a disk during the freeze.
const MAX_OUTPUT_BYTES: u64 = 256 * 1024;
/// How long a holder keeps the result of a hook that ended early, for the master of the thaw.
const OUTCOME_RETENTION: Duration = Duration::from_secs(86_400);

/// Runs `qemu-ga hook hold`; stdin is the connection to the master.
pub fn cli() -> u8 {
    process::set_process_name(c"qga-hook-holder");
    crate::sys::guardian::outlive_memory_pressure().ok();
    u8::from(run_holder().is_err())
}

fn run_holder() -> io::Result<()> {
    let (ready, ready_writer) = ready_pipe()?;
    let mut master = Connection::from(line_from_agent()?);
    let request: HolderRequest = master.recv(Some(HOLDER_SEND_TIMEOUT))?;
    let send =
        |master: &Connection, response: &HolderResponse| master.send(response, HOLDER_SEND_TIMEOUT);
    let mut ignore = |_: &[u8]| ();
    let mut hook = match Hook::start(&request, ready, ready_writer, &mut ignore) {
        Ok(hook) => hook,
        Err(status) => return send(&master, &HolderResponse::of(status)),
    };
    match hook.until_ready(&master) {
        Start::Ready => (),
        Start::Over(status) => return send(&master, &hook.response_for(status)),
        Start::Alone => {
            hook.release(None);
            return Ok(());
        }
    }
    let (listener, _) = match bind_guardian_socket(&request.socket) {
        Ok(listening) => listening,
        Err(error) => {
            hook.release(None);
            let why = format!("{}: {}", request.socket.display(), strerror(&error));
            return send(&master, &hook.response_for(HookStatus::cannot_run(why)));
        }
    };
    let response = HolderResponse {
        output: hook.take_output(),
        ..HolderResponse::default()
    };
    let sent = send(&master, &response);
    drop(master);
    if sent.is_err() {
        // The master was killed, so no thaw may follow for this hook.
        let status = hook.release(None);
        return respond_to_all(None, &listener, &hook.response_for(status), &request);
    }
    hold(&mut hook, &listener)
}

impl HolderResponse {
    fn of(status: HookStatus) -> HolderResponse {
        HolderResponse {
            status: Some(status),
            ..HolderResponse::default()
        }
    }
}

/// The reading end of a pipe, and the writing end with the number [`READY_FD`].
fn ready_pipe() -> io::Result<(File, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let reader = above(read.as_fd(), READY_FD + 1)?.into();
    // `read` may have the number READY_FD, which the writing end needs.
    drop(read);
    let write = if write.as_raw_fd() == READY_FD {
        write
    } else {
        // The number is free: this process has opened nothing else so far.
        above(write.as_fd(), READY_FD)?
    };
    Ok((reader, write))
}

fn above(fd: std::os::fd::BorrowedFd<'_>, least: i32) -> io::Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(least))?;
    crate::sys::guardian::own_inherited(number).map(OwnedFd::from)
}

/// Waits from the hook's readiness until its release.
fn hold(hook: &mut Hook<'_>, listener: &UnixListener) -> io::Result<()> {
    let since = Instant::now();
    let due = deadline_after(since, hook.request.hold);
    let mut lost = None;
    loop {
        let due = match &lost {
            None => due,
            Some(_) => since.checked_add(OUTCOME_RETENTION),
        };
        let event = hook.child.wait(&[listener.as_fd()], due);
        match event.map_err(io::Error::other)? {
            ChildEvent::Ended => lost = Some((hook.reap(), since.elapsed().as_secs_f64())),
            ChildEvent::Readable(_) => {
                let Some((client, reason)) = next_release_request(listener) else {
                    continue;
                };
                let (status, held) = match lost {
                    Some((status, held)) => (status, Some(held)),
                    None => (hook.release(Some(reason)), None),
                };
                let mut response = hook.response_for(status);
                response.lost = held;
                return respond_to_all(Some(client), listener, &response, hook.request);
            }
            // The socket file stays, so that a thaw sees that the hook was not released.
            ChildEvent::Due if lost.is_some() => return Ok(()),
            ChildEvent::Due => {
                let held = since.elapsed().as_secs_f64();
                // How it ends does not matter: the hook held too short in any case.
                hook.release(Some(ThawReason::TimedOut));
                lost = Some((HookStatus::TimedOut, held));
            }
        }
    }
}

/// Accepts a connection and reads its release; None if the peer is not trusted or sends nothing.
fn next_release_request(listener: &UnixListener) -> Option<(Connection, ThawReason)> {
    let mut client = Connection::from(listener.accept().ok()?.0);
    client.trusted_peer().ok()?;
    let reason = client.recv(Some(HOLDER_SEND_TIMEOUT)).ok()?;
    Some((client, reason))
}

/// Sends the same response to the client that released the hook and to all that have connected since.
fn respond_to_all(
    first: Option<Connection>,
    listener: &UnixListener,
    response: &HolderResponse,
    request: &HolderRequest,
) -> io::Result<()> {
    // Without the socket file no further client can connect.
    fs::remove_file(&request.socket)?;
    let sent = first.map_or(Ok(()), |first| first.send(response, HOLDER_SEND_TIMEOUT));
    while is_readable(listener.as_fd(), Duration::ZERO) {
        if let Some((client, _)) = next_release_request(listener) {
            // A further client only gets a copy of the response; the first one has released the hook.
            client.send(response, HOLDER_SEND_TIMEOUT).ok();
        }
    }
    sent
}

enum Start {
    Ready,
    /// The hook has ended, or was ended.
    Over(HookStatus),
    /// The master has closed its connection.
    Alone,
}

struct Hook<'a> {
    request: &'a HolderRequest,
    child: Running<'a>,
    /// The hook's stdin: its end or a line releases the hook.
    input: Option<File>,
    ready: Option<File>,
    /// The text for processes of the hook that could not be ended.
    survivors: Option<String>,
}

impl<'a> Hook<'a> {
    fn start(
        request: &'a HolderRequest,
        ready: File,
        ready_writer: OwnedFd,
        seen: &'a mut dyn FnMut(&[u8]),
    ) -> Result<Hook<'a>, HookStatus> {
        let user =
            user(request.user.as_deref()).map_err(|why| HookStatus::cannot_run(why.to_string()))?;
        let pipe = pipe2(OFlag::O_CLOEXEC);
        let (stdin, input) =
            pipe.map_err(|error| HookStatus::cannot_run(strerror(&error.into())))?;
        let limit = request.output_limit.min(MAX_OUTPUT_BYTES);
        let child = Child::new(&request.program)
            .args(&request.args)
            .stdin_from(stdin)
            .keep_fd(ready_writer)
            .output_limit(usize::try_from(limit).unwrap_or(0))
            .kill_grace(Duration::try_from_secs_f64(request.kill_after).unwrap_or_default())
            .tracked();
        let started = with_user(child, user).start(seen);
        let child = started.map_err(|error| match error {
            ChildError::Exec(error) => HookStatus::not_started(&error),
            error => HookStatus::cannot_run(error.to_string()),
        })?;
        Ok(Hook {
            request,
            child,
            input: Some(input.into()),
            ready: Some(ready),
            survivors: None,
        })
    }

    fn until_ready(&mut self, master: &Connection) -> Start {
        let due = deadline_after(Instant::now(), self.request.timeout);
        let mut received = Vec::new();
        loop {
            let mut others = vec![master.as_fd()];
            others.extend(self.ready.as_ref().map(AsFd::as_fd));
            let event = self.child.wait(&others, due);
            // A hook that wrote its line and ended at once was ready: read before the event is evaluated.
            if let Some(ready) = &mut self.ready {
                let mut buffer = [0; 64];
                let is_readable_now = is_readable(ready.as_fd(), Duration::ZERO);
                match is_readable_now.then(|| ready.read(&mut buffer)) {
                    Some(Ok(0) | Err(_)) => self.ready = None,
                    Some(Ok(length)) => received.extend_from_slice(&buffer[..length]),
                    None => (),
                }
            }
            match event {
                // The master sends nothing after its request, so a readable connection is a closed one.
                Ok(ChildEvent::Readable(0)) => return Start::Alone,
                _ if received.contains(&b'\n') => return Start::Ready,
                Ok(ChildEvent::Readable(_)) => (),
                Ok(ChildEvent::Ended) => return Start::Over(self.reap()),
                Ok(ChildEvent::Due) | Err(_) => return Start::Over(self.end()),
            }
        }
    }

    /// A response with this status and the rest of the output.
    fn response_for(&mut self, status: HookStatus) -> HolderResponse {
        HolderResponse {
            status: Some(status),
            lost: None,
            output: self.take_output(),
        }
    }

    fn take_output(&mut self) -> String {
        let (output, dropped) = self.child.take_output().unwrap_or_default();
        let mut text = String::from_utf8_lossy(&output).into_owned();
        if dropped > 0 {
            text.push_str(&format!(
                "\n[{dropped} more bytes of output are left out]\n"
            ));
        }
        text.extend(self.survivors.take());
        text
    }

    /// Releases the hook by the reason and the end of its stdin, waits for its end, and kills it if its
    /// timeout expires.
    fn release(&mut self, reason: Option<ThawReason>) -> HookStatus {
        if let (Some(mut input), Some(reason)) = (self.input.take(), reason) {
            // A hook that has ended or does not read is released by the end of its stdin.
            input.write_all(reason.as_str().as_bytes()).ok();
            input.write_all(b"\n").ok();
        }
        match self
            .child
            .wait(&[], deadline_after(Instant::now(), self.request.timeout))
        {
            Ok(ChildEvent::Ended) => self.reap(),
            _ => self.end(),
        }
    }

    fn end(&mut self) -> HookStatus {
        self.survivors = note_survivors(&self.child.end());
        self.reap();
        HookStatus::TimedOut
    }

    fn reap(&mut self) -> HookStatus {
        match self.child.reap() {
            Ok(Some(status)) => status.into(),
            Ok(None) => HookStatus::TimedOut,
            Err(error) => HookStatus::cannot_run(error.to_string()),
        }
    }
}

/// `seconds` after `start`; None: never.
fn deadline_after(start: Instant, seconds: Option<f64>) -> Option<Instant> {
    let time = Duration::try_from_secs_f64(seconds?).ok()?;
    start.checked_add(time)
}
