//! Loop devices (loop(4)): attaching an image so that the device goes away with its last user, and reading which
//! filesystem holds the file behind a device.
//!
//! The selftest and the tests mount images by the first; the plan orders stacked filesystems by the second.

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{major, minor};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

mod request {
    use super::LoopInfo;
    use nix::libc::c_ulong;

    nix::ioctl_none_bad!(get_free, 0x4C82);
    nix::ioctl_write_int_bad!(set_fd, 0x4C00);
    nix::ioctl_write_ptr_bad!(set_status, 0x4C04 as c_ulong, LoopInfo);
    nix::ioctl_read_bad!(get_status, 0x4C05 as c_ulong, LoopInfo);
}

/// It remains attached until this value is dropped and it is not mounted any more.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// Attaches `image` to a free loop device. Fails without the kernel's driver or permission.
    pub fn attach(image: &Path) -> io::Result<Self> {
        let image = OpenOptions::new().read(true).write(true).open(image)?;
        Self::attach_open(&image, 0, (0, 0))
    }

    /// Attaches `length` bytes of an open image from `offset`, so that nothing can write to it through the device.
    pub fn attach_read_only(image: &File, offset: u64, length: u64) -> io::Result<Self> {
        Self::attach_open(image, LO_FLAGS_READ_ONLY, (offset, length))
    }

    /// A length of 0 is the whole image.
    fn attach_open(image: &File, flags: u32, (offset, size_limit): (u64, u64)) -> io::Result<Self> {
        let is_writable = flags & LO_FLAGS_READ_ONLY == 0;
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        loop {
            // SAFETY: the request has no argument.
            let number = unsafe { request::get_free(control.as_raw_fd()) }?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            // LOOP_SET_FD makes the device read-only if one of the two descriptors is.
            let device = OpenOptions::new()
                .read(true)
                .write(is_writable)
                .open(&path)?;
            // SAFETY: both descriptors are open for the whole call.
            match unsafe { request::set_fd(device.as_raw_fd(), image.as_raw_fd()) } {
                Ok(_) => {}
                // Another process took it between the two calls.
                Err(Errno::EBUSY) => continue,
                Err(e) => return Err(e.into()),
            }
            // SAFETY: all-zero bytes are a valid value of this struct of integers.
            let mut info: LoopInfo = unsafe { std::mem::zeroed() };
            info.flags = LO_FLAGS_AUTOCLEAR | flags;
            (info.offset, info.size_limit) = (offset, size_limit);
            // SAFETY: `info` has the layout that this request reads, and is valid during the call.
            unsafe { request::set_status(device.as_raw_fd(), &info) }?;
            return Ok(Self {
                path,
                _open: device,
            });
        }
    }

    /// `/dev/loopN`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Device number of the filesystem with the file behind the loop device at `path`. The file need not be reachable by a
/// path (in another mount namespace, deleted).
pub(crate) fn backing_filesystem(path: &Path) -> io::Result<(u32, u32)> {
    let device = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    // SAFETY: all-zero bytes are a valid value of this struct of integers.
    let mut info: LoopInfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` has the layout that this request fills, and is valid during the call.
    unsafe { request::get_status(device.as_raw_fd(), &raw mut info) }?;
    let number = |part: u64| u32::try_from(part).map_err(io::Error::other);
    Ok((number(major(info.device))?, number(minor(info.device))?))
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<libc::c_int>() == 4);
