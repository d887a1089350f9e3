//! The hook masters that a guardian hears of, and the one that it calls.

use super::THAW_HOOKS_TIMEOUT;
use super::state::{Cause, Hooks};
use crate::child::{self, Family};
use crate::hooks::Phase;
use crate::hooks::invoke::{self, STOPPED_MASTER_TIMEOUT};
use crate::hooks::journal::{is_open, owed};
use crate::sys::poll::{has_hung_up, is_readable};
use crate::sys::process::{self, PidFd};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long freeze hooks may go on after the agent died, before they are ended: no snapshot comes any more.
const FREEZE_HOOKS_TIMEOUT: Duration = Duration::from_secs(10);

/// A master at work: process id, and what stands for it, for a number may go to others.
struct Master(i32, PidFd);

impl Master {
    fn of(pid: Option<i32>) -> Option<Self> {
        let pid = pid?;
        Some(Self(pid, PidFd::open(pid).ok()?))
    }

    fn has_ended(&self) -> bool {
        is_readable(self.1.as_fd(), Duration::ZERO)
    }

    fn is_stopped(&self) -> bool {
        is_stopped(self.0)
    }

    /// Ends it and its hooks; what is left all the same.
    fn end(&self) -> Vec<String> {
        if self.has_ended() {
            return Vec::new();
        }
        let wait = &mut |time| std::thread::sleep(time);
        child::end_family(self.0, Family::Session, wait)
    }
}

fn is_stopped(pid: i32) -> bool {
    process::stat(pid).is_some_and(|stat| stat.is_stopped)
}

/// The masters of one freeze.
pub struct Masters {
    program: Option<PathBuf>,
    /// The run's id: hooks that were told to freeze in another one are not thawed by this guardian.
    run: String,
    /// Hangs up when the master that was told to freeze has ended.
    freezing: OwnedFd,
    freezing_master: Option<Master>,
    thawing_master: Option<Master>,
    /// What was started was in the journal when the undo began.
    had_journal: bool,
}

impl Masters {
    /// Of the run `run`; `freezing` hangs up when the master that was told to freeze has ended.
    pub fn new(program: Option<PathBuf>, run: String, freezing: OwnedFd) -> Self {
        Self {
            program,
            run,
            freezing,
            freezing_master: None,
            thawing_master: None,
            had_journal: false,
        }
    }

    /// The program, if there is one.
    pub fn program(&self) -> Option<&PathBuf> {
        self.program.as_ref()
    }

    /// A master has started, and says so by itself.
    pub fn announced(&mut self, phase: Phase, sender: Option<i32>) {
        let master = Master::of(sender);
        match phase {
            Phase::Freeze => self.freezing_master = master,
            Phase::Thaw => self.thawing_master = master,
        }
    }

    /// Whether the thaw goes on neither in the agent, process `agent`, nor in its master.
    pub fn are_stuck(&self, agent: Option<i32>) -> bool {
        let is_at_work = |master: &Master| !master.has_ended() && !master.is_stopped();
        agent.is_some_and(is_stopped) && !self.thawing_master.as_ref().is_some_and(is_at_work)
    }

    /// The undo begins.
    pub fn begin_undo(&mut self, state: &Path) {
        self.had_journal = is_open(state);
    }

    /// Waits for the thaw master of the agent: it goes on, and what it leaves is for another one. One that is stopped, or takes
    /// too long, is ended; what of it cannot be ended.
    pub fn wait_for_thaw_masters(&self) -> Vec<String> {
        let Some(master) = &self.thawing_master else {
            return Vec::new();
        };
        let begun = Instant::now();
        let mut was_stopped = false;
        while begun.elapsed() < THAW_HOOKS_TIMEOUT {
            if is_readable(master.1.as_fd(), STOPPED_MASTER_TIMEOUT / 2) {
                return Vec::new();
            }
            let is_stopped = master.is_stopped();
            if is_stopped && was_stopped {
                break;
            }
            was_stopped = is_stopped;
        }
        master.end()
    }

    /// The program that still has to be called with thaw. The journal lists the hooks that our own hook master has not
    /// thawed; a successor of the agent may have thawed them. A foreign hook master has no journal: an agent that removed
    /// the marker has called it.
    pub fn thaw_program(&self, hooks: Hooks, cause: Cause, state: &Path) -> Option<&Path> {
        let owes = match hooks {
            Hooks::Untouched => false,
            Hooks::Frozen => is_open(state) || !self.had_journal && cause != Cause::Unmarked,
            Hooks::Thawing => !owed(state).is_empty(),
        };
        self.program.as_deref().filter(|_| owes)
    }

    /// Whether the master that was told to freeze has ended.
    pub fn has_frozen(&self) -> bool {
        has_hung_up(self.freezing.as_fd(), Duration::ZERO)
    }

    /// A hook that is told to thaw while it still freezes would leave its application asleep. After a
    /// whole freeze this has been waited for; then a daemon that a hook left behind may hold the line.
    /// What cannot be ended.
    pub fn end_freeze_masters(&self, is_whole: bool) -> Vec<String> {
        if is_whole || has_hung_up(self.freezing.as_fd(), FREEZE_HOOKS_TIMEOUT) {
            return Vec::new();
        }
        self.freezing_master
            .as_ref()
            .map(Master::end)
            .unwrap_or_default()
    }

    /// Calls `program` with thaw.
    pub fn thaw(&self, program: &Path, cause: Cause, state: &Path) -> invoke::MasterReport {
        let limits = invoke::Invocation {
            deadline: Some(THAW_HOOKS_TIMEOUT),
            reason: Some(cause.thaw_reason()),
            state: Some(state.to_owned()),
            // Without a journal nobody knows what was told to freeze.
            only_run: self.had_journal.then(|| self.run.clone()),
            ..invoke::Invocation::default()
        };
        invoke::invoke(program, Phase::Thaw, limits)
    }
}
