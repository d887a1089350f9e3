//! The snapshot file in the order of a run: written when all that is to be frozen is open and the hooks are done, so
//! that the flush that follows brings it to the disk; withdrawn right after the thaw; completed with the report.

use super::{Engine, Held};
use crate::freeze::ops::Ops;
use crate::freeze::plan::Target;
use crate::freeze::report::FilesystemOutcome;

impl<O: Ops> Engine<O> {
    /// Returns the index in `held` of the filesystem that has the file now. The file is not written on one that may be
    /// left out: the host would copy a disk that says `frozen` and changes.
    pub(super) fn write_snapshot(
        &mut self,
        targets: &[Target],
        held: &[Held<O::Handle>],
    ) -> Option<usize> {
        let device = self.ops.snapshot_device()?;
        let is_it = |held: &Held<_>| {
            targets.get(held.record).is_some_and(|target| {
                target.filesystem.device() == device
                    && held.watch.is_none()
                    && !target.optional
                    && !target.is_read_only
            })
        };
        let Some(at) = held.iter().position(is_it) else {
            tracing::debug!("no snapshot file: its filesystem is not frozen in this run");
            return None;
        };
        let mut run = self.report.clone();
        for held in held {
            run.set(held.record, FilesystemOutcome::Frozen);
        }
        run.compute_level();
        let written = self.ops.write_snapshot(&run);
        let is_written = written.is_ok();
        self.add_error(written);
        self.snapshot = is_written.then_some(held[at].record);
        is_written.then_some(at)
    }

    /// After the last FIFREEZE: the kernel may have refused to freeze the file's filesystem, and the run goes on.
    pub(super) fn withdraw_unfrozen_snapshot(&mut self) {
        let record = self.snapshot.take();
        let record = record.and_then(|record| self.report.filesystems.get(record));
        if record.is_some_and(|record| record.outcome == FilesystemOutcome::Skipped) {
            self.withdraw_snapshot();
        }
    }

    /// Nothing is frozen any more, or its filesystem is not.
    pub(super) fn withdraw_snapshot(&mut self) {
        let withdrawn = self.ops.withdraw_snapshot();
        self.add_error(withdrawn);
    }
}
