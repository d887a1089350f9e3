//! What all steps of a run share: the log, the agent's ear, the order to stop. Steps that run side by
//! side take turns at it.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::journal::{Journal, RunInfo};
use super::log::HookLog;
use super::{HookRecord, Phase, ThawReason, at_work, invoke};
use crate::sys::poll::{has_hung_up, is_readable};

/// With records of this length, in bytes, no output is added any more; the rest of what the agent reads is for
/// what became of the hooks.
const MAX_REPORTED_OUTPUT: u64 = invoke::MAX_RECORDS_BYTES / 2;
/// What stands in its place.
const OUTPUT_LEFT_OUT: &str = "[left out of the report, which is long: see qemu-ga log]\n";

/// See the module.
#[derive(Debug)]
pub struct HookRun {
    /// Which of the two calls.
    pub phase: Phase,
    /// Why, on thaw.
    pub reason: Option<ThawReason>,
    /// What hooks are told about the run.
    pub run: RunInfo,
    /// When all of it must be over.
    pub due: Option<Instant>,
    /// Becomes readable when the run is to stop.
    pub stop: Option<OwnedFd>,
    log: Mutex<HookLog>,
    records: Mutex<Option<File>>,
    journal: Mutex<Journal>,
    /// When the first step of a source was taken.
    first_starts: Mutex<Vec<(&'static str, Instant)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HookRun {
    /// A desk for one call of the master; [`HookRun::begin`] follows.
    pub fn new(phase: Phase, stop: Option<OwnedFd>, (log, journal): (HookLog, Journal)) -> HookRun {
        HookRun {
            phase,
            reason: None,
            run: RunInfo::default(),
            due: None,
            stop,
            log: Mutex::new(log),
            records: Mutex::default(),
            journal: Mutex::new(journal),
            first_starts: Mutex::default(),
        }
    }

    /// Begins a phase; its time begins with it.
    pub fn begin(
        &mut self,
        (phase, reason): (Phase, Option<ThawReason>),
        run: RunInfo,
        total: Option<Duration>,
        records: Option<File>,
    ) {
        (self.phase, self.reason, self.run) = (phase, reason, run);
        self.due = total.and_then(|total| Instant::now().checked_add(total));
        (self.records, self.first_starts) = (Mutex::new(records), Mutex::default());
    }

    /// The log, until the guard is dropped.
    pub fn log(&self) -> MutexGuard<'_, HookLog> {
        lock(&self.log)
    }

    /// Tells the agent of a step. What hooks print must not take the room of the records that follow.
    pub fn send_record(&self, record: &HookRecord) {
        let length = || Some(lock(&self.records).as_ref()?.metadata().ok()?.len());
        let line = serde_json::to_vec(record);
        let added = line.as_ref().map_or(0, Vec::len) as u64;
        if record.output.is_empty() || length().unwrap_or_default() + added <= MAX_REPORTED_OUTPUT {
            return self.write(line);
        }
        let mut record = record.clone();
        record.output = OUTPUT_LEFT_OUT.to_owned();
        self.write(serde_json::to_vec(&record));
    }

    /// Notes for whoever looks that a hook is started, which has so long for it.
    pub fn send_start(&self, path: &str, source: &str, limit: Option<Duration>) {
        let limit = limit.map(|limit| limit.as_secs_f64());
        self.write(Ok(at_work::line(path, source, self.phase, limit)));
    }

    /// Tells the agent that no filesystem is to be frozen.
    pub fn send_leave_filesystems(&self) {
        self.write(Ok(super::LEAVE_FILESYSTEMS.into()));
    }

    fn write(&self, line: serde_json::Result<Vec<u8>>) {
        let mut records = lock(&self.records);
        if let (Some(file), Ok(mut line)) = (records.as_mut(), line) {
            line.push(b'\n');
            if file.write_all(&line).is_err() {
                // The agent has gone, or gave us something else: the log has it all the same.
                *records = None;
            }
        }
    }

    /// Logs what the journal could not note.
    pub fn log_journal_error(&self, result: Result<(), String>) {
        if let Err(error) = result {
            self.log().line(&error);
        }
    }

    /// The journal, until the guard is dropped.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    /// Whether the run is to stop.
    pub fn is_stopped(&self) -> bool {
        self.pause(Duration::ZERO)
    }

    /// Whether the agent that has called this freeze is gone: it alone reads our output. Its successor may have
    /// looked for a journal before there was one, so no hook may be started any more.
    pub fn agent_has_ended(&self) -> bool {
        let is_called_by_agent = lock(&self.records).is_some();
        self.phase == Phase::Freeze
            && is_called_by_agent
            && has_hung_up(std::io::stdout().as_fd(), Duration::ZERO)
    }

    /// Waits, or less if the run is to stop; returns whether it is.
    pub fn pause(&self, time: Duration) -> bool {
        let Some(stop) = &self.stop else {
            std::thread::sleep(time);
            return false;
        };
        is_readable(stop.as_fd(), time)
    }

    /// What is left of all the time; None: no end.
    pub fn left(&self) -> Option<Duration> {
        self.due
            .map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// What is left of the time for all steps of `source`, which begins with the first of them.
    pub fn left_of(&self, source: &'static str, budget: Duration) -> Duration {
        let mut first_starts = lock(&self.first_starts);
        let first = first_starts.iter().find(|(name, _)| *name == source);
        let first = first.map(|(_, first)| *first);
        let first = first.unwrap_or_else(|| {
            let now = Instant::now();
            first_starts.push((source, now));
            now
        });
        budget.saturating_sub(first.elapsed())
    }

    /// The time that a call has which may take `timeout`: on thaw all of it, see [`super::budget`].
    pub fn time_for(&self, timeout: Option<Duration>) -> Option<Duration> {
        let left = self.left().filter(|_| self.phase == Phase::Freeze);
        timeout.into_iter().chain(left).min()
    }
}
