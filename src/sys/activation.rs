//! systemd socket activation (sd_listen_fds(3)): which descriptors were passed to this process.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// First descriptor that systemd passes.
const FIRST_FD: RawFd = 3;

/// A listening socket received from the service manager.
#[derive(Debug)]
pub enum Activated {
    /// An AF_UNIX listening socket.
    Unix(OwnedFd),
    /// An AF_VSOCK listening socket.
    Vsock(OwnedFd),
}

/// Why the descriptors that were passed cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum ActivationError {
    /// More than one descriptor.
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

/// Takes the socket that the service manager passed, if it passed one to this very process, and
/// removes the variables from the environment so that no child believes they are meant for it.
///
/// Call it once, before any thread is started.
///
/// # Errors
/// See [`ActivationError`].
pub fn receive() -> Result<Option<Activated>, ActivationError> {
    let count = announced();
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        if count.is_some() {
            // SAFETY: called before any other thread exists, so nobody reads the environment.
            unsafe { std::env::remove_var(name) };
        }
    }
    match count {
        None | Some(0) => return Ok(None),
        Some(1) => {}
        Some(_) => return Err(ActivationError::Several),
    }
    // SAFETY: only a probe; the descriptor is not owned by anything else in this process, and is
    // taken over below only after F_GETFD has shown that it is open.
    let probe = unsafe { std::os::fd::BorrowedFd::borrow_raw(FIRST_FD) };
    fcntl(probe, FcntlArg::F_GETFD).map_err(ActivationError::Invalid)?;
    // SAFETY: open (checked above), and systemd hands its ownership to this process.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST_FD) };
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(ActivationError::Invalid)?;
    let family = getsockname::<SockaddrStorage>(socket.as_raw_fd())
        .ok()
        .and_then(|a| a.family());
    match family {
        Some(AddressFamily::Unix) => Ok(Some(Activated::Unix(socket))),
        Some(AddressFamily::Vsock) => Ok(Some(Activated::Vsock(socket))),
        _ => Err(ActivationError::Unsupported),
    }
}

/// How many descriptors the environment announces for this process; `None`: none are meant for it.
fn announced() -> Option<u32> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    (number("LISTEN_PID")? == std::process::id()).then_some(())?;
    number("LISTEN_FDS")
}
