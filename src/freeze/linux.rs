//! The engine's operations on the running system.
//!
//! [`LinuxOps`] is the only code that freezes and thaws filesystems for the agent. Every call that may hang (open,
//! flush, FIFREEZE, FITHAW) runs on a thread of the pool with a time limit. A FIFREEZE that returns after its limit is
//! thawed at once, in this process or by the guardian. The engine calls the methods, in the order of the transaction;
//! `guarding` has the part that talks to the guardian.

mod guarding;
mod step;

use super::guardian::client::{AgentClient, Received, Socket};
use super::guardian::{Claim, Request};
use super::history;
use super::holdups;
use super::ops::{FreezeWait, GuardianNews, HeldFilesystem, Legacy, OpenError, Ops, REORDER_DELAY};
use super::plan::{Survey, Target};
use super::reach;
use super::report::Report;
use super::root::Root;
use crate::deadline::{Batch, Pace, Pool, Timed};
use crate::hooks::journal::{RunInfo, is_open};
use crate::hooks::{ANY_RUN, Phase, ThawReason, invoke};
use crate::logging;
use crate::probe::filesystems::Filesystem;
use crate::probe::mountinfo::{self, DeviceNumber, Mount};
use crate::probe::write_counters::{WriteCounters, Written};
use crate::probe::writers::Writer;
use crate::probe::{System, meminfo, shutdown};
use crate::state::{Expiry, Marker, StateDir, boot_id};
use crate::sys::poll::is_readable;
use crate::sys::rcu;
use crate::sys::{clock, fsfreeze, memory, strerror};
use nix::fcntl::{OFlag, openat};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;
use nix::unistd::fsync;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};
use step::step;

/// How long a flush waits for the commit of the journal before it.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(1);

const SYS: &str = "/sys";

/// FIFREEZE calls, and the filesystems that they freeze.
type PendingFreeze = (Batch<Arc<Root>>, Vec<Arc<Root>>);

/// Performs the operations on the running system.
pub struct LinuxOps {
    state: StateDir,
    hook: Option<PathBuf>,
    /// The hook master of the current freeze, if an earlier agent began it.
    inherited_hook: Option<Option<PathBuf>>,
    step_limit: Option<Duration>,
    /// RCU grace periods are not expedited.
    keeps_rcu: bool,
    mounts: Vec<Mount>,
    /// Counters of the devices that were asked for, opened before the first FIFREEZE.
    counters: Vec<(DeviceNumber, Option<WriteCounters>)>,
    /// Runs the calls that may hang.
    pool: Pool,
    pending_freeze: Option<PendingFreeze>,
    /// What the guardian has, by its numbers.
    entrusted: Vec<(usize, Weak<Root>)>,
    /// Filesystems whose FIFREEZE was given up; the reference dies when the call has returned.
    late: Vec<Weak<Root>>,
    /// This agent has expedited RCU grace periods.
    expedites_rcu: bool,
    /// The guardian of an earlier freeze was found stopped at the last check.
    was_stopped: bool,
    is_in_frozen_section: bool,
    guardian: Option<AgentClient>,
    /// The guardians' listening socket, from before a freeze to its end.
    socket: Option<Socket>,
    /// Readable once the agent is asked to stop; without it (no descriptor left) a stop waits for the current freeze.
    stop: Option<Arc<EventFd>>,
    /// Write end of a pipe for the next hook master: the guardian reads its end when the master has ended.
    alive: Option<OwnedFd>,
}

impl LinuxOps {
    /// `hook`: the hook master, if one is configured. `step_limit`: how long opening, flushing, freezing or thawing of
    /// one filesystem may take. `keeps_rcu`: RCU grace periods are not expedited.
    pub fn new(
        state: StateDir,
        hook: Option<PathBuf>,
        step_limit: Option<Duration>,
        keeps_rcu: bool,
    ) -> Self {
        Self {
            state,
            hook,
            inherited_hook: None,
            step_limit,
            keeps_rcu,
            mounts: Vec::new(),
            counters: Vec::new(),
            pool: Pool::default(),
            pending_freeze: None,
            entrusted: Vec::new(),
            late: Vec::new(),
            expedites_rcu: false,
            was_stopped: false,
            is_in_frozen_section: false,
            guardian: None,
            socket: None,
            stop: EventFd::from_flags(EfdFlags::EFD_CLOEXEC)
                .ok()
                .map(Arc::new),
            alive: None,
        }
    }
}

/// Thaws what FIFREEZE froze after it was given up; no other code knows of it.
fn thaw_late(root: Arc<Root>) {
    fsfreeze::thaw(root.as_ref()).ok();
}

/// Commits a filesystem's journal, not its data, by fsync(2) of a file without name and content.
///
/// A journal commits by itself every few seconds. In the middle of a flush that makes writers wait for blocks that
/// queue behind all the data: half a second and more on ext4 at 100 MB/s. A small commit before the flush starts that
/// interval anew. The call blocks while another process has the filesystem frozen.
fn commit_journal(root: &Root) -> io::Result<()> {
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = openat(root, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
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

/// Drops the handle, which keeps the filesystem open only until the call has returned.
fn without_value(timed: Timed<Arc<Root>>) -> Timed {
    Timed {
        result: timed.result.map(drop),
        took: timed.took,
    }
}

impl Ops for LinuxOps {
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
        if commits_first {
            let commit = |root: &Arc<Root>| {
                let root = root.clone();
                move || commit_journal(&root)
            };
            // Its failure is ignored: it only shortens waits, and read-only, full and other filesystems refuse it.
            let commits = handles.iter().map(|root| commit(root));
            self.pool
                .run(Pace::SideBySide, Some(COMMIT_TIMEOUT), drop, commits);
        }
        let flush = |root: &Arc<Root>| {
            let root = root.clone();
            move || fsfreeze::flush(root.as_ref())
        };
        let flushes = handles.iter().map(|root| flush(root));
        let done = self
            .pool
            .run(Pace::SideBySide, self.step_limit, drop, flushes);
        done.into_iter().map(|timed| timed.result).collect()
    }

    fn freeze(&mut self, handles: &[&Arc<Root>]) -> Vec<Option<Timed>> {
        step("freeze");
        let roots: Vec<Arc<Root>> = handles.iter().map(|&root| root.clone()).collect();
        let freeze = |root: &Arc<Root>| {
            let root = root.clone();
            move || fsfreeze::freeze(root.as_ref()).map(|()| root)
        };
        let batch = self
            .pool
            .start(Pace::SideBySide, thaw_late, roots.iter().map(freeze));
        self.pending_freeze = Some((batch, roots));
        self.wait_for_freeze(FreezeWait::Delay)
    }

    fn wait_for_freeze(&mut self, wait: FreezeWait) -> Vec<Option<Timed>> {
        step("await_freeze");
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
        let thaw = |root: &Arc<Root>| {
            let root = root.clone();
            move || fsfreeze::thaw(root.as_ref())
        };
        self.pool.run(
            Pace::OneByOne,
            self.step_limit,
            drop,
            handles.iter().map(|root| thaw(root)),
        )
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

    fn call_hooks(
        &mut self,
        phase: Phase,
        reason: Option<ThawReason>,
        run: &RunInfo,
    ) -> Option<invoke::MasterReport> {
        step("call_hooks");
        let hook = self.hook()?;
        // Hooks may take long, and what is logged meanwhile is to be seen at once.
        self.leave_frozen_section();
        tracing::info!(target: crate::AUDIT, "executing fsfreeze hook with arg '{}'", phase.as_str());
        // A stop ends a freeze hook; a thaw hook is always waited for.
        let stop = self.stop.as_ref().filter(|_| phase == Phase::Freeze);
        let invocation = invoke::Invocation {
            cancel: stop.and_then(|stop| stop.as_fd().try_clone_to_owned().ok()),
            reason,
            run: Some(run.clone()),
            // A call without a run is for what an earlier run has left in the journal.
            only_run: run.id.is_empty().then(|| ANY_RUN.into()),
            state: Some(self.state.path().to_owned()),
            // The agent keeps no copy: the guardian waits for the hang-up when the master ends.
            alive: self.alive.take(),
            announcements: self.pre_exec_writes(phase),
            ..invoke::Invocation::default()
        };
        Some(invoke::invoke(&hook, phase, invocation))
    }

    fn start_guardian(&mut self, run: &str) -> Result<(), String> {
        step("start_guardian");
        let started = self.start_client(run, None);
        self.guardian = Some(started.map_err(|e| self.unguarded(&e))?);
        Ok(())
    }

    fn replace_guardian(
        &mut self,
        run: &str,
        held: &[HeldFilesystem<'_, Arc<Root>>],
        limit: Option<Duration>,
        since: Option<Duration>,
    ) -> Result<(), String> {
        step("replace_guardian");
        self.start_replacement(run, held, limit, since)
            .map_err(|e| self.unguarded(&e))
    }

    fn wait_for_guardian(&mut self) -> Result<(), String> {
        step("await_guardian");
        let ready = self
            .guardian
            .as_mut()
            .map_or(Ok(()), AgentClient::await_ready);
        ready.map_err(|e| self.unguarded(&e))
    }

    fn entrust(
        &mut self,
        held: &[HeldFilesystem<'_, Arc<Root>>],
        limit: Option<Duration>,
    ) -> Result<(), String> {
        step("entrust");
        self.entrust_filesystems(held, limit)
            .map_err(|e| self.unguarded(&e))
    }

    fn find_guardian(&mut self) -> bool {
        step("find_guardian");
        self.guardian = AgentClient::find(self.state.path());
        self.guardian.is_some()
    }

    fn legacy(&mut self, waits: bool) -> Legacy<Arc<Root>> {
        self.receive_legacy(waits)
    }

    fn use_hook(&mut self, hook: Option<PathBuf>) {
        step("use_hook");
        self.inherited_hook = Some(hook);
    }

    fn has_journal(&self) -> bool {
        is_open(self.state.path())
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

    fn send_to_guardian(&mut self, request: Request) {
        step("tell_guardian");
        let Some(guardian) = &mut self.guardian else {
            return;
        };
        if let Err(error) = guardian.send(&request) {
            tracing::warn!("the guardian is gone: {}", strerror(&error));
            // A guardian that has missed a request must not act on what it knows. The connection stays: its
            // hang-up makes the engine start another guardian.
            guardian.kill();
        }
    }

    fn claim(&mut self, is_early: bool) -> Claim {
        step("claim");
        self.guardian
            .as_mut()
            .map_or(Claim::Ours(None), |guardian| guardian.claim(is_early))
    }

    fn is_undecided(&self) -> bool {
        self.guardian.as_ref().is_none_or(AgentClient::is_undecided)
    }

    fn poll_guardian(&mut self) -> GuardianNews {
        match self
            .guardian
            .as_mut()
            .map(|guardian| guardian.receive(false))
        {
            Some(Received::Ended(expiry)) => GuardianNews::Ended(expiry),
            Some(Received::Gone) => {
                tracing::warn!("the guardian is gone; another one is started");
                self.guardian = None;
                GuardianNews::Gone
            }
            Some(Received::Nothing | Received::Freeze(..)) | None => GuardianNews::Nothing,
        }
    }

    fn release_guardian(&mut self) {
        step("release_guardian");
        self.late.retain(|late| late.strong_count() > 0);
        if self.late.is_empty() {
            self.send_to_guardian(Request::Done);
        }
    }

    fn disconnect_guardian(&mut self) {
        step("part_from_guardian");
        self.guardian.as_mut().map(AgentClient::close_sending_side);
    }

    fn dismiss_guardian(&mut self) {
        step("dismiss_guardian");
        self.release_client();
    }

    fn guardian_fd(&self) -> Option<OwnedFd> {
        self.guardian.as_ref()?.readiness_fd().ok()
    }

    fn mark_expired(&mut self, expiry: &Expiry) -> Result<(), String> {
        step("mark_expired");
        self.state.mark_expired(expiry).map_err(|e| e.text)
    }

    fn take_expired(&mut self) -> Option<Expiry> {
        self.state.take_expired()
    }

    fn mark_frozen(&mut self, marker: Marker) -> Result<(), String> {
        step("mark_frozen");
        let marker = Marker {
            boot: boot_id(),
            hook: self.hook(),
            ..marker
        };
        self.state.mark_frozen(&marker).map_err(|e| e.text)
    }

    fn mark_thawed(&mut self) -> Result<bool, String> {
        step("mark_thawed");
        self.state.mark_thawed().map_err(|e| e.text)
    }

    fn enter_frozen_section(&mut self, at_once: usize) {
        step("hush");
        self.is_in_frozen_section = true;
        logging::hold_lines();
        self.pool.reserve(at_once);
        // After the threads have started, so that their stacks are locked, too.
        if let Err(e) = memory::lock_all() {
            tracing::debug!("memory stays unlocked while frozen: {}", strerror(&e));
        }
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

    fn restore_rcu(&mut self) -> Result<(), String> {
        step("restore_rcu");
        if !std::mem::take(&mut self.expedites_rcu) {
            return Ok(());
        }
        rcu::set(Path::new(SYS), false).map_err(|error| {
            format!(
                "cannot switch expedited RCU grace periods off: {}; write 0 to {SYS}/kernel/rcu_expedited",
                strerror(&error)
            )
        })
    }

    fn leave_frozen_section(&mut self) {
        if !std::mem::take(&mut self.is_in_frozen_section) {
            return;
        }
        // Before the threads end: the stack of a thread cannot be freed while it is locked.
        if let Err(e) = memory::unlock_all() {
            tracing::debug!("memory stays locked: {}", strerror(&e));
        }
        self.pool = Pool::default();
        logging::release_lines();
    }

    fn release_resources(&mut self) {
        self.mounts = Vec::new();
        self.counters = Vec::new();
        self.entrusted = Vec::new();
        self.inherited_hook = None;
        self.pool = Pool::default();
    }

    fn stop_event(&self) -> Option<Arc<EventFd>> {
        self.stop.clone()
    }

    fn is_stopping(&self) -> bool {
        let stop = self.stop.as_ref();
        stop.is_some_and(|stop| is_readable(stop.as_fd(), Duration::ZERO))
    }

    fn is_system_stopping(&self) -> bool {
        shutdown::is_in_progress()
    }

    fn now(&mut self) -> Duration {
        clock::monotonic()
    }

    fn wall_clock(&mut self) -> SystemTime {
        SystemTime::now()
    }

    fn reports(&mut self) -> Vec<Report> {
        let (reports, wrong) = history::read(&self.state);
        if let Some(text) = wrong {
            tracing::warn!("{text}");
        }
        reports
    }

    fn store_report(&mut self, report: &Report) -> Result<(), String> {
        step("keep");
        history::store(&self.state, report)
    }
}
