//! The transaction: survey, open, flush, freeze hooks, flush again, freeze; and its undo.
//!
//! The engine is sequential code over [`Ops`]; parallel work is done inside of [`Ops`], one batch of the plan at a
//! time. A failure before everything is frozen undoes what was done, in reverse order. The undo continues after errors
//! and reports them all. [`Freezer`](crate::freeze::Freezer) runs the engine on a thread of its own, the simulator with
//! a fault at every step.

mod batches;
mod freeze;
mod recovery;
mod snapshot;
mod thaw;
mod watch;

use crate::freeze::FreezeError;
use crate::freeze::guardian::Claim;
use crate::freeze::ops::{FilesystemOps, GuardianNews, Ops};
use crate::freeze::plan::Target;
use crate::freeze::policy::{FreezeLimits, FreezePolicy};
use crate::freeze::report::{Report, RunEnd};
use crate::hooks::ThawReason;
use crate::probe::mountinfo::DeviceNumber;
use crate::state::Expiry;
use std::fmt::Display;
use std::time::Duration;

/// How often to check whether a guardian that does not answer is stopped.
const LEGACY_CHECK_INTERVAL: Duration = Duration::from_secs(5);

struct Held<H> {
    handle: H,
    name: String,
    /// A failure to open or freeze it does not fail the run.
    optional: bool,
    /// Index in the report.
    record: usize,
    batch: usize,
    /// It cannot be frozen; the writes to this device are counted instead.
    watch: Option<DeviceNumber>,
}

impl<H> Held<H> {
    fn new(handle: H, record: usize, target: &Target) -> Self {
        Self {
            handle,
            name: target.filesystem.name(),
            optional: target.optional,
            record,
            batch: target.batch,
            watch: target.is_watched().then(|| target.filesystem.device()),
        }
    }
}

struct Thawed<H> {
    count: u64,
    still_frozen: Vec<(Held<H>, FreezeError)>,
    /// FITHAWs that have not returned. Each thaws once its disk answers; the hooks do not wait for that.
    late: Vec<FreezeError>,
}

enum State<H> {
    Thawed,
    Frozen(Freeze<H>),
    /// An earlier agent left its marker, and its guardian has not answered yet.
    Inherited,
}

struct Freeze<H> {
    /// In freeze order.
    held: Vec<Held<H>>,
    /// When everything was frozen, by [`SystemOps::now`](crate::freeze::ops::SystemOps::now).
    since: Duration,
    /// At the hold limit; `None`: no limit.
    ends: Option<Duration>,
    is_inherited: bool,
    guardians_left: u32,
}

pub struct Engine<O: FilesystemOps> {
    ops: O,
    state: State<O::Handle>,
    policy: FreezePolicy,
    hold_limit: Option<Duration>,
    /// The current run freezes no filesystem.
    hooks_only: bool,
    /// Index in the report of the filesystem that has the snapshot file.
    snapshot: Option<usize>,
    report: Report,
    /// The freeze was ended for a shutdown, and the next thaw of the host has not been answered with that yet.
    owes_an_answer: bool,
    /// The record of an earlier freeze that this run began with. It may be there still, if it could not be removed.
    forgotten: Option<Expiry>,
    /// Its report is not stored yet.
    ended: Option<RunEnd>,
    /// What an earlier agent has left is not known or not undone yet.
    has_legacy: bool,
}

impl<O: Ops> Engine<O> {
    /// `inherited`: an earlier agent left its marker.
    pub fn new(mut ops: O, inherited: bool, policy: FreezePolicy, limits: FreezeLimits) -> Self {
        // Also without a marker: a guardian that undoes a freeze that was not complete must finish first.
        let has_legacy = ops.find_guardian() || inherited || ops.has_journal();
        let state = if inherited {
            // The number of filesystems becomes known from the guardian or the mount table.
            ops.enter_frozen_section(1);
            State::Inherited
        } else {
            State::Thawed
        };
        if !has_legacy {
            // Of an agent that was killed together with its guardian before its first FIFREEZE.
            if let Err(error) = ops.withdraw_snapshot() {
                tracing::warn!("{error}");
            }
            ops.release_resources();
        }
        Self {
            ops,
            state,
            policy,
            hold_limit: limits.hold,
            hooks_only: false,
            snapshot: None,
            report: Report::default(),
            owes_an_answer: false,
            forgotten: None,
            ended: None,
            has_legacy,
        }
    }

    pub fn has_legacy(&self) -> bool {
        self.has_legacy
    }

    /// Until the hold limit, or the next check of an earlier agent's silent guardian; `None`: nothing to wait for.
    pub fn time_left(&mut self) -> Option<Duration> {
        match &self.state {
            _ if self.has_legacy => Some(LEGACY_CHECK_INTERVAL),
            State::Frozen(freeze) => freeze.ends.map(|ends| ends.saturating_sub(self.ops.now())),
            State::Thawed | State::Inherited => None,
        }
    }

    pub fn owes_an_answer(&self) -> bool {
        self.owes_an_answer
    }

    pub fn ops(&self) -> &O {
        &self.ops
    }

    pub fn is_frozen(&self) -> bool {
        !matches!(self.state, State::Thawed)
    }

    /// Newest first; while frozen the current run precedes them.
    pub fn reports(&mut self) -> Vec<Report> {
        self.conclude();
        let mut reports = self.ops.reports();
        if let State::Frozen(Freeze { since, .. }) = self.state {
            let mut current = self.report.clone();
            current.stages.held = self.seconds_since(since);
            current.compute_level();
            reports.insert(0, current);
        }
        reports
    }

    /// What can wait until the host has its reply: kept log lines, the guardian's exit, the summary, the report.
    /// [`Freezer`](crate::freeze::Freezer) calls it after the reply, and the next request does if it comes earlier.
    pub fn conclude(&mut self) {
        if let Some(end) = self.ended.take() {
            self.finish(end);
        }
        if !self.is_frozen() {
            self.ops.release_resources();
        }
    }

    /// Freezes everything, or the mount points of `only`; returns how many filesystems this call froze. With 0 or an
    /// error nothing is frozen afterwards, and hooks that were called have been thawed.
    pub fn freeze(&mut self, only: Option<&[Vec<u8>]>) -> Result<u64, FreezeError> {
        self.conclude();
        self.recover(true);
        if self.is_frozen() {
            return Err(FreezeError::AlreadyFrozen);
        }
        if self.has_legacy {
            return Err(FreezeError::UndoPending);
        }
        if self.ops.is_stopping() {
            return Err(FreezeError::Stopping);
        }
        self.report = Report::begin(self.ops.wall_clock());
        self.report.requested = only.map(|names| {
            let text = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
            names.iter().map(text).collect()
        });
        // An expiry of an earlier freeze whose thaw never came must not be the answer to the thaw of this one.
        self.forgotten = self.ops.take_expired();
        let result = self.prepare(only).and_then(|held| self.freeze_held(held));
        if !self.is_frozen() {
            self.ended = Some(match result {
                Ok(_) => RunEnd::Nothing,
                Err(_) => RunEnd::Failure,
            });
        }
        result
    }

    /// Thaws what this agent or its predecessor froze, then calls the thaw hooks; if nothing is known to be frozen,
    /// thaws every filesystem of the mount table. Returns how many. Fails if the freeze was ended before (reported
    /// once), if a filesystem stays frozen (the thaw can be repeated), or if a hook master fails (everything is thawed
    /// all the same).
    pub fn thaw(&mut self) -> Result<u64, FreezeError> {
        self.conclude();
        self.recover(true);
        self.owes_an_answer = false;
        if self.is_frozen() {
            self.claim_thaw(false);
        }
        let (reason, end) = match self.state {
            State::Thawed => {
                let answer = match self.ops.take_expired() {
                    Some(expiry) => Err(FreezeError::Expired(expiry)),
                    None => self.thaw_all_mounted(),
                };
                if !self.has_legacy {
                    self.thaw_hooks_left_over();
                }
                return answer;
            }
            State::Frozen(Freeze {
                is_inherited: false,
                ..
            }) => (ThawReason::Ok, RunEnd::Thaw),
            State::Frozen(_) | State::Inherited => (ThawReason::Recovered, RunEnd::Recovery),
        };
        let result = self.undo(reason, None);
        if self.is_frozen() {
            return result;
        }
        // A guardian that was killed or stopped for good while it ended this freeze has recorded that.
        let expired = self.ops.take_expired();
        let Some(expiry) = expired.filter(|it| self.forgotten.as_ref() != Some(it)) else {
            self.ended = Some(end);
            return result;
        };
        self.ended = Some(RunEnd::Expiry);
        self.report.ended_because = Some(expiry.reason.clone());
        self.warn(&expiry);
        result.and(Err(FreezeError::Expired(expiry)))
    }

    /// Reads what the guardian did, replaces one that died, and ends the freeze at the hold limit.
    pub fn check_hold(&mut self) {
        self.recover(false);
        if !matches!(self.state, State::Frozen(_)) {
            return;
        }
        match self.ops.poll_guardian() {
            GuardianNews::Ended(expiry) => return self.record_guardian_end(&expiry),
            GuardianNews::Gone => self.replace_guardian(),
            GuardianNews::Nothing => {}
        }
        let why = if self.time_left() == Some(Duration::ZERO) {
            Expiry::HOLD_LIMIT
        } else if self.ops.is_stopping() && self.ops.is_system_stopping() {
            self.owes_an_answer = true;
            Expiry::SHUTDOWN
        } else {
            return;
        };
        // Errors are in the log and the report; no request waits for them.
        self.end_early(why).err();
    }

    /// Ends the freeze without a request; the next thaw reports it.
    pub fn end_early(&mut self, why: &str) -> Result<(), FreezeError> {
        self.recover(true);
        if !self.is_frozen() || !self.claim_thaw(true) {
            return Ok(());
        }
        let result = self.undo(ThawReason::TimedOut, Some(why));
        if !self.is_frozen() {
            self.finish(RunEnd::Expiry);
        }
        result.map(drop)
    }

    /// Whether this agent thaws. The guardian may begin to thaw at the same moment; the token decides.
    fn claim_thaw(&mut self, is_early: bool) -> bool {
        match self.ops.claim(is_early) {
            Claim::Ended(expiry) => {
                self.record_guardian_end(&expiry);
                false
            }
            Claim::Ours(inherited) => {
                self.has_legacy = false;
                if let Some(report) = inherited {
                    self.report = *report;
                }
                true
            }
        }
    }

    fn record_guardian_end(&mut self, expiry: &Expiry) {
        self.state = State::Thawed;
        // The guardian may have found the state directory read-only; then this agent records the expiry. A freeze that
        // was not complete was never confirmed to the host, so its next thaw has nothing to report.
        let was_whole = expiry.held > 0.0;
        let marked = was_whole.then(|| self.ops.mark_expired(expiry));
        match was_whole {
            true => self.ops.dismiss_guardian(),
            false => self.leave_to_guardian(),
        }
        self.ops.leave_frozen_section();
        self.add_error(marked.unwrap_or(Ok(())));
        // The guardian stores the report before it sends Ended, with the results of the thaw hooks, which only it has.
        // Of an earlier agent's run this agent has no report.
        let kept = self.ops.reports().into_iter().find(|kept| {
            kept.end.is_some() && (kept.id == self.report.id || self.report.id.is_empty())
        });
        match kept {
            Some(kept) => {
                tracing::warn!("{expiry}");
                self.report = kept;
                self.log_summary();
            }
            None if self.report.id.is_empty() => tracing::warn!("{expiry}"),
            None => {
                self.report.stages.held += expiry.held;
                self.report.ended_because = Some(expiry.reason.clone());
                self.warn(expiry);
                self.finish(RunEnd::Expiry);
            }
        }
    }

    /// The guardian has ended a freeze that was not complete, and says so before it calls the thaw hooks: an agent that
    /// was stopped must not go on meanwhile. No run begins until the guardian has exited.
    fn leave_to_guardian(&mut self) {
        self.ops.disconnect_guardian();
        self.has_legacy = true;
    }

    /// Stores the report first: if the agent is killed here, no other process has it.
    fn finish(&mut self, end: RunEnd) {
        // The guardian exits while the report is written; dismiss_guardian below waits for it.
        if !self.has_legacy {
            self.ops.release_guardian();
        }
        self.report.end(end);
        let stored = self.ops.store_report(&self.report);
        self.ops.leave_frozen_section();
        self.log_summary();
        let finished = self.ops.finish_snapshot(&self.report);
        for error in [stored.err(), finished.err()].into_iter().flatten() {
            tracing::warn!("{error}");
        }
        if !self.has_legacy {
            self.ops.dismiss_guardian();
        }
        // Its many small allocations would keep heap pages in use that are free otherwise.
        self.report = Report::default();
    }

    fn log_summary(&self) {
        let hooks = self.report.hooks.iter();
        let failed = hooks.filter(|hook| !hook.is_success());
        let failed: Vec<&str> = failed.map(|hook| hook.path.as_str()).collect();
        tracing::info!(
            target: crate::AUDIT,
            RUN_ID = self.report.id,
            LEVEL = self.report.level.name(),
            HOOK = failed.join("\n"),
            "{}",
            self.report.summary()
        );
    }

    /// Once the agent is asked to stop, no agent might be there for the thaw.
    fn refuse_if_stopping(&mut self) -> Result<(), FreezeError> {
        match self.ops.is_stopping() {
            true => Err(self.fail(FreezeError::Stopping)),
            false => Ok(()),
        }
    }

    fn seconds_since(&mut self, start: Duration) -> f64 {
        self.ops.now().saturating_sub(start).as_secs_f64()
    }
}

impl<O: FilesystemOps> Engine<O> {
    /// For a failure that does not stop the run.
    fn warn(&mut self, failure: impl Display) {
        tracing::warn!("{failure}");
        self.report.errors.push(failure.to_string());
    }

    fn add_error<E: Into<FreezeError>>(&mut self, result: Result<(), E>) {
        if let Err(error) = result {
            self.warn(error.into());
        }
    }

    fn fail(&mut self, error: FreezeError) -> FreezeError {
        self.warn(&error);
        error
    }
}
