//! The engine's operations on the running system.
//!
//! [`LinuxOps`] is the only code that freezes and thaws filesystems for the agent. Every call that may hang (open,
//! flush, FIFREEZE, FITHAW) runs on a thread of the pool with a time limit. A FIFREEZE that returns after its limit is
//! thawed at once, in this process or by the guardian.

mod filesystems;
mod guardian;
mod snapshot;
mod step;

use super::error::FreezeError;
use super::guardian::client::{AgentClient, Socket};
use super::history;
use super::ops::{HookOps, StateOps, SystemOps};
use super::report::Report;
use super::root::Root;
use super::snapshot::SnapshotFile;
use crate::deadline::{Batch, Pool};
use crate::hooks::journal::{RunInfo, is_open};
use crate::hooks::{ANY_RUN, Phase, ThawReason, invoke};
use crate::logging;
use crate::probe::mountinfo::{DeviceNumber, Mount};
use crate::probe::shutdown;
use crate::probe::write_counters::WriteCounters;
use crate::state::{Expiry, Marker, StateDir, StateError, boot_id};
use crate::sys::poll::is_readable;
use crate::sys::{clock, memory, strerror};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};
use step::step;

const SYS: &str = "/sys";

type PendingFreeze = (Batch<Arc<Root>>, Vec<Arc<Root>>);

pub struct LinuxOps {
    state: StateDir,
    hook: Option<PathBuf>,
    /// `None`: it is switched off.
    snapshot: Option<SnapshotFile>,
    /// The current run has written it, or an earlier agent that froze.
    has_snapshot: bool,
    /// Of the current freeze, if an earlier agent began it.
    inherited_hook: Option<Option<PathBuf>>,
    step_limit: Option<Duration>,
    /// RCU grace periods are not expedited.
    keeps_rcu: bool,
    mounts: Vec<Mount>,
    /// Opened before the first FIFREEZE.
    counters: Vec<(DeviceNumber, Option<WriteCounters>)>,
    pool: Pool,
    pending_freeze: Option<PendingFreeze>,
    /// By the guardian's numbers.
    entrusted: Vec<(usize, Weak<Root>)>,
    /// Filesystems whose FIFREEZE was given up; the reference dies when the call has returned.
    late: Vec<Weak<Root>>,
    expedites_rcu: bool,
    is_in_frozen_section: bool,
    guardian: Option<AgentClient>,
    socket: Option<Socket>,
    /// Readable once the agent is asked to stop; without it (no descriptor left) a stop waits for the current freeze.
    stop: Option<Arc<EventFd>>,
    /// Write end of a pipe for the next hook master: the guardian reads its end when the master has ended.
    alive: Option<OwnedFd>,
}

impl LinuxOps {
    /// `step_limit`: how long opening, flushing, freezing or thawing of one filesystem may take.
    pub fn new(
        state: StateDir,
        hook: Option<PathBuf>,
        snapshot: Option<SnapshotFile>,
        step_limit: Option<Duration>,
        keeps_rcu: bool,
    ) -> Self {
        Self {
            state,
            hook,
            snapshot,
            has_snapshot: false,
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
            is_in_frozen_section: false,
            guardian: None,
            socket: None,
            stop: EventFd::from_flags(EfdFlags::EFD_CLOEXEC)
                .ok()
                .map(Arc::new),
            alive: None,
        }
    }

    /// Becomes readable when the agent is asked to stop. A freeze hook that runs is ended then.
    pub fn stop_event(&self) -> Option<Arc<EventFd>> {
        self.stop.clone()
    }

    /// Readable when the guardian sends something or exits; without a free descriptor the next request notices its end.
    pub fn guardian_fd(&self) -> Option<OwnedFd> {
        self.guardian.as_ref()?.readiness_fd().ok()
    }
}

impl HookOps for LinuxOps {
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
        tracing::info!(
            target: crate::AUDIT,
            RUN_ID = run.id,
            "executing fsfreeze hook with arg '{}'",
            phase.as_str()
        );
        // A stop ends a freeze hook; a thaw hook is always waited for.
        let stop = self.stop.as_ref().filter(|_| phase == Phase::Freeze);
        let invocation = invoke::Invocation {
            // Without a descriptor a stop waits for the hooks.
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

    fn use_hook(&mut self, hook: Option<PathBuf>) {
        step("use_hook");
        self.inherited_hook = Some(hook);
    }

    fn has_journal(&self) -> bool {
        is_open(self.state.path())
    }
}

impl StateOps for LinuxOps {
    fn mark_frozen(&mut self, marker: Marker) -> Result<(), StateError> {
        step("mark_frozen");
        let marker = Marker {
            boot: boot_id(),
            hook: self.hook(),
            ..marker
        };
        self.state.mark_frozen(&marker)
    }

    fn mark_thawed(&mut self) -> Result<bool, StateError> {
        step("mark_thawed");
        self.state.mark_thawed()
    }

    fn mark_expired(&mut self, expiry: &Expiry) -> Result<(), StateError> {
        step("mark_expired");
        self.state.mark_expired(expiry)
    }

    fn take_expired(&mut self) -> Option<Expiry> {
        self.state.take_expired()
    }

    fn reports(&mut self) -> Vec<Report> {
        let (reports, wrong) = history::read(&self.state);
        if let Some(text) = wrong {
            tracing::warn!("{text}");
        }
        reports
    }

    fn store_report(&mut self, report: &Report) -> Result<(), FreezeError> {
        step("store_report");
        history::store(&self.state, report)
    }
}

impl SystemOps for LinuxOps {
    fn enter_frozen_section(&mut self, at_once: usize) {
        step("enter_frozen_section");
        self.is_in_frozen_section = true;
        logging::hold_lines();
        self.pool.reserve(at_once);
        // After the threads have started, so that their stacks are locked, too.
        if let Err(e) = memory::lock_all() {
            tracing::debug!("memory stays unlocked while frozen: {}", strerror(&e));
        }
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
        self.has_snapshot = false;
        self.pool = Pool::default();
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
}
