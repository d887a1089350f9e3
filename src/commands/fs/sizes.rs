//! Sizes of mounted filesystems, by statvfs(3), without blocking the caller. Floor 4, called by guest-get-fsinfo.
//!
//! Only filesystems on block devices are asked, but the path to one may cross a network filesystem or FUSE whose server is
//! dead, or one of those may be mounted on top of it; and ntfs-3g is FUSE on a block device. So worker threads call
//! statvfs(3), with a time limit. A call that does not return keeps its thread; that mount point is not asked again
//! before the call has returned, so the number of threads does not grow with the number of requests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use crate::deadline::{Batch, Pace, Pool};

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub used: u64,
    /// Without the blocks that are reserved for root.
    pub total: u64,
    /// With them.
    pub privileged: u64,
}

/// A local disk answers within milliseconds.
const STATVFS_TIMEOUT: Duration = Duration::from_secs(1);

/// A thread still waits for each.
static UNANSWERED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unanswered() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNANSWERED.lock().unwrap_or_else(PoisonError::into_inner)
}

type SizeQuery = fn(&Path) -> Option<Sizes>;
type Answer = (PathBuf, Option<Sizes>);

pub struct PendingSizes {
    mountpoints: Vec<PathBuf>,
    answers: Batch<Answer>,
    /// Dropped, it ends the threads that are idle.
    _pool: Pool,
}

impl PendingSizes {
    pub fn start(mountpoints: Vec<PathBuf>) -> Self {
        Self::with(mountpoints, statvfs_sizes)
    }

    fn with(mountpoints: Vec<PathBuf>, query: SizeQuery) -> Self {
        let pool = Pool::default();
        let ask = |mountpoint: PathBuf| {
            move || {
                let is_unanswered = unanswered().contains(&mountpoint);
                let answer = (!is_unanswered).then(|| query(&mountpoint)).flatten();
                Ok((mountpoint, answer))
            }
        };
        // When it returns at last, it may be asked again.
        let on_late_answer = |(mountpoint, _): Answer| {
            unanswered().remove(&mountpoint);
        };
        let queries = mountpoints.clone().into_iter().map(ask);
        Self {
            answers: pool.start(Pace::SideBySide, on_late_answer, queries),
            mountpoints,
            _pool: pool,
        }
    }

    /// In the order of the mount points; `None` where statvfs(3) failed or did not return in time.
    pub fn answers(self) -> Vec<Option<Sizes>> {
        self.answers_within(STATVFS_TIMEOUT)
    }

    fn answers_within(self, timeout: Duration) -> Vec<Option<Sizes>> {
        let answers = self.answers.finish(Some(timeout));
        let answers = self.mountpoints.into_iter().zip(answers);
        let sizes = answers.map(|(mountpoint, timed)| match timed.result {
            Ok((_, sizes)) => sizes,
            Err(_) => {
                tracing::warn!(
                    "cannot read the size of {}: no answer within {} s; check its device or server",
                    mountpoint.display(),
                    timeout.as_secs()
                );
                unanswered().insert(mountpoint);
                None
            }
        });
        sizes.collect()
    }
}

fn statvfs_sizes(mountpoint: &Path) -> Option<Sizes> {
    // Whatever the reason, the reply can only leave the sizes out.
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
        let timeout = Duration::from_secs(1);
        let closed = GATE.lock().unwrap();
        let expected = [Some(SOME), None, None, Some(SOME)];
        let ask = |timeout| PendingSizes::with(paths(), slow).answers_within(timeout);
        assert_eq!(ask(timeout), expected);
        // It is not asked a second time while the first thread waits.
        assert_eq!(ask(timeout), expected);
        assert_eq!(QUESTIONS.load(Ordering::SeqCst), 1);
        drop(closed);
        while unanswered().contains(Path::new("/t/dead")) {
            std::thread::yield_now();
        }
        let timeout = Duration::from_secs(1000);
        let expected = [Some(SOME), None, Some(SOME), Some(SOME)];
        assert_eq!(ask(timeout), expected);
        assert_eq!(
            PendingSizes::with(Vec::new(), slow).answers_within(timeout),
            []
        );
    }

    #[test]
    fn sizes_as_df_has_them() {
        let found = PendingSizes::start(vec!["/".into(), "/nonexistent".into()]).answers();
        let [Some(root), None] = found[..] else {
            panic!("{found:?}")
        };
        assert!(
            root.used <= root.total && root.total <= root.privileged,
            "{root:?}"
        );
    }
}
