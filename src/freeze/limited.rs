//! Calls that may hang in the kernel, each on a thread of its own with a limit.

use super::crew::overdue;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A system call needs little stack.
const STACK: usize = 64 * 1024;

enum Slot<T> {
    Empty,
    Done(io::Result<T>),
    /// Nobody waits any more.
    Abandoned,
}

/// Runs `call`; after `limit`, if there is one, it is left alone and answers TimedOut. If it succeeds all the same
/// later, `undo` is called there and then: nobody else will know of it. If no thread can be had it
/// is called right here, for a thaw must not fail for want of memory.
///
/// # Errors
/// The call's, or `TimedOut`.
pub fn limited<T: Send + 'static>(
    limit: Option<Duration>,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
    undo: impl FnOnce(T) + Send + 'static,
) -> io::Result<T> {
    let Some(limit) = limit else { return call() };
    let shared = Arc::new((Mutex::new(Slot::Empty), Condvar::new()));
    let worker = shared.clone();
    // Shared, so that it is still there if no thread takes it.
    let ours = Arc::new(Mutex::new(Some(call)));
    let theirs = ours.clone();
    let take = |call: &Mutex<Option<_>>| call.lock().unwrap_or_else(PoisonError::into_inner).take();
    let started = std::thread::Builder::new()
        .name("limited".into())
        .stack_size(STACK)
        .spawn(move || {
            let Some(call) = take(&theirs) else { return };
            let result = call();
            let mut slot = worker.0.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(*slot, Slot::Abandoned) {
                drop(slot);
                if let Ok(value) = result {
                    undo(value);
                }
                return;
            }
            *slot = Slot::Done(result);
            worker.1.notify_one();
        });
    if let Err(error) = started {
        tracing::warn!("no thread to be had, so a step goes without its limit: {error}");
        return take(&ours).map_or(Err(error), |call| call());
    }
    let slot = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut slot, _) = shared
        .1
        .wait_timeout_while(slot, limit, |slot| matches!(slot, Slot::Empty))
        .unwrap_or_else(PoisonError::into_inner);
    match std::mem::replace(&mut *slot, Slot::Abandoned) {
        Slot::Done(result) => result,
        Slot::Empty | Slot::Abandoned => Err(overdue(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn answers_what_the_call_answers() {
        let far = Some(Duration::from_secs(1000));
        assert_eq!(limited(far, || Ok(7), |_| ()).unwrap(), 7);
        let error = limited(
            far,
            || Err::<(), _>(io::Error::from_raw_os_error(5)),
            |()| (),
        );
        assert_eq!(error.unwrap_err().raw_os_error(), Some(5));
    }

    #[test]
    fn a_call_that_hangs_is_left_alone_and_undone_when_it_ends() {
        let (release, wait) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let result = limited(
            Some(Duration::from_millis(20)),
            move || {
                wait.recv().ok();
                Ok(7)
            },
            move |value| tell.send(value).unwrap(),
        );
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(told.try_recv().is_err());
        release.send(()).unwrap();
        assert_eq!(told.recv().unwrap(), 7);
    }
}
