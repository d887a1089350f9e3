//! The size of a terminal (floor 1), by ioctl_tty(2).

use nix::libc;
use std::os::fd::{AsFd, AsRawFd};

nix::ioctl_read_bad!(get_window_size, libc::TIOCGWINSZ, libc::winsize);

/// None: it is no terminal, or does not know its size, as a serial console.
pub fn columns(fd: impl AsFd) -> Option<usize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel writes one struct winsize into `size`, which outlives the call.
    unsafe { get_window_size(fd.as_fd().as_raw_fd(), &mut size) }.ok()?;
    (size.ws_col > 0).then(|| size.ws_col.into())
}
