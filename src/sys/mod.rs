//! Safe functions over system calls (floor 1): the only place with `unsafe`.
//!
//! Each file covers one part of the system and owns what it opens. Nothing here knows of the agent: functions return the
//! errno that they got, and the callers name the object and the remedy. What the `nix` crate makes safe already is used
//! from there. All floors above use this.

pub(crate) mod acl;
pub(crate) mod activation;
pub(crate) mod cgroup;
pub(crate) mod clock;
pub(crate) mod confine;
pub(crate) mod daemon;
pub mod fds;
pub mod fnmatch;
pub mod fsfreeze;
pub(crate) mod fstrim;
pub(crate) mod guardian;
pub(crate) mod identity;
pub(crate) mod journal;
pub(crate) mod load;
pub(crate) mod localtime;
pub(crate) mod logfile;
pub mod loopdev;
pub(crate) mod memory;
pub mod netdevice;
pub(crate) mod nvme;
pub(crate) mod poll;
pub mod process;
pub(crate) mod rcu;
pub(crate) mod rtc;
pub(crate) mod spawn;
mod strerror;
pub(crate) mod syslog;
pub(crate) mod terminal;

pub(crate) use strerror::strerror;

/// The libc crate deprecates the name because musl has made the type wider.
#[allow(deprecated)]
pub(crate) type CTime = nix::libc::time_t;

/// `None` if the C library's type is too narrow: after 2038 with 32 bits.
#[allow(clippy::useless_conversion)] // not useless where time_t has 32 bits
pub(crate) fn c_time(seconds: i64) -> Option<CTime> {
    seconds.try_into().ok()
}
