//! A clock that all processes share and nobody sets, and times for clocks that are set.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// CLOCK_MONOTONIC: the time since the kernel started, without that of suspension.
pub fn monotonic() -> Duration {
    // The kernel documents no failure for this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// `None` if the C library cannot count so many seconds: after 2038 with 32 bits.
#[allow(clippy::useless_conversion)] // not with 32 bits
pub fn timespec(seconds: i64, nanoseconds: i64) -> Option<TimeSpec> {
    let nanoseconds = nanoseconds.try_into().ok()?;
    Some(TimeSpec::new(super::c_time(seconds)?, nanoseconds))
}
