//! The children of guest-exec and what is known of each. Floor 4.
//!
//! A child is reaped when SIGCHLD says that one has ended, or when a guest-exec-status asks for it, whichever comes first.
//! waitpid(2) is only called for process ids that were started here: helpers and hooks are waited for by [`crate::child`],
//! and waiting for any child would take their exit status away.

use super::capture::{Capture, Captured, OutputBudget, write_input};
use super::launch::Started;
use crate::protocol::error::CommandError;
use crate::sys::spawn::{WaitStatus, try_reap};
use crate::sys::strerror;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::signal::unix::{SignalKind, signal};

/// How often the tasks that read the pipes may run before a child that has ended is reported as running: what it wrote
/// last is often still in the pipe, and a client asks again only at its next poll.
const MAX_REAP_ROUNDS: usize = 4;

#[derive(Debug)]
struct ChildRecord {
    ended: Option<WaitStatus>,
    out: Capture,
    err: Capture,
}

impl ChildRecord {
    fn reap(&mut self, pid: i32) {
        if self.ended.is_some() {
            return;
        }
        self.ended = try_reap(pid).unwrap_or_else(|error| {
            // Only the agent waits for it, so this does not happen; but a client must not poll indefinitely.
            tracing::error!("cannot wait for child {pid}: {}", strerror(&error));
            Some(WaitStatus::Exited(-1))
        });
    }

    fn is_complete(&self) -> bool {
        self.out.is_complete() && self.err.is_complete()
    }
}

type ChildRecords = HashMap<i32, ChildRecord>;

/// Children whose end was not reported yet.
#[derive(Debug, Default)]
pub struct Children {
    records: Arc<Mutex<ChildRecords>>,
    budget: Arc<Mutex<OutputBudget>>,
    /// From the first child on, so that agents without one have no handler of SIGCHLD.
    watched: bool,
}

impl Children {
    /// If the runtime can watch neither pipes nor signals, the child runs on its own.
    pub fn add(&mut self, started: Started, input: Option<Vec<u8>>) -> Result<(), CommandError> {
        let pid = started.pid;
        self.register(started, input).map_err(|error| {
            CommandError::generic(format!("cannot watch child {pid}: {}", strerror(&error)))
        })
    }

    fn register(&mut self, started: Started, input: Option<Vec<u8>>) -> io::Result<()> {
        if !self.watched {
            self.watch_sigchld()?;
            self.watched = true;
        }
        // The kernel reuses a process id only after the child was reaped, so a record of the same id is of a child that
        // has ended and was not asked for; it is replaced.
        let mut record = ChildRecord {
            ended: None,
            out: Capture::start(started.out, &self.budget)?,
            err: Capture::start(started.err, &self.budget)?,
        };
        // It may have ended before the handler for SIGCHLD was installed.
        record.reap(started.pid);
        lock(&self.records).insert(started.pid, record);
        match (started.input, input) {
            (Some(pipe), Some(bytes)) => write_input(pipe, bytes),
            _ => Ok(()),
        }
    }

    fn watch_sigchld(&self) -> io::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        let records = Arc::downgrade(&self.records);
        tokio::spawn(async move {
            while ended.recv().await.is_some() {
                let Some(records) = records.upgrade() else {
                    break;
                };
                for (&pid, record) in lock(&records).iter_mut() {
                    record.reap(pid);
                }
            }
        });
        Ok(())
    }

    #[cfg(test)]
    pub fn ended(&self, pid: i32) -> Option<WaitStatus> {
        lock(&self.records).get(&pid)?.ended
    }

    /// `None` if there is no such child; `Some(None)` while it runs or any process can still write to its output; else
    /// its end and its output, and the record is removed.
    pub async fn report(&self, pid: i64) -> Option<Option<(WaitStatus, Captured, Captured)>> {
        // No child has a number that the kernel cannot have.
        let pid = i32::try_from(pid).ok()?;
        for round in 0.. {
            {
                let mut records = lock(&self.records);
                let record = records.get_mut(&pid)?;
                record.reap(pid);
                let ended = match record.ended {
                    None => return Some(None),
                    Some(ended) => ended,
                };
                if record.is_complete() {
                    let record = records.remove(&pid)?;
                    return Some(Some((ended, record.out.finish(), record.err.finish())));
                }
            }
            if round == MAX_REAP_ROUNDS {
                break;
            }
            // What it wrote may still be in the pipe.
            tokio::task::yield_now().await;
        }
        Some(None)
    }
}

fn lock(records: &Mutex<ChildRecords>) -> MutexGuard<'_, ChildRecords> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}
