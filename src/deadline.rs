//! Calls that may hang in the kernel, made on other threads, each with a time limit (floor 1).
//!
//! A [`Pool`] makes calls on threads of its own. A call that does not return within its limit is
//! abandoned together with its thread: the caller gets `TimedOut`, and if the call succeeds later,
//! `undo` gets its result on that thread. One thread makes all calls, one after another, as long as they
//! return at once; a call that takes long brings in one more thread for those after it ([`Pace`]). Where no thread can be started
//! the caller makes the calls itself, without a limit: a thaw must not fail for lack of memory.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most threads of a pool that are not stuck.
pub const MAX_THREADS: usize = 16;

/// How long a call may take before another thread takes the next one.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// A millisecond: calls that wait for disks do so at the same time. A FIFREEZE that does not wait for
    /// one takes less, and side by side these are slower than one after another.
    SideBySide,
    /// Two seconds: only what is stuck is passed.
    OneByOne,
}

impl Pace {
    fn delay(self) -> Duration {
        match self {
            Self::SideBySide => Duration::from_millis(1),
            Self::OneByOne => Duration::from_secs(2),
        }
    }
}

/// A system call needs little stack.
const STACK: usize = 64 * 1024;

/// What came of a call.
#[derive(Debug)]
pub struct Timed<T = ()> {
    /// The call's result; `TimedOut` if it did not return within its limit.
    pub result: io::Result<T>,
    /// How long the call took, or has taken so far.
    pub took: Duration,
}

impl<T> Timed<T> {
    /// Whether it did not return within its limit; it may still be running.
    pub fn is_overdue(&self) -> bool {
        matches!(&self.result, Err(error) if error.kind() == io::ErrorKind::TimedOut)
    }
}

enum Slot<T> {
    Waiting,
    Running { since: Instant, has_helper: bool },
    Done(Timed<T>),
    Abandoned(Duration),
    Taken,
}

type Call<T> = Box<dyn FnOnce() -> io::Result<T> + Send>;

struct Slots<T> {
    slots: Mutex<Vec<Slot<T>>>,
    /// Calls that nobody has taken, each with its place.
    calls: Mutex<VecDeque<(usize, Call<T>)>>,
    undo: fn(T),
    returned: Condvar,
}

/// Makes the calls of a batch that are left; false if one of them was abandoned meanwhile.
type Job = Box<dyn FnOnce() -> bool + Send>;

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Threads that are not stuck in an abandoned call.
    threads: usize,
    /// Those of them that make no call.
    idle: usize,
    is_closed: bool,
    /// Threads can no longer be started.
    #[cfg(test)]
    is_exhausted: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    queued: Condvar,
    /// Of each thread, in bytes.
    stack: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn run_thread(&self) {
        let mut state = lock(&self.state);
        while !state.is_closed {
            if let Some(job) = state.queue.pop_front() {
                state.idle -= 1;
                drop(state);
                if !job() {
                    // Another thread has its place.
                    return;
                }
                state = lock(&self.state);
                state.idle += 1;
            } else {
                state = self
                    .queued
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Threads for calls that may hang. They end when the pool is dropped, stuck ones when their calls
/// return.
pub struct Pool(Threads);

#[derive(Clone)]
struct Threads(Arc<Shared>);

impl Default for Pool {
    fn default() -> Self {
        Self::with_stack(STACK)
    }
}

impl Pool {
    /// Threads with so many bytes of stack, for calls that need more than the kernel.
    pub fn with_stack(stack: usize) -> Self {
        Self(Threads(Arc::new(Shared {
            stack,
            ..Shared::default()
        })))
    }

    /// Starts threads until there are so many, at most [`MAX_THREADS`]: later, to start one may block.
    /// False if there are fewer.
    pub fn reserve(&self, threads: usize) -> bool {
        let threads = threads.min(MAX_THREADS);
        while self.0.count() < threads && self.0.start_one() {}
        self.0.count() >= threads
    }

    /// Makes all calls and waits for them; see [`Batch::finish`].
    pub fn run<T: Send + 'static>(
        &self,
        pace: Pace,
        limit: Option<Duration>,
        undo: fn(T),
        calls: impl IntoIterator<Item = impl FnOnce() -> io::Result<T> + Send + 'static>,
    ) -> Vec<Timed<T>> {
        self.start(pace, undo, calls).finish(limit)
    }

    /// Makes one call and waits for it.
    ///
    /// # Errors
    /// The call's, or `TimedOut`.
    pub fn run_one<T: Send + 'static>(
        &self,
        limit: Option<Duration>,
        undo: fn(T),
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let done = self.run(Pace::OneByOne, limit, undo, [call]).pop();
        done.map_or(Err(io::ErrorKind::Interrupted.into()), |timed| timed.result)
    }

    /// Starts calls. `undo` gets the result of one that succeeds after it was abandoned.
    pub fn start<T: Send + 'static>(
        &self,
        pace: Pace,
        undo: fn(T),
        calls: impl IntoIterator<Item = impl FnOnce() -> io::Result<T> + Send + 'static>,
    ) -> Batch<T> {
        let boxed = |call| -> Call<T> { Box::new(call) };
        let calls: VecDeque<_> = calls.into_iter().map(boxed).enumerate().collect();
        let slots = calls.iter().map(|_| Slot::Waiting).collect();
        let batch = Batch {
            threads: self.0.clone(),
            pace,
            slots: Arc::new(Slots {
                slots: Mutex::new(slots),
                calls: Mutex::new(calls),
                undo,
                returned: Condvar::new(),
            }),
        };
        batch.help();
        batch
    }
}

impl Threads {
    fn count(&self) -> usize {
        lock(&self.0.state).threads
    }

    /// Has one more thread do the job, or does it here if there is no thread at all.
    fn enqueue(&self, job: Job) {
        let mut state = lock(&self.0.state);
        state.queue.push_back(job);
        if state.idle > 0 {
            self.0.queued.notify_one();
            return;
        }
        let is_full = state.threads >= MAX_THREADS;
        drop(state);
        if is_full || self.start_one() {
            return;
        }
        let mut state = lock(&self.0.state);
        if state.threads == 0 {
            if let Some(job) = state.queue.pop_back() {
                drop(state);
                job();
            }
        }
    }

    fn start_one(&self) -> bool {
        #[cfg(test)]
        if lock(&self.0.state).is_exhausted {
            return false;
        }
        // It takes what is queued as soon as it runs.
        let mut state = lock(&self.0.state);
        state.threads += 1;
        state.idle += 1;
        drop(state);
        let shared = self.0.clone();
        let started = std::thread::Builder::new()
            .name("pool".into())
            .stack_size(self.0.stack)
            .spawn(move || shared.run_thread());
        if let Err(error) = &started {
            let mut state = lock(&self.0.state);
            state.threads -= 1;
            state.idle -= 1;
            drop(state);
            tracing::warn!(
                "cannot start a worker thread: {error}; continuing with those there are"
            );
        }
        started.is_ok()
    }
}

impl<T> Slots<T> {
    /// Makes the calls that are left, until one of them turns out to be abandoned.
    fn make_calls(&self) -> bool {
        loop {
            let Some((index, call)) = lock(&self.calls).pop_front() else {
                return true;
            };
            if !self.make(index, call) {
                return false;
            }
        }
    }

    fn make(&self, index: usize, call: Call<T>) -> bool {
        let since = Instant::now();
        self.set(
            index,
            Slot::Running {
                since,
                has_helper: false,
            },
        );
        let result = call();
        let mut slots = lock(&self.slots);
        match slots.get_mut(index) {
            Some(slot @ Slot::Running { .. }) => {
                let took = since.elapsed();
                *slot = Slot::Done(Timed { result, took });
                self.returned.notify_one();
                true
            }
            _ => {
                drop(slots);
                if let Ok(value) = result {
                    (self.undo)(value);
                }
                false
            }
        }
    }

    fn set(&self, index: usize, new: Slot<T>) {
        if let Some(slot) = lock(&self.slots).get_mut(index) {
            *slot = new;
        }
    }
}

/// Calls that were started.
pub struct Batch<T> {
    threads: Threads,
    pace: Pace,
    slots: Arc<Slots<T>>,
}

impl<T: Send + 'static> Batch<T> {
    /// Has one more thread take the calls that are left.
    fn help(&self) {
        if !lock(&self.slots.calls).is_empty() {
            let slots = self.slots.clone();
            self.threads.enqueue(Box::new(move || slots.make_calls()));
        }
    }

    /// Waits until all calls have returned, at most for `time`; false if one has not.
    pub fn wait(&self, time: Duration) -> bool {
        self.wait_until(Instant::now().checked_add(time), None)
    }

    /// Takes the results that there are, in the order of the calls; `None` for the others, which alone
    /// are in the batch from then on.
    pub fn take_returned(&mut self) -> Vec<Option<Timed<T>>> {
        let mut slots = lock(&self.slots.slots);
        let mut returned = Vec::new();
        for slot in slots.iter_mut() {
            match std::mem::replace(slot, Slot::Taken) {
                Slot::Taken => {}
                Slot::Done(timed) => returned.push(Some(timed)),
                other => {
                    *slot = other;
                    returned.push(None);
                }
            }
        }
        returned
    }

    /// Waits for the calls, and abandons each that takes longer than `limit`, counted from its own
    /// start; one result each, in their order.
    pub fn finish(self, limit: Option<Duration>) -> Vec<Timed<T>> {
        self.wait_until(None, limit);
        let slots = std::mem::take(&mut *lock(&self.slots.slots));
        let timed = |slot| match slot {
            Slot::Done(timed) => Some(timed),
            Slot::Abandoned(took) => Some(Timed {
                result: Err(overdue(limit.unwrap_or(took))),
                took,
            }),
            Slot::Taken | Slot::Waiting | Slot::Running { .. } => None,
        };
        slots.into_iter().filter_map(timed).collect()
    }

    fn wait_until(&self, end: Option<Instant>, limit: Option<Duration>) -> bool {
        let delay = self.pace.delay();
        let mut slots = lock(&self.slots.slots);
        loop {
            let (mut is_done, mut needs_helper) = (true, false);
            let mut next = end.map(|end| end.saturating_duration_since(Instant::now()));
            let mut sooner = |left: Duration| next = Some(next.map_or(left, |next| next.min(left)));
            for slot in slots.iter_mut() {
                match slot {
                    // It starts at once, or when one that runs has returned or is passed.
                    Slot::Waiting => {
                        is_done = false;
                        sooner(delay);
                    }
                    Slot::Running { since, has_helper } => {
                        let took = since.elapsed();
                        if limit.is_some_and(|limit| took >= limit) {
                            needs_helper |= !*has_helper;
                            *slot = Slot::Abandoned(took);
                            lock(&self.threads.0.state).threads -= 1;
                            continue;
                        }
                        is_done = false;
                        limit.into_iter().for_each(|limit| sooner(limit - took));
                        if !*has_helper && took >= delay {
                            (*has_helper, needs_helper) = (true, true);
                        } else if !*has_helper {
                            sooner(delay - took);
                        }
                    }
                    Slot::Done(_) | Slot::Abandoned(_) | Slot::Taken => {}
                }
            }
            if is_done {
                return true;
            }
            if end.is_some_and(|end| end <= Instant::now()) {
                return false;
            }
            if needs_helper {
                drop(slots);
                self.help();
                slots = lock(&self.slots.slots);
                continue;
            }
            slots = self
                .slots
                .returned
                .wait_timeout(slots, next.unwrap_or(Duration::MAX))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// The error of a call that did not return in time.
fn overdue(limit: Duration) -> io::Error {
    let text = format!("no answer within {} s", limit.as_secs_f64());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

impl Drop for Pool {
    fn drop(&mut self) {
        let shared = &self.0.0;
        lock(&shared.state).is_closed = true;
        shared.queued.notify_all();
    }
}

#[cfg(test)]
mod tests;
