//! Floor 4: runs the blocking part of a handler on a thread, with a time limit.
//!
//! The agent has one task for its session; a filesystem or helper that does not respond would block it, and with it the
//! thaw of a freeze. So handlers that read many files, call name services or run programs do it here. A job that does not
//! return in time keeps its thread (no thread can be ended from outside); their number is limited.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::deadline::{Pace, Pool};
use crate::protocol::error::CommandError;

/// Beyond it a filesystem or a name service does not respond.
pub(super) const FILE_COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
/// For what waits for programs or hardware: a suspend, memory that is moved away.
pub(super) const SLOW_COMMAND_TIMEOUT: Duration = Duration::from_secs(600);
pub(super) const FSTRIM_TIMEOUT: Duration = Duration::from_secs(3600);

/// Enough for the C library's name services, which load plug-ins (nsswitch.conf(5)) that need far more than our code.
const WORKER_STACK_SIZE: usize = 512 * 1024;
/// Beyond that, commands fail at once.
const MAX_WORKERS: usize = 16;
static RUNNING_JOBS: AtomicUsize = AtomicUsize::new(0);

/// After `limit` the job's thread is left to itself, and the command fails.
pub(super) async fn run<T: Send + 'static>(
    limit: Duration,
    job: impl FnOnce() -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
    // Not through the channel of `run_job`, whose code would then exist once for each type of result.
    let result = Arc::new(Mutex::new(None));
    let slot = result.clone();
    let job = move || {
        let result = Some(job());
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = result;
    };
    run_job(&RUNNING_JOBS, limit, Box::new(job)).await?;
    let result = result.lock().unwrap_or_else(PoisonError::into_inner).take();
    result.unwrap_or_else(|| Err(CommandError::generic("the command's thread died")))
}

type Job = Box<dyn FnOnce() + Send>;

/// A job may be dropped without having run: at the limit the pool closes even if its thread has not started yet.
struct JobCount(&'static AtomicUsize);

impl JobCount {
    fn new(jobs: &'static AtomicUsize) -> Self {
        jobs.fetch_add(1, Ordering::Relaxed);
        Self(jobs)
    }
}

impl Drop for JobCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The part of [`run`] that does not depend on the type of the result, so that it is compiled once.
fn run_job(
    running: &'static AtomicUsize,
    limit: Duration,
    job: Job,
) -> Pin<Box<dyn Future<Output = Result<(), CommandError>>>> {
    Box::pin(async move {
        let pool = Pool::with_stack(WORKER_STACK_SIZE);
        if running.load(Ordering::Relaxed) >= MAX_WORKERS {
            return Err(CommandError::generic(
                "too many commands have not returned yet; find out which filesystem does not answer",
            ));
        }
        if !pool.reserve(1) {
            return Err(CommandError::generic("failed to start a thread"));
        }
        let counted = JobCount::new(running);
        let (done_sender, done) = oneshot::channel();
        let counted_job = move || {
            job();
            drop(counted);
            // The receiver is gone if the limit has passed: the result is not needed any more.
            done_sender.send(()).ok();
            Ok(())
        };
        pool.start(Pace::OneByOne, drop, [counted_job]);
        timeout(limit, done).await.map(drop).map_err(|_| {
            let seconds = limit.as_secs();
            let text = format!("no answer within {seconds} s; what was begun may still be done");
            CommandError::generic(text)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    static HERE: AtomicUsize = AtomicUsize::new(0);

    fn wait<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn results_and_failures_come_back() {
        assert_eq!(wait(run(FILE_COMMAND_TIMEOUT, || Ok(7))).unwrap(), 7);
        let failed: Result<(), _> = wait(run(FILE_COMMAND_TIMEOUT, || {
            Err(CommandError::generic("no"))
        }));
        assert_eq!(failed.unwrap_err().desc, "no");
    }

    fn wait_until_none_runs(running: &AtomicUsize) {
        let start = std::time::Instant::now();
        while running.load(Ordering::Relaxed) > 0 {
            assert!(start.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_job_that_is_dropped_before_its_thread_ran_is_no_longer_counted() {
        static DROPPED: AtomicUsize = AtomicUsize::new(0);
        for _ in 0..200 {
            // Without any time the thread often has not begun when the pool is closed.
            wait(run_job(&DROPPED, Duration::ZERO, Box::new(|| ()))).ok();
            wait_until_none_runs(&DROPPED);
        }
    }

    #[test]
    fn what_hangs_is_left_alone_and_too_much_of_it_is_refused() {
        let mut ends = Vec::new();
        while ends.len() < MAX_WORKERS {
            let (end, ended) = mpsc::channel::<()>();
            let (begin, began) = mpsc::channel();
            let job = move || {
                begin.send(()).unwrap();
                assert!(ended.recv().is_err());
            };
            let failed =
                wait(run_job(&HERE, Duration::from_millis(10), Box::new(job))).unwrap_err();
            assert!(failed.desc.starts_with("no answer within 0 s"));
            // On a busy machine its thread may not have begun within the limit: then it never does.
            if began.recv().is_ok() {
                ends.push(end);
            }
        }
        let failed = wait(run_job(&HERE, FILE_COMMAND_TIMEOUT, Box::new(|| ()))).unwrap_err();
        assert!(failed.desc.starts_with("too many commands"));
        drop(ends);
        wait_until_none_runs(&HERE);
    }
}
