//! The operations on the system that the engine needs, as traits, one for each subject.
//!
//! [`super::linux::LinuxOps`] performs them; the simulator's implementation in the tests fails or dies at any step. The
//! engine calls the methods in the order of the transaction, one at a time. A part of the engine that needs the
//! filesystems alone names that trait; [`Ops`] is all of them.

mod filesystems;
mod guardian;
mod hooks;
mod snapshot;
mod state;
mod system;

pub use filesystems::{FilesystemOps, FreezeWait, OpenError, REORDER_DELAY};
pub use guardian::{GuardianNews, GuardianOps, HeldFilesystem, Legacy};
pub use hooks::HookOps;
pub use snapshot::SnapshotOps;
pub use state::StateOps;
pub use system::SystemOps;

/// All operations of a run.
pub trait Ops: GuardianOps + HookOps + SnapshotOps + StateOps + SystemOps {}

impl<T: GuardianOps + HookOps + SnapshotOps + StateOps + SystemOps> Ops for T {}
