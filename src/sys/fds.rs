//! File descriptors: received ones, a token shared by two processes, and the limit of open files.
//!
//! Each filesystem of a freeze is one descriptor, so the agent raises its limit ([`raise_limit`]); children get the
//! inherited one back. The guardian and the agent share [`Token`]s.

use super::poll::is_readable;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{SFlag, fstat, makedev};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;
use tokio_vsock::VsockListener;

/// The owner of a descriptor that recvmsg(2) has just returned.
pub(crate) fn own_received(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel has opened it for this process in that call, and nothing else knows its number.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// The runtime's listener of a vsock(7) socket. Debian's tokio-vsock 0.7.2 has no conversion from [`OwnedFd`].
pub(crate) fn vsock_listener(socket: OwnedFd) -> VsockListener {
    // SAFETY: the number was owned until here, and the listener is its next owner.
    unsafe { VsockListener::from_raw_fd(socket.into_raw_fd()) }
}

/// Whether it is a pipe, a socket, /dev/null or a memory file: a process that opens it anew by /proc/self/fd gets no file
/// that the sender could not have opened itself.
pub(crate) fn names_no_file(fd: &OwnedFd) -> bool {
    let opened_by_path = fcntl(fd, FcntlArg::F_GETFL).map_or(true, |flags| {
        OFlag::from_bits_retain(flags).contains(OFlag::O_PATH)
    });
    let Ok(data) = fstat(fd) else {
        return false;
    };
    let kind = SFlag::from_bits_truncate(data.st_mode) & SFlag::S_IFMT;
    !opened_by_path
        && (kind == SFlag::S_IFIFO
            || kind == SFlag::S_IFSOCK
            || kind == SFlag::S_IFCHR && data.st_rdev == makedev(1, 3)
            || kind == SFlag::S_IFREG && data.st_nlink == 0)
}

/// Two processes share it and only the first that asks gets it: an eventfd(2) with the count 1. Neither waits for the
/// other, even if the other was stopped or killed, which a lock in shared memory could not promise.
#[derive(Debug)]
pub struct Token(File);

impl Token {
    /// Fails if no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_value_and_flags(1, flags)?;
        Ok(OwnedFd::from(event).into())
    }

    /// False if it was taken before.
    pub fn try_take(&self) -> bool {
        (&self.0).read_exact(&mut [0; 8]).is_ok()
    }

    /// Does not take it.
    pub fn is_free(&self) -> bool {
        is_readable(self.0.as_fd(), Duration::ZERO)
    }
}

impl From<OwnedFd> for Token {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl AsFd for Token {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The limit of open files that this process was started with, if it was raised.
static INHERITED_LIMIT: OnceLock<libc::rlimit> = OnceLock::new();

/// Children get the old limit back ([`restore_limit`]), because select(2) cannot handle descriptors from 1024 up.
pub(crate) fn raise_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        // After a second call the first value is the inherited one.
        let _ = INHERITED_LIMIT.set(libc::rlimit {
            rlim_cur: soft,
            rlim_max: hard,
        });
    }
    Ok(())
}

/// Runs between fork and exec.
pub(super) fn restore_limit() {
    if let Some(limit) = INHERITED_LIMIT.get() {
        // SAFETY: the pointer is valid during the call, which is a plain system call. Lowering a soft limit cannot fail.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_once() {
        let token = Token::new().unwrap();
        let copy = Token::from(token.as_fd().try_clone_to_owned().unwrap());
        assert!(
            token.is_free()
                && copy.try_take()
                && !copy.is_free()
                && !token.try_take()
                && !copy.try_take()
        );
    }
}
