//! Descriptors: those that come over a socket, and how many a process may have.

use super::poll::is_readable;
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

/// Takes over a descriptor that recvmsg(2) has just made.
pub fn received(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel made it for this process in that call, and no one else knows its number.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// A thing that two processes share and one of them takes, the first that asks. Neither waits for the
/// other, whatever has become of it: an eventfd(2) with the count 1.
#[derive(Debug)]
pub struct Token(File);

impl Token {
    /// A token that nobody has taken.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_value_and_flags(1, flags)?;
        Ok(OwnedFd::from(event).into())
    }

    /// Takes it; false if it has been taken before.
    pub fn try_take(&self) -> bool {
        (&self.0).read_exact(&mut [0; 8]).is_ok()
    }

    /// Whether nobody has taken it yet.
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

/// The soft limit of open files that this process was started with, where it was raised.
static INHERITED: OnceLock<libc::rlimit> = OnceLock::new();

/// Raises the soft limit of open files to the hard one: each filesystem of a freeze is one. Children get
/// the old limit back ([`restore_limit`]), for select(2) fails beyond 1024.
///
/// # Errors
/// As setrlimit(2) has it.
pub fn raise_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        INHERITED
            .set(libc::rlimit {
                rlim_cur: soft,
                rlim_max: hard,
            })
            .ok();
    }
    Ok(())
}

/// Gives a child the limit that this process was started with; for the time between fork and exec.
pub(super) fn restore_limit() {
    if let Some(limit) = INHERITED.get() {
        // SAFETY: the pointer is good for the call, which is async-signal-safe; lowering a soft limit
        // to what it was cannot fail.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_once_whoever_asks() {
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
