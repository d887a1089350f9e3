//! What all steps of a run share: the log, the agent's ear, the order to stop. Steps that run side by
//! side take turns at it.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::log::HookLog;
use super::memory::{Memory, Run, Started};
use super::step::Step;
use super::{HookRecord, Phase, ThawReason};
use crate::sys::poll::is_readable;

/// See the module.
#[derive(Debug)]
pub struct Desk {
    /// Which of the two calls.
    pub phase: Phase,
    /// Why, on thaw.
    pub reason: Option<ThawReason>,
    /// What hooks are told about the run.
    pub run: Run,
    /// When all of it must be over.
    pub due: Option<Instant>,
    /// Becomes readable when the run is to stop.
    pub stop: Option<OwnedFd>,
    log: Mutex<HookLog>,
    records: Mutex<Option<File>>,
    memory: Mutex<Memory>,
    /// When the first step of a source was taken.
    begun: Mutex<Vec<(&'static str, Instant)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// A desk for one run.
    pub fn new(
        (phase, reason): (Phase, Option<ThawReason>),
        run: Run,
        total: Option<Duration>,
        stop: Option<OwnedFd>,
        (log, records, memory): (HookLog, Option<File>, Memory),
    ) -> Desk {
        Desk {
            phase,
            reason,
            run,
            due: total.and_then(|total| Instant::now().checked_add(total)),
            stop,
            log: Mutex::new(log),
            records: Mutex::new(records),
            memory: Mutex::new(memory),
            begun: Mutex::default(),
        }
    }

    /// The log, until the guard is dropped.
    pub fn log(&self) -> MutexGuard<'_, HookLog> {
        lock(&self.log)
    }

    /// Tells the agent of a step.
    pub fn tell(&self, record: &HookRecord) {
        self.write(serde_json::to_vec(record));
    }

    /// Tells the agent that no filesystem is to be frozen.
    pub fn leave_filesystems(&self) {
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

    /// Remembers that a step is about to be started; that it cannot be remembered is in the log.
    pub fn remember_start(&self, step: &Step, door: Option<PathBuf>) {
        let started = Started {
            door,
            ..step.started()
        };
        let noted = lock(&self.memory).start(started);
        self.log_trouble(noted);
    }

    /// Remembers that a step which was started is not to be undone.
    pub fn remember_end(&self, step: &Step) {
        let noted = lock(&self.memory).settle(step.started());
        self.log_trouble(noted);
    }

    fn log_trouble(&self, noted: Result<(), String>) {
        if let Err(trouble) = noted {
            self.log().line(&trouble);
        }
    }

    /// The memory, until the guard is dropped.
    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    /// Whether the run is to stop.
    pub fn is_stopped(&self) -> bool {
        self.pause(Duration::ZERO)
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
        let mut begun = lock(&self.begun);
        let first = begun.iter().find(|(name, _)| *name == source);
        let first = first.map(|(_, first)| *first);
        let first = first.unwrap_or_else(|| {
            let now = Instant::now();
            begun.push((source, now));
            now
        });
        budget.saturating_sub(first.elapsed())
    }

    /// The time that a call has which may take `timeout`.
    pub fn time_for(&self, timeout: Option<Duration>) -> Option<Duration> {
        match (timeout, self.left()) {
            (Some(timeout), Some(left)) => Some(timeout.min(left)),
            (timeout, left) => timeout.or(left),
        }
    }
}
