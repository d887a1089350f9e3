//! The transaction: survey, open, flush, hooks, flush again, freeze; and back.
//!
//! The engine is plain sequential code over [`Ops`]. Any failure on the way in undoes what was
//! done, in reverse; undoing goes on past errors and reports them all.

use super::ops::{OpenError, Ops};
use super::plan::{Survey, freeze_order};
use super::report::{FilesystemRecord, Outcome, Report};
use crate::hooks::Phase;
use crate::probe::filesystems::Filesystem;
use crate::sys::strerror;
use nix::libc;
use std::io;
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
    report: Report,
}

impl<O: Ops> Engine<O> {
    /// An engine that holds nothing; `inherited` if an earlier process left its marker.
    pub fn new(mut ops: O, inherited: bool) -> Self {
        let state = if inherited {
            ops.hush();
            State::Inherited
        } else {
            State::Thawed
        };
        Self {
            ops,
            state,
            report: Report::default(),
        }
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
        self.begin_report();
        let result = self.prepare(only).and_then(|held| self.freeze_held(held));
        match &result {
            Ok(0) | Err(_) => self.finish(),
            Ok(_) => {}
        }
        result
    }

    fn begin_report(&mut self) {
        let started = self
            .ops
            .wall_clock()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.report = Report {
            started: started.as_secs_f64(),
            ..Report::default()
        };
    }

    /// Everything before the first FIFREEZE.
    fn prepare(&mut self, only: Option<&[Vec<u8>]>) -> Result<Vec<Held<O::Handle>>, FreezeError> {
        let survey = self
            .ops
            .survey()
            .map_err(|e| self.fail(format!("failed to read the mount table: {}", strerror(&e))))?;
        let order = freeze_order(&survey, only);
        self.record_plan(&survey, &order);
        let mut held = Vec::with_capacity(order.len());
        for (record, filesystem) in order.iter().enumerate() {
            let name = String::from_utf8_lossy(&filesystem.mountpoint).into_owned();
            match self.ops.open(filesystem) {
                Ok(handle) => held.push(Held {
                    handle,
                    name,
                    record,
                }),
                Err(error @ OpenError::Covered) => {
                    tracing::warn!("{name} is not frozen: {error}");
                    self.note(record, Outcome::Skipped, &error.to_string());
                }
                Err(error) => {
                    let text = format!("failed to open {name}: {error}");
                    self.note(record, Outcome::Failed, &text);
                    return Err(self.fail(text));
                }
            }
        }
        if held.is_empty() {
            tracing::warn!("nothing to freeze: no mounted filesystem was chosen, no hook was run");
            return Ok(held);
        }
        self.report.stages.flush = self.flush(&held);
        if let Err(error) = self.call_hooks(Phase::Freeze) {
            // What this meets is in the log and the report; the answer names the culprit.
            self.call_hooks(Phase::Thaw).err();
            return Err(error);
        }
        self.report.stages.flush_again = self.flush(&held);
        Ok(held)
    }

    fn record_plan(&mut self, survey: &Survey, order: &[Filesystem]) {
        let record = |mountpoint: &[u8], fstype: &str, device, outcome, detail| FilesystemRecord {
            mountpoint: String::from_utf8_lossy(mountpoint).into_owned(),
            fstype: fstype.to_owned(),
            device,
            outcome,
            detail,
            freeze_seconds: 0.0,
        };
        self.report.filesystems = order
            .iter()
            .map(|f| {
                let device = format!("{}:{}", f.major, f.minor);
                record(&f.mountpoint, &f.fstype, device, Outcome::Untouched, None)
            })
            .collect();
        self.report.skipped = survey
            .skipped
            .iter()
            .map(|s| {
                let reason = Some(s.reason.to_string());
                record(
                    &s.mountpoint,
                    &s.fstype,
                    String::new(),
                    Outcome::Skipped,
                    reason,
                )
            })
            .collect();
    }

    /// Flushes side by side; a failure is told but does not stop the run: FIFREEZE flushes again
    /// and decides.
    fn flush(&mut self, held: &[Held<O::Handle>]) -> f64 {
        let start = self.ops.now();
        let handles: Vec<&O::Handle> = held.iter().map(|h| &h.handle).collect();
        for (result, held) in self.ops.flush(&handles).into_iter().zip(held) {
            if let Err(e) = result {
                let text = format!("failed to flush {}: {}", held.name, strerror(&e));
                tracing::warn!("{text}");
                self.report.errors.push(text);
            }
        }
        self.seconds_since(start)
    }

    /// Calls the hook master, if there is one; its failure is recorded and returned.
    fn call_hooks(&mut self, phase: Phase) -> Result<(), FreezeError> {
        let start = self.ops.now();
        let called = self.ops.call_hooks(phase);
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
        if held.is_empty() {
            return Ok(0);
        }
        tracing::info!(
            "freezing {} filesystems; log lines are kept until the thaw",
            held.len()
        );
        if let Err(text) = self.ops.mark_frozen() {
            tracing::warn!("{text}");
            self.report.errors.push(text);
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
                Err(e) => match tolerated(&e) {
                    Some(reason) => {
                        tracing::warn!("{} is not frozen: {reason}", held.name);
                        self.note(held.record, Outcome::Skipped, reason);
                    }
                    None => {
                        let text = format!("failed to freeze {}: {}", held.name, strerror(&e));
                        self.note(held.record, Outcome::Failed, &text);
                        failure = Some(text);
                        break;
                    }
                },
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
            if count == 0 {
                self.unfreeze().err();
            }
            return Ok(count);
        };
        let error = self.fail(text);
        // What the roll-back meets is in the log and the report; the answer names the culprit.
        self.unfreeze().err();
        Err(error)
    }

    /// Thaws exactly what this agent froze, then tells the hooks; answers how many filesystems
    /// were thawed by this call. After a restart while frozen, and when nothing is known to be
    /// frozen, every filesystem of the mount table is asked instead.
    ///
    /// # Errors
    /// A filesystem that stays frozen (the agent then stays frozen, and thaw can be asked again),
    /// or a hook master that fails (everything is thawed all the same).
    pub fn thaw(&mut self) -> Result<u64, FreezeError> {
        match self.state {
            State::Thawed => self.thaw_strangers(),
            State::Frozen { .. } | State::Inherited => {
                let result = self.unfreeze();
                if !self.is_frozen() {
                    self.finish();
                }
                result
            }
        }
    }

    fn unfreeze(&mut self) -> Result<u64, FreezeError> {
        let Thawed { count, stuck } = match std::mem::replace(&mut self.state, State::Thawed) {
            State::Thawed => return Ok(0),
            State::Frozen { held, since } => {
                self.report.stages.held += self.seconds_since(since);
                self.thaw_each(held, Outcome::ThawedByOthers)
            }
            State::Inherited => {
                self.begin_report();
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
            tracing::warn!("{text}");
            self.report.errors.push(text);
        }
        tracing::info!(target: crate::AUDIT, "guest-fsthaw called");
        self.call_hooks(Phase::Thaw)?;
        Ok(count)
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
                    self.set_outcome(next.record, Outcome::Thawed);
                }
                Err(e) if is_not_frozen(&e) => self.set_outcome(next.record, idle),
                Err(e) => {
                    let text = format!("failed to thaw {}: {}", next.name, strerror(&e));
                    self.note(next.record, Outcome::Failed, &text);
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
        let order = freeze_order(&survey, None);
        self.record_plan(&survey, &order);
        let mut held = Vec::new();
        for (record, filesystem) in order.iter().enumerate() {
            let name = String::from_utf8_lossy(&filesystem.mountpoint).into_owned();
            match self.ops.open(filesystem) {
                Ok(handle) => held.push(Held {
                    handle,
                    name,
                    record,
                }),
                Err(error) => {
                    let text = format!("failed to open {name}: {error}");
                    tracing::warn!("{text}");
                    self.note(record, Outcome::Skipped, &text);
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

    fn finish(&mut self) {
        if let Err(text) = self.ops.keep(&self.report) {
            tracing::warn!("{text}");
        }
    }

    /// Records an error and makes it the answer.
    fn fail(&mut self, text: String) -> FreezeError {
        tracing::warn!("{text}");
        self.report.errors.push(text.clone());
        FreezeError(text)
    }

    fn note(&mut self, record: usize, outcome: Outcome, detail: &str) {
        if let Some(entry) = self.report.filesystems.get_mut(record) {
            entry.outcome = outcome;
            entry.detail = Some(detail.to_owned());
        }
    }

    fn set_outcome(&mut self, record: usize, outcome: Outcome) {
        if let Some(entry) = self.report.filesystems.get_mut(record) {
            entry.outcome = outcome;
        }
    }

    fn seconds_since(&mut self, start: Duration) -> f64 {
        self.ops.now().saturating_sub(start).as_secs_f64()
    }
}

/// Refusals of FIFREEZE that leave a filesystem out instead of failing the run.
fn tolerated(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Some("this type of filesystem cannot be frozen"),
        Some(libc::EBUSY) => Some("someone else has frozen it already"),
        _ => None,
    }
}

/// FITHAW's word for a filesystem that is not frozen.
fn is_not_frozen(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}
