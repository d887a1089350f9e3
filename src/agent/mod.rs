//! Floor 5: the agent at work: requests come in on a channel, one after the other, and each gets
//! its answer before the next byte is looked at.

mod dispatch;
pub mod pidfile;
mod service;
mod session;
mod stop;

pub use service::run;
pub use session::Session;
pub use stop::block_signals;
