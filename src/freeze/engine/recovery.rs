//! What an agent does with the freeze, or the remains of one, that an earlier agent left.
//!
//! A freeze that an earlier agent's guardian hands over is continued with its descriptors, limit and hook master.
//! Without a guardian the marker decides. Hooks that the journal still lists get their `thaw` in every case.

use super::{Engine, Freeze, Held, State};
use crate::freeze::FreezeError;
use crate::freeze::guardian::Inherited;
use crate::freeze::ops::{Legacy, Ops};
use crate::freeze::plan;
use crate::freeze::report::{FilesystemOutcome, Report, RunEnd};
use crate::hooks::{Phase, ThawReason};
use crate::state::{Marker, boot_id};
use std::time::Duration;

impl<O: Ops> Engine<O> {
    pub(super) fn recover(&mut self, waits: bool) {
        if !self.has_legacy {
            return;
        }
        let legacy = self.ops.legacy(waits);
        self.has_legacy = matches!(legacy, Legacy::Unknown);
        match legacy {
            Legacy::Unknown => {}
            Legacy::Freeze(inherited, handles) => self.take_over(*inherited, handles),
            Legacy::Ended(expiry) => self.record_guardian_end(&expiry),
            Legacy::Unguarded(Some(marker)) => self.take_over_unguarded(marker),
            Legacy::Unguarded(None) => {
                self.state = State::Thawed;
                self.ops.leave_frozen_section();
                self.withdraw_snapshot();
                self.thaw_hooks_left_over();
            }
        }
    }

    fn take_over(&mut self, inherited: Inherited, handles: Vec<O::Handle>) {
        self.report = *inherited.report;
        let records = &self.report.filesystems;
        let entrusted = inherited.filesystems.into_iter();
        // What that agent skipped is not ours to thaw: others may have frozen it.
        let is_frozen = |number: usize| {
            records
                .get(number)
                .is_none_or(|record| record.outcome != FilesystemOutcome::Skipped)
        };
        let held = entrusted.zip(handles);
        let held = held.filter(|(entrusted, _)| is_frozen(entrusted.number));
        let held = held.map(|(entrusted, handle)| Held {
            handle,
            optional: records.get(entrusted.number).is_some_and(|r| r.optional),
            name: entrusted.mountpoint,
            record: entrusted.number,
            batch: 0,
            watch: None,
        });
        let held = held.collect();
        let left = inherited.left_ms.map(Duration::from_millis);
        self.ops.use_hook(inherited.hook);
        self.state = State::Frozen(Freeze {
            held,
            since: Duration::from_millis(inherited.since_ms),
            ends: left.map(|left| self.ops.now() + left),
            is_inherited: true,
            guardians_left: super::freeze::MAX_GUARDIANS,
        });
    }

    /// Continues the freeze of the marker. Starts another guardian, for the limit goes on. If nothing is frozen any
    /// more, only the thaw hooks are called.
    fn take_over_unguarded(&mut self, marker: Marker) {
        self.state = State::Thawed;
        // The marker of QEMU's agent is empty: every filesystem may be frozen.
        let is_known = !marker.boot.is_empty();
        self.report = Report::begin(self.ops.wall_clock());
        self.report.errors.push(UNGUARDED.into());
        if is_known && marker.boot != boot_id() {
            return self.clean_up_legacy();
        }
        let mut targets = Vec::new();
        match self.ops.survey() {
            Ok(survey) => targets = plan::everything(&survey),
            Err(error) => self.warn(FreezeError::MountTable(error)),
        }
        targets.retain(|target| !is_known || marker.devices.contains(&target.device));
        // A freeze of hooks alone lists no device.
        let has_filesystems = !is_known || !marker.devices.is_empty();
        let held = self.open_for_thaw(&targets);
        let now = self.ops.now();
        let (mut since, mut limit) = (now, self.hold_limit);
        if is_known {
            since = since.min(Duration::from_millis(marker.since_ms));
            limit = marker.limit_ms.map(Duration::from_millis);
            self.report.id = marker.id;
            self.ops.use_hook(marker.hook);
        }
        let ends = limit.map(|limit| since + limit);
        let left = ends.map(|ends| ends.saturating_sub(now));
        let guarded = self.start_guardian_again(&held, left, None);
        self.add_error(guarded);
        let handles: Vec<&O::Handle> = held.iter().map(|held| &held.handle).collect();
        if is_known && has_filesystems && !self.ops.is_any_frozen(&handles) {
            return self.clean_up_legacy();
        }
        for held in held.iter().filter(|_| is_known) {
            self.report.set(held.record, FilesystemOutcome::Frozen);
        }
        self.state = State::Frozen(Freeze {
            held,
            since,
            ends,
            is_inherited: true,
            guardians_left: super::freeze::MAX_GUARDIANS,
        });
        self.report_frozen();
    }

    fn clean_up_legacy(&mut self) {
        let unmarked = self.ops.mark_thawed();
        if let Ok(false) = unmarked {
            // Without a marker, a guardian that could not be connected to before has ended the freeze meanwhile; it
            // calls the hook master.
            self.report = Report::default();
            self.ops.dismiss_guardian();
            self.ops.leave_frozen_section();
            return self.thaw_hooks_left_over();
        }
        self.add_error(unmarked.map(drop));
        self.withdraw_snapshot();
        self.store_expiry(0, "the agent and its guardian were killed");
        // Errors are in the log and the report; no request waits for them.
        self.call_hooks(Phase::Thaw, Some(ThawReason::Recovered))
            .err();
        self.finish(RunEnd::Expiry);
    }

    /// Calls the thaw hooks that the journal still lists: of an agent that was killed together with its guardian before
    /// anything was frozen, or of a thaw that could not call them.
    pub(super) fn thaw_hooks_left_over(&mut self) {
        if !self.ops.has_journal() {
            return;
        }
        // Without an id, which would limit the call to hooks of one run.
        self.report = Report::default();
        tracing::warn!("hooks that an earlier freeze has left asleep are told to thaw");
        // Errors are in the log; no request waits for them.
        self.call_hooks(Phase::Thaw, Some(ThawReason::Recovered))
            .err();
        self.report = Report::default();
    }
}

const UNGUARDED: &str = "the agent that froze and its guardian were killed";
