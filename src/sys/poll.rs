//! A timeout of poll(2) in its unit, and whether one descriptor is ready, for all that waits without the async runtime.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// None: indefinitely. Rounded up to a millisecond: a caller that waits for the rest of a time would otherwise spin.
pub fn timeout(left: Option<Duration>) -> PollTimeout {
    let Some(left) = left else {
        return PollTimeout::NONE;
    };
    let millis = left.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

/// Whether `fd` becomes readable or hangs up within `time`; false after a signal.
pub fn is_readable(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(poll(&mut fds, timeout(Some(time))), Ok(1))
}

/// Whether the peer closes or shuts down its end within `time`. Data from before may still be unread.
pub fn has_hung_up(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let hung_up = PollFlags::from_bits_retain(libc::POLLRDHUP);
    let mut fds = [PollFd::new(fd, hung_up)];
    matches!(poll(&mut fds, timeout(Some(time))), Ok(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn times_are_rounded_up_and_cut() {
        assert_eq!(timeout(None), PollTimeout::NONE);
        assert_eq!(timeout(Some(Duration::ZERO)), PollTimeout::ZERO);
        assert_eq!(
            timeout(Some(Duration::from_nanos(1))),
            PollTimeout::from(1_u8)
        );
        assert_eq!(timeout(Some(Duration::MAX)), PollTimeout::MAX);
    }

    #[test]
    fn readable_is_what_has_bytes_or_has_ended() {
        let (here, mut there) = UnixStream::pair().unwrap();
        assert!(!is_readable(here.as_fd(), Duration::ZERO));
        there.write_all(b"x").unwrap();
        assert!(is_readable(here.as_fd(), Duration::ZERO));
        assert!(!has_hung_up(here.as_fd(), Duration::ZERO));
        there.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(has_hung_up(here.as_fd(), Duration::ZERO));
        drop(there);
        assert!(has_hung_up(here.as_fd(), Duration::MAX));
        assert!(is_readable(here.as_fd(), Duration::MAX));
    }
}
