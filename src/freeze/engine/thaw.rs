//! From the first FITHAW to the last thaw hook.
//!
//! FITHAW is issued in the reverse of the freeze order and continues after errors; what stays frozen keeps the engine
//! in state frozen, so that the host can repeat the thaw. The thaw hooks are called only when nothing of ours stays
//! frozen.

use super::{Engine, Freeze, Held, State, Thawed};
use crate::freeze::FreezeError;
use crate::freeze::ops::Ops;
use crate::freeze::plan::{self, Target};
use crate::freeze::report::{FilesystemOutcome, Report};
use crate::hooks::{Phase, ThawReason};
use crate::state::Expiry;
use nix::libc;
use std::io;
use std::time::UNIX_EPOCH;

impl<O: Ops> Engine<O> {
    /// With `expiry`, the next thaw reports that the freeze ended before it, for this reason.
    pub(super) fn undo(
        &mut self,
        reason: ThawReason,
        expiry: Option<&str>,
    ) -> Result<u64, FreezeError> {
        self.end_watch();
        let (thawed, freeze) = match std::mem::replace(&mut self.state, State::Thawed) {
            State::Thawed => return Ok(0),
            State::Frozen(mut freeze) => {
                self.report.stages.held += self.seconds_since(freeze.since);
                let held = std::mem::take(&mut freeze.held);
                (
                    self.thaw_each(held, FilesystemOutcome::ThawedByOthers),
                    Some(freeze),
                )
            }
            State::Inherited => (self.thaw_for_predecessor()?, None),
        };
        let Thawed {
            count,
            still_frozen,
            late,
        } = thawed;
        if !still_frozen.is_empty() {
            let (held, errors) = still_frozen.into_iter().unzip();
            let error = self.fail(FreezeError::Several(errors));
            let since = self.ops.now();
            self.state = State::Frozen(Freeze {
                held,
                since,
                ends: freeze.as_ref().and_then(|freeze| freeze.ends),
                is_inherited: freeze.as_ref().is_none_or(|freeze| freeze.is_inherited),
                guardians_left: 0,
            });
            return Err(error);
        }
        // In this order: a death in between must not lose the expiry.
        if let Some(why) = expiry {
            self.store_expiry(count, why);
        }
        let unmarked = self.ops.mark_thawed();
        self.add_error(unmarked.map(drop));
        self.withdraw_snapshot();
        self.record_new_mounts();
        tracing::info!(target: crate::AUDIT, RUN_ID = self.report.id, "guest-fsthaw called");
        let thawed = self.call_hooks(Phase::Thaw, Some(reason));
        if !late.is_empty() {
            return Err(self.fail(FreezeError::Several(late)));
        }
        thawed.map(|_| count)
    }

    /// For an agent whose guardian is of another version: FITHAW on every filesystem; completes that agent's report.
    fn thaw_for_predecessor(&mut self) -> Result<Thawed<O::Handle>, FreezeError> {
        let now = self.ops.wall_clock();
        let inherited = std::mem::replace(&mut self.report, Report::begin(now));
        let thawed = match self.thaw_everything() {
            Ok(thawed) => thawed,
            Err(error) => {
                self.state = State::Inherited;
                return Err(error);
            }
        };
        if !inherited.id.is_empty() && inherited.end.is_none() {
            let thaw_report = std::mem::replace(&mut self.report, inherited);
            self.report.stages.thaw = thaw_report.stages.thaw;
            let prepared = &self.report.stages;
            let prepared =
                prepared.flush + prepared.freeze_hooks + prepared.flush_again + prepared.freeze;
            // By wall-clock times of two processes: the clock may have been set in between.
            self.report.stages.held =
                (thaw_report.started - self.report.started - prepared).max(0.0);
            self.report.copy_outcomes(&thaw_report);
            self.report.errors.extend(thaw_report.errors);
        }
        Ok(thawed)
    }

    pub(super) fn store_expiry(&mut self, count: u64, why: &str) {
        let when = self.ops.wall_clock().duration_since(UNIX_EPOCH);
        let expiry = Expiry {
            when: when.unwrap_or_default().as_secs_f64(),
            held: self.report.stages.held,
            reason: why.into(),
            count,
        };
        self.report.ended_because = Some(why.into());
        self.warn(&expiry);
        let marked = self.ops.mark_expired(&expiry);
        self.add_error(marked);
    }

    /// In reverse freeze order, also after errors. What stays frozen is returned in freeze order, with the reason; what
    /// was not frozen gets the outcome `idle`.
    pub(super) fn thaw_each(
        &mut self,
        held: Vec<Held<O::Handle>>,
        idle: FilesystemOutcome,
    ) -> Thawed<O::Handle> {
        let start = self.ops.now();
        let mut count = 0;
        let (mut still_frozen, mut late) = (Vec::new(), Vec::new());
        let handles: Vec<&O::Handle> = held.iter().rev().map(|held| &held.handle).collect();
        let done = self.ops.thaw(&handles);
        for (held, timed) in held.into_iter().rev().zip(done) {
            let is_overdue = timed.is_overdue();
            match timed.result {
                Ok(()) => {
                    count += 1;
                    self.report.set(held.record, FilesystemOutcome::Thawed);
                }
                Err(e) if is_not_frozen(&e) => self.report.set(held.record, idle),
                Err(e) => {
                    let error = FreezeError::Thaw(held.name.clone(), e);
                    self.report
                        .set_with_detail(held.record, FilesystemOutcome::Failed, &error);
                    match is_overdue {
                        true => late.push(error),
                        false => still_frozen.push((held, error)),
                    }
                }
            }
        }
        still_frozen.reverse();
        self.report.stages.thaw += self.seconds_since(start);
        Thawed {
            count,
            still_frozen,
            late,
        }
    }

    pub(super) fn thaw_everything(&mut self) -> Result<Thawed<O::Handle>, FreezeError> {
        let survey = self.ops.survey();
        let survey = survey.map_err(|e| self.fail(FreezeError::MountTable(e)))?;
        let targets = plan::everything(&survey);
        let held = self.open_for_thaw(&targets);
        Ok(self.thaw_each(held, FilesystemOutcome::Untouched))
    }

    /// One that cannot be opened is left out: nothing shows whether it was frozen.
    pub(super) fn open_for_thaw(&mut self, targets: &[Target]) -> Vec<Held<O::Handle>> {
        self.report.add_all(targets);
        let mut held = Vec::new();
        let opened = self.ops.open(targets);
        for ((record, target), handle) in targets.iter().enumerate().zip(opened) {
            match handle {
                Ok(handle) => held.push(Held::new(handle, record, target)),
                Err(error) => {
                    let error = FreezeError::Open(target.filesystem.name(), error);
                    tracing::warn!("{error}");
                    self.report
                        .set_with_detail(record, FilesystemOutcome::Skipped, error);
                }
            }
        }
        held
    }

    /// Thaws what others froze, as QEMU's agent does, but calls no hooks, because none was frozen. What cannot be
    /// thawed is logged and is no error: this agent did not freeze it.
    pub(super) fn thaw_all_mounted(&mut self) -> Result<u64, FreezeError> {
        let saved = std::mem::take(&mut self.report);
        let result = self.thaw_everything();
        self.report = saved;
        let Thawed {
            count,
            still_frozen,
            late,
        } = result?;
        for error in still_frozen.into_iter().map(|(_, error)| error).chain(late) {
            tracing::warn!("{error}");
        }
        tracing::info!(target: crate::AUDIT, "guest-fsthaw called");
        Ok(count)
    }
}

/// FITHAW's EINVAL: fs/super.c thaw_super.
fn is_not_frozen(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}
