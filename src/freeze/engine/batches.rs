//! From the first FIFREEZE to the last, batch by batch, with the change of their order where one waits for another.

use super::{Engine, Held};
use crate::deadline::Timed;
use crate::freeze::FreezeError;
use crate::freeze::ops::{FreezeWait, Ops};
use crate::freeze::report::FilesystemOutcome;
use nix::libc;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

const MAX_REORDERS: usize = 2;

impl<O: Ops> Engine<O> {
    /// Freezes until all is frozen or the hold limit passed; returns what is frozen, in freeze order, and the failure.
    pub(super) fn freeze_in_order(
        &mut self,
        held: Vec<Held<O::Handle>>,
        ends: Option<Duration>,
    ) -> (Vec<Held<O::Handle>>, Result<(), FreezeError>) {
        let mut queue = FreezeQueue {
            frozen: Vec::with_capacity(held.len()),
            reorders_left: held.len() * MAX_REORDERS,
            next_batch: held.last().map_or(0, |last| last.batch + 1),
            waiting: VecDeque::from(held),
            ends,
        };
        while let Some(batch) = queue.take_batch() {
            if ends.is_some_and(|ends| self.ops.now() >= ends) {
                break;
            }
            if let Err(error) = self.freeze_batch(batch, &mut queue) {
                return (queue.frozen, Err(error));
            }
        }
        (queue.frozen, Ok(()))
    }

    /// A filesystem whose FIFREEZE does not return may have to write to one that is frozen, by a way that the plan
    /// could not see. So everything is thawed, that filesystem is frozen first, and all others after it, one by one.
    fn freeze_batch(
        &mut self,
        mut late: Vec<Held<O::Handle>>,
        queue: &mut FreezeQueue<O::Handle>,
    ) -> Result<(), FreezeError> {
        let handles: Vec<&O::Handle> = late.iter().map(|held| &held.handle).collect();
        let mut results = self.ops.freeze(&handles);
        let mut failure = Ok(());
        loop {
            let mut still_late = Vec::new();
            for (held, result) in late.into_iter().zip(results) {
                match result {
                    None => still_late.push(held),
                    Some(result) => {
                        let entered = self.enter_frozen(held, result, &mut queue.frozen);
                        failure = failure.and(entered);
                    }
                }
            }
            late = still_late;
            if late.is_empty() {
                return failure.and_then(|()| self.refuse_if_stopping());
            }
            // With nothing of ours frozen, it waits for something else.
            if !queue.frozen.is_empty() {
                failure = failure.and(self.reorder(&mut late, queue));
                if queue.frozen.is_empty() {
                    results = self.ops.wait_for_freeze(FreezeWait::Delay);
                    continue;
                }
            }
            let left = queue.ends.map(|ends| ends.saturating_sub(self.ops.now()));
            results = self.ops.wait_for_freeze(FreezeWait::Limit(left));
        }
    }

    /// Thaws what is frozen, to freeze it again after the `late` ones; fails if that was tried often enough.
    fn reorder(
        &mut self,
        late: &mut [Held<O::Handle>],
        queue: &mut FreezeQueue<O::Handle>,
    ) -> Result<(), FreezeError> {
        // Two filesystems that write to each other would be reordered indefinitely.
        let failure = match queue.reorders_left {
            0 => {
                let names = late.iter().map(|held| held.name.clone()).collect();
                Err(self.fail(FreezeError::FreezeBlocked(names)))
            }
            _ => Ok(()),
        };
        queue.reorders_left = queue.reorders_left.saturating_sub(1);
        // A batch of its own for each: whatever else the plan took for independent may not be.
        for held in late.iter_mut().chain(queue.frozen.iter_mut()) {
            held.batch = queue.next_batch;
            queue.next_batch += 1;
        }
        for held in self.release(&mut queue.frozen).into_iter().rev() {
            queue.waiting.push_front(held);
        }
        failure
    }

    /// Thaws what is to be frozen again later; returns it in freeze order. What cannot be thawed stays in `frozen`.
    fn release(&mut self, frozen: &mut Vec<Held<O::Handle>>) -> Vec<Held<O::Handle>> {
        let handles: Vec<&O::Handle> = frozen.iter().rev().map(|held| &held.handle).collect();
        let mut done = self.ops.thaw(&handles);
        done.reverse();
        let mut released = Vec::new();
        for (held, timed) in std::mem::take(frozen).into_iter().zip(done) {
            if timed.result.is_ok() {
                self.report.set(held.record, FilesystemOutcome::Untouched);
                released.push(held);
            } else {
                frozen.push(held);
            }
        }
        released
    }

    fn enter_frozen(
        &mut self,
        held: Held<O::Handle>,
        Timed { result, took }: Timed,
        frozen: &mut Vec<Held<O::Handle>>,
    ) -> Result<(), FreezeError> {
        self.report.filesystems[held.record].freeze_seconds = took.as_secs_f64();
        match result {
            Ok(()) => {
                self.report.filesystems[held.record].outcome = FilesystemOutcome::Frozen;
                frozen.push(held);
                Ok(())
            }
            Err(e) if self.is_held_unfrozen(held.record, &e) => Ok(()),
            Err(e) => {
                let tolerated = held.optional || self.tolerates(&e);
                let error = FreezeError::Freeze(held.name, e);
                self.exclude(held.record, error, tolerated)
            }
        }
    }

    /// Whether the filesystem is left out instead of failing the run.
    fn tolerates(&self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => !self.policy.strict,
            Some(libc::EBUSY) => self.policy.ignore_frozen,
            _ => false,
        }
    }
}

struct FreezeQueue<H> {
    /// In the order of freezing.
    frozen: Vec<Held<H>>,
    waiting: VecDeque<Held<H>>,
    reorders_left: usize,
    /// A batch that no filesystem is in.
    next_batch: usize,
    ends: Option<Duration>,
}

impl<H> FreezeQueue<H> {
    fn take_batch(&mut self) -> Option<Vec<Held<H>>> {
        let batch = self.waiting.front()?.batch;
        let others = self.waiting.iter().position(|held| held.batch != batch);
        let count = others.unwrap_or(self.waiting.len());
        Some(self.waiting.drain(..count).collect())
    }
}
