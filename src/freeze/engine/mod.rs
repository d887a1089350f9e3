//! The transaction: survey, open, flush, hooks, flush again, freeze; and back.
//!
//! The engine is plain sequential code over [`Ops`]; what is done side by side is done in there, one
//! level of the plan at a time. Any failure on the way in undoes what was done, in reverse; undoing
//! goes on past errors and reports them all.

mod way_in;
mod way_out;

use crate::freeze::guardian::{Claim, Order};
use crate::freeze::ops::Ops;
use crate::freeze::policy::{Limits, Policy};
use crate::freeze::report::{End, Report};
use crate::hooks::ThawReason;
use crate::state::Expiry;
use std::os::fd::OwnedFd;
use std::time::Duration;

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
    /// See [`Target`](crate::freeze::plan::Target).
    level: usize,
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
    /// The run at work freezes no filesystem.
    hooks_only: bool,
    report: Report,
}

impl<O: Ops> Engine<O> {
    /// An engine that holds nothing; `inherited` if an earlier process left its marker.
    pub fn new(mut ops: O, inherited: bool, policy: Policy, limits: Limits) -> Self {
        let state = if inherited {
            // How many there are only the mount table will tell.
            ops.hush(1);
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
            hooks_only: false,
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

    /// The reports of the last runs, the newest first; while frozen the run at work before them.
    pub fn reports(&mut self) -> Vec<Report> {
        let mut reports = self.ops.reports();
        if let State::Frozen { since, .. } = self.state {
            let mut at_work = self.report.clone();
            at_work.stages.held = self.seconds_since(since);
            at_work.judge();
            reports.insert(0, at_work);
        }
        reports
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
        self.report.requested = only.map(|names| {
            let text = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
            names.iter().map(text).collect()
        });
        // A thaw that never came for an earlier freeze cannot be meant by one that comes now.
        self.ops.take_expired();
        let result = self.prepare(only).and_then(|held| self.freeze_held(held));
        if self.is_frozen() {
            self.report.judge();
            let limit_ms = self.hold_limit.map(|limit| limit.as_millis() as u64);
            let report = Box::new(self.report.clone());
            self.ops.tell_guardian(Order::Frozen { limit_ms, report });
        } else {
            self.finish(match result {
                Ok(_) => End::Nothing,
                Err(_) => End::Failure,
            });
        }
        result
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
                Claim::Ours(predecessors) => {
                    if let Some(report) = predecessors {
                        self.report = *report;
                    }
                }
                Claim::Ended(expiry) => self.settle(&expiry),
            }
        }
        let (reason, end) = match self.state {
            State::Thawed => {
                return match self.ops.take_expired() {
                    Some(expiry) => Err(FreezeError(expiry.to_string())),
                    None => self.thaw_strangers(),
                };
            }
            State::Frozen { .. } => (ThawReason::Ok, End::Thaw),
            State::Inherited => (ThawReason::Recovered, End::Recovery),
        };
        let result = self.undo(reason);
        if !self.is_frozen() {
            self.finish(end);
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
        // What it meets is in the log and the report.
        self.end_early("no guest-fsfreeze-thaw came within the hold limit")
            .err();
    }

    /// Ends the freeze without having been asked to; the next thaw will hear of it.
    ///
    /// # Errors
    /// As [`Engine::thaw`].
    pub fn end_early(&mut self, why: &str) -> Result<(), FreezeError> {
        if !self.is_frozen() {
            return Ok(());
        }
        match self.ops.claim() {
            Claim::Ended(expiry) => {
                self.settle(&expiry);
                return Ok(());
            }
            Claim::Ours(None) => {}
            Claim::Ours(Some(predecessors)) => self.report = *predecessors,
        }
        let result = self.undo_because(ThawReason::TimedOut, Some(why));
        if !self.is_frozen() {
            self.finish(End::Expiry);
        }
        result.map(drop)
    }

    /// The guardian has ended the freeze.
    fn settle(&mut self, expiry: &Expiry) {
        self.state = State::Thawed;
        self.ops.dismiss_guardian();
        self.ops.speak();
        // It kept the run before it said so, with what only it knows: the thaw hooks. Of a
        // predecessor's run we know nothing at all.
        let kept = self.ops.reports().into_iter().find(|kept| {
            kept.end.is_some() && (kept.id == self.report.id || self.report.id.is_empty())
        });
        match kept {
            Some(kept) => {
                tracing::warn!("{expiry}");
                self.report = kept;
                self.tell_summary();
            }
            None if self.report.id.is_empty() => tracing::warn!("{expiry}"),
            None => {
                self.report.stages.held += expiry.held;
                self.warn(expiry.to_string());
                self.finish(End::Expiry);
            }
        }
    }

    /// The end of a run, whatever came of it.
    fn finish(&mut self, end: End) {
        self.ops.dismiss_guardian();
        self.report.end(end);
        self.tell_summary();
        if let Err(text) = self.ops.keep(&self.report) {
            tracing::warn!("{text}");
        }
    }

    fn tell_summary(&self) {
        tracing::info!(target: crate::AUDIT, "{}", self.report.summary());
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
