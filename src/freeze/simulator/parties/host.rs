//! The host, what really happened, and what must hold.

use super::master::HOOKS;
use super::world::{Ms, NEVER, Random, World};
use crate::freeze::report::{Level, Report};
use crate::hooks::Phase;

/// A request of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Freeze,
    Thaw,
}

/// How long an agent that runs may take for an answer: the hooks' limits, the claim's, and some time.
const ANSWER_LIMIT: Ms = 400_000;

#[derive(Debug)]
pub struct Host {
    /// What is still to be asked, and when.
    next: Option<(Ms, Request)>,
    /// What it waits for; whether an agent has taken it in.
    pub pending: Option<(Request, bool)>,
    asked_at: Ms,
    /// How long it freezes.
    holds: Ms,
    rounds_left: u32,
    /// Since when it believes that everything is frozen.
    frozen_since: Option<Ms>,
    /// When it first asked for the thaw of that.
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

    /// The connection is closed: it asks another agent for a thaw.
    pub fn agent_died(&mut self, now: Ms) {
        if let Some((_, true)) = self.pending {
            self.pending = None;
            self.next = Some((now + 5, Request::Thaw));
        }
    }
}

/// What really happened.
#[derive(Debug, Default)]
pub struct Truth {
    /// When the first filesystem was thawed, or thaw hook started, after the host's freeze, and whether a
    /// stranger did it.
    pub ended: Option<(Ms, bool)>,
    hooks: [HookTruth; HOOKS],
}

#[derive(Debug, Default, Clone, Copy)]
struct HookTruth {
    /// It was told to freeze and not yet to thaw to its end.
    is_asleep: bool,
    is_freezing: bool,
    is_thawing: bool,
    /// Its freeze succeeded.
    is_quiet: bool,
    /// Thaws that were started since the freeze, and such that were killed.
    thaws: u32,
    killed_thaws: u32,
}

impl Truth {
    pub fn thawed(&mut self, now: Ms, by_stranger: bool) {
        self.ended.get_or_insert((now, by_stranger));
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
                it.is_asleep = false;
                it.killed_thaws += u32::from(!is_success);
            }
        }
    }

    /// The journal says that it is told to freeze, so that it gets a thaw.
    pub fn hook_entered(&mut self, hook: usize) {
        self.hooks[hook].thaws = 0;
    }

    /// How many hooks still sleep.
    pub fn asleep(&self) -> usize {
        self.hooks.iter().filter(|hook| hook.is_asleep).count()
    }
}

impl World {
    pub fn hook_starts(&mut self, hook: usize, phase: Phase) {
        let killed_masters = self.killed_thaw_masters();
        let it = &mut self.truth.hooks[hook];
        let mut broken = Vec::new();
        match phase {
            Phase::Freeze => {
                if it.is_asleep {
                    broken.push("is told to freeze twice");
                }
                *it = HookTruth {
                    is_asleep: true,
                    is_freezing: true,
                    ..HookTruth::default()
                };
                // What was undone before this was of an earlier freeze.
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
                let by_run = |(frozen, by_zombie): (&bool, &bool)| *frozen && !by_zombie;
                if self.frozen.iter().zip(&self.frozen_by_zombie).any(by_run) {
                    broken.push("is told to thaw while something is frozen");
                }
            }
        }
        let text = |what: &str| format!("hook {hook} {what}");
        self.broken.extend(broken.into_iter().map(text));
    }

    /// A master that was killed when a hook had ended and that was not yet in the journal.
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
            self.say(|_| format!("host: {request:?}"));
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

    /// What the agent takes in.
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
        self.say(|_| format!("answer to {request:?}: {result:?}"));
        if self.host.pending.take() != Some((request, true)) {
            self.broken
                .push(format!("an answer that nobody waits for: {request:?}"));
        }
        let next = self.now + 5;
        match request {
            Request::Freeze if result.is_ok() => {
                let now = self.now;
                let ended = self
                    .truth
                    .ended
                    .is_some_and(|(_, by_stranger)| !by_stranger);
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
                let is_early = early.is_some_and(|(at, by_stranger)| at < asked && !by_stranger);
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

    /// The level of a report that is kept now.
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

    /// At the end of a run.
    pub fn check_end(&mut self) {
        let agent = &self.agent;
        let lives = agent.is_alive && agent.stopped_until != NEVER;
        let guards = self
            .guardians
            .iter()
            .any(|g| g.runs() && !g.held.is_empty());
        // Nobody is left who could.
        if !lives && !guards && self.guardians.last().is_none_or(|g| g.is_struck) {
            return;
        }
        if self.frozen.contains(&true) && !self.is_zombie_unguarded {
            self.broken.push(format!("stays frozen: {:?}", self.frozen));
        }
        let asleep = self.truth.asleep();
        // An agent that is stopped for good before its guardian has the filesystems, and the limit.
        if !lives && !guards && self.agent.is_alive {
            return;
        }
        if asleep > 0 {
            self.broken.push(format!("{asleep} hooks are never thawed"));
        }
        if lives && self.marker.is_some() {
            self.broken.push("the marker stays".into());
        }
    }
}
