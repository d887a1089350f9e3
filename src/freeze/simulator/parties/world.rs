//! The clock, the kernel, the files, and the scheduler that chooses the next party.

use super::guardian::Guardian;
use super::host::{Host, Truth};
use super::master::{HookProcess, Journal, Master};
use crate::freeze::guardian::{AGENT_REPORT_GRACE, Request, Response};
use crate::freeze::report::Report;
use crate::state::{Expiry, Marker};
use crate::sys::fds::Token;
use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::rc::Rc;

/// Of the virtual clock.
pub type Ms = u64;

/// Later than the end of every run.
pub const NEVER: Ms = u64::MAX;
/// The hold limit.
pub const LIMIT: Ms = 20_000;
/// What a party may take for its steps after a limit.
const STEP_GRACE: Ms = 400;
/// How long the next agent takes to find a guardian stopped twice.
const STOPPED_GUARDIAN_TIMEOUT: Ms = 15_000;
const MAX_STEPS: u64 = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    Agent,
    Guardian,
    Master,
    Hook,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    Kill(Party),
    /// SIGSTOP, and SIGCONT after this time.
    Stop(Party, Ms),
    /// Its next message.
    Lose(Party),
    /// By another process.
    Unfreeze(usize),
    /// SIGTERM to the agent.
    Terminate,
}

/// splitmix64, so that a seed repeats a run.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[derive(Debug, Default)]
pub struct Connection {
    /// Each with the master that sent it, if the agent did not.
    pub to_guardian: VecDeque<(Request, Option<usize>)>,
    pub to_agent: VecDeque<Response>,
    /// With [`Response::Freeze`].
    pub passed: Option<Passed>,
    pub agent_open: bool,
    pub guardian_open: bool,
}

#[derive(Debug, Clone)]
pub struct Passed {
    pub token: Rc<Token>,
    pub socket: usize,
    pub roots: Vec<usize>,
}

#[derive(Debug, Default)]
pub struct Socket {
    pub agent_has_it: bool,
    pub backlog: VecDeque<usize>,
}

#[derive(Debug)]
pub struct AgentClient {
    pub guardian: usize,
    pub connection: usize,
    pub token: Option<Rc<Token>>,
    pub has_token: bool,
}

#[derive(Debug, Default)]
pub struct Agent {
    pub is_alive: bool,
    pub is_killed: bool,
    pub stopped_until: Ms,
    pub next: Ms,
    pub loses_message: bool,
    pub is_terminated: bool,
    /// It has found an earlier agent's guardian stopped.
    pub saw_stopped: bool,
    pub started: Ms,
    pub is_waiting: bool,
    /// FIFREEZE is about to be called.
    pub freezing: Option<usize>,
    pub client: Option<AgentClient>,
    pub socket: Option<usize>,
}

/// A killed agent with a thread in the kernel: until when, and what that thread freezes.
#[derive(Debug)]
pub struct Zombie {
    pub until: Ms,
    pub guardian: Option<usize>,
    pub freezes: usize,
    pub connections: Vec<usize>,
}

pub struct World {
    pub now: Ms,
    pub random: Random,
    pub step: u64,
    pub faults: Vec<(u64, Fault)>,
    pub frozen: Vec<bool>,
    pub frozen_limit: Option<Ms>,
    /// How long a party could have thawed after the limit and did not.
    pub overdue: Ms,
    pub connections: Vec<Connection>,
    pub sockets: Vec<Socket>,
    pub socket_path: Option<usize>,
    pub agent: Agent,
    pub zombie: Option<Zombie>,
    /// After its run was over.
    pub frozen_late: Vec<bool>,
    /// No guardian is left for what it freezes.
    pub is_zombie_unguarded: bool,
    /// By the service manager.
    pub restart: Option<Ms>,
    pub restarts: bool,
    pub guardians: Vec<Guardian>,
    pub masters: Vec<Master>,
    pub hooks: Vec<HookProcess>,
    /// A hook that fails makes the freeze fail.
    pub aborts: bool,
    pub journal: Journal,
    pub marker: Option<Marker>,
    /// The snapshot file does.
    pub says_frozen: bool,
    pub expired: Option<Expiry>,
    pub kept: Vec<Report>,
    pub host: Host,
    pub truth: Truth,
    pub broken: Vec<String>,
    pub trace: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    Agent,
    Zombie,
    Guardian(usize),
    Master(usize),
    Hook(usize),
    Host,
}

/// The payload of the unwinding when an agent dies.
pub struct Died;

impl World {
    pub fn new(seed: u64, faults: Vec<(u64, Fault)>) -> Self {
        let mut random = Random(seed);
        let restarts = random.below(8) != 0;
        let aborts = random.below(4) == 0;
        let host = Host::new(&mut random);
        Self {
            now: 1_000,
            random,
            step: 0,
            faults,
            frozen: vec![false; 2],
            frozen_limit: None,
            overdue: 0,
            connections: Vec::new(),
            sockets: Vec::new(),
            socket_path: None,
            agent: Agent::default(),
            zombie: None,
            frozen_late: vec![false; 2],
            is_zombie_unguarded: false,
            restart: None,
            restarts,
            guardians: Vec::new(),
            masters: Vec::new(),
            hooks: Vec::new(),
            aborts,
            journal: Journal::default(),
            marker: None,
            says_frozen: false,
            expired: None,
            kept: Vec::new(),
            host,
            truth: Truth::default(),
            broken: Vec::new(),
            trace: None,
        }
    }

    pub fn trace_step(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let entry = format!("{:>5} {:>7} {}", self.step, self.now, text(self));
            self.trace.get_or_insert_default().push(entry);
        }
    }

    pub fn next_step_time(&mut self) -> Ms {
        self.now + 1 + self.random.below(4)
    }

    /// Waits, as the agent, until a condition holds or to a deadline; returns whether it holds. The agent dies in here.
    pub fn wait(&mut self, until: &dyn Fn(&Self) -> bool, deadline: Option<Ms>) -> bool {
        self.agent.next = self.next_step_time();
        loop {
            let at = match until(self) {
                true => Some(self.agent.next),
                false => deadline,
            };
            let at = at.map(|at| at.max(self.agent.stopped_until));
            let has_turn = self.advance(at.filter(|&at| at != NEVER));
            if self.agent.is_killed || has_turn.is_none() {
                resume_unwind(Box::new(Died));
            }
            if has_turn == Some(true) && self.agent.stopped_until <= self.now {
                return until(self);
            }
        }
    }

    /// One step of a party; whether it is the agent's turn, or `None` if nothing happens any more.
    pub fn advance(&mut self, agent: Option<Ms>) -> Option<bool> {
        let mut all: Vec<(Ms, Next)> = Vec::with_capacity(8);
        all.extend(agent.map(|at| (at, Next::Agent)));
        all.extend(self.zombie.as_ref().map(|z| (z.until, Next::Zombie)));
        for number in 0..self.guardians.len() {
            let at = self.guardian_time(number);
            all.extend(at.map(|at| (at, Next::Guardian(number))));
        }
        for number in 0..self.masters.len() {
            let at = self.master_time(number);
            all.extend(at.map(|at| (at, Next::Master(number))));
        }
        for (number, hook) in self.hooks.iter().enumerate() {
            let at = hook.is_alive.then(|| hook.ends.max(hook.stopped_until));
            all.extend(at.map(|at| (at, Next::Hook(number))));
        }
        all.extend(self.host_time().map(|at| (at, Next::Host)));
        all.retain(|(at, _)| *at != NEVER);
        let first = all.iter().map(|(at, _)| (*at).max(self.now)).min()?;
        all.retain(|(at, _)| *at <= first);
        let pick = self.random.below(all.len() as u64) as usize;
        self.advance_clock(first);
        self.step += 1;
        if self.step > MAX_STEPS {
            self.broken.push("the run does not end".into());
            return None;
        }
        while let Some(place) = self.faults.iter().position(|(at, _)| *at <= self.step) {
            let (_, fault) = self.faults.remove(place);
            self.apply_fault(fault);
        }
        match all[pick].1 {
            Next::Agent => return Some(true),
            Next::Zombie => self.end_zombie(),
            Next::Guardian(number) => self.guardian_step(number),
            Next::Master(number) => self.master_step(number),
            Next::Hook(number) => self.hook_ends(number),
            Next::Host => self.host_step(),
        }
        Some(false)
    }

    /// The agent's guardian has begun to undo it.
    pub fn is_run_over(&self) -> bool {
        let client = self.agent.client.as_ref();
        client.is_some_and(|client| self.guardians[client.guardian].undoes())
    }

    fn advance_clock(&mut self, until: Ms) {
        if let (Some(limit), true) = (self.frozen_limit, self.frozen.contains(&true)) {
            if self.can_any_party_thaw() {
                let late = until.saturating_sub(self.now.max(limit));
                self.overdue += late;
                if late > 0 && self.overdue > STEP_GRACE && self.overdue - late <= STEP_GRACE {
                    let text = format!("frozen beyond the limit by {} ms", until - limit);
                    self.broken.push(text);
                }
            }
        }
        self.now = until;
    }

    pub fn can_any_party_thaw(&self) -> bool {
        let agent = &self.agent;
        // The agent waits until it has found a silent guardian stopped twice.
        let asks = agent
            .client
            .as_ref()
            .is_some_and(|client| client.token.is_none());
        let is_waiting =
            agent.is_waiting || asks && self.now < agent.started + STOPPED_GUARDIAN_TIMEOUT;
        let is_able = agent.is_alive && agent.stopped_until <= self.now && !is_waiting;
        is_able || self.guardians.iter().any(|g| g.is_able(self.now))
    }

    fn apply_fault(&mut self, fault: Fault) {
        self.trace_step(|_| format!("** {fault:?}"));
        let until = |now: Ms, time: Ms| now.saturating_add(time);
        let now = self.now;
        let guardian = self.guardians.iter().rposition(|g| g.is_alive);
        let master = self.masters.iter().rposition(|m| m.is_alive);
        let hook = self.hooks.iter().rposition(|h| h.is_alive);
        match fault {
            Fault::Kill(Party::Agent) if self.agent.is_alive => self.agent.is_killed = true,
            Fault::Stop(Party::Agent, time) => self.agent.stopped_until = until(now, time),
            Fault::Lose(Party::Agent) => self.agent.loses_message = true,
            Fault::Terminate => self.agent.is_terminated = self.agent.is_alive,
            Fault::Kill(Party::Guardian) => {
                if let Some(number) = guardian {
                    self.guardians[number].has_fault = true;
                    self.kill_guardian(number);
                }
            }
            Fault::Stop(Party::Guardian, time) => {
                if let Some(number) = guardian {
                    self.guardians[number].has_fault |= time == NEVER;
                    self.guardians[number].stopped_until = until(now, time);
                }
            }
            Fault::Lose(Party::Guardian) => {
                guardian
                    .into_iter()
                    .for_each(|g| self.guardians[g].loses_message = true);
            }
            Fault::Kill(Party::Master) => master.into_iter().for_each(|m| self.kill_master(m)),
            Fault::Stop(Party::Master, time) => {
                if let Some(master) = master {
                    self.masters[master].stopped_at = now;
                    self.masters[master].stopped_until = until(now, time);
                }
            }
            Fault::Lose(Party::Master) => {
                master
                    .into_iter()
                    .for_each(|m| self.masters[m].announces = None);
            }
            Fault::Kill(Party::Hook) => hook.into_iter().for_each(|h| self.kill_hook(h)),
            Fault::Stop(Party::Hook, time) => {
                hook.into_iter()
                    .for_each(|h| self.hooks[h].stopped_until = until(now, time));
            }
            Fault::Unfreeze(index) => {
                if std::mem::take(&mut self.frozen[index]) {
                    self.truth.thawed(now, true);
                }
            }
            Fault::Kill(Party::Agent) | Fault::Lose(Party::Hook) => {}
        }
    }

    /// False: EBUSY.
    pub fn fifreeze(&mut self, index: usize) -> bool {
        self.trace_step(|_| format!("FIFREEZE {index}"));
        if self.frozen[index] {
            return false;
        }
        if !self.frozen.contains(&true) {
            self.frozen_limit = Some(self.now + LIMIT + AGENT_REPORT_GRACE.as_millis() as u64);
            self.overdue = 0;
        }
        self.frozen[index] = true;
        true
    }

    /// False: EINVAL.
    pub fn fithaw(&mut self, index: usize) -> bool {
        self.trace_step(|w| format!("FITHAW {index} {}", w.frozen[index]));
        let was_frozen = std::mem::take(&mut self.frozen[index]);
        let is_of_run = !std::mem::take(&mut self.frozen_late[index]);
        if was_frozen && is_of_run {
            self.truth.thawed(self.now, false);
        }
        was_frozen
    }

    /// At once or when its FIFREEZE returns.
    pub fn end_agent(&mut self, was_killed: bool) {
        self.trace_step(|_| "the agent is dead".into());
        let agent = std::mem::take(&mut self.agent);
        let connections: Vec<usize> = agent
            .client
            .iter()
            .map(|client| client.connection)
            .collect();
        let guardian = agent.client.as_ref().map(|client| client.guardian);
        match agent.freezing {
            Some(index) if was_killed && self.random.below(2) == 0 => {
                let until = self.now + 1 + self.random.below(3_000);
                self.zombie = Some(Zombie {
                    until,
                    guardian,
                    freezes: index,
                    connections,
                });
            }
            _ => connections
                .into_iter()
                .for_each(|connection| self.hang_up(connection)),
        }
        for socket in 0..self.sockets.len() {
            self.sockets[socket].agent_has_it = false;
            self.close_unowned(socket);
        }
        self.host.agent_died(self.now);
        if self.restarts || !was_killed {
            self.restart = Some(self.now + 50 + self.random.below(3_000));
        }
    }

    fn end_zombie(&mut self) {
        if let Some(zombie) = self.zombie.take() {
            // What it freezes belongs to no run; only its guardian knows of it.
            if self.fifreeze(zombie.freezes) {
                self.frozen_late[zombie.freezes] = true;
                let guardian_runs = |&g: &usize| self.guardians[g].runs();
                self.is_zombie_unguarded |= !zombie.guardian.as_ref().is_some_and(guardian_runs);
            }
            zombie
                .connections
                .into_iter()
                .for_each(|connection| self.hang_up(connection));
        }
    }

    pub fn hang_up(&mut self, connection: usize) {
        self.connections[connection].agent_open = false;
    }

    pub fn new_connection(&mut self) -> usize {
        self.connections.push(Connection {
            agent_open: true,
            guardian_open: true,
            ..Connection::default()
        });
        self.connections.len() - 1
    }

    /// Of a socket that no process has any more.
    pub fn close_unowned(&mut self, socket: usize) {
        if !self.has_owner(socket) {
            for connection in std::mem::take(&mut self.sockets[socket].backlog) {
                self.connections[connection].guardian_open = false;
            }
        }
    }

    pub fn has_owner(&self, socket: usize) -> bool {
        let of_guardian = |g: &Guardian| g.is_alive && g.listener == Some(socket);
        self.sockets[socket].agent_has_it || self.guardians.iter().any(of_guardian)
    }

    /// In place of one of the same run.
    pub fn keep(&mut self, report: &Report) {
        self.trace_step(|_| format!("kept: {:?} {:?}", report.level, report.end));
        self.kept.retain(|kept| kept.id != report.id);
        self.kept.push(report.clone());
        self.check_level(report);
    }
}
