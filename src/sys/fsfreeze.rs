//! The FIFREEZE and FITHAW ioctls and syncfs(2) (ioctl_fsfreeze in fs/ioctl.c, syncfs(2)).
//!
//! Both ioctls act on the filesystem that holds the descriptor, whatever the mount namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

mod request {
    nix::ioctl_readwrite!(fifreeze, b'X', 119, nix::libc::c_int);
    nix::ioctl_readwrite!(fithaw, b'X', 120, nix::libc::c_int);
}

/// Writes back everything dirty, then blocks all writers of the filesystem that holds `fd`.
///
/// # Errors
/// EOPNOTSUPP: the filesystem cannot freeze; EBUSY: it is frozen already; EPERM: no
/// CAP_SYS_ADMIN; EIO and others: write-back failed.
pub fn freeze(fd: impl AsFd) -> io::Result<()> {
    let mut unused = 0;
    // SAFETY: the descriptor is borrowed for the whole call, and the kernel ignores the argument.
    unsafe { request::fifreeze(fd.as_fd().as_raw_fd(), &mut unused) }?;
    Ok(())
}

/// Undoes [`freeze`].
///
/// # Errors
/// EINVAL: the filesystem is not frozen; anything else: it stays frozen.
pub fn thaw(fd: impl AsFd) -> io::Result<()> {
    let mut unused = 0;
    // SAFETY: as in `freeze`.
    unsafe { request::fithaw(fd.as_fd().as_raw_fd(), &mut unused) }?;
    Ok(())
}

/// Writes back everything dirty of the filesystem that holds `fd`; writers go on meanwhile.
///
/// # Errors
/// EIO, ENOSPC, EDQUOT: write-back failed.
pub fn flush(fd: impl AsFd) -> io::Result<()> {
    nix::unistd::syncfs(fd)?;
    Ok(())
}
