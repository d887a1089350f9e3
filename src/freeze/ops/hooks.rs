//! The hook master, and the journal of the hooks that wait for their thaw.

use crate::hooks::invoke::MasterReport;
use crate::hooks::journal::RunInfo;
use crate::hooks::{Phase, ThawReason};
use std::path::PathBuf;

pub trait HookOps {
    /// `None` without a hook master. Leaves the frozen section first. The master's process itself reports its start to
    /// the guardian, so the guardian knows of it even if the agent dies at that moment.
    fn call_hooks(
        &mut self,
        phase: Phase,
        reason: Option<ThawReason>,
        run: &RunInfo,
    ) -> Option<MasterReport>;

    /// Until the end of the run.
    fn use_hook(&mut self, hook: Option<PathBuf>);

    fn has_journal(&self) -> bool;
}
