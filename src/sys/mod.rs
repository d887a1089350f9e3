//! Floor 1: the only `unsafe` of the crate, each file a safe and owning API over one corner of the
//! system. Nothing here knows of the agent; every function reports the error number it got.

pub mod localtime;
pub mod process;
pub mod strerror;
pub mod syslog;
