//! The agent's end of the line to the guardian.

use super::{
    Claim, Entrustment, Inherited, PROTOCOL_VERSION, Replaced, Request, Response,
    THAW_CLAIM_TIMEOUT, THAW_HOOKS_TIMEOUT, connect, socket_path,
};
use crate::ipc::{self, Connection};
use crate::state::Expiry;
use crate::sys::fds::Token;
use crate::sys::guardian::{SocketPath, bind_guardian_socket};
use crate::sys::process::{self, Family, PidFd, PreExecWrite};
use nix::libc;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// How long the guardian may take to answer: it has nothing else to do.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the guardian has sent by itself.
#[derive(Debug)]
pub enum Received {
    /// Nothing.
    Nothing,
    /// It has ended the freeze.
    Ended(Expiry),
    /// The freeze of a predecessor: the roots of its filesystems and where its guardian listens.
    Freeze(Box<Inherited>, Vec<OwnedFd>, Socket),
    /// It is gone without a word.
    Gone,
}

/// Where guardians listen, one after another: made before the freeze, for a guardian that is started
/// while the state directory's filesystem is frozen could not make it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: SocketPath,
}

impl Socket {
    /// Listens in the state directory.
    ///
    /// # Errors
    /// As [`bind_guardian_socket`].
    pub fn open(statedir: &Path) -> io::Result<Self> {
        let (listener, path) = bind_guardian_socket(&socket_path(statedir))?;
        Ok(Self { listener, path })
    }

    /// Removes its path.
    pub fn close(self) {
        self.path.remove();
    }
}

/// The process at the other end.
#[derive(Debug)]
enum Process {
    /// Started by this agent.
    Child(Child),
    /// Started by a predecessor, reaped by init; `None` without pidfd_open(2).
    Other(Option<PidFd>),
    Ended,
}

/// A line to the guardian of the freeze at work.
#[derive(Debug)]
pub struct AgentClient {
    line: Connection,
    process: Process,
    /// Whoever takes it thaws. Until a predecessor's guardian has passed it on, there is none.
    token: Option<Token>,
    /// This agent has taken it.
    has_token: bool,
}

impl AgentClient {
    /// Starts a guardian, and does not wait for it: see [`AgentClient::await_ready`]. `freezing` hangs up when
    /// the hook master that is told to freeze has ended. One that takes the place of another knows all
    /// that it must know from its first message: the agent may die after it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        hook: Option<PathBuf>,
        statedir: PathBuf,
        run: String,
        socket: Option<&Socket>,
        freezing: BorrowedFd<'_>,
        replaces: Option<(Replaced, Vec<BorrowedFd<'_>>)>,
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let token = Token::new()?;
        let mut command = process::self_exe()?;
        command
            .arg("guardian")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        process::prepare(&mut command, Family::Session, Vec::new(), Vec::new());
        let child = command.spawn()?;
        // The command holds the guardian's end, which must close when the guardian dies.
        drop(command);
        let line = Connection::from(ours);
        let (replaces, roots) = replaces.unzip();
        let order = Request::Watch {
            hook,
            statedir,
            socket_path: socket.map(|socket| socket.path.clone()),
            run,
            replaces: replaces.map(Box::new),
        };
        let mut passed = vec![token.as_fd(), freezing];
        passed.extend(socket.map(|socket| socket.listener.as_fd()));
        passed.extend(roots.into_iter().flatten());
        line.send_with_fds(&order, &passed, RESPONSE_TIMEOUT)?;
        Ok(Self {
            line,
            process: Process::Child(child),
            token: Some(token),
            has_token: false,
        })
    }

    /// Waits until it has done what it was told last.
    ///
    /// # Errors
    /// It does not say so in time, or not at all.
    pub fn await_ready(&mut self) -> io::Result<()> {
        match self.recv(RESPONSE_TIMEOUT)? {
            Response::Ready => Ok(()),
            _ => Err(io::Error::other(
                "it answered, but not that it stands ready",
            )),
        }
    }

    /// Hands it what is about to be frozen, each with the descriptor of its root.
    ///
    /// # Errors
    /// It does not have them.
    pub fn entrust(
        &mut self,
        entrustment: Entrustment,
        roots: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let order = Request::Filesystems(entrustment);
        self.line.send_with_fds(&order, roots, RESPONSE_TIMEOUT)?;
        self.await_ready()
    }

    /// Asks the guardian that an earlier agent started for the freeze, which comes when it is heard;
    /// `None` if there is no guardian.
    pub fn find(statedir: &Path) -> Option<Self> {
        let found = connect(statedir).unwrap_or_else(|error| {
            let path = socket_path(statedir);
            tracing::warn!("the guardian at {} is not asked: {error}", path.display());
            None
        });
        let (line, pid) = found?;
        let process = match PidFd::open(pid) {
            Ok(guardian) => Process::Other(Some(guardian)),
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Process::Other(None),
            // It has ended, and its number may be another's by now.
            Err(_) => return None,
        };
        let mut link = Self {
            line,
            process,
            token: None,
            has_token: false,
        };
        link.send(&Request::Succeed).ok()?;
        Some(link)
    }

    /// Tells it something.
    ///
    /// # Errors
    /// It is gone.
    pub fn send(&mut self, order: &Request) -> io::Result<()> {
        self.line.send(order, RESPONSE_TIMEOUT)
    }

    /// What the hook master is to say for itself as it starts, so that the guardian knows of it
    /// even if the agent dies in that moment.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pre_exec_write(&self, order: &Request) -> io::Result<PreExecWrite> {
        let text = ipc::line(order)?;
        let fd = self.readiness_fd()?;
        Ok(PreExecWrite { fd, text })
    }

    fn recv(&mut self, timeout: Duration) -> io::Result<Response> {
        self.line.recv(Some(timeout))
    }

    /// Whether the guardian has not begun to thaw.
    pub fn is_undecided(&self) -> bool {
        self.has_token || self.token.as_ref().is_none_or(Token::is_free)
    }

    /// Who thaws. A guardian that has begun is waited for; one that does not go on with it is ended, so that
    /// it cannot act later. The thaw is then the agent's.
    pub fn claim(&mut self, is_early: bool) -> Claim {
        match &self.token {
            Some(_) if self.has_token => return Claim::Ours(None),
            Some(_) => {
                // First: if the agent dies in between, the next thaw must hear of an early end.
                if self.send(&Request::Claimed { is_early }).is_err() {
                    // It is dead, or has been stopped for long and must not act on what it knows.
                    self.kill();
                }
                self.has_token = self.token.as_ref().is_some_and(Token::try_take);
                if self.has_token {
                    return Claim::Ours(None);
                }
            }
            // The guardian of a predecessor that undoes the freeze, or is of another version.
            None => self.send(&Request::Claim).unwrap_or_default(),
        }
        let mut timeout = THAW_CLAIM_TIMEOUT;
        loop {
            match self.recv(timeout) {
                Ok(Response::Ended(expiry)) => return Claim::Ended(expiry),
                Ok(Response::Yours(report)) => return Claim::Ours(report),
                Ok(Response::Thawed { .. }) => timeout = THAW_HOOKS_TIMEOUT + THAW_CLAIM_TIMEOUT,
                // What is for others only shows that it lives.
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

    /// Whether a signal has stopped it.
    pub fn is_stopped(&self) -> bool {
        let pid = match &self.process {
            Process::Child(child) => i32::try_from(child.id()).ok(),
            Process::Other(_) => self.line.peer().ok().map(|peer| peer.pid()),
            Process::Ended => None,
        };
        let stat = pid.and_then(process::stat);
        stat.is_some_and(|stat| stat.is_stopped)
    }

    /// What it has said by itself, or says within a moment if that is waited for.
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
                    // A predecessor's, which has left its socket to others, may still be undoing.
                    if matches!(self.process, Process::Child(_)) {
                        self.kill();
                    }
                    Received::Gone
                }
            };
        }
    }

    fn recv_inherited(&mut self, inherited: Box<Inherited>) -> Received {
        let mut passed = self.line.take_fds().into_iter();
        let (token, listener) = (passed.next(), passed.next());
        let roots: Vec<OwnedFd> = passed.collect();
        // Of another version everything but its answer to a claim is unknown.
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

    /// Becomes readable when the guardian speaks or goes.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn readiness_fd(&self) -> io::Result<OwnedFd> {
        self.line.as_fd().try_clone_to_owned()
    }

    /// Has no more to say to it, and does not hold up its end. When it has ended, [`AgentClient::receive`] says that
    /// it is gone.
    pub fn close_sending_side(&mut self) {
        // One that is gone is parted from.
        self.line.shutdown_write().ok();
    }

    /// Lets it go.
    pub fn dismiss(mut self) {
        self.send(&Request::Done).ok();
        // It closes the line when it leaves.
        while self.recv(RESPONSE_TIMEOUT).is_ok() {}
        self.kill();
    }

    /// Leaves it in charge of the filesystems `late` alone, which FIFREEZE has not answered yet, until what this
    /// returns is dropped: should this process end before that, it thaws them.
    pub fn linger(mut self, late: &[usize]) -> Lingering {
        let orders = late.iter().map(|&number| Request::Late(number));
        for order in orders.chain([Request::Linger]) {
            self.send(&order).ok();
        }
        // The next one must find the path free.
        if !matches!(self.recv(RESPONSE_TIMEOUT), Ok(Response::Ready)) {
            tracing::warn!("the guardian does not stay for a freeze that may still come through");
            self.kill();
            return Lingering(None);
        }
        Lingering(Some(self))
    }

    /// Ends it, whatever it does.
    pub fn kill(&mut self) {
        match std::mem::replace(&mut self.process, Process::Ended) {
            Process::Child(mut child) => {
                child.kill().ok();
                child.wait().ok();
            }
            Process::Other(Some(guardian)) => guardian.send(libc::SIGKILL).unwrap_or_default(),
            Process::Other(None) => {
                if let Ok(peer) = self.line.peer() {
                    process::kill(peer.pid(), libc::SIGKILL).ok();
                }
            }
            Process::Ended => {}
        }
    }
}

/// A guardian that stays behind, unless it does not answer; let go when this is dropped.
#[derive(Debug)]
pub struct Lingering(Option<AgentClient>);

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(link) = self.0.take() {
            link.dismiss();
        }
    }
}

impl Drop for AgentClient {
    fn drop(&mut self) {
        // An agent that leaves while frozen leaves the guardian behind on purpose.
        if let Process::Child(child) = &mut self.process {
            child.try_wait().ok();
        }
    }
}
