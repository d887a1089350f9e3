//! The guardian: the real machine, and the acts of its process step by step.

use super::agent::MOUNTPOINTS;
use super::world::{Line, Ms, NEVER, Passed, World};
use crate::freeze::guardian::state::{Action, Cause, Event, GuardianState, Hooks};
use crate::freeze::guardian::{
    AGENT_REPORT_GRACE, Entrusted, Entrustment, Inherited, PROTOCOL_VERSION, Replaced, Request,
    Response, Stage, THAW_CLAIM_TIMEOUT, THAW_HOOKS_TIMEOUT,
};
use crate::freeze::report::{Report, RunEnd};
use crate::hooks::Phase;
use crate::state::Expiry;
use crate::sys::fds::Token;
use crate::sys::guardian::SocketPath;
use std::collections::VecDeque;
use std::rc::Rc;

/// As in the process.
const FREEZE_HOOKS_TIMEOUT: Ms = 10_000;
const MOMENT: Ms = 5_000;
const LOOK: Ms = 1_000;
const PAUSE: Ms = 1_500;

pub struct Guardian {
    pub is_alive: bool,
    pub stopped_until: Ms,
    pub loses: bool,
    /// It was killed or stopped for ever by a fault.
    pub is_struck: bool,
    pub listener: Option<usize>,
    pub token: Rc<Token>,
    pub machine: GuardianState,
    next: Ms,
    agent: Option<usize>,
    parting: Option<usize>,
    /// Numbers and filesystems in the order of freezing.
    pub held: Vec<(usize, usize)>,
    /// The master whose end the agent's pipe tells, and the one that spoke.
    freezing: Option<usize>,
    freezing_master: Option<usize>,
    thawing_master: Option<usize>,
    run: String,
    had_journal: bool,
    report: Option<Box<Report>>,
    frozen_at: Option<Ms>,
    limit: Option<Ms>,
    claim_limit: Option<Ms>,
    visitors: Vec<usize>,
    work: VecDeque<Work>,
    undo: Option<Undo>,
}

/// What an undo is about.
#[derive(Debug, Clone)]
struct Undo {
    cause: Cause,
    hooks: Hooks,
    tell: bool,
    count: u64,
    expiry: Option<Expiry>,
}

/// One step.
#[derive(Debug, Clone)]
enum Work {
    Say(Response),
    Act(Action),
    Thaw(usize),
    Mark,
    Unmark,
    /// To that time.
    Outlast(Ms),
    /// The agent's thaw master.
    AwaitThawing(usize, Ms),
    ThawHooks,
    EndFreezeHooks(Ms),
    CallMaster(u32, Ms),
    AwaitMaster(usize, u32, Ms),
    Keep,
    SayEnded,
}

impl Guardian {
    /// Whether it would thaw now what is frozen beyond the limit.
    pub fn is_able(&self, now: Ms) -> bool {
        let thaws = self.undo.is_some() || self.token.is_free();
        self.is_alive && self.stopped_until <= now && !self.held.is_empty() && thaws
    }

    fn take_in(&mut self, entrustment: &Entrustment, now: Ms) {
        let place = |e: &Entrusted| MOUNTPOINTS.iter().position(|m| *m == e.mountpoint);
        let root = |e: &Entrusted| (e.number, place(e).unwrap_or_default());
        self.held = entrustment.filesystems.iter().map(root).collect();
        let courtesy = AGENT_REPORT_GRACE.as_millis() as u64;
        self.limit = entrustment.limit_ms.map(|limit| now + limit + courtesy);
        self.work.push_back(Work::Say(Response::Ready));
    }

    /// Whether a thaw of hooks may still come from it.
    pub fn runs(&self) -> bool {
        self.is_alive && self.stopped_until != NEVER
    }
}

impl World {
    /// A guardian of the agent, on a new line.
    pub fn start_guardian(
        &mut self,
        token: Rc<Token>,
        socket: Option<usize>,
        run: String,
        replaces: Option<Replaced>,
    ) -> usize {
        let line = self.new_line();
        let next = self.soon();
        self.say(|_| "a guardian starts".into());
        self.guardians.push(Guardian {
            is_alive: true,
            stopped_until: 0,
            loses: false,
            is_struck: false,
            listener: socket,
            token,
            machine: GuardianState::default(),
            next,
            agent: Some(line),
            parting: None,
            held: Vec::new(),
            freezing: None,
            freezing_master: None,
            thawing_master: None,
            run,
            had_journal: false,
            report: None,
            frozen_at: None,
            limit: None,
            claim_limit: None,
            visitors: Vec::new(),
            work: VecDeque::new(),
            undo: None,
        });
        let now = self.now;
        let it = self.guardians.last_mut().expect("it was pushed just now");
        match replaces {
            None => it.work.push_back(Work::Say(Response::Ready)),
            Some(replaced) => {
                it.machine = GuardianState::replacing(replaced.since_ms.is_some());
                it.frozen_at = replaced.since_ms;
                it.take_in(&replaced.entrustment, now);
            }
        }
        line
    }

    /// Tells the newest guardian by which master its pipe hangs up.
    pub fn freezing_master_is(&mut self, guardian: usize, master: usize) {
        self.guardians[guardian].freezing = Some(master);
    }

    pub fn kill_guardian(&mut self, number: usize) {
        self.say(|_| "the guardian is dead".into());
        let guardian = &mut self.guardians[number];
        guardian.is_alive = false;
        guardian.work.clear();
        let mut lines = std::mem::take(&mut guardian.visitors);
        lines.extend(guardian.agent.take());
        lines.extend(guardian.parting.take());
        let listener = guardian.listener.take();
        for line in lines {
            self.lines[line].guardian_open = false;
        }
        listener.into_iter().for_each(|it| self.close_deaf(it));
    }

    fn give_up_socket(&mut self, number: usize) {
        if let Some(socket) = self.guardians[number].listener.take() {
            if self.door == Some(socket) {
                self.door = None;
            }
            self.close_deaf(socket);
        }
    }

    fn tell_line(&mut self, number: usize, line: Option<usize>, word: Response) {
        let is_lost = std::mem::take(&mut self.guardians[number].loses);
        if let Some(line) = line.filter(|_| !is_lost) {
            self.lines[line].to_agent.push_back(word);
        }
    }

    fn has_hung_up(&self, line: usize) -> bool {
        !self.lines[line].agent_open
    }

    pub fn guardian_time(&self, number: usize) -> Option<Ms> {
        let it = &self.guardians[number];
        if !it.is_alive || it.stopped_until == NEVER {
            return None;
        }
        let at = match it.work.front() {
            // Nothing but that goes on.
            Some(Work::Outlast(NEVER))
                if self.agent.stopped_until == NEVER && !self.frozen.contains(&true) =>
            {
                NEVER
            }
            Some(Work::Outlast(until)) => match it.parting {
                Some(line) if !self.has_hung_up(line) => (it.next + PAUSE).min(*until),
                _ => it.next,
            },
            Some(Work::EndFreezeHooks(until)) => match it.freezing {
                Some(master) if self.masters[master].is_alive => *until,
                _ => it.next,
            },
            Some(Work::AwaitThawing(master, until)) if self.masters[*master].is_alive => {
                self.stopped_limit(*master).min(*until)
            }
            Some(Work::AwaitMaster(master, _, until)) if self.masters[*master].is_alive => {
                self.stopped_limit(*master).min(*until)
            }
            Some(_) => it.next,
            None => self.event_time(it),
        };
        Some(at.max(it.stopped_until).max(it.next))
    }

    fn event_time(&self, it: &Guardian) -> Ms {
        let has_said = |line: &Line| !line.to_guardian.is_empty() || !line.agent_open;
        let is_visited = it
            .listener
            .is_some_and(|s| !self.sockets[s].backlog.is_empty());
        if it.agent.is_some_and(|line| has_said(&self.lines[line])) || is_visited {
            return it.next;
        }
        let limits = it.limit.into_iter().chain(it.claim_limit);
        let is_dying = |z: &super::world::Zombie| it.agent.is_some_and(|l| z.lines.contains(&l));
        let look = self
            .zombie
            .as_ref()
            .filter(|z| it.machine.is_urgent() && is_dying(z));
        limits
            .chain(look.map(|_| it.next + LOOK))
            .min()
            .unwrap_or(NEVER)
    }

    /// Agent and master of a thaw are stopped, or the agent is and the master has ended.
    fn is_thaw_stuck(&self, number: usize) -> bool {
        let is_at_work = |&master: &usize| {
            let master = &self.masters[master];
            master.is_alive && master.stopped_until <= self.now
        };
        let master = self.guardians[number].thawing_master.as_ref();
        self.agent.is_alive
            && self.agent.stopped_until > self.now
            && !master.is_some_and(is_at_work)
    }

    fn next_event(&mut self, number: usize) -> Option<Event> {
        let it = &mut self.guardians[number];
        let now = self.now;
        if let Some(line) = it.agent {
            if let Some((order, sender)) = self.lines[line].to_guardian.pop_front() {
                match order {
                    Request::HooksCalled => it.freezing_master = sender,
                    Request::HooksThawed => it.thawing_master = sender,
                    _ => {}
                }
                return Some(Event::Request(order));
            }
        }
        if it.limit.is_some_and(|at| at <= now) {
            return Some(Event::Limit);
        }
        if it.claim_limit.is_some_and(|at| at <= now) {
            let is_stuck = self.is_thaw_stuck(number);
            return Some(Event::ClaimLimit { is_stuck });
        }
        if let Some(line) = it.agent {
            if !self.lines[line].agent_open {
                it.agent = None;
                self.lines[line].guardian_open = false;
                return Some(Event::Gone);
            }
        }
        if let Some(socket) = it.listener {
            if let Some(visitor) = self.sockets[socket].backlog.pop_front() {
                self.lines[visitor].to_guardian.pop_front();
                if it.machine.stage() != Stage::Frozen {
                    it.parting = it.agent.take();
                    it.visitors.push(visitor);
                    return Some(Event::Gone);
                }
                if let Some(old) = it.agent.replace(visitor) {
                    self.lines[old].guardian_open = false;
                }
                return Some(Event::Request(Request::Succeed));
            }
        }
        let zombie = self.zombie.as_ref();
        if it.machine.is_urgent()
            && zombie.is_some_and(|z| it.agent.is_some_and(|l| z.lines.contains(&l)))
        {
            it.parting = it.agent.take();
            return Some(Event::Gone);
        }
        None
    }

    fn note(&mut self, number: usize, event: &Event) {
        let it = &mut self.guardians[number];
        match event {
            Event::Request(Request::Filesystems(entrustment)) => it.take_in(entrustment, self.now),
            Event::Request(Request::Frozen {
                report,
                order,
                since_ms,
            }) => {
                it.held
                    .sort_by_key(|held| order.iter().position(|&n| n == held.0));
                it.report = Some(report.clone());
                it.frozen_at = Some(*since_ms);
            }
            Event::ClaimLimit { .. } => {
                it.claim_limit = Some(self.now + THAW_CLAIM_TIMEOUT.as_millis() as u64);
            }
            Event::Limit => it.limit = None,
            _ => {}
        }
    }

    pub fn guardian_step(&mut self, number: usize) {
        let next = self.soon();
        let it = &mut self.guardians[number];
        if !it.is_alive || it.stopped_until > self.now {
            return;
        }
        it.next = next;
        if let Some(work) = it.work.pop_front() {
            return self.guardian_works(number, work);
        }
        let Some(event) = self.next_event(number) else {
            return;
        };
        self.say(|_| format!("guardian {number}: {}", name_of(&event)));
        self.note(number, &event);
        let it = &mut self.guardians[number];
        let token = it.token.clone();
        let actions = it.machine.apply(event, Some(&token));
        it.work.extend(actions.into_iter().map(Work::Act));
    }

    fn guardian_works(&mut self, number: usize, work: Work) {
        let now = self.now;
        let it = &mut self.guardians[number];
        match work {
            Work::Say(word) => {
                let line = it.agent;
                self.tell_line(number, line, word);
            }
            Work::Act(action) => self.guardian_acts(number, action),
            Work::Thaw(index) => {
                if self.fithaw(index) {
                    if let Some(undo) = &mut self.guardians[number].undo {
                        undo.count += 1;
                    }
                }
            }
            Work::Mark => {
                let Some(undo) = &mut it.undo else { return };
                let held = it.frozen_at.map_or(0, |at| now - at.min(now));
                let expiry = Expiry {
                    when: now as f64 / 1e3,
                    held: held as f64 / 1e3,
                    reason: format!("{:?}", undo.cause),
                    count: undo.count,
                };
                undo.expiry = Some(expiry.clone());
                if undo.tell {
                    self.expired = Some(expiry);
                }
            }
            Work::Unmark => {
                self.marker = None;
                let Some(expiry) = it.undo.as_ref().and_then(|undo| undo.expiry.clone()) else {
                    return;
                };
                let (line, is_freezing) = (it.agent, it.frozen_at.is_none());
                let (filesystems, failures) = (Vec::new(), Vec::new());
                let word = Response::Thawed {
                    filesystems,
                    failures,
                };
                self.tell_line(number, line, word);
                if is_freezing {
                    self.tell_line(number, line, Response::Ended(expiry));
                }
            }
            Work::Outlast(until) => self.outlast(number, until),
            Work::AwaitThawing(master, _) => {
                if self.masters[master].is_alive {
                    self.end_session(master);
                }
            }
            Work::ThawHooks => {
                let hooks = it.undo.as_ref().map(|undo| undo.hooks);
                let owes = match hooks {
                    Some(Hooks::Frozen) => !it.had_journal || self.is_journal_open(),
                    Some(Hooks::Thawing) => self.owes_hooks(),
                    Some(Hooks::Untouched) | None => false,
                };
                if owes {
                    let it = &mut self.guardians[number];
                    it.work.push_front(Work::CallMaster(
                        0,
                        now + THAW_HOOKS_TIMEOUT.as_millis() as u64,
                    ));
                    if it.frozen_at.is_none() {
                        it.work
                            .push_front(Work::EndFreezeHooks(now + FREEZE_HOOKS_TIMEOUT));
                    }
                }
            }
            Work::EndFreezeHooks(_) => {
                let is_over = it
                    .freezing
                    .is_none_or(|master| !self.masters[master].is_alive);
                let master = it.freezing_master.filter(|_| !is_over);
                master.into_iter().for_each(|it| self.end_session(it));
            }
            Work::CallMaster(tries, until) => {
                let run = Some(it.run.clone());
                let master = self.start_master(Phase::Thaw, None, run);
                let it = &mut self.guardians[number];
                it.work.push_front(Work::AwaitMaster(master, tries, until));
            }
            Work::AwaitMaster(master, tries, until) => {
                if self.masters[master].is_alive {
                    self.end_session(master);
                }
                if !self.masters[master].has_ended && tries < 2 && until > now {
                    let it = &mut self.guardians[number];
                    it.work.push_front(Work::CallMaster(tries + 1, until));
                    return;
                }
                let told = self.masters[master].report(now);
                if let Some(report) = &mut self.guardians[number].report {
                    report.hooks(Phase::Thaw, &told);
                }
            }
            Work::Keep => {
                if let Some(mut report) = it.report.take() {
                    report.errors.push("kept by the guardian".into());
                    report.end(RunEnd::Expiry);
                    self.keep(&report);
                }
            }
            Work::SayEnded => {
                let expiry = it.undo.as_ref().and_then(|undo| undo.expiry.clone());
                let Some(expiry) = expiry else { return };
                let lines: Vec<usize> = it.agent.iter().chain(&it.visitors).copied().collect();
                for line in lines {
                    self.tell_line(number, Some(line), Response::Ended(expiry.clone()));
                }
            }
        }
    }

    fn outlast(&mut self, number: usize, until: Ms) {
        let it = &mut self.guardians[number];
        if it.parting.is_some() {
            self.give_up_socket(number);
        } else if it.frozen_at.is_none() {
            it.parting = it.agent.take();
        }
        let it = &mut self.guardians[number];
        let Some(line) = it.parting else { return };
        let has_hung_up = !self.lines[line].agent_open;
        let is_over = until <= self.now;
        if is_over {
            return;
        }
        if has_hung_up {
            it.agent = it.parting.take();
        } else {
            it.work.push_front(Work::Outlast(until));
        }
        let it = &mut self.guardians[number];
        let held: Vec<usize> = it.held.iter().map(|held| held.1).collect();
        for index in held.into_iter().rev() {
            it.work.push_front(Work::Thaw(index));
        }
    }

    fn guardian_acts(&mut self, number: usize, action: Action) {
        let now = self.now;
        let it = &mut self.guardians[number];
        match action {
            Action::HandOver => self.hand_over(number),
            Action::Yield => {
                it.claim_limit = Some(now + THAW_CLAIM_TIMEOUT.as_millis() as u64);
                let (line, word) = (it.agent, Response::Yours(it.report.clone()));
                self.tell_line(number, line, word);
            }
            Action::Await => it.claim_limit = Some(now + THAW_CLAIM_TIMEOUT.as_millis() as u64),
            Action::Undo {
                cause,
                hooks,
                reports_early_end: tell,
            } => {
                let had_journal = self.is_journal_open();
                let it = &mut self.guardians[number];
                it.had_journal = had_journal;
                let thawing = it.thawing_master.filter(|_| hooks == Hooks::Thawing);
                let until = now + THAW_HOOKS_TIMEOUT.as_millis() as u64;
                let thawing = thawing.map(|master| Work::AwaitThawing(master, until));
                it.undo = Some(Undo {
                    cause,
                    hooks,
                    tell,
                    count: 0,
                    expiry: None,
                });
                let rest = std::mem::take(&mut it.work);
                let thaws = it.held.iter().rev().map(|held| Work::Thaw(held.1));
                it.work.extend(thaws);
                it.work
                    .extend([Work::Mark, Work::Unmark, Work::Outlast(now + MOMENT)]);
                it.work.extend(thawing);
                it.work.extend([
                    Work::ThawHooks,
                    Work::Keep,
                    Work::SayEnded,
                    Work::Outlast(NEVER),
                ]);
                it.work.extend(rest);
            }
            Action::Leave => {
                self.give_up_socket(number);
                self.kill_guardian(number);
            }
            // No FIFREEZE is given up here.
            Action::Retire | Action::TakeBack => {}
        }
    }

    fn hand_over(&mut self, number: usize) {
        let it = &self.guardians[number];
        let (Some(line), Some(socket)) = (it.agent, it.listener) else {
            return;
        };
        let courtesy = AGENT_REPORT_GRACE.as_millis() as u64;
        let entrusted = |held: &(usize, usize)| Entrusted {
            number: held.0,
            mountpoint: MOUNTPOINTS[held.1].into(),
        };
        let inherited = Inherited {
            version: PROTOCOL_VERSION,
            filesystems: it.held.iter().map(entrusted).collect(),
            hook: None,
            socket_path: SocketPath::default(),
            report: it.report.clone().unwrap_or_default(),
            since_ms: it.frozen_at.unwrap_or_default(),
            left_ms: it.limit.map(|at| at.saturating_sub(self.now + courtesy)),
        };
        self.lines[line].passed = Some(Passed {
            token: it.token.clone(),
            socket,
            roots: it.held.iter().map(|held| held.1).collect(),
        });
        self.tell_line(number, Some(line), Response::Freeze(Box::new(inherited)));
    }
}

fn name_of(event: &Event) -> String {
    match event {
        Event::Request(Request::Frozen { .. }) => "Frozen".into(),
        Event::Request(Request::Filesystems(_)) => "Filesystems".into(),
        other => format!("{other:?}"),
    }
}
