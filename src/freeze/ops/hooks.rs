//! The hook master, and the journal of the hooks that wait for their thaw.

use crate::hooks::invoke::MasterReport;
use crate::hooks::journal::RunInfo;
use crate::hooks::{Phase, ThawReason};
use std::path::PathBuf;

/// The hooks of a run.
pub trait HookOps {
    /// Calls the hook master; `None` if there is none. Ends the frozen section for log lines first. The master gets the
    /// `run`, and the reason with a thaw. The master's process itself reports its start to the guardian, so the
    /// guardian knows of it even if the agent dies at that moment.
    fn call_hooks(
        &mut self,
        phase: Phase,
        reason: Option<ThawReason>,
        run: &RunInfo,
    ) -> Option<MasterReport>;

    /// Sets the hook master to call until the end of the run.
    fn use_hook(&mut self, hook: Option<PathBuf>);

    /// Whether the journal lists hooks that were frozen and have not been thawed.
    fn has_journal(&self) -> bool;
}
