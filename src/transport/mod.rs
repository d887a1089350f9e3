//! Floor 2: the transports by which a host reaches the agent, each as a [`Channel`].
//!
//! A channel is opened in two steps, because a daemon forks between them and no runtime survives that: [`Endpoint::open`]
//! does everything that can fail, so that the error reaches who started the daemon; [`Endpoint::start`] makes a
//! [`Channel`] inside the runtime. A channel outlives its clients: a host that disconnects and comes back, or the next
//! connection, is served by the same channel. A vsock has several clients at a time, each with a number; a port or serial
//! line cannot tell one host from the next, and all are number 0. Waiting causes no wakeups. `app` opens, `agent` reads and
//! writes.

mod address;
mod serial;
mod socket;
mod virtio;

use crate::sys::activation::Activated;
use serial::SerialChannel;
pub use socket::ANY_CID;
use socket::{Listener, SocketChannel};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use virtio::VirtioChannel;

/// Requests of one client that may wait; it is not read beyond that.
pub(crate) const MAX_QUEUED_REQUESTS: usize = 32;

#[derive(Debug)]
pub enum Address {
    /// A virtio-serial port; any path is opened as one.
    Virtio(PathBuf),
    Serial(PathBuf),
    Unix(PathBuf),
    /// `<cid>:<port>`.
    Vsock(String, VsockAccess),
    /// A listening socket from the service manager.
    Activated(Activated, VsockAccess),
    /// An error when the channel is opened, as in the original, and not when the configuration is read.
    Unknown(String),
}

/// Who may use a vsock.
#[derive(Debug, Clone, Default)]
pub struct VsockAccess {
    /// The peers that may connect besides the host; with [`ANY_CID`] everybody.
    pub cids: Vec<u32>,
    /// Clients are not [trusted](Channel::is_trusted) until they have authenticated.
    pub authenticate: bool,
}

/// What [`Channel::read`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub client: u64,
    /// Bytes in the buffer; 0: it has read its replies, has closed its sending side, or is gone.
    pub count: usize,
}

/// One line with path and reason, in the original's words where it has them.
#[derive(Debug, PartialEq, Eq)]
pub struct ChannelError(pub String);

impl std::fmt::Display for ChannelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ChannelError {}

/// No runtime drives it yet.
pub struct Endpoint(Opened);

enum Opened {
    Virtio(OwnedFd),
    Serial(PathBuf),
    Unix(OwnedFd),
    Vsock(OwnedFd, VsockAccess),
}

impl Endpoint {
    pub fn open(address: Address) -> Result<Self, ChannelError> {
        Ok(Self(match address {
            Address::Virtio(path) => Opened::Virtio(virtio::open(&path)?),
            Address::Serial(path) => {
                serial::probe(&path)?;
                Opened::Serial(path)
            }
            Address::Unix(path) => Opened::Unix(socket::listen_unix(&path)?),
            Address::Vsock(text, access) => Opened::Vsock(socket::listen_vsock(&text)?, access),
            Address::Activated(Activated::Unix(fd), _) => Opened::Unix(socket::adopt(fd)?),
            Address::Activated(Activated::Vsock(fd), access) => {
                Opened::Vsock(socket::adopt(fd)?, access)
            }
            Address::Unknown(method) => {
                return Err(ChannelError(unknown_method(&method)));
            }
        }))
    }

    /// Hands the channel to the current thread's runtime.
    pub fn start(self) -> io::Result<Channel> {
        Ok(Channel(match self.0 {
            Opened::Virtio(fd) => Transport::Virtio(VirtioChannel::new(fd)?),
            Opened::Serial(path) => Transport::Serial(Box::new(SerialChannel::open(&path)?)),
            Opened::Unix(fd) => Transport::Socket(SocketChannel::new(Listener::unix(fd)?)),
            Opened::Vsock(fd, access) => {
                Transport::Socket(SocketChannel::new(Listener::vsock(fd, access)))
            }
        }))
    }
}

pub struct Channel(Transport);

enum Transport {
    Virtio(VirtioChannel),
    Serial(Box<SerialChannel>),
    Socket(SocketChannel),
}

impl Channel {
    /// Waits through disconnects for the next host or client. `unanswered` is how many requests of a client are not
    /// answered yet: one that has only closed its sending side is kept for them, and one with too many is not read. An
    /// error: the channel is lost for good (port unplugged).
    pub async fn read(
        &mut self,
        buffer: &mut [u8],
        unanswered: &dyn Fn(u64) -> usize,
    ) -> io::Result<Received> {
        if !matches!(self.0, Transport::Socket(_)) && unanswered(0) > MAX_QUEUED_REQUESTS {
            return pending().await;
        }
        let count = match &mut self.0 {
            Transport::Virtio(channel) => channel.read(buffer).await?,
            Transport::Serial(channel) => channel.read(buffer).await?,
            Transport::Socket(channel) => return channel.read(buffer, unanswered).await,
        };
        Ok(Received { client: 0, count })
    }

    /// Which stream of requests a client's bytes belong to.
    pub fn framing_of(&self, client: u64) -> u64 {
        match &self.0 {
            Transport::Virtio(_) | Transport::Serial(_) => 0,
            Transport::Socket(channel) => channel.framing_of(client),
        }
    }

    /// Whether it has not disconnected.
    pub fn is_connected(&self, client: u64) -> bool {
        match &self.0 {
            Transport::Virtio(_) | Transport::Serial(_) => true,
            Transport::Socket(channel) => channel.is_connected(client),
        }
    }

    /// Replies wait until it reads them; its further requests wait, too, so that it costs the memory of one reply.
    pub fn has_unread_output(&self, client: u64) -> bool {
        match &self.0 {
            Transport::Virtio(_) | Transport::Serial(_) => false,
            Transport::Socket(channel) => channel.has_unread_output(client),
        }
    }

    /// Whether it need not authenticate, or has done so.
    pub fn is_trusted(&self, client: u64) -> bool {
        match &self.0 {
            Transport::Virtio(_) | Transport::Serial(_) => true,
            Transport::Socket(channel) => channel.is_trusted(client),
        }
    }

    /// It has authenticated.
    pub fn trust(&mut self, client: u64) {
        if let Transport::Socket(channel) = &mut self.0 {
            channel.trust(client);
        }
    }

    /// On a port, waits while the host is slow. A socket queues what its client does not take at once: see
    /// [`Self::has_unread_output`]. If the client disconnects, the rest is dropped: the next one must not get the reply
    /// to another's request. After an error the channel may still be usable; the next read shows it.
    pub async fn write_all(&mut self, client: u64, data: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Transport::Virtio(channel) => channel.write_all(data).await,
            Transport::Serial(channel) => channel.write_all(data).await,
            Transport::Socket(channel) => channel.write_all(client, data).await,
        }
    }

    /// Sends queued replies while nothing is read.
    pub async fn flush(&mut self) -> Infallible {
        match &mut self.0 {
            Transport::Virtio(_) | Transport::Serial(_) => pending().await,
            Transport::Socket(channel) => channel.flush().await,
        }
    }
}

/// The device that [`Address::Virtio`] with this path opens.
pub fn locate_port(path: &Path) -> PathBuf {
    virtio::locate(path, Path::new("/"))
}

pub fn unknown_method(name: &str) -> String {
    format!(
        "unsupported channel method/type: {name} (use virtio-serial, isa-serial, unix-listen or vsock-listen)"
    )
}

fn device_error(path: &Path, error: &io::Error) -> ChannelError {
    ChannelError(format!(
        "error opening channel '{}': {}",
        path.display(),
        crate::sys::strerror(error)
    ))
}

#[cfg(test)]
impl Channel {
    /// A unix socket that behaves as a vsock, for tests on machines without one.
    pub fn like_vsock(socket: tokio::net::UnixListener, access: VsockAccess) -> Self {
        let listener = Listener::like_vsock(socket, access);
        Self(Transport::Socket(SocketChannel::new(listener)))
    }
}
