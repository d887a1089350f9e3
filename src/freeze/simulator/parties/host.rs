//! The host, what really happened, and the rules that must hold.

use super::master::HOOKS;
use super::world::{Ms, NEVER, Random, World};
use crate::freeze::report::{Level, Report};
use crate::hooks::Phase;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Freeze,
    Thaw,
}

/// How long a running agent may take for an answer: the limits of hooks and claim, and some reserve.
const ANSWER_LIMIT: Ms = 400_000;

#[derive(Debug)]
pub struct Host {
    next: Option<(Ms, Request)>,
    /// The request without an answer; whether an agent has read it.
    pub pending: Option<(Request, bool)>,
    asked_at: Ms,
    holds: Ms,
    rounds_left: u32,
    frozen_since: Option<Ms>,
    thaw_asked: Option<Ms>,
}

impl Host {
    pub fn new(random: &mut Random) -> Self {
        let holds = match random.below(4) {
            0 => 15_000 + random.below(15_000),
            _ => random.below(300),
        };
        Self {
            next: Some((1_010, Request::Freeze)),
            pending: None,
            asked_at: 0,
            holds,
            rounds_left: 1,
            frozen_since: None,
            thaw_asked: None,
        }
    }

    /// The connection is closed; the host asks the next agent for a thaw.
    pub fn agent_died(&mut self, now: Ms) {
        if let Some((_, true)) = self.pending {
            self.pending = None;
            self.next = Some((now + 5, Request::Thaw));
        }
    }
}

#[derive(Debug, Default)]
pub struct Truth {
    /// When the first filesystem was thawed or thaw hook started after the host's freeze, and whether a process outside
    /// of the simulated parties did it.
    pub ended: Option<(Ms, bool)>,
    hooks: [HookTruth; HOOKS],
}

#[derive(Debug, Default, Clone, Copy)]
struct HookTruth {
    /// Its freeze has begun and its thaw has not ended.
    is_quiesced: bool,
    is_freezing: bool,
    is_thawing: bool,
    /// Its freeze succeeded.
    is_quiet: bool,
    /// Thaws that were started since the freeze, and those of them that were killed.
    thaws: u32,
    killed_thaws: u32,
}

impl Truth {
    pub fn thawed(&mut self, now: Ms, by_others: bool) {
        self.ended.get_or_insert((now, by_others));
    }

    pub fn hook_ended(&mut self, hook: usize, phase: Phase, is_success: bool) {
        let it = &mut self.hooks[hook];
        match phase {
            Phase::Freeze => {
                it.is_freezing = false;
                it.is_quiet = is_success;
            }
            Phase::Thaw => {
                it.is_thawing = false;
                it.is_quiesced = false;
                it.killed_thaws += u32::from(!is_success);
            }
        }
    }

    /// The journal lists it, so it gets a thaw.
    pub fn hook_recorded(&mut self, hook: usize) {
        self.hooks[hook].thaws = 0;
    }

    pub fn quiesced(&self) -> usize {
        self.hooks.iter().filter(|hook| hook.is_quiesced).count()
    }
}

impl World {
    pub fn hook_starts(&mut self, hook: usize, phase: Phase) {
        let killed_masters = self.killed_thaw_masters();
        let it = &mut self.truth.hooks[hook];
        let mut broken = Vec::new();
        match phase {
            Phase::Freeze => {
                if it.is_quiesced {
                    broken.push("is told to freeze twice");
                }
                *it = HookTruth {
                    is_quiesced: true,
                    is_freezing: true,
                    ..HookTruth::default()
                };
                // A thaw before this one was of an earlier freeze.
                self.truth.ended = None;
            }
            Phase::Thaw => {
                it.thaws += 1;
                if it.is_freezing {
                    broken.push("is told to thaw while it freezes");
                }
                if it.is_thawing {
                    broken.push("is told to thaw twice at once");
                }
                if it.thaws > 1 + it.killed_thaws + killed_masters {
                    broken.push("is told to thaw twice");
                }
                it.is_thawing = true;
                let now = self.now;
                self.truth.thawed(now, false);
                let by_run = |(frozen, is_late): (&bool, &bool)| *frozen && !is_late;
                if self.frozen.iter().zip(&self.frozen_late).any(by_run) {
                    broken.push("is told to thaw while something is frozen");
                }
            }
        }
        let text = |what: &str| format!("hook {hook} {what}");
        self.broken.extend(broken.into_iter().map(text));
    }

    /// Masters that were killed; each may have died after a hook had ended and before the journal had it.
    fn killed_thaw_masters(&self) -> u32 {
        let is_killed =
            |m: &&super::master::Master| m.phase == Phase::Thaw && !m.is_alive && !m.has_ended;
        self.masters.iter().filter(is_killed).count() as u32
    }

    pub fn host_time(&self) -> Option<Ms> {
        match self.host.pending {
            Some((_, true)) if !self.agent.is_alive || self.agent.stopped_until == NEVER => None,
            Some((_, true)) => {
                Some(self.host.asked_at.max(self.agent.stopped_until) + ANSWER_LIMIT)
            }
            Some((_, false)) => None,
            None => self.host.next.map(|(at, _)| at),
        }
    }

    pub fn host_step(&mut self) {
        if let Some((request, true)) = self.host.pending {
            self.broken.push(format!("{request:?} is not answered"));
            self.host.asked_at = NEVER - ANSWER_LIMIT;
            return;
        }
        if let Some((_, request)) = self.host.next.take() {
            self.trace_step(|_| format!("host: {request:?}"));
            self.host.pending = Some((request, false));
            self.host.asked_at = self.now;
            match request {
                Request::Freeze => {
                    self.truth.ended = None;
                    self.host.frozen_since = None;
                    self.host.thaw_asked = None;
                }
                Request::Thaw => {
                    self.host.thaw_asked.get_or_insert(self.now);
                }
            }
        }
    }

    pub fn take_request(&mut self) -> Option<Request> {
        match &mut self.host.pending {
            Some((request, taken @ false)) => {
                *taken = true;
                self.host.asked_at = self.now;
                Some(*request)
            }
            _ => None,
        }
    }

    pub fn answer(&mut self, request: Request, result: Result<u64, String>) {
        self.trace_step(|_| format!("answer to {request:?}: {result:?}"));
        if self.host.pending.take() != Some((request, true)) {
            self.broken
                .push(format!("an answer that nobody waits for: {request:?}"));
        }
        let next = self.now + 5;
        match request {
            Request::Freeze if result.is_ok() => {
                let now = self.now;
                let ended = self.truth.ended.is_some_and(|(_, by_others)| !by_others);
                let is_due = self.frozen_limit.is_some_and(|limit| limit <= now + 1_000);
                if ended && !is_due {
                    self.broken
                        .push("the freeze is answered, and was ended before".into());
                }
                self.host.frozen_since = Some(now);
                self.host.next = Some((now + self.host.holds, Request::Thaw));
            }
            Request::Freeze => self.host.next = Some((next, Request::Thaw)),
            Request::Thaw => {
                let asked = self.host.thaw_asked.unwrap_or(self.now);
                let since = self.host.frozen_since.is_some();
                let early = self.truth.ended;
                let is_early = early.is_some_and(|(at, by_others)| at < asked && !by_others);
                if since && is_early && result.is_ok() {
                    self.broken.push(format!(
                        "the thaw is answered {result:?}, though the freeze had ended before it"
                    ));
                }
                if let Some(rounds) = self.host.rounds_left.checked_sub(1) {
                    self.host.rounds_left = rounds;
                    self.host.holds = 50;
                    self.host.next = Some((next, Request::Freeze));
                }
            }
        }
    }

    pub fn check_level(&mut self, report: &Report) {
        let asked = self.host.thaw_asked;
        let held = self
            .truth
            .ended
            .is_none_or(|(at, _)| asked.is_some_and(|asked| asked <= at));
        let is_quiet = self.truth.hooks.iter().all(|hook| hook.is_quiet);
        let broken = match report.level {
            Level::None | Level::Crash => false,
            Level::Filesystem => !held,
            Level::Application => !held || !is_quiet,
        };
        if broken {
            let level = report.level.name();
            let text = format!("level {level}: held {held}, hooks quiet {is_quiet}");
            self.broken.push(text);
        }
    }

    pub fn check_end(&mut self) {
        let agent = &self.agent;
        let agent_runs = agent.is_alive && agent.stopped_until != NEVER;
        let guardian_runs = self
            .guardians
            .iter()
            .any(|g| g.runs() && !g.held.is_empty());
        // No process is left that could thaw.
        if !agent_runs && !guardian_runs && self.guardians.last().is_none_or(|g| g.has_fault) {
            return;
        }
        if self.frozen.contains(&true) && !self.is_zombie_unguarded {
            self.broken.push(format!("stays frozen: {:?}", self.frozen));
        }
        let quiesced = self.truth.quiesced();
        // The agent was stopped for good before its guardian had the filesystems and the limit.
        if !agent_runs && !guardian_runs && self.agent.is_alive {
            return;
        }
        if quiesced > 0 {
            self.broken
                .push(format!("{quiesced} hooks are never thawed"));
        }
        if agent_runs && self.marker.is_some() {
            self.broken.push("the marker stays".into());
        }
        if agent_runs && self.says_frozen {
            self.broken.push("the snapshot file says frozen".into());
        }
    }
}
