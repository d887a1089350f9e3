//! systemd socket activation (sd_listen_fds(3)): takes over the socket that the service manager has passed.
//!
//! `app` calls [`receive`] once at the start. The error texts are those of QEMU's agent.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const FIRST_FD: RawFd = 3;

#[derive(Debug)]
pub enum Activated {
    Unix(OwnedFd),
    Vsock(OwnedFd),
}

/// Why the descriptors that were passed cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum ActivationError {
    Several,
    /// Descriptor 3 is not open, or its flags cannot be set.
    Invalid(nix::errno::Errno),
    /// Not a unix or vsock socket.
    Unsupported,
}

impl std::fmt::Display for ActivationError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Several => f.write_str("qemu-ga only supports listening on one socket"),
            Self::Invalid(errno) => write!(
                f,
                "Socket activation failed: invalid file descriptor fd = {FIRST_FD}: {}",
                super::strerror(&(*errno).into())
            ),
            Self::Unsupported => f.write_str("unsupported listen fd type"),
        }
    }
}

impl std::error::Error for ActivationError {}

/// Removes the variables from the environment, so that no child takes them for its own. Call it before any thread.
pub fn receive() -> Result<Option<Activated>, ActivationError> {
    let count = announced_fds();
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        if count.is_some() {
            // SAFETY: no other thread exists yet that could read the environment.
            unsafe { std::env::remove_var(name) };
        }
    }
    match count {
        None | Some(0) => return Ok(None),
        Some(1) => {}
        Some(_) => return Err(ActivationError::Several),
    }
    // SAFETY: used for F_GETFD only, which fails with EBADF if the descriptor is not open, and nothing in this process
    // opens or closes it meanwhile.
    let probe = unsafe { std::os::fd::BorrowedFd::borrow_raw(FIRST_FD) };
    fcntl(probe, FcntlArg::F_GETFD).map_err(ActivationError::Invalid)?;
    // SAFETY: it is open (checked above), systemd has passed it to this process, and nothing else here owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST_FD) };
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(ActivationError::Invalid)?;
    // An error means that it is no socket at all, which is reported as the wrong type.
    let family = getsockname::<SockaddrStorage>(socket.as_raw_fd())
        .ok()
        .and_then(|a| a.family());
    match family {
        Some(AddressFamily::Unix) => Ok(Some(Activated::Unix(socket))),
        Some(AddressFamily::Vsock) => Ok(Some(Activated::Vsock(socket))),
        _ => Err(ActivationError::Unsupported),
    }
}

/// `None` if the announcement is missing or meant for another process, such as the parent.
fn announced_fds() -> Option<u32> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    (number("LISTEN_PID")? == std::process::id()).then_some(())?;
    number("LISTEN_FDS")
}
