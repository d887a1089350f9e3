//! Threads that stand ready to make calls which may hang, side by side, each with a limit. Floor 3.
//!
//! A crew is put together before the first filesystem is frozen: starting a thread takes memory,
//! and getting memory may wait for a write to what is frozen by then. Making the calls takes none.
//! A call that does not answer within its limit is left alone with its thread, which takes it back
//! if it succeeds all the same later, and then lets go of its item. Where no thread can be had the
//! calls are made in place, for a thaw must not fail for want of memory.

use super::ops::Timed;
use super::root::Root;
use crate::sys::fsfreeze;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// More calls than this are not made at once.
pub const MOST: usize = 32;

/// A system call needs little stack.
const STACK: usize = 64 * 1024;

/// What is done to each item.
pub struct Task<T> {
    /// The call.
    pub act: fn(&T) -> io::Result<()>,
    /// Takes a success back that came after the limit.
    pub undo: fn(&T),
}

/// FIFREEZE.
pub const FREEZE: Task<Root> = Task {
    act: |root| fsfreeze::freeze(root),
    // A freeze that comes through after nobody waits for it any more would never be thawed.
    undo: |root| drop(fsfreeze::thaw(root)),
};

/// FITHAW.
pub const THAW: Task<Root> = Task {
    act: |root| fsfreeze::thaw(root),
    undo: |_| (),
};

// Derived, these would ask the same of `T`.
impl<T> Clone for Task<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Task<T> {}

enum Slot {
    Waiting,
    Running(Instant),
    Done(Timed),
}

struct State<T> {
    /// Tells a call of this round from one that was left alone in an earlier one.
    round: u64,
    task: Option<Task<T>>,
    items: Vec<Arc<T>>,
    slots: Vec<Slot>,
    /// The first item that nobody has taken.
    next: usize,
    /// Threads that are not stuck in a call that was left alone.
    threads: usize,
    dismissed: bool,
    /// No thread can be had.
    #[cfg(test)]
    barren: bool,
}

/// An item that somebody has taken.
struct Taken<T> {
    round: u64,
    index: usize,
    item: Arc<T>,
    task: Task<T>,
    since: Instant,
}

impl<T> State<T> {
    fn take(&mut self) -> Option<Taken<T>> {
        let index = self.next;
        let item = self.items.get(index)?.clone();
        let task = self.task?;
        let since = Instant::now();
        *self.slots.get_mut(index)? = Slot::Running(since);
        self.next += 1;
        Some(Taken {
            round: self.round,
            index,
            item,
            task,
            since,
        })
    }

    /// Enters what came of a call, and lets go of its item first: when the last call of a round has
    /// ended nobody but the caller holds any. Gives it back if nobody waits for it any more.
    fn settle(&mut self, taken: Taken<T>, result: io::Result<()>) -> Result<(), Taken<T>> {
        match self.slots.get_mut(taken.index) {
            Some(slot @ Slot::Running(_)) if self.round == taken.round => {
                let took = taken.since.elapsed();
                drop(taken);
                *slot = Slot::Done(Timed { result, took });
                Ok(())
            }
            _ => Err(taken),
        }
    }

    /// Leaves the calls alone that have taken too long; answers when the next one will have.
    fn leave_alone(&mut self, limit: Duration) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        for slot in &mut self.slots {
            let Slot::Running(since) = slot else { continue };
            let took = since.elapsed();
            let left = limit.saturating_sub(took);
            if left.is_zero() {
                let result = Err(overdue(limit));
                *slot = Slot::Done(Timed { result, took });
                self.threads -= 1;
            } else {
                next = Some(next.map_or(left, |next| next.min(left)));
            }
        }
        next
    }

    fn is_done(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot, Slot::Done(_)))
    }
}

/// The error of a call that has not answered in time.
pub(super) fn overdue(limit: Duration) -> io::Error {
    let text = format!("no answer within {} s", limit.as_secs_f64());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// There is something to take, or the crew is dismissed.
    work: Condvar,
    /// A call has ended.
    done: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a thread.
    fn work(&self) {
        let mut state = self.lock();
        while !state.dismissed {
            let Some(taken) = state.take() else {
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let result = (taken.task.act)(&taken.item);
            let succeeded = result.is_ok();
            state = self.lock();
            if let Err(late) = state.settle(taken, result) {
                drop(state);
                if succeeded {
                    (late.task.undo)(&late.item);
                }
                // Another thread has its place.
                return;
            }
            self.done.notify_one();
        }
    }
}

/// A crew; its threads end when it is dropped, those that are stuck when their calls do.
pub struct Crew<T>(Arc<Shared<T>>);

impl<T: Send + Sync + 'static> Crew<T> {
    /// A crew for as many calls at once, up to [`MOST`].
    pub fn of(count: usize) -> Self {
        let crew = Self(Arc::new(Shared {
            state: Mutex::new(State {
                round: 0,
                task: None,
                items: Vec::new(),
                slots: Vec::new(),
                next: 0,
                threads: 0,
                dismissed: false,
                #[cfg(test)]
                barren: false,
            }),
            work: Condvar::new(),
            done: Condvar::new(),
        }));
        crew.reach(count);
        crew
    }

    /// Starts what is missing of so many threads.
    fn reach(&self, count: usize) {
        let missing = count.min(MOST).saturating_sub(self.0.lock().threads);
        for _ in 0..missing {
            #[cfg(test)]
            if self.0.lock().barren {
                return;
            }
            let shared = self.0.clone();
            let started = std::thread::Builder::new()
                .name("crew".into())
                .stack_size(STACK)
                .spawn(move || shared.work());
            if let Err(error) = started {
                tracing::warn!("no thread to be had for calls that may hang: {error}");
                return;
            }
            self.0.lock().threads += 1;
        }
    }

    /// Does the task to all items, side by side; one result each, in their order.
    pub fn run(&self, items: &[&Arc<T>], limit: Option<Duration>, task: Task<T>) -> Vec<Timed> {
        let mut state = self.0.lock();
        state.round += 1;
        state.task = Some(task);
        state.items = items.iter().map(|&item| item.clone()).collect();
        state.slots = items.iter().map(|_| Slot::Waiting).collect();
        state.next = 0;
        self.0.work.notify_all();
        while !state.is_done() {
            let left = limit.and_then(|limit| state.leave_alone(limit));
            if state.threads == 0 && state.next < state.slots.len() {
                let missing = state.slots.len() - state.next;
                drop(state);
                self.reach(missing);
                state = self.0.lock();
            }
            let none_works = state.threads == 0;
            if let Some(taken) = none_works.then(|| state.take()).flatten() {
                drop(state);
                let result = (taken.task.act)(&taken.item);
                state = self.0.lock();
                // Only this thread leaves calls alone.
                state.settle(taken, result).ok();
            } else if !state.is_done() {
                // What somebody is about to take has at least the whole limit.
                let wait = left.or(limit).unwrap_or(Duration::MAX);
                let waited = self.0.done.wait_timeout(state, wait);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        state.items = Vec::new();
        let timed = |slot| match slot {
            Slot::Done(timed) => timed,
            Slot::Waiting | Slot::Running(_) => Timed {
                result: Err(io::ErrorKind::Interrupted.into()),
                took: Duration::ZERO,
            },
        };
        std::mem::take(&mut state.slots)
            .into_iter()
            .map(timed)
            .collect()
    }
}

impl<T> Drop for Crew<T> {
    fn drop(&mut self) {
        self.0.lock().dismissed = true;
        self.0.work.notify_all();
    }
}

#[cfg(test)]
mod tests;
