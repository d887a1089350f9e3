//! From the request to the last FIFREEZE, and back if anything fails on the way.

use super::{Engine, FreezeError, Held, State};
use crate::freeze::guardian::Order;
use crate::freeze::ops::{OpenError, Ops, Timed};
use crate::freeze::plan;
use crate::freeze::policy::Mode;
use crate::freeze::report::Outcome;
use crate::hooks::memory::Run;
use crate::hooks::{Phase, ThawReason, words};
use crate::sys::strerror;
use nix::libc;
use std::io;

impl<O: Ops> Engine<O> {
    /// Everything before the first FIFREEZE.
    pub(super) fn prepare(
        &mut self,
        only: Option<&[Vec<u8>]>,
    ) -> Result<Vec<Held<O::Handle>>, FreezeError> {
        self.hooks_only = self.policy.freeze == Mode::HooksOnly;
        let survey = self
            .ops
            .survey()
            .map_err(|e| self.fail(format!("failed to read the mount table: {}", strerror(&e))))?;
        let plan = plan::make(&survey, &self.policy, only).map_err(|e| self.fail(e.to_string()))?;
        for note in &plan.notes {
            tracing::info!("{note}");
        }
        self.report.plan(&plan);
        let mut held = Vec::with_capacity(plan.targets.len());
        for (record, target) in plan.targets.iter().enumerate() {
            let name = String::from_utf8_lossy(&target.filesystem.mountpoint).into_owned();
            match self.ops.open(target) {
                Ok(handle) => held.push(Held {
                    handle,
                    name,
                    record,
                    optional: target.optional,
                    level: target.level,
                }),
                Err(error) => {
                    let covered = matches!(error, OpenError::Covered) && !self.policy.strict;
                    let text = format!("failed to open {name}: {error}");
                    self.leave_out(record, text, covered || target.optional)?;
                }
            }
        }
        if held.is_empty() && !self.hooks_only {
            tracing::warn!("nothing to freeze: no mounted filesystem was chosen, no hook was run");
            return Ok(held);
        }
        self.report.stages.flush = self.flush(&held)?;
        let entrusted: Vec<_> = held
            .iter()
            .map(|h| (&h.handle, h.name.as_str(), h.level))
            .collect();
        if let Err(text) = self.ops.stand_guard(&entrusted) {
            self.warn(text);
        }
        let quieted = self.call_hooks(Phase::Freeze, None).and_then(|()| {
            if !self.hooks_only {
                self.report.stages.flush_again = self.flush(&held)?;
            }
            Ok(())
        });
        if let Err(error) = quieted {
            // What this meets is in the log and the report; the answer names the culprit.
            self.call_hooks(Phase::Thaw, Some(ThawReason::Failed)).err();
            return Err(error);
        }
        if self.hooks_only {
            for held in &held {
                let why = "a hook adapter's settings ask that no filesystem be frozen";
                self.report.explain(held.record, Outcome::Skipped, why);
            }
            held.clear();
        }
        Ok(held)
    }

    /// What hooks are told about this run.
    fn run(&self) -> Run {
        let filesystems = &self.report.filesystems;
        Run {
            id: self.report.id.clone(),
            mountpoints: words(filesystems.iter().map(|f| f.mountpoint.as_str())),
            devices: words(filesystems.iter().map(|f| f.device.as_str())),
            hold_limit: self.hold_limit.map_or(0.0, |limit| limit.as_secs_f64()),
        }
    }

    /// Flushes side by side; returns how long it took. A failure is told but does not stop the
    /// run, for FIFREEZE flushes again and decides; a filesystem that does not answer does.
    pub(super) fn flush(&mut self, held: &[Held<O::Handle>]) -> Result<f64, FreezeError> {
        let start = self.ops.now();
        let handles: Vec<&O::Handle> = held.iter().map(|h| &h.handle).collect();
        let mut hangs = None;
        for (result, held) in self.ops.flush(&handles).into_iter().zip(held) {
            let Err(e) = result else { continue };
            let text = format!("failed to flush {}: {}", held.name, strerror(&e));
            if e.kind() == io::ErrorKind::TimedOut {
                self.report.explain(held.record, Outcome::Failed, &text);
                hangs.get_or_insert(text);
            } else {
                self.warn(text);
            }
        }
        match hangs {
            Some(text) => Err(self.fail(text)),
            None => Ok(self.seconds_since(start)),
        }
    }

    /// Calls the hook master, if there is one; its failure is recorded and returned.
    pub(super) fn call_hooks(
        &mut self,
        phase: Phase,
        reason: Option<ThawReason>,
    ) -> Result<(), FreezeError> {
        if phase == Phase::Freeze {
            self.ops.tell_guardian(Order::HooksCalled);
        }
        let start = self.ops.now();
        let run = self.run();
        let called = self.ops.call_hooks(phase, reason, &run);
        let seconds = self.seconds_since(start);
        match phase {
            Phase::Freeze => self.report.stages.freeze_hooks = seconds,
            Phase::Thaw => self.report.stages.thaw_hooks = seconds,
        }
        let Some(master) = called else { return Ok(()) };
        self.report.hooks(phase, &master);
        if phase == Phase::Freeze && master.leaves_filesystems {
            self.hooks_only = true;
        }
        match master.failure {
            None => Ok(()),
            Some(text) => Err(self.fail(text)),
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
        if let Err(text) = self.ops.mark_frozen() {
            self.warn(text);
        }
        let levels = held.chunk_by(|a, b| a.level == b.level);
        self.ops.hush(levels.map(<[_]>::len).max().unwrap_or(0));
        let start = self.ops.now();
        let mut frozen: Vec<Held<O::Handle>> = Vec::with_capacity(held.len());
        let mut failure = None;
        let mut waiting = held.into_iter().peekable();
        while let Some(level) = waiting.peek().map(|next| next.level) {
            let next = || waiting.next_if(|next| next.level == level);
            let level = std::iter::from_fn(next).collect();
            failure = self.freeze_level(level, &mut frozen).err();
            if failure.is_some() {
                break;
            }
        }
        self.report.stages.freeze = self.seconds_since(start);
        let count = frozen.len() as u64;
        let since = self.ops.now();
        self.state = State::Frozen {
            held: frozen,
            since,
        };
        let Some(error) = failure else {
            if count == 0 && !self.hooks_only {
                self.undo(ThawReason::Failed).err();
            }
            return Ok(count);
        };
        // What the roll-back meets is in the log and the report; the answer names the culprit.
        self.undo(ThawReason::Failed).err();
        Err(error)
    }

    /// FIFREEZE of one level, side by side. Whatever fails, the others of the level are frozen and
    /// entered; the error is that of the first that may not fail.
    fn freeze_level(
        &mut self,
        level: Vec<Held<O::Handle>>,
        frozen: &mut Vec<Held<O::Handle>>,
    ) -> Result<(), FreezeError> {
        let handles: Vec<&O::Handle> = level.iter().map(|held| &held.handle).collect();
        let done = self.ops.freeze(&handles);
        let mut failure = Ok(());
        for (held, Timed { result, took }) in level.into_iter().zip(done) {
            self.report.filesystems[held.record].freeze_seconds = took.as_secs_f64();
            match result {
                Ok(()) => {
                    self.report.filesystems[held.record].outcome = Outcome::Frozen;
                    frozen.push(held);
                }
                Err(e) => {
                    let text = format!("failed to freeze {}: {}", held.name, refusal(&e));
                    let passes = held.optional || self.tolerates(&e);
                    failure = failure.and(self.leave_out(held.record, text, passes));
                }
            }
        }
        failure
    }

    /// Whether a refusal of FIFREEZE leaves the filesystem out instead of failing the run.
    pub(super) fn tolerates(&self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => !self.policy.strict,
            Some(libc::EBUSY) => self.policy.ignore_frozen,
            _ => false,
        }
    }

    /// A filesystem cannot be opened or frozen: either the run passes over it, or it fails.
    pub(super) fn leave_out(
        &mut self,
        record: usize,
        text: String,
        passes: bool,
    ) -> Result<(), FreezeError> {
        if passes {
            self.report.explain(record, Outcome::Skipped, &text);
            self.warn(text);
            return Ok(());
        }
        self.report.explain(record, Outcome::Failed, &text);
        Err(self.fail(text))
    }
}

/// What FIFREEZE's refusals mean.
fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "this type of filesystem cannot be frozen".into(),
        Some(libc::EBUSY) => "someone else has frozen it already".into(),
        _ => strerror(error),
    }
}
