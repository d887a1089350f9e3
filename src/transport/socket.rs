//! Unix and vsock sockets. Floor 2.
//!
//! One client at a time: the next connection is accepted when the present one has disconnected. An error on a connection
//! ends that connection and not the channel. A client that has closed only its sending side (`echo … | socat`) still gets
//! its reply.

use super::ChannelError;
use super::address::parse_vsock;
use crate::sys::{fds::vsock_listener, strerror};
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

/// How often a client that has closed its sending side is checked while its reply is pending. There is no event to wait
/// for: the socket stays readable (end of file), and a full close changes only POLLHUP.
const HANG_UP_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long to wait for descriptors or memory before accept(2) is called again.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(500);

const BACKLOG: i32 = 1;

fn socket_error(what: &str, errno: Errno) -> ChannelError {
    ChannelError(format!("{what}: {}", strerror(&errno.into())))
}

fn bind_and_listen(
    family: AddressFamily,
    address: &dyn SockaddrLike,
    place: &str,
) -> Result<OwnedFd, ChannelError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let kind = if family == AddressFamily::Unix {
        "Unix socket"
    } else {
        "socket"
    };
    let fd = socket(family, SockType::Stream, flags, None)
        .map_err(|e| socket_error(&format!("Failed to create {kind}"), e))?;
    bind(fd.as_raw_fd(), address)
        .map_err(|e| socket_error(&format!("Failed to bind socket{place}"), e))?;
    let backlog =
        Backlog::new(BACKLOG).map_err(|e| socket_error("Failed to listen on socket", e))?;
    listen(&fd, backlog).map_err(|e| socket_error("Failed to listen on socket", e))?;
    Ok(fd)
}

/// A file or a socket without an owner at `path` is removed.
pub fn listen_unix(path: &Path) -> Result<OwnedFd, ChannelError> {
    let shown = path.display();
    let address = UnixAddr::new(path)
        .map_err(|_| ChannelError(format!("UNIX socket path '{shown}' is too long")))?;
    if has_owner(&address) {
        return Err(ChannelError(format!(
            "Failed to bind socket to {shown}: in use by another process; stop that one or choose another path with --path"
        )));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(ChannelError(format!(
                "Failed to unlink socket {shown}: {}",
                strerror(&e)
            )));
        }
        _ => {}
    }
    bind_and_listen(AddressFamily::Unix, &address, &format!(" to {shown}"))
}

/// Whether a process has this socket open. A datagram socket cannot be connected to a stream socket, and the kernel
/// says so only if the latter is bound (unix_find_other in net/unix/af_unix.c: ECONNREFUSED otherwise). A stream
/// connection would take the place of a client.
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

/// `<cid>:<port>`.
pub fn listen_vsock(text: &str) -> Result<OwnedFd, ChannelError> {
    bind_and_listen(AddressFamily::Vsock, &parse_vsock(text)?, "")
}

/// Makes a socket from the service manager non-blocking, as the runtime needs it.
pub fn adopt(fd: OwnedFd) -> Result<OwnedFd, ChannelError> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(&fd, FcntlArg::F_GETFL)
        .and_then(|flags| {
            let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
            fcntl(&fd, FcntlArg::F_SETFL(flags))
        })
        .map_err(|e| socket_error("Failed to make the passed socket non-blocking", e))?;
    Ok(fd)
}

pub enum Listener {
    Unix(UnixListener),
    Vsock(VsockListener),
}

impl Listener {
    pub fn unix(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self::Unix(UnixListener::from_std(fd.into())?))
    }

    pub fn vsock(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self::Vsock(vsock_listener(fd)))
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
    /// Whether it has closed both directions. poll(2) reports POLLHUP without being asked for it.
    fn has_hung_up(&self) -> bool {
        let fd = match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Vsock(stream) => stream.as_fd(),
        };
        let mut fds = [PollFd::new(fd, PollFlags::empty())];
        // A socket that cannot be polled cannot be written, either.
        poll(&mut fds, PollTimeout::ZERO).is_err()
            || fds[0]
                .revents()
                .is_none_or(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    }
}

pub struct SocketChannel {
    listener: Listener,
    client: Option<Client>,
    /// The client has closed its sending side; it may still wait for a reply.
    half_closed: bool,
    clients_gone: u64,
    /// Why the last accept(2) failed; one warning is enough for each shortage.
    shortage: Option<Errno>,
}

impl SocketChannel {
    pub fn new(listener: Listener) -> Self {
        Self {
            listener,
            client: None,
            half_closed: false,
            clients_gone: 0,
            shortage: None,
        }
    }

    /// Reads from the client, or from the next one if this one has closed its sending side and got its reply.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.half_closed {
            self.drop_client();
        }
        self.read_or_accept(buffer, false).await
    }

    pub async fn read_ahead(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_or_accept(buffer, true).await
    }

    fn drop_client(&mut self) {
        self.client = None;
        self.half_closed = false;
        self.clients_gone += 1;
    }

    async fn read_or_accept(
        &mut self,
        buffer: &mut [u8],
        reply_pending: bool,
    ) -> io::Result<usize> {
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
                        self.half_closed = reply_pending;
                    }
                    Err(e) => tracing::warn!("error reading channel: {}", strerror(&e)),
                }
            }
            while self.half_closed && !client.has_hung_up() {
                tokio::time::sleep(HANG_UP_POLL_INTERVAL).await;
            }
            self.drop_client();
        }
    }

    /// Returns when accept(2) is worth another try, or `error` if no later one can succeed.
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

    pub fn generation(&self) -> u64 {
        self.clients_gone
    }

    /// Without a client the data are dropped, because the one that asked has disconnected.
    pub async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.client {
            Some(Client::Unix(stream)) => stream.write_all(data).await,
            Some(Client::Vsock(stream)) => stream.write_all(data).await,
            None => Ok(()),
        }
    }
}
