//! Sizes of mounted filesystems, asked for without ever being held up.
//!
//! Only filesystems on block devices are asked, but the way to one may lead over a network
//! filesystem or FUSE whose other side is dead, or one of those may be mounted on top of it; and
//! ntfs-3g is FUSE on a block device. So another thread asks, and who waits has patience for so
//! long. A question without an answer keeps that one thread; the mountpoint is not asked again
//! before it has got one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

/// Mountpoints that did not answer in time: a thread still waits for each.
static SILENT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn silent() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    SILENT.lock().unwrap_or_else(PoisonError::into_inner)
}

type Question = fn(&Path) -> Option<Sizes>;

/// Questions under way.
pub struct Asking {
    mountpoints: Arc<[PathBuf]>,
    question: Question,
    progress: Arc<Progress>,
}

/// What a thread has found out so far.
#[derive(Default)]
struct Progress {
    state: Mutex<State>,
    finished: Condvar,
}

#[derive(Default)]
struct State {
    /// One for each mountpoint from the first.
    answers: Vec<Option<Sizes>>,
    finished: bool,
    /// Nobody waits any more; what is being asked is in [`SILENT`].
    abandoned: bool,
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking {
    /// Starts to ask the filesystems at `mountpoints` for their sizes.
    pub fn start(mountpoints: Vec<PathBuf>) -> Self {
        Self::with(mountpoints, statvfs_sizes)
    }

    fn with(mountpoints: Vec<PathBuf>, question: Question) -> Self {
        let mut asking = Self {
            mountpoints: mountpoints.into(),
            question,
            progress: Arc::default(),
        };
        asking.go_on_after(Vec::new());
        asking
    }

    /// Starts a thread that asks what comes after `answers`.
    fn go_on_after(&mut self, answers: Vec<Option<Sizes>>) {
        self.progress = Arc::default();
        self.progress.state().answers = answers;
        let (list, progress, question) = (
            self.mountpoints.clone(),
            self.progress.clone(),
            self.question,
        );
        let thread = std::thread::Builder::new()
            .name("statvfs".into())
            .stack_size(STACK);
        if let Err(error) = thread.spawn(move || ask(&list, question, &progress)) {
            tracing::warn!("no sizes of filesystems: cannot start a thread: {error}");
            self.progress.state().finished = true;
        }
    }

    /// The sizes; `None` where a filesystem can't be asked or does not answer in time.
    pub fn answers(self) -> Vec<Option<Sizes>> {
        self.answers_within(PATIENCE)
    }

    fn answers_within(mut self, patience: Duration) -> Vec<Option<Sizes>> {
        let count = self.mountpoints.len();
        let mut left = PATIENCE_IN_ALL;
        let mut known = 0;
        loop {
            let wait = patience.min(left).max(LEAST);
            let progress = self.progress.clone();
            let (mut state, _) = progress
                .finished
                .wait_timeout_while(progress.state(), wait, |state| !state.finished)
                .unwrap_or_else(PoisonError::into_inner);
            if state.finished {
                let mut answers = std::mem::take(&mut state.answers);
                answers.resize(count, None);
                return answers;
            }
            if state.answers.len() > known {
                known = state.answers.len();
                continue;
            }
            left = left.saturating_sub(wait);
            let mut answers = std::mem::take(&mut state.answers);
            state.abandoned = true;
            if let Some(mountpoint) = self.mountpoints.get(known) {
                silent().insert(mountpoint.clone());
                tracing::warn!("no answer from the filesystem at {}", mountpoint.display());
            }
            drop(state);
            answers.push(None);
            known = answers.len();
            self.go_on_after(answers);
        }
    }
}

/// Asks one after the other until nobody waits.
fn ask(mountpoints: &[PathBuf], question: Question, progress: &Progress) {
    let first = progress.state().answers.len();
    for mountpoint in mountpoints.iter().skip(first) {
        let is_silent = silent().contains(mountpoint);
        let answer = if is_silent {
            None
        } else {
            question(mountpoint)
        };
        let mut state = progress.state();
        if state.abandoned {
            silent().remove(mountpoint);
            return;
        }
        state.answers.push(answer);
    }
    progress.state().finished = true;
    progress.finished.notify_all();
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
        let ask = |patience| Asking::with(paths(), slow).answers_within(patience);
        assert_eq!(ask(patience), expected);
        // It is not asked a second time while the first thread waits.
        assert_eq!(ask(patience), expected);
        assert_eq!(QUESTIONS.load(Ordering::SeqCst), 1);
        drop(closed);
        while silent().contains(Path::new("/t/dead")) {
            std::thread::yield_now();
        }
        let patience = Duration::from_secs(1000);
        let expected = [Some(SOME), None, Some(SOME), Some(SOME)];
        assert_eq!(ask(patience), expected);
        assert_eq!(Asking::with(Vec::new(), slow).answers_within(patience), []);
    }

    #[test]
    fn sizes_as_df_has_them() {
        let found = Asking::start(vec!["/".into(), "/nonexistent".into()]).answers();
        let [Some(root), None] = found[..] else {
            panic!("{found:?}")
        };
        assert!(
            root.used <= root.total && root.total <= root.privileged,
            "{root:?}"
        );
    }
}
