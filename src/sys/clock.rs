//! CLOCK_MONOTONIC, which all processes share and nobody sets, and times for clocks that are set.
//!
//! Agent, guardian and hook master compare times that another of them has read, which [`std::time::Instant`] does not
//! allow.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Since boot, without the time of suspension.
pub fn monotonic() -> Duration {
    // clock_gettime(2) fails only for an unknown clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// `None` if time_t is too narrow for the seconds: after 2038 with 32 bits.
#[allow(clippy::useless_conversion)] // not useless where c_long has 32 bits
pub fn timespec(seconds: i64, nanoseconds: i64) -> Option<TimeSpec> {
    let nanoseconds = nanoseconds.try_into().ok()?;
    Some(TimeSpec::new(super::c_time(seconds)?, nanoseconds))
}
