//! A crew at calls that answer, fail, hang and come late.

use super::*;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What the test holds of an item: it answers when told to.
struct Item {
    /// Says that it has been called.
    called: Mutex<Sender<usize>>,
    /// Waits here, if the test wants that.
    go: Option<Mutex<Receiver<()>>>,
    undone: Mutex<Sender<usize>>,
    number: usize,
    errno: i32,
}

const ACT: Task<Item> = Task {
    act: |item| {
        item.called.lock().unwrap().send(item.number).unwrap();
        if let Some(go) = &item.go {
            go.lock().unwrap().recv().ok();
        }
        match item.errno {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    },
    undo: |item| item.undone.lock().unwrap().send(item.number).unwrap(),
};

struct Rig {
    items: Vec<Arc<Item>>,
    called: Receiver<usize>,
    undone: Receiver<usize>,
    /// Lets an item that waits go on.
    go: Vec<Option<Sender<()>>>,
}

impl Rig {
    /// So many items; `waits` and `errno` say what each does.
    fn new(count: usize, waits: impl Fn(usize) -> bool, errno: impl Fn(usize) -> i32) -> Self {
        let (tell_called, called) = channel();
        let (tell_undone, undone) = channel();
        let mut go = Vec::new();
        let item = |number| {
            let (send, receive) = channel();
            go.push(waits(number).then_some(send));
            Arc::new(Item {
                called: Mutex::new(tell_called.clone()),
                go: waits(number).then(|| Mutex::new(receive)),
                undone: Mutex::new(tell_undone.clone()),
                number,
                errno: errno(number),
            })
        };
        let items = (0..count).map(item).collect();
        Self {
            items,
            called,
            undone,
            go,
        }
    }

    fn run(&self, crew: &Crew<Item>, limit: Option<Duration>) -> Vec<Timed> {
        let items: Vec<&Arc<Item>> = self.items.iter().collect();
        crew.run(&items, limit, ACT)
    }
}

fn errnos(done: &[Timed]) -> Vec<Option<i32>> {
    let errno = |timed: &Timed| timed.result.as_ref().err()?.raw_os_error();
    done.iter().map(errno).collect()
}

const SHORT: Option<Duration> = Some(Duration::from_millis(300));
const FAR: Option<Duration> = Some(Duration::from_secs(1000));

#[test]
fn each_answers_for_itself_and_nobody_holds_an_item_afterwards() {
    for (threads, limit) in [(3, FAR), (1, FAR), (3, None), (MOST + 9, FAR)] {
        let crew = Crew::of(threads);
        assert_eq!(crew.0.lock().threads, threads.min(MOST));
        for _ in 0..3 {
            let rig = Rig::new(7, |_| false, |number| [0, 5, 16][number % 3]);
            let done = rig.run(&crew, limit);
            let (io, busy) = (Some(5), Some(16));
            assert_eq!(errnos(&done), [None, io, busy, None, io, busy, None]);
            assert!(rig.items.iter().all(|item| Arc::strong_count(item) == 1));
            let mut called: Vec<usize> = rig.called.try_iter().collect();
            called.sort_unstable();
            assert_eq!(called, [0, 1, 2, 3, 4, 5, 6]);
            assert_eq!(rig.undone.try_iter().count(), 0);
        }
        assert!(crew.run(&[], limit, ACT).is_empty());
    }
}

#[test]
fn calls_are_made_at_once() {
    let crew = Crew::of(4);
    let rig = Rig::new(4, |_| true, |_| 0);
    std::thread::scope(|scope| {
        let (crew, items) = (&crew, &rig.items);
        let run = scope.spawn(move || crew.run(&items.iter().collect::<Vec<_>>(), FAR, ACT));
        // None of them has answered yet.
        assert_eq!(rig.called.iter().take(4).count(), 4);
        rig.go.iter().flatten().for_each(|go| go.send(()).unwrap());
        assert!(run.join().unwrap().iter().all(|timed| timed.result.is_ok()));
    });
}

#[test]
fn what_hangs_is_left_alone_and_what_then_succeeds_is_undone() {
    let crew = Crew::of(3);
    // 1 succeeds late, 3 fails late, all else at once; two threads are lost to them.
    let rig = Rig::new(
        6,
        |number| number % 2 == 1 && number < 5,
        |number| i32::from(number == 3),
    );
    let done = rig.run(&crew, SHORT);
    let overdue: Vec<bool> = done.iter().map(Timed::is_overdue).collect();
    assert_eq!(overdue, [false, true, false, true, false, false]);
    assert_eq!(crew.0.lock().threads, 1);
    assert_eq!(rig.undone.try_iter().count(), 0);
    // In the next round nothing of it is heard.
    let next = Rig::new(6, |_| false, |_| 0);
    let going = rig.go.iter().flatten();
    going.for_each(|go| go.send(()).unwrap());
    assert!(
        next.run(&crew, FAR)
            .iter()
            .all(|timed| timed.result.is_ok())
    );
    assert_eq!(rig.undone.recv(), Ok(1));
    drop(crew);
    // The thread of 3 ends without a word.
    while Arc::strong_count(&rig.items[3]) > 1 {
        std::thread::yield_now();
    }
    assert_eq!(rig.undone.try_iter().count(), 0);
}

#[test]
fn when_all_threads_are_stuck_others_take_their_place() {
    let crew = Crew::of(2);
    let rig = Rig::new(5, |number| number < 4, |_| 0);
    let done = rig.run(&crew, SHORT);
    let overdue: Vec<bool> = done.iter().map(Timed::is_overdue).collect();
    assert_eq!(overdue, [true, true, true, true, false]);
    rig.go.iter().flatten().for_each(|go| go.send(()).unwrap());
    let mut undone: Vec<usize> = rig.undone.iter().take(4).collect();
    undone.sort_unstable();
    assert_eq!(undone, [0, 1, 2, 3]);
}

#[test]
fn without_any_thread_calls_are_made_in_place() {
    let crew = Crew::of(0);
    crew.0.lock().barren = true;
    let rig = Rig::new(3, |_| false, |number| [0, 5, 0][number]);
    assert_eq!(errnos(&rig.run(&crew, FAR)), [None, Some(5), None]);
    assert_eq!(rig.called.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(crew.0.lock().threads, 0);
}
