//! From the request to the last FIFREEZE, and the undo if a step fails.
//!
//! A run that fails is rolled back before its error is returned: everything is thawed and the thaw hooks are called,
//! unless the guardian does both.

use super::{Engine, Freeze, Held, State};
use crate::freeze::FreezeError;
use crate::freeze::guardian::{Claim, Entrusted, Request};
use crate::freeze::ops::{HeldFilesystem, Ops};
use crate::freeze::plan::{self, Plan, Survey, Target};
use crate::freeze::policy::FreezeMode;
use crate::freeze::report::FilesystemOutcome;
use crate::hooks::journal::RunInfo;
use crate::hooks::{Phase, ThawReason, words};
use crate::state::Marker;
use std::io;
use std::time::Duration;

/// Without a flush before FIFREEZE, which writes 4 MiB itself, within 40 ms at 100 MB/s.
const MAX_DIRTY_BYTES: u64 = 4 << 20;

/// After the hooks: a process that keeps writing must not delay the freeze without end.
const MAX_FLUSHES: u32 = 3;

/// Started while all is frozen. What kills one guardian may kill them all; then starting more does not help.
pub(super) const MAX_GUARDIANS: u32 = 3;

impl<O: Ops> Engine<O> {
    /// No filesystem is held open while the hooks run, because a hook may unmount one or stop its device.
    pub(super) fn prepare(
        &mut self,
        only: Option<&[Vec<u8>]>,
    ) -> Result<Vec<Held<O::Handle>>, FreezeError> {
        self.hooks_only = self.policy.freeze == FreezeMode::HooksOnly;
        if self.policy.freeze != FreezeMode::Off {
            // It starts up while this thread plans and flushes; wait_for_guardian is below.
            let started = self.ops.start_guardian(&self.report.id);
            self.add_error(started.map_err(FreezeError::NoGuardian));
        }
        let survey = self.ops.survey();
        let plan = self.plan(survey, only)?;
        let held = self.open(&plan.targets, false)?;
        if held.is_empty() && !self.hooks_only {
            tracing::warn!("nothing to freeze: no mounted filesystem was chosen, no hook was run");
            return Ok(held);
        }
        let is_dirty = self
            .ops
            .dirty_bytes()
            .is_none_or(|bytes| bytes > MAX_DIRTY_BYTES);
        self.report.stages.flush = self.flush(&held, is_dirty)?;
        // An open descriptor would keep a hook from unmounting the filesystem.
        drop(held);
        self.refuse_if_stopping()?;
        // Before the hooks: from their first freeze on another process must be able to undo it.
        let ready = self.ops.wait_for_guardian();
        self.add_error(ready.map_err(FreezeError::NoGuardian));
        let called = self.call_hooks(Phase::Freeze, None);
        let held = called.and_then(|ran| self.prepare_again(only, plan, ran));
        let freezes_nothing = match &held {
            Ok(held) => held.is_empty() && !self.hooks_only,
            Err(_) => true,
        };
        if freezes_nothing {
            // Errors of the roll-back are in the log and the report; the answer is the error that caused it.
            self.roll_back();
        }
        held
    }

    fn prepare_again(
        &mut self,
        only: Option<&[Vec<u8>]>,
        mut plan: Plan,
        hooks_ran: bool,
    ) -> Result<Vec<Held<O::Handle>>, FreezeError> {
        if self.hooks_only {
            for record in 0..plan.targets.len() {
                let why = "a hook adapter's settings ask that no filesystem be frozen";
                self.report
                    .set_with_detail(record, FilesystemOutcome::Skipped, why);
            }
            return Ok(Vec::new());
        }
        if let Some(survey) = self.ops.survey_again().transpose() {
            let before = std::mem::take(&mut plan);
            plan = self.plan(survey, only)?;
            log_plan_changes(&before.targets, &plan.targets);
            self.report.ignore_unmounted(&before.targets);
        }
        let held = self.open(&plan.targets, true)?;
        if held.is_empty() {
            return Ok(held);
        }
        let snapshot = self.write_snapshot(&plan.targets, &held);
        self.report.stages.flush_again = self.flush_again(&held, hooks_ran, snapshot)?;
        self.refuse_if_stopping()?;
        let entrusted: Vec<_> = held.iter().map(Held::entrusted).collect();
        if let Err(error) = self.ops.entrust(&entrusted, self.hold_limit) {
            self.warn(FreezeError::NoGuardian(error));
            if !self.ops.is_undecided() {
                return Err(self.fail(FreezeError::HoldLimit(None)));
            }
            // A hook may have killed the first guardian.
            let replaced = self.start_guardian_again(&held, self.hold_limit, None);
            self.add_error(replaced);
        }
        Ok(held)
    }

    /// `since` is when everything was frozen; `None`: not yet.
    pub(super) fn start_guardian_again(
        &mut self,
        held: &[Held<O::Handle>],
        limit: Option<Duration>,
        since: Option<Duration>,
    ) -> Result<(), FreezeError> {
        let entrusted: Vec<_> = held.iter().map(Held::entrusted).collect();
        self.ops
            .replace_guardian(&self.report.id, &entrusted, limit, since)
            .map_err(FreezeError::NoGuardian)
    }

    pub(super) fn replace_guardian(&mut self) {
        let limit = self.time_left();
        let State::Frozen(mut freeze) = std::mem::replace(&mut self.state, State::Thawed) else {
            return;
        };
        while let Some(left) = freeze.guardians_left.checked_sub(1) {
            freeze.guardians_left = left;
            match self.start_guardian_again(&freeze.held, limit, Some(freeze.since)) {
                Ok(()) => break,
                Err(error) => self.warn(error),
            }
        }
        self.state = State::Frozen(freeze);
        self.report_frozen();
    }

    pub(super) fn report_frozen(&mut self) {
        let State::Frozen(freeze) = &self.state else {
            return;
        };
        self.report.compute_level();
        self.ops.send_to_guardian(Request::Frozen {
            report: Box::new(self.report.clone()),
            order: freeze.held.iter().map(|held| held.record).collect(),
            since_ms: freeze.since.as_millis() as u64,
        });
    }

    fn plan(
        &mut self,
        survey: io::Result<Survey>,
        only: Option<&[Vec<u8>]>,
    ) -> Result<Plan, FreezeError> {
        let survey = survey.map_err(|e| self.fail(FreezeError::MountTable(e)))?;
        let plan = plan::make(&survey, &self.policy, only);
        let plan = plan.map_err(|cycle| self.fail(FreezeError::Cycle(cycle)))?;
        for note in &plan.notes {
            tracing::info!("{note}");
        }
        self.report.plan(&plan);
        Ok(plan)
    }

    /// One that may fail is left out; logged only if `is_last`: before the hooks run, a hook may still change it.
    fn open(
        &mut self,
        targets: &[Target],
        is_last: bool,
    ) -> Result<Vec<Held<O::Handle>>, FreezeError> {
        let mut held = Vec::with_capacity(targets.len());
        let (mut failures, mut no_descriptors) = (Ok(()), Vec::new());
        let opened = self.ops.open(targets);
        for ((record, target), handle) in targets.iter().enumerate().zip(opened) {
            let name = target.filesystem.name();
            let error = match handle {
                Ok(handle) => {
                    held.push(Held::new(handle, record, target));
                    continue;
                }
                Err(error) => error,
            };
            let tolerated = error.is_hidden() && (!self.policy.strict || target.is_read_only);
            let tolerated = tolerated || target.optional;
            if error.is_too_many() && !tolerated {
                self.report
                    .set_with_detail(record, FilesystemOutcome::Failed, error);
                no_descriptors.push(name);
            } else if is_last || !tolerated {
                let error = FreezeError::Open(name, error);
                failures = failures.and(self.exclude(record, error, tolerated));
            }
        }
        if !no_descriptors.is_empty() {
            let error = FreezeError::TooManyFiles(no_descriptors);
            failures = failures.and(Err(self.fail(error)));
        }
        failures.map(|()| held)
    }

    fn run(&self) -> RunInfo {
        let filesystems = &self.report.filesystems;
        let mountpoints = match &self.report.mountpoints[..] {
            // An earlier agent's report; our own hook master has recorded them at the freeze.
            "" => words(filesystems.iter().map(|f| &f.mountpoint)),
            exact => exact.to_owned(),
        };
        RunInfo {
            id: self.report.id.clone(),
            mountpoints,
            devices: words(filesystems.iter().map(|f| &f.device)),
            hold_limit: self.hold_limit.map_or(0.0, |limit| limit.as_secs_f64()),
        }
    }

    /// Repeats the flush while at most half of what was dirty before is left: then flushing is faster than the writers.
    /// The filesystem with the snapshot file is flushed in any case. Returns the seconds it took.
    fn flush_again(
        &mut self,
        held: &[Held<O::Handle>],
        hooks_ran: bool,
        snapshot: Option<usize>,
    ) -> Result<f64, FreezeError> {
        let (mut seconds, mut before) = (0.0, u64::MAX);
        for turn in 0..MAX_FLUSHES {
            let dirty = self.ops.dirty_bytes();
            let is_dirty = dirty.map_or(turn == 0, |bytes| bytes > MAX_DIRTY_BYTES);
            let helps = is_dirty && dirty.is_none_or(|bytes| bytes <= before / 2);
            let is_required = hooks_ran && turn == 0;
            if !helps && !is_required {
                let written = snapshot.and_then(|at| held.get(at)).filter(|_| turn == 0);
                if let Some(held) = written {
                    seconds += self.flush(std::slice::from_ref(held), false)?;
                }
                break;
            }
            seconds += self.flush(held, is_dirty)?;
            before = dirty.unwrap_or_default();
        }
        Ok(seconds)
    }

    /// Returns seconds. An error is only reported: FIFREEZE flushes again and decides. A timeout ends the run.
    fn flush(&mut self, held: &[Held<O::Handle>], commits_first: bool) -> Result<f64, FreezeError> {
        let start = self.ops.now();
        let handles: Vec<&O::Handle> = held.iter().map(|h| &h.handle).collect();
        let mut hangs = None;
        let done = self.ops.flush(&handles, commits_first);
        for (result, held) in done.into_iter().zip(held) {
            let Err(e) = result else { continue };
            let is_overdue = e.kind() == io::ErrorKind::TimedOut;
            let error = FreezeError::Flush(held.name.clone(), e);
            if is_overdue {
                self.report
                    .set_with_detail(held.record, FilesystemOutcome::Failed, &error);
                hangs.get_or_insert(error);
            } else {
                self.report.write_errors.push(error.to_string());
                self.warn(error);
            }
        }
        match hangs {
            Some(error) => Err(self.fail(error)),
            None => Ok(self.seconds_since(start)),
        }
    }

    /// Returns whether a hook may have run.
    pub(super) fn call_hooks(
        &mut self,
        phase: Phase,
        reason: Option<ThawReason>,
    ) -> Result<bool, FreezeError> {
        let start = self.ops.now();
        let run = self.run();
        let called = self.ops.call_hooks(phase, reason, &run);
        let seconds = self.seconds_since(start);
        match phase {
            Phase::Freeze => self.report.stages.freeze_hooks = seconds,
            Phase::Thaw => self.report.stages.thaw_hooks = seconds,
        }
        let Some(master) = called else {
            return Ok(false);
        };
        self.report.hooks(phase, &master);
        if phase == Phase::Freeze {
            self.hooks_only |= master.leaves_filesystems;
            // The request to stop may have ended the hooks, which then would not have failed.
            self.refuse_if_stopping()?;
        }
        match master.failure {
            None => Ok(!master.is_ours || !master.hooks.is_empty()),
            Some(text) => Err(self.fail(FreezeError::Hooks(text))),
        }
    }

    /// From the marker to the last FIFREEZE, with roll-back.
    pub(super) fn freeze_held(&mut self, held: Vec<Held<O::Handle>>) -> Result<u64, FreezeError> {
        if held.is_empty() && !self.hooks_only {
            return Ok(0);
        }
        tracing::info!(
            "freezing {} filesystems; log lines are kept until the thaw",
            held.len()
        );
        self.begin_watch(&held);
        let start = self.ops.now();
        let ends = self.hold_limit.map(|limit| start + limit);
        // Before the first FIFREEZE: the state directory may be on a filesystem that is about to be frozen.
        let marker = self.marker(&held, start);
        let marked = self.ops.mark_frozen(marker);
        self.add_error(marked);
        let batches = held.chunk_by(|a, b| a.batch == b.batch);
        self.ops
            .enter_frozen_section(batches.map(<[_]>::len).max().unwrap_or(0));
        self.ops.expedite_rcu();
        let start = self.ops.now();
        let (frozen, failure) = self.freeze_in_order(held, ends);
        self.report.stages.freeze = self.seconds_since(start);
        self.withdraw_unfrozen_snapshot();
        // At once: the setting interrupts every processor of the system for each grace period.
        let restored = self.ops.restore_rcu();
        self.add_error(restored.map_err(FreezeError::Rcu));
        let count = frozen.len() as u64;
        let since = self.ops.now();
        self.state = State::Frozen(Freeze {
            held: frozen,
            since,
            ends,
            is_inherited: false,
            guardians_left: MAX_GUARDIANS,
        });
        // The guardian may have thawed while the last FIFREEZE ran; then the host must not get a success.
        let is_late = ends.is_some_and(|ends| since >= ends) || !self.ops.is_undecided();
        let failure = match failure {
            Ok(()) if is_late => Err(self.fail(FreezeError::HoldLimit(None))),
            Err(error) if is_late => Err(FreezeError::HoldLimit(Some(error.into()))),
            other => other,
        };
        if failure.is_ok() && (count > 0 || self.hooks_only) {
            self.report_frozen();
            return Ok(count);
        }
        // Errors of the roll-back are in the log and the report; the answer is the error that caused it.
        self.roll_back();
        failure.map(|()| count)
    }

    /// If the guardian has begun to undo the freeze at the hold limit, it also calls the thaw hooks.
    fn roll_back(&mut self) {
        match self.ops.claim(false) {
            Claim::Ours(_) if self.is_frozen() => drop(self.undo(ThawReason::Failed, None)),
            Claim::Ours(_) => {
                self.withdraw_snapshot();
                // As above.
                self.call_hooks(Phase::Thaw, Some(ThawReason::Failed)).ok();
            }
            Claim::Ended(_) => {
                if let State::Frozen(freeze) = std::mem::replace(&mut self.state, State::Thawed) {
                    // What was frozen after the guardian's FITHAW.
                    self.thaw_each(freeze.held, FilesystemOutcome::ThawedByOthers);
                }
                let unmarked = self.ops.mark_thawed();
                self.add_error(unmarked.map(drop));
                self.withdraw_snapshot();
                self.leave_to_guardian();
            }
        }
    }

    fn marker(&self, held: &[Held<O::Handle>], since: Duration) -> Marker {
        let device = |held: &Held<_>| self.report.filesystems[held.record].device.clone();
        Marker {
            id: self.report.id.clone(),
            since_ms: since.as_millis() as u64,
            limit_ms: self.hold_limit.map(|limit| limit.as_millis() as u64),
            devices: held.iter().map(device).collect(),
            ..Marker::default()
        }
    }

    /// Fails the run unless `tolerated`.
    pub(super) fn exclude(
        &mut self,
        record: usize,
        error: FreezeError,
        tolerated: bool,
    ) -> Result<(), FreezeError> {
        let outcome = match tolerated {
            true => FilesystemOutcome::Skipped,
            false => FilesystemOutcome::Failed,
        };
        self.report.set_with_detail(record, outcome, &error);
        let error = self.fail(error);
        if tolerated { Ok(()) } else { Err(error) }
    }
}

impl<H> Held<H> {
    fn entrusted(&self) -> HeldFilesystem<'_, H> {
        let entrusted = Entrusted {
            number: self.record,
            mountpoint: self.name.clone(),
        };
        (entrusted, &self.handle)
    }
}

fn log_plan_changes(before: &[Target], after: &[Target]) {
    let is_in = |list: &[Target], target: &Target| {
        list.iter()
            .any(|other| other.filesystem.device() == target.filesystem.device())
    };
    for target in after.iter().filter(|target| !is_in(before, target)) {
        tracing::info!(
            "{} was mounted meanwhile: it is frozen too",
            target.filesystem.name()
        );
    }
    for target in before.iter().filter(|target| !is_in(after, target)) {
        tracing::info!(
            "{} is no longer mounted: it is not frozen",
            target.filesystem.name()
        );
    }
}
