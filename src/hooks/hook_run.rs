//! What all tasks of one run share: the log, the agent's record file, the journal, the time limits and the stop signal.
//!
//! Tasks of one stage may run on several threads, so each of these is behind a mutex. Where two are needed, the journal
//! is locked before the log. [`super::runner`] creates one run for each call of the master.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::journal::{Journal, RunInfo};
use super::log::HookLog;
use super::{HookRecord, Phase, ThawReason, at_work, invoke};
use crate::diagnostic::Diagnostic;
use crate::sys::poll::{has_hung_up, is_readable};

/// No output is added to longer records, in bytes: the rest of what the agent reads is for the hooks' results.
const MAX_REPORTED_OUTPUT: u64 = invoke::MAX_RECORDS_BYTES / 2;
const OUTPUT_LEFT_OUT: &str = "[left out of the report, which is long: see qemu-ga log]\n";

#[derive(Debug)]
pub struct HookRun {
    pub phase: Phase,
    /// None on freeze.
    pub reason: Option<ThawReason>,
    pub run: RunInfo,
    /// The end of `total-timeout`.
    pub due: Option<Instant>,
    /// Becomes readable when the master must stop.
    pub stop: Option<OwnedFd>,
    /// The variables of restore hooks, which run in no phase; None: hooks of a freeze or thaw.
    pub restored: Option<Vec<(&'static str, String)>>,
    log: Mutex<HookLog>,
    records: Mutex<Option<File>>,
    journal: Mutex<Journal>,
    /// When the first task of each source started, for limits that a source's tasks share.
    first_starts: Mutex<Vec<(String, Instant)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HookRun {
    pub fn new(phase: Phase, stop: Option<OwnedFd>, (log, journal): (HookLog, Journal)) -> HookRun {
        HookRun {
            phase,
            reason: None,
            run: RunInfo::default(),
            due: None,
            stop,
            restored: None,
            log: Mutex::new(log),
            records: Mutex::default(),
            journal: Mutex::new(journal),
            first_starts: Mutex::default(),
        }
    }

    /// Begins a phase; `total` counts from now. A freeze that first thaws an earlier one has two phases.
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

    pub fn log(&self) -> MutexGuard<'_, HookLog> {
        lock(&self.log)
    }

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

    pub fn send_start(&self, path: &str, source: &str, limit: Option<Duration>) {
        let limit = limit.map(|limit| limit.as_secs_f64());
        self.write(Ok(at_work::line(path, source, self.phase, limit)));
    }

    pub fn send_leave_filesystems(&self) {
        self.write(Ok(super::LEAVE_FILESYSTEMS.into()));
    }

    fn write(&self, line: serde_json::Result<Vec<u8>>) {
        let mut records = lock(&self.records);
        if let (Some(file), Ok(mut line)) = (records.as_mut(), line) {
            line.push(b'\n');
            if file.write_all(&line).is_err() {
                // The agent died or passed something that is not a memory file. The log has the result in any
                // case.
                *records = None;
            }
        }
    }

    pub fn log_journal_error(&self, result: Result<(), Diagnostic>) {
        if let Err(error) = result {
            self.log().line(&error.to_string());
        }
    }

    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    pub fn is_stopped(&self) -> bool {
        self.pause(Duration::ZERO)
    }

    /// Whether the agent that called this freeze has ended: it is the only reader of the master's stdout. Its successor
    /// may have looked for a journal before there was one and then thaws nothing, so no further hook may be started.
    pub fn agent_has_ended(&self) -> bool {
        let is_called_by_agent = lock(&self.records).is_some();
        self.phase == Phase::Freeze
            && is_called_by_agent
            && has_hung_up(std::io::stdout().as_fd(), Duration::ZERO)
    }

    /// Waits for `time`; returns at once, and true, if the master must stop.
    pub fn pause(&self, time: Duration) -> bool {
        let Some(stop) = &self.stop else {
            std::thread::sleep(time);
            return false;
        };
        is_readable(stop.as_fd(), time)
    }

    /// What is left of `total-timeout`; None: no limit.
    pub fn left(&self) -> Option<Duration> {
        self.due
            .map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// What is left of `budget` for all tasks of `source`, whose time starts with the first call.
    pub fn left_of(&self, source: &str, budget: Duration) -> Duration {
        let mut first_starts = lock(&self.first_starts);
        let first = first_starts.iter().find(|(name, _)| name == source);
        let first = first.map(|(_, first)| *first);
        let first = first.unwrap_or_else(|| {
            let now = Instant::now();
            first_starts.push((source.to_owned(), now));
            now
        });
        budget.saturating_sub(first.elapsed())
    }

    /// The time for a command: on freeze `total-timeout` limits it as well, on thaw it does not, see [`super::budget`].
    pub fn time_for(&self, timeout: Option<Duration>) -> Option<Duration> {
        let left = self.left().filter(|_| self.phase == Phase::Freeze);
        timeout.into_iter().chain(left).min()
    }
}
