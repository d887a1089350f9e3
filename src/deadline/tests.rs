//! Calls that return, fail, hang and return late.

use super::*;
use std::sync::mpsc::{Receiver, Sender, channel};

const SHORT: Option<Duration> = Some(Duration::from_millis(300));
const LONG: Option<Duration> = Some(Duration::from_secs(1000));

/// What the calls of a test hold. `undo` sends the number of a call over its value.
struct Value {
    number: usize,
    undone: Sender<usize>,
}

fn undo(value: Value) {
    value.undone.send(value.number).unwrap();
}

struct Rig {
    called: Receiver<usize>,
    undone: Receiver<usize>,
    /// Lets a call that waits return.
    release: Vec<Option<Sender<()>>>,
    calls: Vec<Box<dyn FnOnce() -> io::Result<Value> + Send>>,
}

impl Rig {
    /// So many calls; `waits` and `errno` say what each does.
    fn new(count: usize, waits: impl Fn(usize) -> bool, errno: impl Fn(usize) -> i32) -> Self {
        let (send_called, called) = channel();
        let (send_undone, undone) = channel();
        let mut release = Vec::new();
        let mut calls: Vec<Box<dyn FnOnce() -> io::Result<Value> + Send>> = Vec::new();
        for number in 0..count {
            let (send, wait) = channel();
            let (waits, errno) = (waits(number), errno(number));
            release.push(waits.then_some(send));
            let (called, undone) = (send_called.clone(), send_undone.clone());
            calls.push(Box::new(move || {
                called.send(number).unwrap();
                if waits {
                    wait.recv().ok();
                }
                match errno {
                    0 => Ok(Value { number, undone }),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                }
            }));
        }
        Self {
            called,
            undone,
            release,
            calls,
        }
    }

    fn release_all(&self) {
        let waiting = self.release.iter().flatten();
        waiting.for_each(|release| release.send(()).unwrap());
    }
}

fn errnos(done: &[Timed<Value>]) -> Vec<Option<i32>> {
    let errno = |timed: &Timed<Value>| timed.result.as_ref().err()?.raw_os_error();
    done.iter().map(errno).collect()
}

fn overdue(done: &[Timed<Value>]) -> Vec<bool> {
    done.iter().map(Timed::is_overdue).collect()
}

fn threads(pool: &Pool) -> usize {
    pool.0.count()
}

#[test]
fn each_call_has_its_own_result() {
    for (reserved, limit) in [(3, LONG), (0, LONG), (3, None), (MAX_THREADS + 9, LONG)] {
        let pool = Pool::default();
        pool.reserve(reserved);
        assert_eq!(threads(&pool), reserved.min(MAX_THREADS));
        for _ in 0..3 {
            let rig = Rig::new(7, |_| false, |number| [0, 5, 16][number % 3]);
            let done = pool.run(Pace::SideBySide, limit, undo, rig.calls);
            let (io, busy) = (Some(5), Some(16));
            assert_eq!(errnos(&done), [None, io, busy, None, io, busy, None]);
            let mut called: Vec<usize> = rig.called.try_iter().collect();
            called.sort_unstable();
            assert_eq!(called, [0, 1, 2, 3, 4, 5, 6]);
            assert_eq!(rig.undone.try_iter().count(), 0);
        }
        let none: [fn() -> io::Result<Value>; 0] = [];
        assert!(pool.run(Pace::SideBySide, limit, undo, none).is_empty());
    }
}

#[test]
fn calls_that_take_long_are_made_side_by_side() {
    let pool = Pool::default();
    let mut rig = Rig::new(4, |_| true, |_| 0);
    let calls = std::mem::take(&mut rig.calls);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| pool.run(Pace::SideBySide, LONG, undo, calls));
        // None of them has returned yet.
        assert_eq!(rig.called.iter().take(4).count(), 4);
        rig.release_all();
        assert_eq!(errnos(&run.join().unwrap()), [None; 4]);
    });
    assert!(threads(&pool) >= 4);
}

#[test]
fn a_batch_is_waited_for_without_being_given_up() {
    let pool = Pool::default();
    let mut rig = Rig::new(3, |number| number == 1, |number| [0, 0, 5][number]);
    let mut batch = pool.start(Pace::SideBySide, undo, std::mem::take(&mut rig.calls));
    // Whoever waits has others take the next calls.
    while rig.called.try_iter().all(|number| number < 2) {
        assert!(!batch.wait(Duration::from_millis(20)));
    }
    let mut returned = batch.take_returned();
    assert!(returned[1].is_none());
    let first: Vec<Timed<Value>> = [returned.remove(0), returned.remove(1)]
        .map(Option::unwrap)
        .into();
    assert_eq!(errnos(&first), [None, Some(5)]);
    rig.release_all();
    assert!(batch.wait(Duration::from_secs(1000)));
    assert_eq!(errnos(&batch.finish(SHORT)), [None]);
    assert_eq!(rig.undone.try_iter().count(), 0);
}

#[test]
fn an_abandoned_call_that_succeeds_late_is_undone() {
    let pool = Pool::default();
    // 1 succeeds late, 3 fails late, all others return at once.
    let mut rig = Rig::new(
        6,
        |number| number % 2 == 1 && number < 5,
        |number| i32::from(number == 3),
    );
    let done = pool.run(
        Pace::SideBySide,
        SHORT,
        undo,
        std::mem::take(&mut rig.calls),
    );
    assert_eq!(overdue(&done), [false, true, false, true, false, false]);
    assert_eq!(rig.undone.try_iter().count(), 0);
    // The next batch does not see their results.
    let next = Rig::new(6, |_| false, |_| 0);
    rig.release_all();
    assert_eq!(
        errnos(&pool.run(Pace::SideBySide, LONG, undo, next.calls)),
        [None; 6]
    );
    assert_eq!(rig.undone.recv(), Ok(1));
    drop(pool);
    assert_eq!(rig.undone.try_iter().count(), 0);
}

#[test]
fn other_threads_take_the_place_of_stuck_ones() {
    let pool = Pool::default();
    pool.reserve(2);
    let mut rig = Rig::new(5, |number| number < 4, |_| 0);
    let done = pool.run(
        Pace::SideBySide,
        SHORT,
        undo,
        std::mem::take(&mut rig.calls),
    );
    assert_eq!(overdue(&done), [true, true, true, true, false]);
    rig.release_all();
    let mut undone: Vec<usize> = rig.undone.iter().take(4).collect();
    undone.sort_unstable();
    assert_eq!(undone, [0, 1, 2, 3]);
}

#[test]
fn without_threads_the_caller_makes_the_calls() {
    let pool = Pool::default();
    lock(&pool.0.0.state).is_exhausted = true;
    let rig = Rig::new(3, |_| false, |number| [0, 5, 0][number]);
    assert_eq!(
        errnos(&pool.run(Pace::SideBySide, LONG, undo, rig.calls)),
        [None, Some(5), None]
    );
    assert_eq!(rig.called.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(threads(&pool), 0);
}

#[test]
fn one_by_one_none_starts_before_the_last_has_returned() {
    let pool = Pool::default();
    pool.reserve(3);
    let mut rig = Rig::new(3, |number| number < 2, |_| 0);
    let mut calls = pool.start(Pace::OneByOne, undo, std::mem::take(&mut rig.calls));
    assert!(!calls.wait(Duration::from_millis(100)));
    assert_eq!(rig.called.try_iter().collect::<Vec<_>>(), [0]);
    rig.release_all();
    assert!(calls.wait(Duration::from_secs(1000)));
    assert_eq!(rig.called.try_iter().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(calls.take_returned().len(), 3);
}

#[test]
fn one_by_one_what_is_given_up_is_passed() {
    let pool = Pool::default();
    let mut rig = Rig::new(3, |number| number == 0, |_| 0);
    let calls = std::mem::take(&mut rig.calls);
    let done = pool.run(Pace::OneByOne, SHORT, undo, calls);
    assert_eq!(overdue(&done), [true, false, false]);
    rig.release_all();
    assert_eq!(rig.undone.recv(), Ok(0));
}
