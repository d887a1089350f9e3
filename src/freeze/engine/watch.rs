//! Filesystems that cannot be frozen: vfat, which every UEFI guest has at /boot/efi.
//!
//! Such a filesystem is flushed, and the writes to its device are counted from before the first FIFREEZE until right
//! before the first FITHAW. Without a write in between, a snapshot has it as the flush left it. The count does not go
//! on to the last FITHAW: the host takes the snapshot before it asks for the thaw, and a process that another
//! filesystem's thaw wakes may write without harm. The counter files are open by then, so that reading allocates
//! nothing.

use super::{Engine, Held};
use crate::freeze::FreezeError;
use crate::freeze::ops::FilesystemOps;
use crate::freeze::policy::{FreezeMode, Pattern};
use crate::freeze::report::{DeviceWatch, FilesystemOutcome, FilesystemRecord};
use nix::libc;
use std::io;

impl<O: FilesystemOps> Engine<O> {
    pub(super) fn begin_watch(&mut self, held: &[Held<O::Handle>]) {
        let is_watched = |held: &&Held<_>| held.watch.is_some();
        let watched: Vec<_> = held.iter().filter(is_watched).collect();
        if watched.is_empty() {
            return;
        }
        let handles: Vec<&O::Handle> = watched.iter().map(|held| &held.handle).collect();
        let flushed = self.ops.flush(&handles, false);
        for (held, flushed) in watched.into_iter().zip(flushed) {
            if let Err(error) = flushed {
                let error = FreezeError::Flush(held.name.clone(), error);
                self.report.write_errors.push(error.to_string());
                self.warn(error);
                continue;
            }
            let Some((device, written)) = held
                .watch
                .and_then(|device| Some((device, self.ops.write_counters(device)?)))
            else {
                continue;
            };
            self.report.filesystems[held.record].watch = Some(DeviceWatch {
                device,
                writes: written.ended,
            });
        }
    }

    /// Whether one that refused FIFREEZE can be taken as held: it is read-only, or its device is watched.
    pub(super) fn is_held_unfrozen(&mut self, record: usize, error: &io::Error) -> bool {
        if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
            return false;
        }
        let Some(entry) = self.report.filesystems.get(record) else {
            return false;
        };
        let is_watched = entry.watch.is_some() && !self.policy.strict;
        let why = match entry.read_only {
            true => "read-only",
            false if is_watched => "flushed; writes to its device are watched",
            false => return false,
        };
        let name = &entry.mountpoint;
        tracing::info!("{name} is of a type that cannot be frozen: {why}");
        let detail = format!("this type of filesystem cannot be frozen: {why}");
        self.report
            .set_with_detail(record, FilesystemOutcome::Skipped, detail);
        true
    }

    /// After the last FITHAW: what was mounted meanwhile was not frozen.
    pub(super) fn record_new_mounts(&mut self) {
        if self.report.requested.is_some() || self.policy.freeze != FreezeMode::All {
            return;
        }
        for filesystem in self.ops.mounted_since() {
            let (mountpoint, fstype) = (&filesystem.mountpoint, &filesystem.fstype);
            let means = |pattern: &Pattern| pattern.matches(mountpoint, fstype, &[]);
            let (exclude, include) = (&self.policy.exclude, &self.policy.include);
            self.report.skipped.push(FilesystemRecord {
                outcome: FilesystemOutcome::Skipped,
                detail: Some("it was mounted while the others were frozen".into()),
                writable: !exclude.iter().any(means)
                    && (include.is_empty() || include.iter().any(means)),
                ..FilesystemRecord::new(mountpoint, fstype)
            });
        }
    }

    /// Right before the first FITHAW: a filesystem whose device was written to is not held.
    pub(super) fn end_watch(&mut self) {
        for record in &mut self.report.filesystems {
            let Some(watch) = record.watch.as_ref() else {
                continue;
            };
            if record.outcome != FilesystemOutcome::Skipped {
                continue;
            }
            let unchanged = |written: crate::probe::write_counters::Written| {
                written.ended == watch.writes && written.in_flight == 0
            };
            if !self.ops.write_counters(watch.device).is_some_and(unchanged) {
                record.watch = None;
                record.read_only = false;
                record.detail = Some(WRITTEN.into());
            }
        }
    }
}

const WRITTEN: &str =
    "it cannot be frozen, and its device was written to while the others were frozen";
