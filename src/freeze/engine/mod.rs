//! The transaction: survey, open, flush, hooks, flush again, freeze; and back.
//!
//! The engine is plain sequential code over [`Ops`]; what is done side by side is done in there, one
//! batch of the plan at a time. Any failure on the way in undoes what was done, in reverse; undoing
//! goes on past errors and reports them all.

mod freeze;
mod recovery;
mod thaw;
mod watch;

use crate::freeze::guardian::Claim;
use crate::freeze::ops::{GuardianNews, Ops};
use crate::freeze::plan::Target;
use crate::freeze::policy::{FreezeLimits, FreezePolicy};
use crate::freeze::report::{Report, RunEnd};
use crate::hooks::ThawReason;
use crate::probe::mountinfo::DeviceNumber;
use crate::state::Expiry;
use nix::sys::eventfd::EventFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// How often a guardian is looked at that does not say what it does: it may be stopped.
const LEGACY_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Why there is no freeze while the agent leaves.
const STOPPING: &str = "the freeze was given up: the agent was asked to stop";

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
    /// See [`Target`].
    batch: usize,
    /// It cannot be frozen: its device is watched instead.
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

/// What a walk of FITHAWs did.
struct Thawed<H> {
    /// How many filesystems it thawed.
    count: u64,
    /// What stays frozen, with the reason.
    stuck: Vec<(Held<H>, String)>,
    /// What has not answered, one line each. The call is still out and thaws it once its disk answers; the
    /// hooks do not wait for that.
    late: Vec<String>,
}

enum State<H> {
    Thawed,
    /// Frozen by this process or by an earlier one.
    Frozen(Freeze<H>),
    /// An earlier process left its marker, and its guardian has not said yet what it is doing.
    Inherited,
}

/// A freeze that holds.
struct Freeze<H> {
    /// In the order of freezing.
    held: Vec<Held<H>>,
    /// Since when everything is frozen.
    since: Duration,
    /// When the hold limit ends it.
    ends: Option<Duration>,
    /// By an earlier process.
    is_inherited: bool,
    /// How often another guardian may be started.
    guardians_left: u32,
}

/// The state machine. `O` is the world.
pub struct Engine<O: Ops> {
    ops: O,
    state: State<O::Handle>,
    policy: FreezePolicy,
    hold_limit: Option<Duration>,
    /// The run at work freezes no filesystem.
    hooks_only: bool,
    report: Report,
    /// The host has not heard yet that its freeze was ended because the system goes down.
    owes_an_answer: bool,
    /// The run at work has ended so, and that is still to be kept.
    ended: Option<RunEnd>,
    /// An earlier process may have left hooks that are still to be thawed.
    has_legacy: bool,
}

impl<O: Ops> Engine<O> {
    /// An engine that holds nothing; `inherited` if an earlier process left its marker.
    pub fn new(mut ops: O, inherited: bool, policy: FreezePolicy, limits: FreezeLimits) -> Self {
        // One that undoes a freeze of which there is no marker yet is to be waited for as well.
        let has_legacy = ops.find_guardian() || inherited || ops.has_journal();
        let state = if inherited {
            // How many there are only the guardian or the mount table will tell.
            ops.enter_frozen_section(1);
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
            owes_an_answer: false,
            ended: None,
            has_legacy,
        }
    }

    /// Whether it is not known yet what an earlier process has left.
    pub fn has_legacy(&self) -> bool {
        self.has_legacy
    }

    /// How long until the hold limit ends the freeze at work, or until the next look at a predecessor's
    /// guardian that does not say what it does; `None`: never, or nothing is frozen.
    pub fn time_left(&mut self) -> Option<Duration> {
        match &self.state {
            _ if self.has_legacy => Some(LEGACY_CHECK_INTERVAL),
            State::Frozen(freeze) => freeze.ends.map(|ends| ends.saturating_sub(self.ops.now())),
            State::Thawed | State::Inherited => None,
        }
    }

    /// See [`Ops::stop_event`].
    pub fn stop_line(&self) -> Option<Arc<EventFd>> {
        self.ops.stop_event()
    }

    /// See [`Ops::is_stopping`].
    pub fn is_stopping(&self) -> bool {
        self.ops.is_stopping()
    }

    /// Whether the host is yet to hear that its freeze was ended because the system goes down.
    pub fn owes_an_answer(&self) -> bool {
        self.owes_an_answer
    }

    /// A descriptor that becomes readable when the guardian has something to say.
    pub fn guardian_line(&self) -> Option<OwnedFd> {
        self.ops.guardian_fd()
    }

    /// Whether filesystems are frozen as far as this agent knows.
    pub fn is_frozen(&self) -> bool {
        !matches!(self.state, State::Thawed)
    }

    /// The reports of the last runs, the newest first; while frozen the run at work before them.
    pub fn reports(&mut self) -> Vec<Report> {
        self.conclude();
        let mut reports = self.ops.reports();
        if let State::Frozen(Freeze { since, .. }) = self.state {
            let mut at_work = self.report.clone();
            at_work.stages.held = self.seconds_since(since);
            at_work.compute_level();
            reports.insert(0, at_work);
        }
        reports
    }

    /// Does what is left after a freeze or thaw and need not be waited for: the kept log lines, the
    /// guardian's end, the summary in the log, the report. What comes next does it, if nobody else has.
    pub fn conclude(&mut self) {
        if let Some(end) = self.ended.take() {
            self.finish(end);
        }
        if !self.is_frozen() {
            self.ops.release_resources();
        }
    }

    /// Freezes everything, or the mountpoints of `only`; answers how many filesystems this call
    /// froze. With 0 nothing is frozen afterwards, and the hooks have been told to thaw.
    ///
    /// # Errors
    /// A filesystem that cannot be opened or frozen, or a hook master that fails. Nothing is
    /// frozen afterwards.
    pub fn freeze(&mut self, only: Option<&[Vec<u8>]>) -> Result<u64, FreezeError> {
        self.conclude();
        self.recover(true);
        if self.is_frozen() {
            return Err(FreezeError("filesystems are already frozen".into()));
        }
        if self.has_legacy {
            let why =
                "the freeze of an agent that was killed is still being undone; try again later";
            return Err(FreezeError(why.into()));
        }
        if self.ops.is_stopping() {
            return Err(FreezeError(STOPPING.into()));
        }
        self.report = Report::begin(self.ops.wall_clock());
        self.report.requested = only.map(|names| {
            let text = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
            names.iter().map(text).collect()
        });
        // A thaw that never came for an earlier freeze cannot be meant by one that comes now.
        self.ops.take_expired();
        let result = self.prepare(only).and_then(|held| self.freeze_held(held));
        if !self.is_frozen() {
            self.ended = Some(match result {
                Ok(_) => RunEnd::Nothing,
                Err(_) => RunEnd::Failure,
            });
        }
        result
    }

    /// Thaws exactly what this agent or its predecessor froze, then tells the hooks; answers how many
    /// filesystems were thawed by this call. When nothing is known to be frozen, every filesystem of the
    /// mount table is asked instead.
    ///
    /// # Errors
    /// The freeze was ended before (told once), a filesystem that stays frozen (the agent then
    /// stays frozen, and thaw can be asked again), or a hook master that fails (everything is
    /// thawed all the same).
    pub fn thaw(&mut self) -> Result<u64, FreezeError> {
        self.conclude();
        self.recover(true);
        self.owes_an_answer = false;
        if self.is_frozen() {
            match self.ops.claim(false) {
                Claim::Ours(predecessors) => {
                    self.has_legacy = false;
                    if let Some(report) = predecessors {
                        self.report = *report;
                    }
                }
                Claim::Ended(expiry) => self.record_guardian_end(&expiry),
            }
        }
        let (reason, end) = match self.state {
            State::Thawed => {
                let answer = match self.ops.take_expired() {
                    Some(expiry) => Err(FreezeError(expiry.to_string())),
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
        let result = self.undo(reason);
        self.ended = (!self.is_frozen()).then_some(end);
        result
    }

    /// Looks after a freeze that nobody thaws: hears what the guardian did, and ends it when the
    /// hold limit has passed.
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
        // What it meets is in the log and the report.
        self.end_early(why).err();
    }

    /// Ends the freeze without having been asked to; the next thaw will hear of it.
    ///
    /// # Errors
    /// As [`Engine::thaw`].
    pub fn end_early(&mut self, why: &str) -> Result<(), FreezeError> {
        self.recover(true);
        if !self.is_frozen() {
            return Ok(());
        }
        match self.ops.claim(true) {
            Claim::Ended(expiry) => {
                self.record_guardian_end(&expiry);
                return Ok(());
            }
            Claim::Ours(None) => {}
            Claim::Ours(Some(predecessors)) => self.report = *predecessors,
        }
        self.has_legacy = false;
        let result = self.undo_because(ThawReason::TimedOut, Some(why));
        if !self.is_frozen() {
            self.finish(RunEnd::Expiry);
        }
        result.map(drop)
    }

    /// The guardian has ended the freeze.
    fn record_guardian_end(&mut self, expiry: &Expiry) {
        self.state = State::Thawed;
        // It may have found the state directory read-only; then this agent remembers.
        // No host was told of a freeze that was never whole, so its thaw has nothing to hear.
        let was_whole = expiry.held > 0.0;
        let marked = was_whole.then(|| self.ops.mark_expired(expiry));
        match was_whole {
            true => self.ops.dismiss_guardian(),
            false => self.leave_to_guardian(),
        }
        self.ops.leave_frozen_section();
        self.add_error(marked.unwrap_or(Ok(())));
        // It kept the run before it said so, with what only it knows: the thaw hooks. Of a
        // predecessor's run we know nothing at all.
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
                self.warn(expiry.to_string());
                self.finish(RunEnd::Expiry);
            }
        }
    }

    /// The guardian has ended a freeze that was not whole and says so before it tells the hooks: an agent that was
    /// stopped must not go on meanwhile. Until it has ended, nothing else begins.
    fn leave_to_guardian(&mut self) {
        self.ops.disconnect_guardian();
        self.has_legacy = true;
    }

    /// The end of a run, whatever came of it. The report comes first: an agent that is killed in this
    /// moment leaves it to nobody.
    fn finish(&mut self, end: RunEnd) {
        if !self.has_legacy {
            self.ops.release_guardian();
        }
        self.report.end(end);
        let kept = self.ops.store_report(&self.report);
        self.ops.leave_frozen_section();
        self.log_summary();
        if let Err(text) = kept {
            tracing::warn!("{text}");
        }
        if !self.has_legacy {
            self.ops.dismiss_guardian();
        }
        // Its many small pieces would keep pages of the heap that are free otherwise.
        self.report = Report::default();
    }

    fn log_summary(&self) {
        tracing::info!(target: crate::AUDIT, "{}", self.report.summary());
    }

    /// Logs and records what does not stop the run.
    fn warn(&mut self, text: String) {
        tracing::warn!("{text}");
        self.report.errors.push(text);
    }

    /// Logs and records a failure that does not stop the run.
    fn add_error(&mut self, result: Result<(), String>) {
        if let Err(text) = result {
            self.warn(text);
        }
    }

    /// Fails once the agent is asked to stop, for then nobody may be there to thaw.
    fn refuse_if_stopping(&mut self) -> Result<(), FreezeError> {
        match self.ops.is_stopping() {
            true => Err(self.fail(STOPPING.into())),
            false => Ok(()),
        }
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
