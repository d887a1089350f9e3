//! Floor 1: the only `unsafe` of the crate, each file a safe and owning API over one corner of the
//! system. Nothing here knows of the agent; every function reports the error number it got.
//! What the `nix` crate already makes safe is used from there.

pub mod acl;
pub mod activation;
pub mod cgroup;
pub mod clock;
pub mod daemon;
pub mod fds;
pub mod fnmatch;
pub mod fsfreeze;
pub mod fstrim;
pub mod guardian;
pub mod identity;
pub mod load;
pub mod localtime;
pub mod logfile;
pub mod loopdev;
pub mod memory;
pub mod netdevice;
pub mod nvme;
pub mod poll;
pub mod process;
pub mod rcu;
pub mod rtc;
pub mod spawn;
mod strerror;
pub mod syslog;

pub use strerror::strerror;

/// The C library's count of seconds. libc marks the name for musl, where it became wider.
#[allow(deprecated)]
pub(crate) type CTime = nix::libc::time_t;

/// Seconds since the epoch for the C library; `None` if its type is too narrow: after 2038 with 32 bits.
#[allow(clippy::useless_conversion)] // not with 32 bits
pub(crate) fn c_time(seconds: i64) -> Option<CTime> {
    seconds.try_into().ok()
}
