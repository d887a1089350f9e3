//! Unix and vsock sockets. Floor 2.
//!
//! A unix socket has one client at a time, as in the original: the next connection is accepted when the present one has
//! disconnected. A vsock has several. Replies are queued for each client, so that one that does not read delays no other;
//! nothing is read of it meanwhile. An error on a connection ends that connection and not the channel. A client that has
//! closed only its sending side (`echo … | socat`) still gets its replies.

use super::address::parse_vsock;
use super::{ChannelError, MAX_QUEUED_REQUESTS, Received, VsockAccess};
use crate::sys::{fds::vsock_listener, strerror};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, UnixAddr, bind, connect, listen,
    socket,
};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::time::{Instant, sleep_until};
use tokio_vsock::VsockListener;

/// How often a client that has closed its sending side is checked while its reply is pending. There is no event to wait
/// for: the socket stays readable (end of file), and a full close changes only POLLHUP.
const HANG_UP_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long to wait for descriptors or memory before accept(2) is called again.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(500);

const BACKLOG: i32 = 1;

/// Connections of a vsock that are served side by side. More wait until one ends.
const MAX_VSOCK_CLIENTS: usize = 16;

/// What a client may send before it has authenticated: a few requests with a token.
const MAX_UNTRUSTED_BYTES: usize = 64 * 1024;

/// Peers whose refusal is logged, each once: one that tries again and again must not fill the log.
const MAX_LOGGED_REFUSALS: usize = 64;

/// VMADDR_CID_HOST in vsock(7).
const HOST_CID: u32 = 2;

/// VMADDR_CID_ANY in vsock(7).
pub const ANY_CID: u32 = u32::MAX;

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

/// Unique also beyond a channel that was lost: 0 is for transports without clients.
static NEXT_CLIENT: AtomicU64 = AtomicU64::new(1);

pub struct Listener {
    socket: ListeningSocket,
    /// Several clients may be connected, as this says; `None`: one at a time, who may be anybody.
    access: Option<VsockAccess>,
    /// CIDs whose refusal was logged.
    refused: Vec<u32>,
}

enum ListeningSocket {
    Unix(UnixListener),
    Vsock(VsockListener),
}

impl Listener {
    pub fn unix(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: ListeningSocket::Unix(UnixListener::from_std(fd.into())?),
            access: None,
            refused: Vec::new(),
        })
    }

    pub fn vsock(fd: OwnedFd, access: VsockAccess) -> Self {
        Self {
            socket: ListeningSocket::Vsock(vsock_listener(fd)),
            access: Some(access),
            refused: Vec::new(),
        }
    }

    /// As a vsock, for tests on machines without one.
    #[cfg(test)]
    pub fn like_vsock(socket: UnixListener, access: VsockAccess) -> Self {
        Self {
            socket: ListeningSocket::Unix(socket),
            access: Some(access),
            refused: Vec::new(),
        }
    }

    fn max_clients(&self) -> usize {
        self.access.as_ref().map_or(1, |_| MAX_VSOCK_CLIENTS)
    }

    fn authenticates(&self) -> bool {
        self.access
            .as_ref()
            .is_some_and(|access| access.authenticate)
    }

    /// `None`: a peer that may not connect was disconnected.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Box<dyn Stream>>>> {
        match &self.socket {
            ListeningSocket::Unix(socket) => {
                let (stream, _) = ready!(socket.poll_accept(cx))?;
                Poll::Ready(Ok(Some(Box::new(stream))))
            }
            ListeningSocket::Vsock(socket) => {
                let (stream, peer) = ready!(socket.poll_accept(cx))?;
                let refused = self
                    .access
                    .as_ref()
                    .filter(|access| !access.allows(peer.cid()));
                if refused.is_none() {
                    return Poll::Ready(Ok(Some(Box::new(stream))));
                }
                self.log_refused(peer.cid());
                Poll::Ready(Ok(None))
            }
        }
    }

    /// Returns whether it was logged.
    fn log_refused(&mut self, cid: u32) -> bool {
        if self.refused.len() >= MAX_LOGGED_REFUSALS || self.refused.contains(&cid) {
            return false;
        }
        self.refused.push(cid);
        tracing::warn!(
            "connection refused: from vsock CID {cid}: not in vsock-allow-cid; add it there if it may use the agent"
        );
        true
    }
}

impl VsockAccess {
    fn allows(&self, cid: u32) -> bool {
        cid == HOST_CID || self.cids.contains(&cid) || self.cids.contains(&ANY_CID)
    }
}

trait Stream: AsyncRead + AsyncWrite + AsFd + Unpin {}

impl<T: AsyncRead + AsyncWrite + AsFd + Unpin> Stream for T {}

struct Client {
    id: u64,
    stream: Box<dyn Stream>,
    /// Replies that it has not read yet, without the first `sent` bytes.
    output: Vec<u8>,
    sent: usize,
    /// It has closed its sending side; it may still wait for a reply.
    half_closed: bool,
    trusted: bool,
    /// Bytes that it has sent.
    received: usize,
}

impl Client {
    /// Ready when it has read its replies, or has sent something, or (`None`) is to be dropped. Nothing is read while
    /// it does not read.
    fn poll_served(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        unanswered: usize,
    ) -> Poll<Option<Received>> {
        let client = self.id;
        let received = |count| Poll::Ready(Some(Received { client, count }));
        if !self.output.is_empty() {
            return match ready!(self.poll_flush(cx)) {
                Ok(()) => received(0),
                Err(error) => {
                    tracing::warn!("error writing to channel: {}", strerror(&error));
                    Poll::Ready(None)
                }
            };
        }
        if self.half_closed && unanswered == 0 {
            return Poll::Ready(None);
        }
        if self.half_closed || unanswered > MAX_QUEUED_REQUESTS {
            return Poll::Pending;
        }
        match ready!(self.poll_read(cx, buffer)) {
            Ok(0) => {
                tracing::debug!("received EOF");
                self.half_closed = true;
                if unanswered == 0 {
                    return Poll::Ready(None);
                }
                received(0)
            }
            Ok(count) => {
                self.received = self.received.saturating_add(count);
                received(count)
            }
            Err(error) => {
                tracing::warn!("error reading channel: {}", strerror(&error));
                Poll::Ready(None)
            }
        }
    }

    /// Sends what can be sent at once, and queues the rest.
    fn write(&mut self, cx: &mut Context<'_>, mut data: &[u8]) -> io::Result<()> {
        while self.output.is_empty() && !data.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, data) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => data = &data[count?..],
                Poll::Pending => break,
            }
        }
        self.output.extend_from_slice(data);
        Ok(())
    }

    /// Ready when all output is written.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.output.len() {
            let rest = &self.output[self.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        (self.output, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Whether it has closed both directions. poll(2) reports POLLHUP without being asked for it.
    fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        // A socket that cannot be polled cannot be written, either.
        poll(&mut fds, PollTimeout::ZERO).is_err()
            || fds[0]
                .revents()
                .is_none_or(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    }
}

pub struct SocketChannel {
    listener: Listener,
    /// The one that was served last is the last.
    clients: Vec<Client>,
    /// Why the last accept(2) failed; one warning is enough for each shortage.
    shortage: Option<Errno>,
    /// The connection stays in the queue and the socket stays readable, so without a pause this would spin.
    accept_again_at: Option<Instant>,
    has_warned: bool,
}

impl SocketChannel {
    pub fn new(listener: Listener) -> Self {
        Self {
            listener,
            clients: Vec::new(),
            shortage: None,
            accept_again_at: None,
            has_warned: false,
        }
    }

    /// As [`super::Channel::read`].
    pub async fn read(
        &mut self,
        buffer: &mut [u8],
        unanswered: &dyn Fn(u64) -> usize,
    ) -> io::Result<Received> {
        loop {
            let timer = self.accept_again_at.or_else(|| {
                let half_closed = self.is_full() && self.clients.iter().any(|c| c.half_closed);
                half_closed.then(|| Instant::now() + HANG_UP_POLL_INTERVAL)
            });
            let event = tokio::select! {
                biased;
                event = poll_fn(|cx| self.poll(cx, buffer, unanswered)) => event,
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                    self.accept_again_at = None;
                    self.clients.retain(|client| !(client.half_closed && client.has_hung_up()));
                    continue;
                }
            };
            match event {
                Ok(received) => return Ok(received),
                Err(error) => self.note_failed_accept(error)?,
            }
        }
    }

    fn is_full(&self) -> bool {
        self.clients.len() >= self.listener.max_clients()
    }

    /// An error is one of accept(2).
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        unanswered: &dyn Fn(u64) -> usize,
    ) -> Poll<io::Result<Received>> {
        loop {
            if let Poll::Ready(received) = self.poll_clients(cx, buffer, unanswered) {
                return Poll::Ready(Ok(received));
            }
            let all_trusted = self.clients.iter().all(|client| client.trusted);
            if self.accept_again_at.is_some() || (self.is_full() && all_trusted) {
                return Poll::Pending;
            }
            if let Some(stream) = ready!(self.listener.poll_accept(cx))? {
                self.shortage = None;
                self.add(stream);
            }
        }
    }

    fn add(&mut self, stream: Box<dyn Stream>) {
        if self.is_full() {
            // Connections that do not authenticate must not keep others out.
            let untrusted = self.clients.iter().filter(|client| !client.trusted);
            let oldest = untrusted.map(|client| client.id).min();
            self.clients.retain(|client| Some(client.id) != oldest);
        }
        self.clients.push(Client {
            id: NEXT_CLIENT.fetch_add(1, Ordering::Relaxed),
            stream,
            output: Vec::new(),
            sent: 0,
            half_closed: false,
            trusted: !self.listener.authenticates(),
            received: 0,
        });
    }

    fn poll_clients(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        unanswered: &dyn Fn(u64) -> usize,
    ) -> Poll<Received> {
        let mut at = 0;
        while let Some(client) = self.clients.get_mut(at) {
            let unanswered = unanswered(client.id);
            match client.poll_served(cx, buffer, unanswered) {
                Poll::Pending => at += 1,
                Poll::Ready(Some(received)) => {
                    let client = self.clients.remove(at);
                    if !client.trusted && client.received > MAX_UNTRUSTED_BYTES {
                        self.log_too_much();
                        return Poll::Ready(Received {
                            count: 0,
                            ..received
                        });
                    }
                    self.clients.push(client);
                    return Poll::Ready(received);
                }
                Poll::Ready(None) => {
                    let client = self.clients.remove(at).id;
                    return Poll::Ready(Received { client, count: 0 });
                }
            }
        }
        Poll::Pending
    }

    /// Once until somebody has authenticated: a client may connect again and again.
    fn log_too_much(&mut self) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                "connection closed: a client sent more than {MAX_UNTRUSTED_BYTES} bytes without authenticating"
            );
        }
    }

    /// Fails if no later accept(2) can succeed.
    fn note_failed_accept(&mut self, error: io::Error) -> io::Result<()> {
        let errno = error.raw_os_error().map(Errno::from_raw);
        match errno {
            Some(Errno::ECONNABORTED | Errno::EINTR | Errno::EPROTO) => {
                tracing::warn!("error accepting connection: {}", strerror(&error));
            }
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => {
                if self.shortage != errno {
                    tracing::warn!(
                        "error accepting connection: {}; trying again until it succeeds",
                        strerror(&error)
                    );
                }
                self.shortage = errno;
                self.accept_again_at = Some(Instant::now() + ACCEPT_RETRY_INTERVAL);
            }
            _ => return Err(error),
        }
        Ok(())
    }

    /// Clients of a vsock each have their own stream; on a unix socket the next one continues what the last has begun, as
    /// in the original.
    pub fn framing_of(&self, client: u64) -> u64 {
        self.listener.access.as_ref().map_or(0, |_| client)
    }

    fn client(&self, id: u64) -> Option<&Client> {
        self.clients.iter().find(|client| client.id == id)
    }

    pub fn is_connected(&self, client: u64) -> bool {
        self.client(client).is_some()
    }

    pub fn has_unread_output(&self, client: u64) -> bool {
        self.client(client)
            .is_some_and(|client| !client.output.is_empty())
    }

    pub fn is_trusted(&self, client: u64) -> bool {
        !self.listener.authenticates() || self.client(client).is_some_and(|client| client.trusted)
    }

    pub fn trust(&mut self, id: u64) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.trusted = true;
            self.has_warned = false;
        }
    }

    /// Sends what the client takes at once, and queues the rest. Without the client the data are dropped.
    pub async fn write_all(&mut self, id: u64, data: &[u8]) -> io::Result<()> {
        let Some(at) = self.clients.iter().position(|client| client.id == id) else {
            return Ok(());
        };
        let written = poll_fn(|cx| Poll::Ready(self.clients[at].write(cx, data))).await;
        if written.is_err() {
            self.clients.remove(at);
        }
        written
    }

    /// Goes on sending what is queued.
    pub async fn flush(&mut self) -> Infallible {
        poll_fn(|cx| {
            self.clients
                .retain_mut(|client| !matches!(client.poll_flush(cx), Poll::Ready(Err(_))));
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_of_a_peer_is_logged_once() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let socket = UnixListener::bind(directory.path().join("sock")).unwrap();
        let mut listener = Listener::like_vsock(socket, VsockAccess::default());
        assert!(listener.log_refused(3));
        assert!(!listener.log_refused(3));
        let logged = (4..1000).filter(|&cid| listener.log_refused(cid)).count();
        assert_eq!(logged, MAX_LOGGED_REFUSALS - 1);
    }

    #[test]
    fn the_host_and_who_is_named_or_everybody() {
        let access = |cids: &[u32]| VsockAccess {
            cids: cids.to_vec(),
            authenticate: false,
        };
        for (cids, allowed, refused) in [
            (&[][..], &[HOST_CID][..], &[0, 1, 3, ANY_CID][..]),
            (&[1, 7], &[1, 7, HOST_CID], &[0, 3]),
            (&[7, ANY_CID], &[1, HOST_CID, 3, 7], &[]),
        ] {
            for &cid in allowed {
                assert!(access(cids).allows(cid), "{cids:?} {cid}");
            }
            for &cid in refused {
                assert!(!access(cids).allows(cid), "{cids:?} {cid}");
            }
        }
    }
}
