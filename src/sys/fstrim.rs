//! The ioctl FITRIM (linux/fs.h): a filesystem tells its disk which blocks are free.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

#[repr(C)]
struct Range {
    start: u64,
    length: u64,
    minimum: u64,
}

mod request {
    nix::ioctl_readwrite!(fitrim, b'X', 121, super::Range);
}

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trimmed {
    pub bytes: u64,
    /// The filesystem may have rounded the requested one.
    pub minimum: u64,
}

/// Discards every free extent of at least `minimum` bytes, which may take minutes. EOPNOTSUPP, ENOTTY: not supported by
/// the filesystem or the disk; EINVAL: `minimum` is too large; EPERM.
pub fn trim(fd: impl AsFd, minimum: u64) -> io::Result<Trimmed> {
    let mut range = Range {
        start: 0,
        length: u64::MAX,
        minimum,
    };
    // SAFETY: the descriptor is open during the call, and the range has the layout that the kernel reads and writes.
    unsafe { request::fitrim(fd.as_fd().as_raw_fd(), &mut range) }?;
    Ok(Trimmed {
        bytes: range.length,
        minimum: range.minimum,
    })
}
