//! The children and what is known of each (floor 4).
//!
//! A child is reaped when SIGCHLD says that one has ended, or when somebody asks for it, whichever
//! comes first; only those that were started here are ever waited for.

use super::capture::{Budget, Capture, Captured, feed};
use super::launch::Started;
use crate::protocol::error::CommandError;
use crate::sys::spawn::{WaitStatus, try_reap};
use crate::sys::strerror;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::signal::unix::{SignalKind, signal};

/// How often the pipes' tasks get a turn before a child that has ended counts as still open.
const MAX_REAP_ROUNDS: usize = 4;

#[derive(Debug)]
struct Record {
    ended: Option<WaitStatus>,
    out: Capture,
    err: Capture,
}

impl Record {
    fn look(&mut self, pid: i32) {
        if self.ended.is_some() {
            return;
        }
        self.ended = try_reap(pid).unwrap_or_else(|error| {
            // Nobody else waits for it, so this does not happen; a client must not wait for ever.
            tracing::error!("cannot wait for child {pid}: {}", strerror(&error));
            Some(WaitStatus::Exited(-1))
        });
    }

    fn is_complete(&self) -> bool {
        self.out.is_complete() && self.err.is_complete()
    }
}

type Records = HashMap<i32, Record>;

/// Every child whose end was not yet reported.
#[derive(Debug, Default)]
pub struct Children {
    records: Arc<Mutex<Records>>,
    budget: Arc<Mutex<Budget>>,
    /// Whether SIGCHLD is listened for: from the first child on.
    watched: bool,
}

impl Children {
    /// Takes over a child that was just started, and feeds it `input`.
    ///
    /// # Errors
    /// The runtime can watch neither pipes nor signals; the child then runs on its own.
    pub fn add(&mut self, started: Started, input: Option<Vec<u8>>) -> Result<(), CommandError> {
        let pid = started.pid;
        self.watch(started, input).map_err(|error| {
            CommandError::generic(format!("cannot watch child {pid}: {}", strerror(&error)))
        })
    }

    fn watch(&mut self, started: Started, input: Option<Vec<u8>>) -> io::Result<()> {
        if !self.watched {
            self.listen()?;
            self.watched = true;
        }
        // A number comes again only after its last bearer was reaped, so what an old record of
        // the same number says is of no use any more.
        let mut record = Record {
            ended: None,
            out: Capture::start(started.out, &self.budget)?,
            err: Capture::start(started.err, &self.budget)?,
        };
        // It may have ended before the first SIGCHLD was listened for.
        record.look(started.pid);
        lock(&self.records).insert(started.pid, record);
        match (started.input, input) {
            (Some(pipe), Some(bytes)) => feed(pipe, bytes),
            _ => Ok(()),
        }
    }

    fn listen(&self) -> io::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        let records = Arc::downgrade(&self.records);
        tokio::spawn(async move {
            while ended.recv().await.is_some() {
                let Some(records) = records.upgrade() else {
                    break;
                };
                for (&pid, record) in lock(&records).iter_mut() {
                    record.look(pid);
                }
            }
        });
        Ok(())
    }

    /// How the child `pid` ended, as far as its record says.
    #[cfg(test)]
    pub fn ended(&self, pid: i32) -> Option<WaitStatus> {
        lock(&self.records).get(&pid)?.ended
    }

    /// What has become of the child `pid`: None if there is none; Some(None) while it runs or
    /// anybody can still write to its output; else its end and its output, and it is forgotten.
    pub async fn report(&self, pid: i64) -> Option<Option<(WaitStatus, Captured, Captured)>> {
        let pid = i32::try_from(pid).ok()?;
        for turn in 0.. {
            {
                let mut records = lock(&self.records);
                let record = records.get_mut(&pid)?;
                record.look(pid);
                let ended = match record.ended {
                    None => return Some(None),
                    Some(ended) => ended,
                };
                if record.is_complete() {
                    let record = records.remove(&pid)?;
                    return Some(Some((ended, record.out.finish(), record.err.finish())));
                }
            }
            if turn == MAX_REAP_ROUNDS {
                break;
            }
            // What it wrote may be in the pipe yet.
            tokio::task::yield_now().await;
        }
        Some(None)
    }
}

fn lock(records: &Mutex<Records>) -> MutexGuard<'_, Records> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}
