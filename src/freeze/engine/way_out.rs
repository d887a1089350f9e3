//! From the first FITHAW to the last thaw hook.

use super::{Engine, FreezeError, Held, State, Thawed};
use crate::freeze::ops::{Ops, Timed};
use crate::freeze::plan;
use crate::freeze::report::{Outcome, Report};
use crate::hooks::{Phase, ThawReason};
use crate::state::Expiry;
use crate::sys::strerror;
use nix::libc;
use std::io;
use std::time::UNIX_EPOCH;

impl<O: Ops> Engine<O> {
    /// Thaws, and tells the hooks why.
    pub(super) fn undo(&mut self, reason: ThawReason) -> Result<u64, FreezeError> {
        self.undo_because(reason, None)
    }

    /// As [`Engine::undo`]; with `expiry`, the next thaw will hear that it came too late, and that
    /// this was why.
    pub(super) fn undo_because(
        &mut self,
        reason: ThawReason,
        expiry: Option<&str>,
    ) -> Result<u64, FreezeError> {
        let Thawed { count, stuck } = match std::mem::replace(&mut self.state, State::Thawed) {
            State::Thawed => return Ok(0),
            State::Frozen { held, since } => {
                self.report.stages.held += self.seconds_since(since);
                self.thaw_each(held, Outcome::ThawedByOthers)
            }
            State::Inherited => self.thaw_for_predecessor()?,
        };
        if !stuck.is_empty() {
            let texts: Vec<&str> = stuck.iter().map(|(_, text)| text.as_str()).collect();
            let error = self.fail(texts.join("; "));
            let since = self.ops.now();
            let held = stuck.into_iter().map(|(held, _)| held).collect();
            self.state = State::Frozen { held, since };
            return Err(error);
        }
        self.ops.speak();
        if let Err(text) = self.ops.mark_thawed() {
            self.warn(text);
        }
        if let Some(why) = expiry {
            self.remember_expiry(count, why);
        }
        tracing::info!(target: crate::AUDIT, "guest-fsthaw called");
        let hooks = self.call_hooks(Phase::Thaw, Some(reason));
        self.ops.dismiss_guardian();
        hooks?;
        Ok(count)
    }

    /// What an earlier agent froze: asks every filesystem, and completes that agent's report if its
    /// guardian had it.
    fn thaw_for_predecessor(&mut self) -> Result<Thawed<O::Handle>, FreezeError> {
        let now = self.ops.wall_clock();
        let known = std::mem::replace(&mut self.report, Report::begin(now));
        let thawed = match self.thaw_everything() {
            Ok(thawed) => thawed,
            Err(error) => {
                self.state = State::Inherited;
                return Err(error);
            }
        };
        if !known.id.is_empty() && known.end.is_none() {
            let walked = std::mem::replace(&mut self.report, known);
            self.report.stages.thaw = walked.stages.thaw;
            let prepared = &self.report.stages;
            let prepared =
                prepared.flush + prepared.freeze_hooks + prepared.flush_again + prepared.freeze;
            self.report.stages.held = walked.started - self.report.started - prepared;
            self.report.errors.extend(walked.errors);
        }
        Ok(thawed)
    }

    pub(super) fn remember_expiry(&mut self, count: u64, why: &str) {
        let when = self.ops.wall_clock().duration_since(UNIX_EPOCH);
        let expiry = Expiry {
            when: when.unwrap_or_default().as_secs_f64(),
            held: self.report.stages.held,
            reason: why.into(),
            count,
        };
        self.warn(expiry.to_string());
        if let Err(text) = self.ops.mark_expired(&expiry) {
            self.warn(text);
        }
    }

    /// FITHAW level by level in the reverse of the freeze order, past every error. What stays frozen
    /// is returned in freeze order, each with its reason; what was not frozen gets the outcome `idle`.
    pub(super) fn thaw_each(
        &mut self,
        mut held: Vec<Held<O::Handle>>,
        idle: Outcome,
    ) -> Thawed<O::Handle> {
        let start = self.ops.now();
        let mut count = 0;
        let mut stuck = Vec::new();
        while let Some(level) = held.last().map(|last| last.level) {
            let first = held.partition_point(|held| held.level < level);
            let level = held.split_off(first);
            let handles: Vec<&O::Handle> = level.iter().map(|held| &held.handle).collect();
            let done = self.ops.thaw(&handles);
            let mut stuck_here = Vec::new();
            for (held, Timed { result, .. }) in level.into_iter().zip(done) {
                match result {
                    Ok(()) => {
                        count += 1;
                        self.report.set(held.record, Outcome::Thawed);
                    }
                    Err(e) if is_not_frozen(&e) => self.report.set(held.record, idle),
                    Err(e) => {
                        let text = format!("failed to thaw {}: {}", held.name, strerror(&e));
                        self.report.explain(held.record, Outcome::Failed, &text);
                        stuck_here.push((held, text));
                    }
                }
            }
            stuck.splice(..0, stuck_here);
        }
        self.report.stages.thaw += self.seconds_since(start);
        Thawed { count, stuck }
    }

    /// FITHAW for every filesystem of the mount table. One that cannot be opened is passed over,
    /// for nothing tells whether it was ever frozen.
    pub(super) fn thaw_everything(&mut self) -> Result<Thawed<O::Handle>, FreezeError> {
        let survey = self
            .ops
            .survey()
            .map_err(|e| self.fail(format!("failed to read the mount table: {}", strerror(&e))))?;
        let targets = plan::everything(&survey);
        self.report.everything(&targets);
        let mut held = Vec::new();
        for (record, target) in targets.iter().enumerate() {
            let name = String::from_utf8_lossy(&target.filesystem.mountpoint).into_owned();
            match self.ops.open(target) {
                Ok(handle) => held.push(Held {
                    handle,
                    name,
                    record,
                    optional: true,
                    level: target.level,
                }),
                Err(error) => {
                    let text = format!("failed to open {name}: {error}");
                    tracing::warn!("{text}");
                    self.report.explain(record, Outcome::Skipped, &text);
                }
            }
        }
        Ok(self.thaw_each(held, Outcome::Untouched))
    }

    /// A thaw without a freeze of ours frees what others froze, as the original does, but runs no
    /// hook: none was told to freeze. What cannot be thawed was not ours to promise.
    pub(super) fn thaw_strangers(&mut self) -> Result<u64, FreezeError> {
        let kept = std::mem::take(&mut self.report);
        let result = self.thaw_everything();
        self.report = kept;
        let Thawed { count, stuck } = result?;
        for (_, text) in stuck {
            tracing::warn!("{text}");
        }
        tracing::info!(target: crate::AUDIT, "guest-fsthaw called");
        Ok(count)
    }
}

/// FITHAW's word for a filesystem that is not frozen.
fn is_not_frozen(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}
