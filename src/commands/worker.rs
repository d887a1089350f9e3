//! Floor 4: work that may take long or hang, on a thread of its own, so that the session's task only
//! awaits, and that no longer than a limit.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::deadline::{Pace, Pool};
use crate::protocol::error::CommandError;

/// For what reads, or writes a file: then a filesystem, or a name service, does not answer.
pub(super) const FILE_COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
/// For what waits for programs and hardware.
pub(super) const SLOW_COMMAND_TIMEOUT: Duration = Duration::from_secs(600);
/// For what works on whole disks.
pub(super) const FSTRIM_TIMEOUT: Duration = Duration::from_secs(3600);

/// Handlers are shallow; what they call of the C library (name services) is not.
const WORKER_STACK_SIZE: usize = 512 * 1024;
/// Most jobs that have not returned.
const MAX_WORKERS: usize = 16;
static RUNNING_JOBS: AtomicUsize = AtomicUsize::new(0);

/// Runs `job` on a thread and awaits its result, at most for `limit`; then the job is left alone with its
/// thread.
///
/// # Errors
/// The job's, or that it did not return in time, or that no thread could be started.
pub(super) async fn run<T: Send + 'static>(
    limit: Duration,
    job: impl FnOnce() -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
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

/// Counts one job until it is dropped: also without having run, as the pool closes at the limit even if its thread
/// has not begun by then.
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

/// One piece of code for whatever jobs there are.
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
            // The session may have ended meanwhile: then nobody wants to know.
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
