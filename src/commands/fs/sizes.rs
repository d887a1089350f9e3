//! Sizes of mounted filesystems, asked for without ever being held up.
//!
//! Only filesystems on block devices are asked, but the way to one may lead over a network
//! filesystem or FUSE whose other side is dead, or one of those may be mounted on top of it; and
//! ntfs-3g is FUSE on a block device. So another thread asks, and who waits has patience for so
//! long. A question without an answer keeps that one thread; the mountpoint is not asked again
//! before it has got one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;

/// Bytes of a filesystem, as statvfs(3) has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// In use.
    pub used: u64,
    /// What everybody may fill: without the blocks reserved for root.
    pub total: u64,
    /// With those.
    pub privileged: u64,
}

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// For all answers that do not come.
const PATIENCE_IN_ALL: Duration = Duration::from_secs(4);
/// For one answer when that is used up: enough for any filesystem that is well.
const LEAST: Duration = Duration::from_millis(50);
/// statvfs(3) needs next to nothing.
const STACK: usize = 64 * 1024;

/// Mountpoints that a thread is asking now.
static ASKED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn asked() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    ASKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sizes of the filesystems at `mountpoints`; `None` where one can't be asked or does not
/// answer in time.
pub fn sizes(mountpoints: Vec<PathBuf>) -> Vec<Option<Sizes>> {
    ask(mountpoints, statvfs_sizes, PATIENCE)
}

type Question = fn(&Path) -> Option<Sizes>;

fn ask(mountpoints: Vec<PathBuf>, question: Question, patience: Duration) -> Vec<Option<Sizes>> {
    let mut answers = vec![None; mountpoints.len()];
    let mountpoints: Arc<[PathBuf]> = mountpoints.into();
    let mut left = PATIENCE_IN_ALL;
    let mut next = 0;
    while next < mountpoints.len() {
        let (tell, told) = mpsc::channel();
        let list = mountpoints.clone();
        let thread = std::thread::Builder::new()
            .name("statvfs".into())
            .stack_size(STACK);
        let work = move || ask_from(&list, next, question, &tell);
        if let Err(error) = thread.spawn(work) {
            tracing::warn!("no sizes of filesystems: cannot start a thread: {error}");
            break;
        }
        loop {
            let wait = patience.min(left).max(LEAST);
            let started = Instant::now();
            match told.recv_timeout(wait) {
                Ok((index, sizes)) => {
                    if let Some(answer) = answers.get_mut(index) {
                        *answer = sizes;
                    }
                    next = index + 1;
                }
                Err(RecvTimeoutError::Timeout) => {
                    left = left.saturating_sub(started.elapsed());
                    if let Some(mountpoint) = mountpoints.get(next) {
                        tracing::warn!("no answer from the filesystem at {}", mountpoint.display());
                    }
                    next += 1;
                    break;
                }
                // The thread is through.
                Err(RecvTimeoutError::Disconnected) => return answers,
            }
        }
    }
    answers
}

/// Asks one after the other until nobody listens.
fn ask_from(
    mountpoints: &[PathBuf],
    first: usize,
    question: Question,
    tell: &mpsc::Sender<(usize, Option<Sizes>)>,
) {
    for (index, mountpoint) in mountpoints.iter().enumerate().skip(first) {
        // Another thread still waits for this one.
        let answer = if asked().insert(mountpoint.clone()) {
            let answer = question(mountpoint);
            asked().remove(mountpoint);
            answer
        } else {
            None
        };
        if tell.send((index, answer)).is_err() {
            return;
        }
    }
}

fn statvfs_sizes(mountpoint: &Path) -> Option<Sizes> {
    let found = statvfs(mountpoint).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(wide(found.fragment_size()));
    let used = wide(found.blocks()).saturating_sub(wide(found.blocks_free()));
    Some(Sizes {
        used: bytes(used),
        total: bytes(used.saturating_add(wide(found.blocks_available()))),
        privileged: bytes(wide(found.blocks())),
    })
}

/// The C library's counters, whose width depends on the machine.
fn wide(count: impl TryInto<u64>) -> u64 {
    count.try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SOME: Sizes = Sizes {
        used: 1,
        total: 2,
        privileged: 3,
    };

    static GATE: Mutex<()> = Mutex::new(());
    static QUESTIONS: AtomicUsize = AtomicUsize::new(0);

    /// Answers at once, but for one path only when the gate is open.
    fn slow(path: &Path) -> Option<Sizes> {
        if path.ends_with("dead") {
            QUESTIONS.fetch_add(1, Ordering::SeqCst);
            drop(GATE.lock().unwrap());
        }
        (!path.ends_with("gone")).then_some(SOME)
    }

    #[test]
    fn one_that_does_not_answer_costs_the_others_nothing() {
        let paths = || {
            ["/t/a", "/t/gone", "/t/dead", "/t/b"]
                .map(PathBuf::from)
                .to_vec()
        };
        let patience = Duration::from_secs(1);
        let closed = GATE.lock().unwrap();
        let expected = [Some(SOME), None, None, Some(SOME)];
        assert_eq!(ask(paths(), slow, patience), expected);
        // It is not asked a second time while the first thread waits.
        assert_eq!(ask(paths(), slow, patience), expected);
        assert_eq!(QUESTIONS.load(Ordering::SeqCst), 1);
        drop(closed);
        while asked().contains(Path::new("/t/dead")) {
            std::thread::yield_now();
        }
        let patience = Duration::from_secs(1000);
        let expected = [Some(SOME), None, Some(SOME), Some(SOME)];
        assert_eq!(ask(paths(), slow, patience), expected);
        assert_eq!(ask(Vec::new(), slow, patience), []);
    }

    #[test]
    fn sizes_as_df_has_them() {
        let found = sizes(vec!["/".into(), "/nonexistent".into()]);
        let [Some(root), None] = found[..] else {
            panic!("{found:?}")
        };
        assert!(
            root.used <= root.total && root.total <= root.privileged,
            "{root:?}"
        );
    }
}
