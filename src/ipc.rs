//! JSON lines and descriptors over a Unix stream socket (floor 2), between agent, guardian, tools and the holders of
//! hooks.
//!
//! Every wait has a time limit unless the caller asks for none. A peer that has closed the connection is an error and
//! never SIGPIPE. Descriptors arrive before the line to which they belong.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, getsockopt, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::sys::fds;
use crate::sys::poll::timeout;

/// SCM_MAX_FD in the kernel's include/net/scm.h.
const MAX_FDS: usize = 253;

/// In bytes: a report of several thousand filesystems.
const MAX_LINE: usize = 16 << 20;

#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    sender: Option<i32>,
}

impl From<UnixStream> for Connection {
    fn from(stream: UnixStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            fds: VecDeque::new(),
            sender: None,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

pub fn to_line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

impl Connection {
    /// Fails with `TimedOut` if the peer does not read, with `BrokenPipe` if it has closed the connection.
    pub fn send(&self, message: &impl Serialize, limit: Duration) -> io::Result<()> {
        self.send_with_fds(message, &[], limit)
    }

    pub fn send_with_fds(
        &self,
        message: &impl Serialize,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> io::Result<()> {
        self.send_line(&to_line(message)?, fds, Instant::now() + limit)
    }

    fn send_line(&self, line: &[u8], fds: &[BorrowedFd<'_>], end: Instant) -> io::Result<()> {
        let numbers: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        for chunk in numbers.chunks(MAX_FDS) {
            // sendmsg(2) passes descriptors only together with data; a receiver ignores an empty line.
            self.send_some(b"\n", &[ControlMessage::ScmRights(chunk)], end)?;
        }
        let mut sent = 0;
        while sent < line.len() {
            sent += self.send_some(&line[sent..], &[], end)?;
        }
        Ok(())
    }

    fn send_some(
        &self,
        bytes: &[u8],
        control: &[ControlMessage<'_>],
        end: Instant,
    ) -> io::Result<usize> {
        // Not O_NONBLOCK: the flag would hold for every process that has inherited this end.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            let socket = self.stream.as_raw_fd();
            match sendmsg::<()>(socket, &[IoSlice::new(bytes)], control, flags, None) {
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, Some(end))?,
                Err(Errno::EINTR) => {}
                sent => return Ok(sent?),
            }
        }
    }

    /// Messages can still be received.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// `limit` is for the whole message, None: no limit. Fails with `TimedOut`, `UnexpectedEof` (the peer has closed
    /// the connection) or `InvalidData` (a line that is no such message).
    pub fn recv<T: DeserializeOwned>(&mut self, limit: Option<Duration>) -> io::Result<T> {
        Ok(serde_json::from_slice(&self.recv_line(limit)?)?)
    }

    fn recv_line(&mut self, limit: Option<Duration>) -> io::Result<Vec<u8>> {
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            if let Some(line) = self.next_line() {
                if !line.is_empty() {
                    return Ok(line);
                }
                continue;
            }
            if self.received.len() > MAX_LINE {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line is too long",
                ));
            }
            if self.recv_some(end)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    pub fn has_message(&self) -> bool {
        self.received.contains(&b'\n')
    }

    /// In order of arrival. Those of a received message are among them.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        self.fds.drain(..).collect()
    }

    /// When the connection was made: SO_PEERCRED in unix(7).
    pub fn peer(&self) -> io::Result<UnixCredentials> {
        Ok(getsockopt(&self.stream, sockopt::PeerCredentials)?)
    }

    /// Enables [`Connection::sender`] (SO_PASSCRED in unix(7)): after a fork several processes may use the other end.
    pub fn identify_senders(&self) -> io::Result<()> {
        Ok(setsockopt(&self.stream, sockopt::PassCred, &true)?)
    }

    /// Process id, of the last message.
    pub fn sender(&self) -> Option<i32> {
        self.sender
    }

    /// Fails if the peer is neither root nor the user of this process.
    pub fn trusted_peer(&self) -> io::Result<UnixCredentials> {
        let peer = self.peer()?;
        if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
            let text = format!("its socket belongs to user {}, not to root", peer.uid());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(peer)
    }

    fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = self.received.iter().position(|&byte| byte == b'\n')?;
        let mut line: Vec<u8> = self.received.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    fn recv_some(&mut self, end: Option<Instant>) -> io::Result<usize> {
        let mut bytes = [0; 4096];
        loop {
            // Room for all that one message may have: the kernel closes descriptors that do not fit (scm_detach_fds).
            let mut control = nix::cmsg_space!([RawFd; MAX_FDS], UnixCredentials);
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let socket = self.stream.as_raw_fd();
            let message = match recvmsg::<()>(socket, &mut parts, Some(&mut control), flags) {
                Err(Errno::EAGAIN) => {
                    self.wait(PollFlags::POLLIN, end)?;
                    continue;
                }
                Err(Errno::EINTR) => continue,
                // The peer has closed the connection without reading our last message.
                Err(Errno::ECONNRESET) => return Ok(0),
                message => message?,
            };
            for control in message.cmsgs()? {
                match control {
                    ControlMessageOwned::ScmRights(numbers) => {
                        self.fds.extend(numbers.into_iter().map(fds::own_received));
                    }
                    // The kernel does not merge data of different senders into one recvmsg(2).
                    ControlMessageOwned::ScmCredentials(sender) => self.sender = Some(sender.pid()),
                    _ => {}
                }
            }
            let length = message.bytes;
            self.received.extend_from_slice(&bytes[..length]);
            return Ok(length);
        }
    }

    fn wait(&self, what: PollFlags, end: Option<Instant>) -> io::Result<()> {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        let mut fds = [PollFd::new(self.stream.as_fd(), what)];
        match poll(&mut fds, timeout(left)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    const SHORT_TIMEOUT: Duration = Duration::from_millis(20);
    const LONG_TIMEOUT: Duration = Duration::from_secs(1000);

    fn pair() -> (Connection, Connection) {
        let (a, b) = UnixStream::pair().unwrap();
        (a.into(), b.into())
    }

    #[test]
    fn messages_arrive_in_order_and_with_their_descriptors() {
        let (a, mut b) = pair();
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let fds: Vec<BorrowedFd<'_>> = (0..MAX_FDS + 7).map(|_| writer.as_fd()).collect();
        a.send(&"first", LONG_TIMEOUT).unwrap();
        a.send_with_fds(&[1, 2], &fds, LONG_TIMEOUT).unwrap();
        assert_eq!(b.recv::<String>(Some(LONG_TIMEOUT)).unwrap(), "first");
        assert_eq!(b.recv::<[u8; 2]>(Some(LONG_TIMEOUT)).unwrap(), [1, 2]);
        let mut received = b.take_fds();
        assert_eq!(received.len(), MAX_FDS + 7);
        let mut copy = std::fs::File::from(received.remove(0));
        copy.write_all(b"x").unwrap();
        drop((copy, received, writer));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert!(!b.has_message());
    }

    #[test]
    fn a_silent_or_closed_peer_and_invalid_data_are_errors() {
        let (mut a, b) = pair();
        let kind = |result: io::Result<u8>| result.unwrap_err().kind();
        assert_eq!(kind(a.recv(Some(SHORT_TIMEOUT))), io::ErrorKind::TimedOut);
        (&b.stream).write_all(b"12").unwrap();
        assert_eq!(kind(a.recv(Some(SHORT_TIMEOUT))), io::ErrorKind::TimedOut);
        (&b.stream).write_all(b"\n{\n").unwrap();
        assert_eq!(a.recv::<u8>(Some(LONG_TIMEOUT)).unwrap(), 12);
        assert!(a.has_message());
        a.recv::<u8>(Some(LONG_TIMEOUT)).unwrap_err();
        drop(b);
        assert_eq!(kind(a.recv(None)), io::ErrorKind::UnexpectedEof);
        let gone = a.send(&1, LONG_TIMEOUT).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_peer_that_does_not_read_holds_the_sender_up_no_longer_than_the_limit() {
        let (a, _b) = pair();
        let long = "x".repeat(1 << 20);
        let error = a.send(&long, SHORT_TIMEOUT).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
