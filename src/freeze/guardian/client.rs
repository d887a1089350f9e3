//! The agent's connection to the guardian: start it, send it the filesystems, decide who thaws.
//!
//! Every wait has a time limit, and a guardian that does not answer in time is killed before the agent thaws: one that
//! was stopped must not undo a freeze that is over, or one that comes later.

use super::{
    Claim, Entrustment, Inherited, PROTOCOL_VERSION, Replaced, Request, Response,
    THAW_CLAIM_TIMEOUT, THAW_HOOKS_TIMEOUT, connect, socket_path,
};
use crate::child::Child;
use crate::ipc::{self, Connection};
use crate::state::{Expiry, writer};
use crate::sys::fds::Token;
use crate::sys::guardian::SocketPath;
use crate::sys::process::{self, PidFd, PreExecWrite, StopCheck};
use crate::sys::spawn::{reap, try_reap};
use nix::libc;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// It has one thread and nothing else to do.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum Received {
    Nothing,
    Ended(Expiry),
    /// Of a dead agent: the roots of its filesystems and its guardian's socket.
    Freeze(Box<Inherited>, Vec<OwnedFd>, Socket),
    Gone,
}

/// One guardian after another listens on it. The agent binds it before the freeze: a guardian that is started while the
/// state directory's filesystem is frozen could not.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: SocketPath,
}

impl Socket {
    pub fn open(statedir: &Path) -> io::Result<Self> {
        let (listener, path) = writer::listen(statedir)?;
        Ok(Self { listener, path })
    }

    pub fn close(self) {
        writer::stop_listening(self.path);
    }
}

#[derive(Debug)]
enum Process {
    Child(i32),
    /// Started by a dead agent, reaped by init; `None` without pidfd_open(2) (Linux before 5.3).
    Other(Option<PidFd>),
    Ended,
}

#[derive(Debug)]
pub struct AgentClient {
    connection: Connection,
    process: Process,
    /// The process that takes it thaws. `None` until the guardian of a dead agent has passed it on.
    token: Option<Token>,
    has_token: bool,
    stop_check: StopCheck,
}

impl AgentClient {
    /// Returns before the confirmation: [`AgentClient::await_ready`]. `freezing` hangs up when the freezing hook master
    /// has ended. With `replaces`, the first request has the whole state: the agent may die right after it.
    pub fn start(
        hook: Option<PathBuf>,
        (statedir, snapshot): (PathBuf, Option<PathBuf>),
        run: String,
        socket: Option<&Socket>,
        freezing: BorrowedFd<'_>,
        replaces: Option<(Replaced, Vec<BorrowedFd<'_>>)>,
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let token = Token::new()?;
        let null = File::options().write(true).open("/dev/null")?;
        let child = Child::self_exe().arg("guardian").stdin_from(theirs.into());
        let child = child.output_to(null).start(&mut |_| ())?.pid();
        let connection = Connection::from(ours);
        let (replaces, roots) = replaces.unzip();
        let request = Request::Watch {
            hook,
            statedir,
            snapshot,
            socket_path: socket.map(|socket| socket.path.clone()),
            run,
            replaces: replaces.map(Box::new),
        };
        let mut passed = vec![token.as_fd(), freezing];
        passed.extend(socket.map(|socket| socket.listener.as_fd()));
        passed.extend(roots.into_iter().flatten());
        connection.send_with_fds(&request, &passed, RESPONSE_TIMEOUT)?;
        Ok(Self {
            connection,
            process: Process::Child(child),
            token: Some(token),
            has_token: false,
            stop_check: StopCheck::default(),
        })
    }

    pub fn await_ready(&mut self) -> io::Result<()> {
        match self.recv(RESPONSE_TIMEOUT)? {
            Response::Ready => Ok(()),
            _ => Err(io::Error::other(
                "it answered, but not that it stands ready",
            )),
        }
    }

    /// Waits for the confirmation.
    pub fn entrust(
        &mut self,
        entrustment: Entrustment,
        roots: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let request = Request::Filesystems(entrustment);
        self.connection
            .send_with_fds(&request, roots, RESPONSE_TIMEOUT)?;
        self.await_ready()
    }

    /// Asks a dead agent's guardian for the freeze, which [`AgentClient::receive`] returns; `None` if there is none.
    pub fn find(statedir: &Path) -> Option<Self> {
        let found = connect(statedir).unwrap_or_else(|error| {
            let path = socket_path(statedir);
            tracing::warn!("the guardian at {} is not asked: {error}", path.display());
            None
        });
        let (connection, pid) = found?;
        let process = match PidFd::open(pid) {
            Ok(guardian) => Process::Other(Some(guardian)),
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Process::Other(None),
            // It has exited, and another process may have its number by now.
            Err(_) => return None,
        };
        let mut client = Self {
            connection,
            process,
            token: None,
            has_token: false,
            stop_check: StopCheck::default(),
        };
        // It has closed the connection: it is exiting, and the marker shows what it has left.
        client.send(&Request::Succeed).ok()?;
        Some(client)
    }

    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        self.connection.send(request, RESPONSE_TIMEOUT)
    }

    /// The hook master's process writes it before execve(2): the guardian knows of it even if the agent dies then.
    pub fn pre_exec_write(&self, request: &Request) -> io::Result<PreExecWrite> {
        let text = ipc::to_line(request)?;
        let fd = self.readiness_fd()?;
        Ok(PreExecWrite { fd, text })
    }

    fn recv(&mut self, timeout: Duration) -> io::Result<Response> {
        self.connection.recv(Some(timeout))
    }

    /// Whether the guardian has not begun to thaw.
    pub fn is_undecided(&self) -> bool {
        self.has_token || self.token.as_ref().is_none_or(Token::is_free)
    }

    /// Decides which process thaws. If the guardian has the token, its thaw is waited for; if it does not go on with
    /// it, it is killed, so that it cannot act later, and the agent thaws.
    pub fn claim(&mut self, is_early: bool) -> Claim {
        match &self.token {
            Some(_) if self.has_token => return Claim::Ours(None),
            Some(_) => {
                // Before the token is taken: if the agent dies in between, the next thaw must report the early end.
                if self.send(&Request::Claimed { is_early }).is_err() {
                    // It is dead, or has been stopped for long and must not act later on outdated state.
                    self.kill();
                }
                self.has_token = self.token.as_ref().is_some_and(Token::try_take);
                if self.has_token {
                    return Claim::Ours(None);
                }
            }
            // The guardian of a dead agent, which undoes the freeze or is of another version.
            None => self.send(&Request::Claim).unwrap_or_default(),
        }
        let mut timeout = THAW_CLAIM_TIMEOUT;
        loop {
            match self.recv(timeout) {
                Ok(Response::Ended(expiry)) => return Claim::Ended(expiry),
                Ok(Response::Yours(report)) => return Claim::Ours(report),
                Ok(Response::Thawed(_)) => timeout = THAW_HOOKS_TIMEOUT + THAW_CLAIM_TIMEOUT,
                // Meant for other requests; they only show that the guardian works.
                Ok(
                    Response::Ready
                    | Response::Freeze(_)
                    | Response::Standing(_)
                    | Response::Refused(_),
                ) => {}
                Err(error) => {
                    tracing::warn!("the guardian does not answer: {error}; the agent thaws");
                    self.kill();
                    return Claim::Ours(None);
                }
            }
        }
    }

    /// Whether this call and the one before it have found the guardian stopped by a signal.
    pub fn stays_stopped(&mut self) -> bool {
        // One whose process id is unknown is not taken for stopped.
        let pid = match &self.process {
            Process::Child(child) => Some(*child),
            Process::Other(_) => self.connection.peer().ok().map(|peer| peer.pid()),
            Process::Ended => None,
        };
        pid.is_some_and(|pid| self.stop_check.stays_stopped(pid))
    }

    /// What the guardian has sent unasked; with `waits`, also what arrives within [`RESPONSE_TIMEOUT`].
    pub fn receive(&mut self, waits: bool) -> Received {
        let timeout = if waits {
            RESPONSE_TIMEOUT
        } else {
            Duration::ZERO
        };
        loop {
            return match self.recv(timeout) {
                Ok(Response::Ended(expiry)) => Received::Ended(expiry),
                Ok(Response::Freeze(inherited)) => self.recv_inherited(inherited),
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => Received::Nothing,
                Err(_) => {
                    // The guardian of a dead agent may still be undoing after it has closed its socket. It is not
                    // killed.
                    if matches!(self.process, Process::Child(_)) {
                        self.kill();
                    }
                    Received::Gone
                }
            };
        }
    }

    fn recv_inherited(&mut self, inherited: Box<Inherited>) -> Received {
        let mut passed = self.connection.take_fds().into_iter();
        let (token, listener) = (passed.next(), passed.next());
        let roots: Vec<OwnedFd> = passed.collect();
        // Of another version only the response to Claim is understood.
        let is_known = inherited.version == PROTOCOL_VERSION;
        match listener {
            Some(listener) if is_known && roots.len() == inherited.filesystems.len() => {
                self.token = token.map(Token::from);
                let socket = Socket {
                    listener: listener.into(),
                    path: inherited.socket_path.clone(),
                };
                Received::Freeze(inherited, roots, socket)
            }
            _ => Received::Nothing,
        }
    }

    /// Becomes readable when the guardian sends something or exits.
    pub fn readiness_fd(&self) -> io::Result<OwnedFd> {
        self.connection.as_fd().try_clone_to_owned()
    }

    /// A guardian that undoes the freeze waits for this; [`Received::Gone`] follows when it has exited.
    pub fn close_sending_side(&mut self) {
        // ENOTCONN: it has exited already.
        self.connection.shutdown_write().ok();
    }

    pub fn dismiss(mut self) {
        // If it cannot be sent, the guardian is killed below.
        self.send(&Request::Done).ok();
        // It closes the connection when it exits.
        while self.recv(RESPONSE_TIMEOUT).is_ok() {}
        self.kill();
    }

    /// Leaves the guardian in charge of the filesystems `late` alone, whose FIFREEZE has not returned, until the
    /// returned value is dropped. If this process dies before that, the guardian thaws them.
    pub fn linger(mut self, late: &[usize]) -> Lingering {
        let requests = late.iter().map(|&number| Request::Late(number));
        for request in requests.chain([Request::Linger]) {
            // If it does not arrive, no Ready follows.
            self.send(&request).ok();
        }
        // The guardian of the next freeze needs the socket path; Ready confirms that this one has closed it.
        if !matches!(self.recv(RESPONSE_TIMEOUT), Ok(Response::Ready)) {
            tracing::warn!("the guardian does not stay for a freeze that may still come through");
            self.kill();
            return Lingering(None);
        }
        Lingering(Some(self))
    }

    pub fn kill(&mut self) {
        // A signal fails only for a process that has exited.
        match std::mem::replace(&mut self.process, Process::Ended) {
            Process::Child(child) => {
                process::kill(child, libc::SIGKILL).ok();
                reap(child).ok();
            }
            Process::Other(Some(guardian)) => guardian.send(libc::SIGKILL).unwrap_or_default(),
            Process::Other(None) => {
                if let Ok(peer) = self.connection.peer() {
                    process::kill(peer.pid(), libc::SIGKILL).ok();
                }
            }
            Process::Ended => {}
        }
    }
}

/// `None`: the guardian did not confirm. Dismissed on drop.
#[derive(Debug)]
pub struct Lingering(Option<AgentClient>);

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            client.dismiss();
        }
    }
}

impl Drop for AgentClient {
    fn drop(&mut self) {
        // Not killed: an agent that exits while frozen leaves the guardian in charge. One that has exited is reaped.
        if let Process::Child(child) = self.process {
            try_reap(child).ok();
        }
    }
}
