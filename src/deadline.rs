//! System calls that may block in the kernel, run on other threads with a time limit each (floor 1).
//!
//! A call that does not return within its limit is abandoned together with its thread: the caller gets `TimedOut`, and
//! if the call succeeds later, `undo` gets its result on that thread. One thread runs all calls in order as long as
//! they return quickly; a call that takes longer makes one more thread run the calls after it ([`Pace`]). If no thread
//! can be started, the caller runs the calls itself, without a limit: a thaw must not fail for lack of memory.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Of a pool, without those that are blocked in an abandoned call.
pub const MAX_THREADS: usize = 16;

/// How long a call may take before another thread runs the next one.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// One millisecond: calls that wait for disks do so in parallel. A FIFREEZE that does not wait for a disk takes
    /// less, and such calls are slower in parallel than one after another.
    SideBySide,
    /// Two seconds: only a blocked call is overtaken.
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

/// In bytes: a system call needs little.
const STACK_SIZE: usize = 64 * 1024;

#[derive(Debug)]
pub struct Timed<T = ()> {
    /// `TimedOut` if the call did not return within its limit.
    pub result: io::Result<T>,
    /// So far, if the call has not returned.
    pub took: Duration,
}

impl<T> Timed<T> {
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
    calls: Mutex<VecDeque<(usize, Call<T>)>>,
    undo: fn(T),
    returned: Condvar,
}

/// Runs the rest of a batch; false if a call was abandoned meanwhile.
type Job = Box<dyn FnOnce() -> bool + Send>;

#[derive(Default)]
struct PoolState {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
    is_closed: bool,
    #[cfg(test)]
    is_exhausted: bool,
}

#[derive(Default)]
struct SharedPool {
    state: Mutex<PoolState>,
    queued: Condvar,
    stack: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedPool {
    fn run_thread(&self) {
        let mut state = lock(&self.state);
        while !state.is_closed {
            if let Some(job) = state.queue.pop_front() {
                state.idle -= 1;
                drop(state);
                if !job() {
                    // The call was abandoned, and another thread has replaced this one.
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

/// They end when the pool is dropped; one that is blocked ends when its call returns.
pub struct Pool(Threads);

#[derive(Clone)]
struct Threads(Arc<SharedPool>);

impl Default for Pool {
    fn default() -> Self {
        Self::with_stack(STACK_SIZE)
    }
}

impl Pool {
    /// Stack of each thread in bytes, for calls that run more than a system call.
    pub fn with_stack(stack: usize) -> Self {
        Self(Threads(Arc::new(SharedPool {
            stack,
            ..SharedPool::default()
        })))
    }

    /// Starts threads up to `threads` or [`MAX_THREADS`], because starting one later may block. False if that fails.
    pub fn reserve(&self, threads: usize) -> bool {
        let threads = threads.min(MAX_THREADS);
        while self.0.count() < threads && self.0.start_one() {}
        self.0.count() >= threads
    }

    pub fn run<T: Send + 'static>(
        &self,
        pace: Pace,
        limit: Option<Duration>,
        undo: fn(T),
        calls: impl IntoIterator<Item = impl FnOnce() -> io::Result<T> + Send + 'static>,
    ) -> Vec<Timed<T>> {
        self.start(pace, undo, calls).finish(limit)
    }

    pub fn run_one<T: Send + 'static>(
        &self,
        limit: Option<Duration>,
        undo: fn(T),
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let done = self.run(Pace::OneByOne, limit, undo, [call]).pop();
        done.map_or(Err(io::ErrorKind::Interrupted.into()), |timed| timed.result)
    }

    /// `undo` gets the result of a call that succeeds after it was abandoned.
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
        batch.add_helper();
        batch
    }
}

impl Threads {
    fn count(&self) -> usize {
        lock(&self.0.state).threads
    }

    /// Runs the job on one more thread, or on this one if there is no thread at all.
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
        // With other threads the job only waits for one of them.
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
        // The new thread runs the queued job as soon as it starts.
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
    /// Runs the calls that are left; false as soon as one of them was abandoned.
    fn run_calls(&self) -> bool {
        loop {
            let Some((index, call)) = lock(&self.calls).pop_front() else {
                return true;
            };
            if !self.run_call(index, call) {
                return false;
            }
        }
    }

    fn run_call(&self, index: usize, call: Call<T>) -> bool {
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
                // It was abandoned. `undo` may block as long as the call has, and the caller needs the lock.
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

pub struct Batch<T> {
    threads: Threads,
    pace: Pace,
    slots: Arc<Slots<T>>,
}

impl<T: Send + 'static> Batch<T> {
    fn add_helper(&self) {
        if !lock(&self.slots.calls).is_empty() {
            let slots = self.slots.clone();
            self.threads.enqueue(Box::new(move || slots.run_calls()));
        }
    }

    /// False if a call has not returned.
    pub fn wait(&self, time: Duration) -> bool {
        self.wait_until(Instant::now().checked_add(time), None)
    }

    /// In the order of the calls; None for those that have not returned, and only these remain in the batch.
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

    /// Abandons each call that takes longer than `limit` from its own start. One result for each call, in their order.
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
                    // It starts at once, or after a running call has returned or is overtaken.
                    Slot::Waiting => {
                        is_done = false;
                        sooner(delay);
                    }
                    Slot::Running { since, has_helper } => {
                        let took = since.elapsed();
                        if limit.is_some_and(|limit| took >= limit) {
                            needs_helper |= !*has_helper;
                            *slot = Slot::Abandoned(took);
                            // The blocked thread is replaced: it does not count against MAX_THREADS.
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
                // Starting a thread may run the job here, which takes this lock.
                drop(slots);
                self.add_helper();
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
