//! Floor 3: freezing and thawing the guest's filesystems as one transaction.
//!
//! [`plan`] chooses what is frozen and in which order. `engine` is the state machine of a run; `ops` is what it needs
//! from the system, implemented by `linux` and, in the tests, by the simulator. [`guardian`] is the process that thaws
//! if the agent cannot. [`report`] records what a run did. The commands hold a [`Freezer`]: it runs the engine on a
//! thread of its own, so that a filesystem or hook that hangs does not block the protocol.
//!
//! What always holds: every hook master that was started with `freeze` is started once with `thaw`. After an error
//! nothing is frozen, or the error names what still is.

pub(crate) mod engine;
mod error;
mod freezer;
pub mod guard;
pub mod guardian;
pub(crate) mod history;
mod holdups;
pub(crate) mod linux;
pub(crate) mod ops;
pub mod plan;
pub mod policy;
pub(crate) mod reach;
pub mod report;
pub mod restored;
mod root;
#[cfg(test)]
mod simulator;
pub mod snapshot;

pub(crate) use error::FreezeError;
pub(crate) use freezer::Freezer;
