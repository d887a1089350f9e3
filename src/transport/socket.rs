//! Listening sockets: one client at a time, the next is served when it has gone.

use super::OpenError;
use super::address::parse_vsock;
use crate::sys::strerror;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, UnixAddr, bind, connect, listen,
    socket,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_vsock::{VsockListener, VsockStream};

/// How often a client that sends nothing more is looked at while its answer is worked on; no
/// event tells the one change from the other.
const HANG_UP_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long to wait for descriptors or memory before accept(2) is called again.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Clients that may wait while one is served.
const BACKLOG: i32 = 1;

fn failed(what: &str, errno: Errno) -> OpenError {
    OpenError(format!("{what}: {}", strerror(&errno.into())))
}

fn listening(
    family: AddressFamily,
    address: &dyn SockaddrLike,
    place: &str,
) -> Result<OwnedFd, OpenError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let kind = if family == AddressFamily::Unix {
        "Unix socket"
    } else {
        "socket"
    };
    let fd = socket(family, SockType::Stream, flags, None)
        .map_err(|e| failed(&format!("Failed to create {kind}"), e))?;
    bind(fd.as_raw_fd(), address)
        .map_err(|e| failed(&format!("Failed to bind socket{place}"), e))?;
    let backlog = Backlog::new(BACKLOG).map_err(|e| failed("Failed to listen on socket", e))?;
    listen(&fd, backlog).map_err(|e| failed("Failed to listen on socket", e))?;
    Ok(fd)
}

/// Listens at `path`; a file or a socket without an owner that is there is removed.
pub fn listen_unix(path: &Path) -> Result<OwnedFd, OpenError> {
    let shown = path.display();
    let address = UnixAddr::new(path)
        .map_err(|_| OpenError(format!("UNIX socket path '{shown}' is too long")))?;
    if has_owner(&address) {
        return Err(OpenError(format!(
            "Failed to bind socket to {shown}: in use by another process; stop that one or choose another path with --path"
        )));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(OpenError(format!(
                "Failed to unlink socket {shown}: {}",
                strerror(&e)
            )));
        }
        _ => {}
    }
    listening(AddressFamily::Unix, &address, &format!(" to {shown}"))
}

/// Whether a process has this socket open. A datagram socket cannot be connected to a stream socket, and the kernel says
/// so only if the latter is bound (unix_find_other in net/unix/af_unix.c: ECONNREFUSED otherwise). A stream connection
/// would take the place of a client.
fn has_owner(address: &UnixAddr) -> bool {
    let probe = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    // Without a probe the socket is taken over as the original does.
    probe.is_ok_and(|probe| {
        matches!(
            connect(probe.as_raw_fd(), address),
            Ok(()) | Err(Errno::EPROTOTYPE)
        )
    })
}

/// Listens at `<cid>:<port>`.
pub fn listen_vsock(text: &str) -> Result<OwnedFd, OpenError> {
    listening(AddressFamily::Vsock, &parse_vsock(text)?, "")
}

/// Makes a socket from the service manager fit for the runtime.
pub fn adopt(fd: OwnedFd) -> Result<OwnedFd, OpenError> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(&fd, FcntlArg::F_GETFL)
        .and_then(|flags| {
            let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
            fcntl(&fd, FcntlArg::F_SETFL(flags))
        })
        .map_err(|e| failed("Failed to make the passed socket non-blocking", e))?;
    Ok(fd)
}

/// A listening socket that the runtime watches.
pub enum Listener {
    Unix(UnixListener),
    Vsock(VsockListener),
}

impl Listener {
    /// Watches a listening AF_UNIX socket.
    pub fn unix(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self::Unix(UnixListener::from_std(fd.into())?))
    }

    /// Watches a listening AF_VSOCK socket.
    pub fn vsock(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self::Vsock(VsockListener::from(fd)))
    }

    async fn accept(&mut self) -> io::Result<Client> {
        Ok(match self {
            Self::Unix(listener) => Client::Unix(listener.accept().await?.0),
            Self::Vsock(listener) => Client::Vsock(listener.accept().await?.0),
        })
    }
}

enum Client {
    Unix(UnixStream),
    Vsock(VsockStream),
}

impl Client {
    /// Whether it has closed both directions.
    fn has_gone(&self) -> bool {
        let fd = match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Vsock(stream) => stream.as_fd(),
        };
        let mut fds = [PollFd::new(fd, PollFlags::empty())];
        // What cannot be polled will not take an answer either.
        poll(&mut fds, PollTimeout::ZERO).is_err()
            || fds[0]
                .revents()
                .is_none_or(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    }
}

/// A listener and the client being served.
pub struct SocketChannel {
    listener: Listener,
    client: Option<Client>,
    /// The client sends nothing more; it may still wait for an answer.
    half_closed: bool,
    /// How many clients have gone.
    gone: u64,
    /// Why the last accept(2) failed, if it was a shortage; one warning is enough for each.
    shortage: Option<Errno>,
}

impl SocketChannel {
    /// Serves whoever connects to `listener`.
    pub fn new(listener: Listener) -> Self {
        Self {
            listener,
            client: None,
            half_closed: false,
            gone: 0,
            shortage: None,
        }
    }

    /// Reads from the client, or from the next one when it sends nothing more. An error on a
    /// connection ends that connection, not the channel.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.half_closed {
            self.drop_client();
        }
        self.read_or_accept(buffer, false).await
    }

    /// [`Self::read`] while the client still has an answer to come: one that has closed its
    /// sending side alone (`echo … | socat`) is kept until it has gone altogether.
    pub async fn read_ahead(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_or_accept(buffer, true).await
    }

    fn drop_client(&mut self) {
        self.client = None;
        self.half_closed = false;
        self.gone += 1;
    }

    async fn read_or_accept(&mut self, buffer: &mut [u8], owed: bool) -> io::Result<usize> {
        loop {
            let client = match &mut self.client {
                Some(client) => client,
                None => match self.listener.accept().await {
                    Ok(client) => {
                        self.shortage = None;
                        self.client.insert(client)
                    }
                    Err(error) => {
                        self.wait_after_failed_accept(error).await?;
                        continue;
                    }
                },
            };
            if !self.half_closed {
                let result = match client {
                    Client::Unix(stream) => stream.read(buffer).await,
                    Client::Vsock(stream) => stream.read(buffer).await,
                };
                match result {
                    Ok(count) if count > 0 => return Ok(count),
                    Ok(_) => {
                        tracing::debug!("received EOF");
                        self.half_closed = owed;
                    }
                    Err(e) => tracing::warn!("error reading channel: {}", strerror(&e)),
                }
            }
            while self.half_closed && !client.has_gone() {
                tokio::time::sleep(HANG_UP_POLL_INTERVAL).await;
            }
            self.drop_client();
        }
    }

    /// Returns when accept(2) is worth another try.
    ///
    /// # Errors
    /// `error`, if no later accept(2) can succeed.
    async fn wait_after_failed_accept(&mut self, error: io::Error) -> io::Result<()> {
        let errno = error.raw_os_error().map(Errno::from_raw);
        match errno {
            Some(Errno::ECONNABORTED | Errno::EINTR | Errno::EPROTO) => {
                tracing::warn!("error accepting connection: {}", strerror(&error));
            }
            // The connection stays in the queue and the socket stays readable, so without a pause this would spin.
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => {
                if self.shortage != errno {
                    tracing::warn!(
                        "error accepting connection: {}; trying again until it succeeds",
                        strerror(&error)
                    );
                }
                self.shortage = errno;
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
            _ => return Err(error),
        }
        Ok(())
    }

    /// Which client is served: a number that changes when one has gone.
    pub fn generation(&self) -> u64 {
        self.gone
    }

    /// Writes to the client; without one the data are dropped.
    pub async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.client {
            Some(Client::Unix(stream)) => stream.write_all(data).await,
            Some(Client::Vsock(stream)) => stream.write_all(data).await,
            None => Ok(()),
        }
    }
}
