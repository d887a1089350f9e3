//! The transaction: survey, open, flush, hooks, flush again, freeze; and back.
//!
//! The engine is plain sequential code over [`Ops`]. Any failure on the way in undoes what was
//! done, in reverse; undoing goes on past errors and reports them all.

use super::guardian::{Claim, Order};
use super::ops::{OpenError, Ops};
use super::plan;
use super::policy::{Limits, Mode, Policy};
use super::report::{Outcome, Report};
use crate::hooks::{Phase, ThawReason};
use crate::state::Expiry;
use crate::sys::strerror;
use nix::libc;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, UNIX_EPOCH};

/// Why a freeze or thaw failed; the text is what goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreezeError(pub String);

impl std::fmt::Display for FreezeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FreezeError {}

/// A filesystem that is held open.
struct Held<H> {
    handle: H,
    name: String,
    /// It may fail without failing the run.
    optional: bool,
    /// Index in the report's list.
    record: usize,
}

/// What a walk of FITHAWs did.
struct Thawed<H> {
    /// How many filesystems it thawed.
    count: u64,
    /// What stays frozen, with the reason.
    stuck: Vec<(Held<H>, String)>,
}

enum State<H> {
    Thawed,
    /// Frozen by this process; in the order of freezing.
    Frozen {
        held: Vec<Held<H>>,
        since: Duration,
    },
    /// An earlier process left its marker; what it froze is found by asking every filesystem.
    Inherited,
}

/// The state machine. `O` is the world.
pub struct Engine<O: Ops> {
    ops: O,
    state: State<O::Handle>,
    policy: Policy,
    hold_limit: Option<Duration>,
    report: Report,
}

impl<O: Ops> Engine<O> {
    /// An engine that holds nothing; `inherited` if an earlier process left its marker.
    pub fn new(mut ops: O, inherited: bool, policy: Policy, limits: Limits) -> Self {
        let state = if inherited {
            ops.hush();
            ops.find_guardian();
            State::Inherited
        } else {
            State::Thawed
        };
        Self {
            ops,
            state,
            policy,
            hold_limit: limits.hold,
            report: Report::default(),
        }
    }

    /// How long until the hold limit ends the freeze at work; `None`: never, or nothing is frozen,
    /// or it is the guardian of a predecessor who knows.
    pub fn time_left(&mut self) -> Option<Duration> {
        let State::Frozen { since, .. } = self.state else {
            return None;
        };
        let held = self.ops.now().saturating_sub(since);
        Some(self.hold_limit?.saturating_sub(held))
    }

    /// Whether a freeze is ended without a thaw.
    pub fn has_limit(&self) -> bool {
        self.hold_limit.is_some()
    }

    /// A descriptor that becomes readable when the guardian has something to say.
    pub fn guardian_line(&self) -> Option<OwnedFd> {
        self.ops.guardian_line()
    }

    /// Whether filesystems are frozen as far as this agent knows.
    pub fn is_frozen(&self) -> bool {
        !matches!(self.state, State::Thawed)
    }

    /// The story of the run at work, or of the last one.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Freezes everything, or the mountpoints of `only`; answers how many filesystems this call
    /// froze. With 0 nothing is frozen afterwards, and the hooks have been told to thaw.
    ///
    /// # Errors
    /// A filesystem that cannot be opened or frozen, or a hook master that fails. Nothing is
    /// frozen afterwards.
    pub fn freeze(&mut self, only: Option<&[Vec<u8>]>) -> Result<u64, FreezeError> {
        if self.is_frozen() {
            return Err(FreezeError("filesystems are already frozen".into()));
        }
        self.report = Report::begin(self.ops.wall_clock());
        // A thaw that never came for an earlier freeze cannot be meant by one that comes now.
        self.ops.take_expired();
        let result = self.prepare(only).and_then(|held| self.freeze_held(held));
        if self.is_frozen() {
            let limit_ms = self.hold_limit.map(|limit| limit.as_millis() as u64);
            self.ops.tell_guardian(Order::Frozen { limit_ms });
        } else {
            self.finish();
        }
        result
    }

    /// Everything before the first FIFREEZE.
    fn prepare(&mut self, only: Option<&[Vec<u8>]>) -> Result<Vec<Held<O::Handle>>, FreezeError> {
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
                }),
                Err(error) => {
                    let covered = matches!(error, OpenError::Covered) && !self.policy.strict;
                    let text = format!("failed to open {name}: {error}");
                    self.leave_out(record, text, covered || target.optional)?;
                }
            }
        }
        if held.is_empty() && self.policy.freeze != Mode::HooksOnly {
            tracing::warn!("nothing to freeze: no mounted filesystem was chosen, no hook was run");
            return Ok(held);
        }
        self.report.stages.flush = self.flush(&held)?;
        let entrusted: Vec<_> = held.iter().map(|h| (&h.handle, h.name.as_str())).collect();
        if let Err(text) = self.ops.stand_guard(&entrusted) {
            self.warn(text);
        }
        let quieted = self.call_hooks(Phase::Freeze, None).and_then(|()| {
            self.report.stages.flush_again = self.flush(&held)?;
            Ok(())
        });
        if let Err(error) = quieted {
            // What this meets is in the log and the report; the answer names the culprit.
            self.call_hooks(Phase::Thaw, Some(ThawReason::Failed)).err();
            return Err(error);
        }
        Ok(held)
    }

    /// Flushes side by side; returns how long it took. A failure is told but does not stop the
    /// run, for FIFREEZE flushes again and decides; a filesystem that does not answer does.
    fn flush(&mut self, held: &[Held<O::Handle>]) -> Result<f64, FreezeError> {
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
    fn call_hooks(&mut self, phase: Phase, reason: Option<ThawReason>) -> Result<(), FreezeError> {
        if phase == Phase::Freeze {
            self.ops.tell_guardian(Order::HooksCalled);
        }
        let start = self.ops.now();
        let called = self.ops.call_hooks(phase, reason);
        let seconds = self.seconds_since(start);
        match phase {
            Phase::Freeze => self.report.stages.freeze_hooks = seconds,
            Phase::Thaw => self.report.stages.thaw_hooks = seconds,
        }
        let Some(master) = called else { return Ok(()) };
        self.report.hooks.extend(master.hooks);
        match master.failure {
            None => Ok(()),
            Some(text) => Err(self.fail(text)),
        }
    }

    /// From the marker to the last FIFREEZE, with roll-back.
    fn freeze_held(&mut self, held: Vec<Held<O::Handle>>) -> Result<u64, FreezeError> {
        if held.is_empty() && self.policy.freeze != Mode::HooksOnly {
            return Ok(0);
        }
        tracing::info!(
            "freezing {} filesystems; log lines are kept until the thaw",
            held.len()
        );
        if let Err(text) = self.ops.mark_frozen() {
            self.warn(text);
        }
        self.ops.hush();
        let start = self.ops.now();
        let mut frozen: Vec<Held<O::Handle>> = Vec::with_capacity(held.len());
        let mut failure = None;
        for held in held {
            let before = self.ops.now();
            let result = self.ops.freeze(&held.handle);
            self.report.filesystems[held.record].freeze_seconds = self.seconds_since(before);
            match result {
                Ok(()) => {
                    self.report.filesystems[held.record].outcome = Outcome::Frozen;
                    frozen.push(held);
                }
                Err(e) => {
                    let text = format!("failed to freeze {}: {}", held.name, refusal(&e));
                    let passes = held.optional || self.tolerates(&e);
                    if let Err(FreezeError(text)) = self.leave_out(held.record, text, passes) {
                        failure = Some(text);
                        break;
                    }
                }
            }
        }
        self.report.stages.freeze = self.seconds_since(start);
        let count = frozen.len() as u64;
        let since = self.ops.now();
        self.state = State::Frozen {
            held: frozen,
            since,
        };
        let Some(text) = failure else {
            if count == 0 && self.policy.freeze != Mode::HooksOnly {
                self.undo(ThawReason::Failed).err();
            }
            return Ok(count);
        };
        let error = FreezeError(text);
        // What the roll-back meets is in the log and the report; the answer names the culprit.
        self.undo(ThawReason::Failed).err();
        Err(error)
    }

    /// Thaws exactly what this agent froze, then tells the hooks; answers how many filesystems
    /// were thawed by this call. After a restart while frozen, and when nothing is known to be
    /// frozen, every filesystem of the mount table is asked instead.
    ///
    /// # Errors
    /// The freeze was ended before (told once), a filesystem that stays frozen (the agent then
    /// stays frozen, and thaw can be asked again), or a hook master that fails (everything is
    /// thawed all the same).
    pub fn thaw(&mut self) -> Result<u64, FreezeError> {
        if self.is_frozen() {
            match self.ops.claim() {
                Claim::Ours => {}
                Claim::Ended(expiry) => self.settle(&expiry),
            }
        }
        let reason = match self.state {
            State::Thawed => {
                return match self.ops.take_expired() {
                    Some(expiry) => Err(FreezeError(expiry.to_string())),
                    None => self.thaw_strangers(),
                };
            }
            State::Frozen { .. } => ThawReason::Ok,
            State::Inherited => ThawReason::Recovered,
        };
        let result = self.undo(reason);
        if !self.is_frozen() {
            self.finish();
        }
        result
    }

    /// Looks after a freeze that nobody thaws: hears what the guardian did, and ends it when the
    /// hold limit has passed.
    pub fn look_after(&mut self) {
        if !self.is_frozen() {
            return;
        }
        if let Some(expiry) = self.ops.hear_guardian() {
            return self.settle(&expiry);
        }
        if self.time_left() != Some(Duration::ZERO) {
            return;
        }
        match self.ops.claim() {
            Claim::Ended(expiry) => self.settle(&expiry),
            Claim::Ours => {
                self.undo(ThawReason::TimedOut).err();
                if !self.is_frozen() {
                    self.finish();
                }
            }
        }
    }

    /// The guardian has ended the freeze.
    fn settle(&mut self, expiry: &Expiry) {
        self.state = State::Thawed;
        self.report.stages.held += expiry.held;
        for record in 0..self.report.filesystems.len() {
            if self.report.filesystems[record].outcome == Outcome::Frozen {
                self.report.set(record, Outcome::Thawed);
            }
        }
        self.ops.dismiss_guardian();
        self.ops.speak();
        self.warn(expiry.to_string());
        self.finish();
    }

    /// Thaws, and tells the hooks why.
    fn undo(&mut self, reason: ThawReason) -> Result<u64, FreezeError> {
        let Thawed { count, stuck } = match std::mem::replace(&mut self.state, State::Thawed) {
            State::Thawed => return Ok(0),
            State::Frozen { held, since } => {
                self.report.stages.held += self.seconds_since(since);
                self.thaw_each(held, Outcome::ThawedByOthers)
            }
            State::Inherited => {
                self.report = Report::begin(self.ops.wall_clock());
                match self.thaw_everything() {
                    Ok(thawed) => thawed,
                    Err(error) => {
                        self.state = State::Inherited;
                        return Err(error);
                    }
                }
            }
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
        if reason == ThawReason::TimedOut {
            self.remember_expiry(count);
        }
        tracing::info!(target: crate::AUDIT, "guest-fsthaw called");
        let hooks = self.call_hooks(Phase::Thaw, Some(reason));
        self.ops.dismiss_guardian();
        hooks?;
        Ok(count)
    }

    fn remember_expiry(&mut self, count: u64) {
        let when = self.ops.wall_clock().duration_since(UNIX_EPOCH);
        let expiry = Expiry {
            when: when.unwrap_or_default().as_secs_f64(),
            held: self.report.stages.held,
            reason: "no guest-fsfreeze-thaw came within the hold limit".into(),
            count,
        };
        self.warn(expiry.to_string());
        if let Err(text) = self.ops.mark_expired(&expiry) {
            self.warn(text);
        }
    }

    /// FITHAW in the reverse of the freeze order, past every error. What stays frozen is returned
    /// in freeze order, each with its reason; what was not frozen gets the outcome `idle`.
    fn thaw_each(&mut self, mut held: Vec<Held<O::Handle>>, idle: Outcome) -> Thawed<O::Handle> {
        let start = self.ops.now();
        let mut count = 0;
        let mut stuck = Vec::new();
        while let Some(next) = held.pop() {
            match self.ops.thaw(&next.handle) {
                Ok(()) => {
                    count += 1;
                    self.report.set(next.record, Outcome::Thawed);
                }
                Err(e) if is_not_frozen(&e) => self.report.set(next.record, idle),
                Err(e) => {
                    let text = format!("failed to thaw {}: {}", next.name, strerror(&e));
                    self.report.explain(next.record, Outcome::Failed, &text);
                    stuck.push((next, text));
                }
            }
        }
        self.report.stages.thaw += self.seconds_since(start);
        stuck.reverse();
        Thawed { count, stuck }
    }

    /// FITHAW for every filesystem of the mount table. One that cannot be opened is passed over,
    /// for nothing tells whether it was ever frozen.
    fn thaw_everything(&mut self) -> Result<Thawed<O::Handle>, FreezeError> {
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
    fn thaw_strangers(&mut self) -> Result<u64, FreezeError> {
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

    /// Whether a refusal of FIFREEZE leaves the filesystem out instead of failing the run.
    fn tolerates(&self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => !self.policy.strict,
            Some(libc::EBUSY) => self.policy.ignore_frozen,
            _ => false,
        }
    }

    /// A filesystem cannot be opened or frozen: either the run passes over it, or it fails.
    fn leave_out(&mut self, record: usize, text: String, passes: bool) -> Result<(), FreezeError> {
        if passes {
            self.report.explain(record, Outcome::Skipped, &text);
            self.warn(text);
            return Ok(());
        }
        self.report.explain(record, Outcome::Failed, &text);
        Err(self.fail(text))
    }

    /// The end of a run, whatever came of it.
    fn finish(&mut self) {
        self.ops.dismiss_guardian();
        if let Err(text) = self.ops.keep(&self.report) {
            tracing::warn!("{text}");
        }
    }

    /// Logs and records what does not stop the run.
    fn warn(&mut self, text: String) {
        tracing::warn!("{text}");
        self.report.errors.push(text);
    }

    /// Records an error and makes it the answer.
    fn fail(&mut self, text: String) -> FreezeError {
        self.warn(text.clone());
        FreezeError(text)
    }

    fn seconds_since(&mut self, start: Duration) -> f64 {
        self.ops.now().saturating_sub(start).as_secs_f64()
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

/// FITHAW's word for a filesystem that is not frozen.
fn is_not_frozen(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}
