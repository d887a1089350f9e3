//! The hook masters of a run, as its guardian sees them: those of the agent, and the one that it starts for the thaw. A
//! hook that got `freeze` gets one `thaw`: a master that may still do something is waited for or killed before another
//! one is started.

use super::THAW_HOOKS_TIMEOUT;
use super::state::{Cause, Hooks};
use crate::child::{self, Family};
use crate::hooks::Phase;
use crate::hooks::invoke::{self, STOPPED_MASTER_TIMEOUT};
use crate::hooks::journal::{is_open, owed};
use crate::sys::poll::{has_hung_up, is_readable};
use crate::sys::process::{PidFd, StopCheck, is_stopped};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// After the agent died: no snapshot follows any more.
const FREEZE_HOOKS_TIMEOUT: Duration = Duration::from_secs(10);

/// Process id, and the pidfd that stays valid when the number is reused.
struct Master(i32, PidFd);

impl Master {
    fn of(pid: Option<i32>) -> Option<Self> {
        let pid = pid?;
        // Without a pidfd (it was reaped, or Linux is older than 5.3) nothing is known of it.
        Some(Self(pid, PidFd::open(pid).ok()?))
    }

    fn has_ended(&self) -> bool {
        is_readable(self.1.as_fd(), Duration::ZERO)
    }

    /// Returns those that cannot be killed.
    fn end(&self) -> Vec<String> {
        if self.has_ended() {
            return Vec::new();
        }
        let wait = &mut |time| std::thread::sleep(time);
        child::end_family(self.0, Family::Session, wait)
    }
}

pub struct Masters {
    program: Option<PathBuf>,
    /// Its id: this guardian does not thaw hooks that another run has frozen.
    run: String,
    /// Hangs up when the freezing master has ended.
    freezing: OwnedFd,
    freezing_master: Option<Master>,
    thawing_master: Option<Master>,
    had_journal: bool,
}

impl Masters {
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

    pub fn program(&self) -> Option<&PathBuf> {
        self.program.as_ref()
    }

    /// `sender` is the master's process id, by the socket's credentials.
    pub fn announced(&mut self, phase: Phase, sender: Option<i32>) {
        let master = Master::of(sender);
        match phase {
            Phase::Freeze => self.freezing_master = master,
            Phase::Thaw => self.thawing_master = master,
        }
    }

    /// Whether the agent is stopped, and its thawing master is stopped or has ended.
    pub fn are_stuck(&self, agent: Option<i32>) -> bool {
        let is_at_work = |master: &Master| !master.has_ended() && !is_stopped(master.0);
        agent.is_some_and(is_stopped) && !self.thawing_master.as_ref().is_some_and(is_at_work)
    }

    /// Before a master or another agent removes the journal.
    pub fn begin_undo(&mut self, state: &Path) {
        self.had_journal = is_open(state);
    }

    /// The agent's thaw master survives the agent. One that is stopped, or takes longer than [`THAW_HOOKS_TIMEOUT`], is
    /// killed, and another one thaws what it left. Returns the processes that cannot be killed.
    pub fn wait_for_thaw_masters(&self) -> Vec<String> {
        let Some(master) = &self.thawing_master else {
            return Vec::new();
        };
        let begun = Instant::now();
        let mut stop_check = StopCheck::default();
        while begun.elapsed() < THAW_HOOKS_TIMEOUT {
            if is_readable(master.1.as_fd(), STOPPED_MASTER_TIMEOUT / 2) {
                return Vec::new();
            }
            if stop_check.stays_stopped(master.0) {
                break;
            }
        }
        master.end()
    }

    /// The program to call with `thaw`; `None` if no hook waits for one. The journal lists the hooks that our own hook
    /// master has not thawed; the next agent may have thawed them already. A foreign hook master has no journal: an
    /// agent that removed the marker has called it.
    pub fn thaw_program(&self, hooks: Hooks, cause: Cause, state: &Path) -> Option<&Path> {
        let owes = match hooks {
            Hooks::Untouched => false,
            Hooks::Frozen => is_open(state) || !self.had_journal && cause != Cause::Unmarked,
            Hooks::Thawing => !owed(state).is_empty(),
        };
        self.program.as_deref().filter(|_| owes)
    }

    pub fn has_frozen(&self) -> bool {
        has_hung_up(self.freezing.as_fd(), Duration::ZERO)
    }

    /// The freezing master is waited for, then killed: a hook that thaws while its freeze still runs would leave the
    /// application frozen. Returns the processes that cannot be killed. With `is_whole`, everything is frozen and the
    /// agent has waited for the master; only a daemon that a hook left behind may still hold the pipe.
    pub fn end_freeze_masters(&self, is_whole: bool) -> Vec<String> {
        if is_whole || has_hung_up(self.freezing.as_fd(), FREEZE_HOOKS_TIMEOUT) {
            return Vec::new();
        }
        self.freezing_master
            .as_ref()
            .map(Master::end)
            .unwrap_or_default()
    }

    pub fn thaw(&self, program: &Path, cause: Cause, state: &Path) -> invoke::MasterReport {
        let limits = invoke::Invocation {
            deadline: Some(THAW_HOOKS_TIMEOUT),
            reason: Some(cause.thaw_reason()),
            state: Some(state.to_owned()),
            // Without a journal nobody knows which hooks got `freeze` in which run.
            only_run: self.had_journal.then(|| self.run.clone()),
            ..invoke::Invocation::default()
        };
        invoke::invoke(program, Phase::Thaw, limits)
    }
}
