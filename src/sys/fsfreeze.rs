//! The ioctls FIFREEZE and FITHAW (ioctl_fsfreeze and ioctl_fsthaw in fs/ioctl.c), and syncfs(2).
//!
//! Both ioctls act on the filesystem that holds the descriptor, whatever the mount namespace. FIFREEZE waits for every
//! write that has begun (freeze_super in fs/super.c), so each of these calls may block indefinitely; the engine and the
//! guardian run them on threads of a pool. The debug build's guard decides before that which filesystems are allowed.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

mod request {
    nix::ioctl_readwrite!(fifreeze, b'X', 119, nix::libc::c_int);
    nix::ioctl_readwrite!(fithaw, b'X', 120, nix::libc::c_int);
}

/// Writes back all dirty data, then blocks all writers. EOPNOTSUPP: the filesystem cannot be frozen; EBUSY: it is
/// frozen already; EPERM: no CAP_SYS_ADMIN; EIO and others: write-back failed.
pub fn freeze(fd: impl AsFd) -> io::Result<()> {
    let mut unused = 0;
    // SAFETY: the descriptor is open during the call, and the kernel does not use the argument.
    unsafe { request::fifreeze(fd.as_fd().as_raw_fd(), &mut unused) }?;
    Ok(())
}

/// EINVAL: the filesystem is not frozen; any other error: it stays frozen.
pub fn thaw(fd: impl AsFd) -> io::Result<()> {
    let mut unused = 0;
    // SAFETY: as in `freeze`.
    unsafe { request::fithaw(fd.as_fd().as_raw_fd(), &mut unused) }?;
    Ok(())
}

/// syncfs(2). EIO, ENOSPC, EDQUOT: write-back failed.
pub(crate) fn flush(fd: impl AsFd) -> io::Result<()> {
    nix::unistd::syncfs(fd)?;
    Ok(())
}
