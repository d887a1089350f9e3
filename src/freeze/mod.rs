//! Floor 3: freezing and thawing the guest's filesystems as one transaction.
//!
//! [`plan`] chooses what is frozen and in which order, [`engine`] is the state machine, [`ops`]
//! what it needs from the world (real in [`linux`], simulated in the tests), `root` what that acts on,
//! [`guardian`] the process that stands by, [`report`] what a run did. [`Freezer`] is what the commands hold: it runs the engine on a
//! thread of its own, so that a filesystem or hook that hangs never takes the protocol's task with it.
//!
//! Always holds: every hook master that was started with `freeze` is started once with `thaw`;
//! after an error nothing is frozen, or the error says what still is.

pub mod engine;
mod freezer;
pub mod guard;
pub mod guardian;
pub mod history;
mod holdups;
pub mod linux;
pub mod ops;
pub mod plan;
pub mod policy;
pub mod reach;
pub mod report;
mod root;
#[cfg(test)]
mod simulator;

pub use engine::FreezeError;
pub use freezer::Freezer;
