//! Floor 2: the transports by which a host reaches the agent, each as a [`Channel`].
//!
//! A channel is opened in two steps, because a daemon forks between them and no runtime survives that: [`Endpoint::open`]
//! does everything that can fail, so that the error reaches who started the daemon; [`Endpoint::start`] makes a
//! [`Channel`] inside the runtime. A channel outlives its clients: a host that disconnects and comes back, or the next
//! connection, is served by the same channel. Waiting causes no wakeups. `app` opens, `agent` reads and writes.

mod address;
mod serial;
mod socket;
mod virtio;

use crate::sys::activation::Activated;
use serial::SerialChannel;
use socket::{Listener, SocketChannel};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use virtio::VirtioChannel;

#[derive(Debug)]
pub enum Address {
    /// A virtio-serial port; any path is opened as one.
    Virtio(PathBuf),
    Serial(PathBuf),
    Unix(PathBuf),
    /// `<cid>:<port>`.
    Vsock(String),
    /// A listening socket from the service manager.
    Activated(Activated),
    /// An error when the channel is opened, as in the original, and not when the configuration is read.
    Unknown(String),
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
    Vsock(OwnedFd),
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
            Address::Vsock(text) => Opened::Vsock(socket::listen_vsock(&text)?),
            Address::Activated(Activated::Unix(fd)) => Opened::Unix(socket::adopt(fd)?),
            Address::Activated(Activated::Vsock(fd)) => Opened::Vsock(socket::adopt(fd)?),
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
            Opened::Vsock(fd) => Transport::Socket(SocketChannel::new(Listener::vsock(fd)?)),
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
    /// Waits through disconnects for the next host or client. An error: the channel is lost for good (port unplugged).
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Transport::Virtio(channel) => channel.read(buffer).await,
            Transport::Serial(channel) => channel.read(buffer).await,
            Transport::Socket(channel) => channel.read(buffer).await,
        }
    }

    /// [`Self::read`] while a reply is pending: a client that has only closed its sending side is kept for it.
    pub async fn read_ahead(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Transport::Virtio(_) | Transport::Serial(_) => self.read(buffer).await,
            Transport::Socket(channel) => channel.read_ahead(buffer).await,
        }
    }

    /// Changes when a client has disconnected. A port or serial line cannot tell one host from the next.
    pub fn generation(&self) -> u64 {
        match &self.0 {
            Transport::Virtio(_) | Transport::Serial(_) => 0,
            Transport::Socket(channel) => channel.generation(),
        }
    }

    /// Waits while the client is slow. If it disconnects, the rest is dropped: the next client must not get the reply
    /// to another's request. After an error the channel may still be usable; the next read shows it.
    pub async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Transport::Virtio(channel) => channel.write_all(data).await,
            Transport::Serial(channel) => channel.write_all(data).await,
            Transport::Socket(channel) => channel.write_all(data).await,
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
