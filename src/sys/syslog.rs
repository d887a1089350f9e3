//! A client of the system log (floor 1): messages to /dev/log in the format of syslog(3).
//!
//! It never blocks, unlike syslog(3): a message that the log daemon cannot accept now is an error for the caller, so that
//! a daemon that is stopped, or whose disk is frozen, cannot stop the agent. It connects at the first use and again after
//! the daemon was restarted. Audit lines, the hook log and the guardian use this.

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::localtime::format_local;

const SOCKET: &str = "/dev/log";
/// The rest is cut. rsyslog has a limit of 8 KiB by default (maxMessageSize).
const MAX_MESSAGE_BYTES: usize = 8000;
const FACILITY_USER: u8 = 1 << 3;

/// By the numbers of syslog(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
}

#[derive(Debug)]
pub struct Syslog {
    tag: String,
    path: PathBuf,
    socket: Option<Socket>,
}

/// Most daemons listen for datagrams; some (the busybox of small images, log relays) for a stream, in which a NUL ends
/// each message, as syslog(3) sends it.
#[derive(Debug)]
enum Socket {
    Datagram(UnixDatagram),
    Stream(UnixStream),
}

impl Socket {
    fn connect(path: &Path) -> io::Result<Socket> {
        let datagram = UnixDatagram::unbound()?;
        datagram.set_nonblocking(true)?;
        match datagram.connect(path) {
            Ok(()) => Ok(Socket::Datagram(datagram)),
            Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => {
                // Non-blocking before it connects: a daemon that accepts nobody must not stop the agent either.
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
                connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
                Ok(Socket::Stream(stream.into()))
            }
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Socket::Datagram(socket) => socket.send(message).map(drop),
            Socket::Stream(stream) => {
                let whole = [message, b"\0"].concat();
                match stream.write(&whole)? {
                    length if length == whole.len() => Ok(()),
                    // The rest would have to wait, and the daemon would read it as the next message's begin.
                    _ => Err(io::ErrorKind::BrokenPipe.into()),
                }
            }
        }
    }
}

impl Syslog {
    /// If no daemon listens yet, each send tries again.
    pub fn connect(tag: &str) -> Syslog {
        Syslog::connect_to(Path::new(SOCKET), tag)
    }

    pub fn connect_to(path: &Path, tag: &str) -> Syslog {
        let mut log = Syslog {
            tag: tag.to_owned(),
            path: path.to_owned(),
            socket: None,
        };
        // An error is reported by the first message that is lost.
        log.socket = Socket::connect(&log.path).ok();
        log
    }

    /// Line ends and NULs become blanks. After an error the message is lost: no daemon listens (ENOENT, ECONNREFUSED),
    /// or its queue is full (`WouldBlock`).
    pub fn send(&mut self, severity: Severity, text: &str) -> io::Result<()> {
        self.send_at(SystemTime::now(), severity, text)
    }

    pub fn send_at(&mut self, when: SystemTime, severity: Severity, text: &str) -> io::Result<()> {
        let message = self.message(when, severity, text);
        if let Some(socket) = &mut self.socket {
            match socket.send(&message) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // The daemon was restarted and listens at the same path with a new socket.
                Err(_) => self.socket = None,
            }
        }
        let mut socket = Socket::connect(&self.path)?;
        socket.send(&message)?;
        self.socket = Some(socket);
        Ok(())
    }

    fn message(&self, when: SystemTime, severity: Severity, text: &str) -> Vec<u8> {
        let date = format_local(when, c"%b %e %H:%M:%S");
        let priority = FACILITY_USER | severity as u8;
        let end = (0..=MAX_MESSAGE_BYTES.min(text.len()))
            .rev()
            .find(|&at| text.is_char_boundary(at));
        let text = text[..end.unwrap_or(0)]
            .trim_end_matches('\n')
            .replace(['\n', '\0'], " ");
        format!("<{priority}>{date} {}: {text}", self.tag).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 10_000];
        let length = socket.recv(&mut buffer).expect("a message");
        String::from_utf8(buffer[..length].to_vec()).expect("text")
    }

    #[test]
    fn one_line_a_message_and_reconnects() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let mut log = Syslog::connect_to(&path, "qemu-ga");
        assert!(log.send(Severity::Info, "nobody").is_err());

        let daemon = UnixDatagram::bind(&path).expect("bind");
        log.send(Severity::Info, "info: guest-ping called")
            .expect("sent");
        let got = receive(&daemon);
        assert!(got.starts_with("<14>"), "{got}");
        assert!(got.ends_with(" qemu-ga: info: guest-ping called"), "{got}");
        assert_eq!(
            got.len(),
            "<14>Nov 21 02:55:37 qemu-ga: info: guest-ping called".len()
        );

        drop(daemon);
        std::fs::remove_file(&path).expect("gone");
        let daemon = UnixDatagram::bind(&path).expect("bind again");
        log.send(Severity::Error, "a\nb\n")
            .expect("sent to the new one");
        assert!(receive(&daemon).ends_with(": a b"));
    }

    #[test]
    fn never_blocks_on_a_daemon_that_does_not_read() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let _daemon = UnixDatagram::bind(&path).expect("bind");
        let mut log = Syslog::connect_to(&path, "t");
        let full = (0..100_000).find_map(|_| log.send(Severity::Info, "x").err());
        assert_eq!(
            full.map(|error| error.kind()),
            Some(io::ErrorKind::WouldBlock)
        );
    }

    #[test]
    fn carries_the_time_it_is_given() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).expect("bind");
        let mut log = Syslog::connect_to(&path, "t");
        let when = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(951_782_400);
        log.send_at(when, Severity::Info, "x").expect("sent");
        let date = format_local(when, c"%b %e %H:%M:%S");
        assert_eq!(receive(&daemon), format!("<14>{date} t: x"));
    }
}
