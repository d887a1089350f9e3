//! Opening, flushing, freezing and thawing filesystems.

use super::step::step;
use super::{LinuxOps, SYS};
use crate::deadline::{Batch, Pace, Timed};
use crate::freeze::ops::{FilesystemOps, FreezeWait, OpenError, REORDER_DELAY};
use crate::freeze::plan::{Survey, Target};
use crate::freeze::root::{Root, calls};
use crate::freeze::{holdups, reach};
use crate::probe::filesystems::Filesystem;
use crate::probe::mountinfo::{self, DeviceNumber, Mount};
use crate::probe::write_counters::{WriteCounters, Written};
use crate::probe::writers::Writer;
use crate::probe::{System, meminfo};
use crate::sys::{fsfreeze, rcu, strerror};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::fsync;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const COMMIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Thaws what FIFREEZE froze after it was given up; no other code knows of it.
fn thaw_late(root: Arc<Root>) {
    // EINVAL: another process has thawed it. For any other error no caller is left; FITHAW can be repeated by hand.
    fsfreeze::thaw(root.as_ref()).ok();
}

/// Commits a filesystem's journal, not its data, by fsync(2) of a file without name and content. A journal commits by
/// itself every few seconds. In the middle of a flush that makes writers wait for blocks that queue behind all the
/// data: half a second and more on ext4 at 100 MB/s. A small commit before the flush starts that interval anew. The
/// call blocks while another process has the filesystem frozen.
fn commit_journal(root: &Arc<Root>) -> io::Result<()> {
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = openat(root.as_ref(), ".", flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(fsync(file)?)
}

impl LinuxOps {
    /// Waits until `limit`, then aborts the FUSE connections that hold up what has not returned. Returns the processes
    /// that hold it up, one list for each root.
    fn free_late(
        &self,
        limit: Option<Duration>,
        batch: &Batch<Arc<Root>>,
        roots: &[Arc<Root>],
    ) -> Vec<Vec<Writer>> {
        let mut writers = vec![Vec::new(); roots.len()];
        // freeze() has waited for REORDER_DELAY already.
        let left = limit.map(|limit| limit.saturating_sub(REORDER_DELAY));
        if left.is_none_or(|left| batch.wait(left)) {
            return writers;
        }
        let found = holdups::find(&self.pool, roots);
        if !found.is_empty() {
            writers = found;
        }
        // First the connections that a found writer uses; if that does not help, all.
        for only in [Some(&writers[..]), None] {
            if holdups::abort_connections(only) && batch.wait(holdups::ABORT_TIMEOUT) {
                break;
            }
        }
        writers
    }
}

/// The handle keeps the filesystem open only until the call has returned.
fn without_value(timed: Timed<Arc<Root>>) -> Timed {
    Timed {
        result: timed.result.map(drop),
        took: timed.took,
    }
}

impl FilesystemOps for LinuxOps {
    type Handle = Arc<Root>;

    fn survey(&mut self) -> io::Result<Survey> {
        step("survey");
        self.mounts = mountinfo::read(&System::host())?;
        Ok(Survey::read(&System::host(), &self.mounts))
    }

    fn survey_again(&mut self) -> io::Result<Option<Survey>> {
        step("survey_again");
        let mounts = mountinfo::read(&System::host())?;
        if mounts == self.mounts {
            return Ok(None);
        }
        self.mounts = mounts;
        Ok(Some(Survey::read(&System::host(), &self.mounts)))
    }

    fn open(&mut self, targets: &[Target]) -> Vec<Result<Arc<Root>, OpenError>> {
        step("open");
        let opened = reach::open(&self.pool, self.step_limit, &self.mounts, targets);
        let root = |file: Result<_, _>| file.map(|file| Arc::new(Root::from(file)));
        opened.into_iter().map(root).collect()
    }

    fn dirty_bytes(&mut self) -> Option<u64> {
        meminfo::dirty_bytes(&System::host())
            .inspect_err(|error| tracing::debug!("how much is dirty is not known: {error}"))
            .ok()
    }

    fn flush(&mut self, handles: &[&Arc<Root>], commits_first: bool) -> Vec<io::Result<()>> {
        step("flush");
        let roots = || handles.iter().copied();
        if commits_first {
            // Its failure is ignored: it only shortens waits, and read-only, full and other filesystems refuse it.
            let commits = calls(roots(), commit_journal);
            self.pool
                .run(Pace::SideBySide, Some(COMMIT_TIMEOUT), drop, commits);
        }
        let flushes = calls(roots(), |root| fsfreeze::flush(root.as_ref()));
        let done = self
            .pool
            .run(Pace::SideBySide, self.step_limit, drop, flushes);
        done.into_iter().map(|timed| timed.result).collect()
    }

    fn freeze(&mut self, handles: &[&Arc<Root>]) -> Vec<Option<Timed>> {
        step("freeze");
        let roots: Vec<Arc<Root>> = handles.iter().map(|&root| root.clone()).collect();
        let freezes = calls(&roots, |root| {
            fsfreeze::freeze(root.as_ref()).map(|()| root.clone())
        });
        let batch = self.pool.start(Pace::SideBySide, thaw_late, freezes);
        self.pending_freeze = Some((batch, roots));
        self.wait_for_freeze(FreezeWait::Delay)
    }

    fn wait_for_freeze(&mut self, wait: FreezeWait) -> Vec<Option<Timed>> {
        step("wait_for_freeze");
        let Some((mut batch, mut roots)) = self.pending_freeze.take() else {
            return Vec::new();
        };
        let mut results: Vec<Option<Timed>> = Vec::new();
        if let FreezeWait::Limit(left) = wait {
            let limit = self.step_limit.into_iter().chain(left).min();
            let writers = self.free_late(limit, &batch, &roots);
            let done = batch.finish(limit).into_iter();
            for ((mut timed, root), writers) in done.zip(roots).zip(writers) {
                if let (true, Err(error)) = (timed.is_overdue(), &timed.result) {
                    // At the end of the run the guardian is left in charge of it.
                    self.late.push(Arc::downgrade(&root));
                    let text = format!("{error}; {}", holdups::explain(&writers));
                    timed.result = Err(io::Error::new(error.kind(), text));
                }
                results.push(Some(without_value(timed)));
            }
            return results;
        }
        let is_whole = batch.wait(REORDER_DELAY);
        let returned = batch.take_returned();
        let mut is_late = returned.iter().map(Option::is_none);
        roots.retain(|_| is_late.next() == Some(true));
        results.extend(returned.into_iter().map(|timed| timed.map(without_value)));
        if !is_whole {
            self.pending_freeze = Some((batch, roots));
        }
        results
    }

    fn thaw(&mut self, handles: &[&Arc<Root>]) -> Vec<Timed> {
        step("thaw");
        let thaws = calls(handles.iter().copied(), |root| {
            fsfreeze::thaw(root.as_ref())
        });
        self.pool.run(Pace::OneByOne, self.step_limit, drop, thaws)
    }

    fn is_any_frozen(&mut self, handles: &[&Arc<Root>]) -> bool {
        handles.iter().any(|root| {
            let root = Arc::clone(root);
            let frozen = self.pool.run_one(self.step_limit, thaw_late, move || {
                fsfreeze::freeze(root.as_ref())?;
                fsfreeze::thaw(root.as_ref())?;
                Ok(root)
            });
            matches!(frozen, Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY))
        })
    }

    fn write_counters(&mut self, device: DeviceNumber) -> Option<Written> {
        let mut counters = self.counters.iter();
        let at = counters.position(|(other, _)| *other == device);
        let at = at.unwrap_or_else(|| {
            let counters = WriteCounters::open(&System::host(), device);
            self.counters.push((device, counters));
            self.counters.len() - 1
        });
        self.counters.get(at)?.1.as_ref()?.read()
    }

    fn mounted_since(&mut self) -> Vec<Filesystem> {
        // The mount table is empty here if this agent has taken over a freeze and not read it.
        let mounts = match System::host().mounts() {
            Ok(mounts) if !self.mounts.is_empty() && mounts != self.mounts => mounts,
            _ => return Vec::new(),
        };
        let is_new = |filesystem: &Filesystem| {
            let is_it = |mount: &&Mount| mount.mount_id == filesystem.mount_id;
            let mount = mounts.iter().find(is_it);
            let device = mount.map(Mount::device);
            !self
                .mounts
                .iter()
                .any(|before| Some(before.device()) == device)
                && !mount.is_some_and(Mount::is_filesystem_read_only)
        };
        let (found, _) = System::host().block_filesystems(&mounts);
        found.into_iter().filter(is_new).collect()
    }

    fn expedite_rcu(&mut self) {
        step("expedite_rcu");
        if !self.expedites_rcu {
            return;
        }
        if let Err(error) = rcu::set(Path::new(SYS), true) {
            self.expedites_rcu = false;
            tracing::debug!("RCU grace periods are not expedited: {}", strerror(&error));
        }
    }

    fn restore_rcu(&mut self) -> io::Result<()> {
        step("restore_rcu");
        if !std::mem::take(&mut self.expedites_rcu) {
            return Ok(());
        }
        rcu::set(Path::new(SYS), false)
    }
}
