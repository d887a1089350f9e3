//! Floor 5: the agent's service: requests come in on a channel and run one after the other.
//!
//! `app` opens the first channel, forks, and calls [`run`]. [`run`] serves one channel after the other (`service`); on each,
//! `session` cuts bytes into requests, `dispatch` runs the command of each, and `stop` says when the agent may exit. All of
//! it is one task on one thread: what may block runs on the threads of [`crate::deadline`].

pub(crate) mod confinement;
mod dispatch;
pub(crate) mod pidfile;
mod restore;
mod service;
mod session;
mod stop;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod system_calls;

pub(crate) use service::run;
pub(crate) use session::Session;
pub(crate) use stop::block_signals;
