//! The FITRIM ioctl (linux/fs.h): tells a filesystem's disk which blocks are free.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `struct fstrim_range`.
#[repr(C)]
struct Range {
    start: u64,
    length: u64,
    minimum: u64,
}

mod request {
    nix::ioctl_readwrite!(fitrim, b'X', 121, super::Range);
}

/// What a trim came to, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trimmed {
    /// Handed to the disk as free.
    pub bytes: u64,
    /// The shortest free extent that was considered; the filesystem may round what was asked.
    pub minimum: u64,
}

/// Discards every free extent of at least `minimum` bytes of the filesystem that holds `fd`. It
/// may take minutes.
///
/// # Errors
/// EOPNOTSUPP, ENOTTY: filesystem or disk cannot; EINVAL: `minimum` is too large; EPERM.
pub fn trim(fd: impl AsFd, minimum: u64) -> io::Result<Trimmed> {
    let mut range = Range {
        start: 0,
        length: u64::MAX,
        minimum,
    };
    // SAFETY: the descriptor is borrowed and the range good for the whole call, which reads and
    // writes it.
    unsafe { request::fitrim(fd.as_fd().as_raw_fd(), &mut range) }?;
    Ok(Trimmed {
        bytes: range.length,
        minimum: range.minimum,
    })
}
