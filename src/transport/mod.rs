//! Floor 2: the ways a host reaches the agent, all of them one [`Channel`].
//!
//! A channel is opened in two steps. [`Endpoint::open`] does what can fail and what the caller of
//! a daemon should see (before the fork, without a runtime); [`Endpoint::start`] makes it a
//! [`Channel`] inside the runtime. A channel outlives its clients: a host that goes and comes
//! back, or the next connection, is served by the same channel. Waiting costs no wakeups.

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

/// How and where to listen.
#[derive(Debug)]
pub enum Address {
    /// A virtio-serial port; any path is opened as one.
    Virtio(PathBuf),
    /// A serial line.
    Serial(PathBuf),
    /// A unix socket to be made at a path.
    Unix(PathBuf),
    /// `<cid>:<port>`.
    Vsock(String),
    /// A listening socket from the service manager.
    Activated(Activated),
    /// A method that does not exist; it is told when the channel is opened.
    Unknown(String),
}

/// Why a channel cannot be opened; one line that names the path and the reason.
#[derive(Debug, PartialEq, Eq)]
pub struct OpenError(pub String);

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}

/// An opened channel that no runtime drives yet.
pub struct Endpoint(Opened);

enum Opened {
    Virtio(OwnedFd),
    Serial(PathBuf),
    Unix(OwnedFd),
    Vsock(OwnedFd),
}

impl Endpoint {
    /// Opens the device or starts to listen.
    ///
    /// # Errors
    /// The device is missing or busy, or the socket cannot be made; see [`OpenError`].
    pub fn open(address: Address) -> Result<Self, OpenError> {
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
                return Err(OpenError(unknown_method(&method)));
            }
        }))
    }

    /// Hands the channel to the runtime of the current thread.
    ///
    /// # Errors
    /// The runtime cannot watch the descriptor, or the serial line is gone.
    pub fn start(self) -> io::Result<Channel> {
        Ok(Channel(match self.0 {
            Opened::Virtio(fd) => Kind::Virtio(VirtioChannel::new(fd)?),
            Opened::Serial(path) => Kind::Serial(Box::new(SerialChannel::open(&path)?)),
            Opened::Unix(fd) => Kind::Socket(SocketChannel::new(Listener::unix(fd)?)),
            Opened::Vsock(fd) => Kind::Socket(SocketChannel::new(Listener::vsock(fd)?)),
        }))
    }
}

/// The stream of bytes between host and agent.
pub struct Channel(Kind);

enum Kind {
    Virtio(VirtioChannel),
    Serial(Box<SerialChannel>),
    Socket(SocketChannel),
}

impl Channel {
    /// Reads at least one byte; waits through disconnects for the next host or client.
    ///
    /// # Errors
    /// The channel is lost for good (the port was unplugged).
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Virtio(channel) => channel.read(buffer).await,
            Kind::Serial(channel) => channel.read(buffer).await,
            Kind::Socket(channel) => channel.read(buffer).await,
        }
    }

    /// [`Self::read`] while an answer is still to come: a client that sends nothing more is kept
    /// for it until it has gone altogether.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub async fn read_ahead(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Virtio(_) | Kind::Serial(_) => self.read(buffer).await,
            Kind::Socket(channel) => channel.read_ahead(buffer).await,
        }
    }

    /// Which client is served: a number that changes when one has gone for good. A port or line
    /// cannot tell one host from the next.
    pub fn generation(&self) -> u64 {
        match &self.0 {
            Kind::Virtio(_) | Kind::Serial(_) => 0,
            Kind::Socket(channel) => channel.generation(),
        }
    }

    /// Writes all of `data` to whoever is connected, waiting without spinning while the reader is
    /// slow. If the reader goes away, the rest is dropped: the next one must not get the answer
    /// to another's question.
    ///
    /// # Errors
    /// The reader went away or the write failed; the channel itself may still be good, which the
    /// next read shows.
    pub async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Kind::Virtio(channel) => channel.write_all(data).await,
            Kind::Serial(channel) => channel.write_all(data).await,
            Kind::Socket(channel) => channel.write_all(data).await,
        }
    }
}

/// The device that [`Address::Virtio`] with this path opens.
pub fn locate_port(path: &Path) -> PathBuf {
    virtio::locate(path, Path::new("/"))
}

/// The text of a method that does not exist.
pub fn unknown_method(name: &str) -> String {
    format!(
        "unsupported channel method/type: {name} (use virtio-serial, isa-serial, unix-listen or vsock-listen)"
    )
}

/// The text of a device that cannot be opened.
fn cannot_open(path: &Path, error: &io::Error) -> OpenError {
    OpenError(format!(
        "error opening channel '{}': {}",
        path.display(),
        crate::sys::strerror(error)
    ))
}
