//! The guardian: the real state machine, and the actions of its process step by step.

use super::agent::MOUNTPOINTS;
use super::world::{Connection, Ms, NEVER, Passed, World, Zombie};
use crate::freeze::guardian::state::{Action, Cause, Event, GuardianState, Hooks};
use crate::freeze::guardian::{
    AGENT_REPORT_GRACE, Entrusted, Entrustment, Inherited, PROTOCOL_VERSION, Replaced, Request,
    Response, Stage, THAW_CLAIM_TIMEOUT, THAW_HOOKS_TIMEOUT, Thawed,
};
use crate::freeze::report::{Report, RunEnd};
use crate::hooks::Phase;
use crate::state::Expiry;
use crate::sys::fds::Token;
use crate::sys::guardian::SocketPath;
use std::collections::VecDeque;
use std::rc::Rc;

/// As in `server` and `hooks`.
const FREEZE_HOOKS_TIMEOUT: Ms = 10_000;
const AGENT_EXIT_TIMEOUT: Ms = 5_000;
const AGENT_CHECK_INTERVAL: Ms = 1_000;
const RETHAW_INTERVAL: Ms = 1_500;

pub struct Guardian {
    pub is_alive: bool,
    pub stopped_until: Ms,
    pub loses_message: bool,
    /// A fault has killed it or stopped it for good.
    pub has_fault: bool,
    pub listener: Option<usize>,
    pub token: Rc<Token>,
    pub machine: GuardianState,
    next: Ms,
    agent: Option<usize>,
    dying_agent: Option<usize>,
    has_agent_left: bool,
    /// Numbers and filesystems in freeze order.
    pub held: Vec<(usize, usize)>,
    /// The master whose end hangs up the pipe, and the one that announced itself.
    freezing: Option<usize>,
    freezing_master: Option<usize>,
    thawing_master: Option<usize>,
    run: String,
    had_journal: bool,
    report: Option<Box<Report>>,
    frozen_at: Option<Ms>,
    limit: Option<Ms>,
    claim_limit: Option<Ms>,
    clients: Vec<usize>,
    work: VecDeque<Work>,
    undo: Option<Undo>,
}

#[derive(Debug, Clone)]
struct Undo {
    cause: Cause,
    hooks: Hooks,
    reports_early_end: bool,
    count: u64,
    expiry: Option<Expiry>,
}

#[derive(Debug, Clone)]
enum Work {
    Send(Response),
    Act(Action),
    Thaw(usize),
    Mark,
    Unmark,
    AwaitExit(Ms),
    AwaitThawing(usize, Ms),
    ThawHooks,
    EndFreezeHooks(Ms),
    CallMaster(u32, Ms),
    AwaitMaster(usize, u32, Ms),
    Keep,
    SendEnded,
}

impl Guardian {
    /// Whether it could thaw now what is frozen beyond the limit.
    pub fn is_able(&self, now: Ms) -> bool {
        let thaws = self.undo.is_some() || self.token.is_free();
        self.is_alive && self.stopped_until <= now && !self.held.is_empty() && thaws
    }

    fn add_filesystems(&mut self, entrustment: &Entrustment, now: Ms) {
        let place = |e: &Entrusted| MOUNTPOINTS.iter().position(|m| *m == e.mountpoint);
        let root = |e: &Entrusted| (e.number, place(e).unwrap_or_default());
        self.held = entrustment.filesystems.iter().map(root).collect();
        let grace = AGENT_REPORT_GRACE.as_millis() as u64;
        self.limit = entrustment.limit_ms.map(|limit| now + limit + grace);
        self.work.push_back(Work::Send(Response::Ready));
    }

    pub fn undoes(&self) -> bool {
        self.undo.is_some()
    }

    pub fn runs(&self) -> bool {
        self.is_alive && self.stopped_until != NEVER
    }
}

impl World {
    pub fn start_guardian(
        &mut self,
        token: Rc<Token>,
        socket: Option<usize>,
        run: String,
        replaces: Option<Replaced>,
    ) -> usize {
        let connection = self.new_connection();
        let next = self.next_step_time();
        self.trace_step(|_| "a guardian starts".into());
        self.guardians.push(Guardian {
            is_alive: true,
            stopped_until: 0,
            loses_message: false,
            has_fault: false,
            listener: socket,
            token,
            machine: GuardianState::default(),
            next,
            agent: Some(connection),
            dying_agent: None,
            has_agent_left: false,
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
            clients: Vec::new(),
            work: VecDeque::new(),
            undo: None,
        });
        let now = self.now;
        let it = self.guardians.last_mut().expect("it was pushed just now");
        match replaces {
            None => it.work.push_back(Work::Send(Response::Ready)),
            Some(replaced) => {
                it.machine = GuardianState::replacing(replaced.since_ms.is_some());
                it.frozen_at = replaced.since_ms;
                it.add_filesystems(&replaced.entrustment, now);
            }
        }
        connection
    }

    pub fn set_freezing_master(&mut self, guardian: usize, master: usize) {
        self.guardians[guardian].freezing = Some(master);
    }

    pub fn kill_guardian(&mut self, number: usize) {
        self.trace_step(|_| "the guardian is dead".into());
        let guardian = &mut self.guardians[number];
        guardian.is_alive = false;
        guardian.work.clear();
        let mut connections = std::mem::take(&mut guardian.clients);
        connections.extend(guardian.agent.take());
        connections.extend(guardian.dying_agent.take());
        let listener = guardian.listener.take();
        for connection in connections {
            self.connections[connection].guardian_open = false;
        }
        listener.into_iter().for_each(|it| self.close_unowned(it));
    }

    fn close_socket(&mut self, number: usize) {
        if let Some(socket) = self.guardians[number].listener.take() {
            if self.socket_path == Some(socket) {
                self.socket_path = None;
            }
            self.close_unowned(socket);
        }
    }

    fn send_response(&mut self, number: usize, connection: Option<usize>, response: Response) {
        let is_lost = std::mem::take(&mut self.guardians[number].loses_message);
        if let Some(connection) = connection.filter(|_| !is_lost) {
            self.connections[connection].to_agent.push_back(response);
        }
    }

    fn has_hung_up(&self, connection: usize) -> bool {
        !self.connections[connection].agent_open
    }

    pub fn guardian_time(&self, number: usize) -> Option<Ms> {
        let it = &self.guardians[number];
        if !it.is_alive || it.stopped_until == NEVER {
            return None;
        }
        let at = match it.work.front() {
            // Only the wait is left, and it would never end.
            Some(Work::AwaitExit(NEVER))
                if self.agent.stopped_until == NEVER && !self.frozen.contains(&true) =>
            {
                NEVER
            }
            Some(Work::AwaitExit(until)) => match it.dying_agent {
                Some(agent) if !self.has_hung_up(agent) => (it.next + RETHAW_INTERVAL).min(*until),
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
        let is_readable = |of: &Connection| !of.to_guardian.is_empty() || !of.agent_open;
        let has_client = it
            .listener
            .is_some_and(|s| !self.sockets[s].backlog.is_empty());
        if it
            .agent
            .is_some_and(|connection| is_readable(&self.connections[connection]))
            || has_client
        {
            return it.next;
        }
        let limits = it.limit.into_iter().chain(it.claim_limit);
        let is_dying = |z: &Zombie| it.agent.is_some_and(|l| z.connections.contains(&l));
        let dying = self
            .zombie
            .as_ref()
            .filter(|z| it.machine.is_urgent() && is_dying(z));
        limits
            .chain(dying.map(|_| it.next + AGENT_CHECK_INTERVAL))
            .min()
            .unwrap_or(NEVER)
    }

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
        if let Some(connection) = it.agent {
            if let Some((request, sender)) = self.connections[connection].to_guardian.pop_front() {
                match request {
                    Request::HooksCalled => it.freezing_master = sender,
                    Request::HooksThawed => it.thawing_master = sender,
                    _ => {}
                }
                return Some(Event::Request(request));
            }
        }
        if it.limit.is_some_and(|at| at <= now) {
            return Some(Event::Limit);
        }
        if it.claim_limit.is_some_and(|at| at <= now) {
            let is_stuck = self.is_thaw_stuck(number);
            return Some(Event::ClaimLimit { is_stuck });
        }
        if let Some(connection) = it.agent {
            if !self.connections[connection].agent_open {
                it.agent = None;
                self.connections[connection].guardian_open = false;
                return Some(Event::Gone);
            }
        }
        if let Some(socket) = it.listener {
            if let Some(client) = self.sockets[socket].backlog.pop_front() {
                self.connections[client].to_guardian.pop_front();
                if it.machine.stage() != Stage::Frozen {
                    it.dying_agent = it.agent.take();
                    it.clients.push(client);
                    return Some(Event::Gone);
                }
                if let Some(old) = it.agent.replace(client) {
                    self.connections[old].guardian_open = false;
                }
                return Some(Event::Request(Request::Succeed));
            }
        }
        let zombie = self.zombie.as_ref();
        if it.machine.is_urgent()
            && zombie.is_some_and(|z| it.agent.is_some_and(|l| z.connections.contains(&l)))
        {
            it.dying_agent = it.agent.take();
            return Some(Event::Gone);
        }
        None
    }

    fn record_event(&mut self, number: usize, event: &Event) {
        let it = &mut self.guardians[number];
        match event {
            Event::Request(Request::Filesystems(entrustment)) => {
                it.add_filesystems(entrustment, self.now)
            }
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
        let next = self.next_step_time();
        let it = &mut self.guardians[number];
        if !it.is_alive || it.stopped_until > self.now {
            return;
        }
        it.next = next;
        if let Some(work) = it.work.pop_front() {
            return self.run_guardian_work(number, work);
        }
        let Some(event) = self.next_event(number) else {
            return;
        };
        self.trace_step(|_| format!("guardian {number}: {}", name_of(&event)));
        self.record_event(number, &event);
        let it = &mut self.guardians[number];
        let token = it.token.clone();
        let actions = it.machine.apply(event, Some(&token));
        it.work.extend(actions.into_iter().map(Work::Act));
    }

    fn run_guardian_work(&mut self, number: usize, work: Work) {
        let now = self.now;
        let it = &mut self.guardians[number];
        match work {
            Work::Send(response) => {
                let connection = it.agent;
                self.send_response(number, connection, response);
            }
            Work::Act(action) => self.apply_action(number, action),
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
                if undo.reports_early_end {
                    self.expired = Some(expiry);
                }
            }
            Work::Unmark => {
                self.marker = None;
                self.says_frozen = false;
                let Some(expiry) = it.undo.as_ref().and_then(|undo| undo.expiry.clone()) else {
                    return;
                };
                let (connection, is_freezing) = (it.agent, it.frozen_at.is_none());
                self.send_response(number, connection, Response::Thawed(Thawed::default()));
                if is_freezing {
                    self.send_response(number, connection, Response::Ended(expiry));
                }
            }
            Work::AwaitExit(until) => self.wait_for_agent_exit(number, until),
            Work::AwaitThawing(master, _) => {
                if self.masters[master].is_alive {
                    self.end_session(master);
                }
            }
            Work::ThawHooks => {
                let undo = it.undo.as_ref().map(|undo| (undo.hooks, undo.cause));
                let had_journal = it.had_journal;
                let owes = match undo {
                    Some((Hooks::Frozen, cause)) => {
                        self.is_journal_open() || !had_journal && cause != Cause::Unmarked
                    }
                    Some((Hooks::Thawing, _)) => self.owes_hooks(),
                    Some((Hooks::Untouched, _)) | None => false,
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
                let master_report = self.masters[master].report(now);
                if let Some(report) = &mut self.guardians[number].report {
                    report.hooks(Phase::Thaw, &master_report);
                }
            }
            Work::Keep => {
                if let Some(mut report) = it.report.take() {
                    report.errors.push("kept by the guardian".into());
                    report.end(RunEnd::Expiry);
                    self.keep(&report);
                }
            }
            Work::SendEnded => {
                let expiry = it.undo.as_ref().and_then(|undo| undo.expiry.clone());
                let Some(expiry) = expiry else { return };
                let connections: Vec<usize> = it.agent.iter().chain(&it.clients).copied().collect();
                for connection in connections {
                    self.send_response(number, Some(connection), Response::Ended(expiry.clone()));
                }
            }
        }
    }

    fn wait_for_agent_exit(&mut self, number: usize, until: Ms) {
        let it = &mut self.guardians[number];
        if it.has_agent_left {
            return;
        }
        if it.dying_agent.is_some() {
            self.close_socket(number);
        } else if it.frozen_at.is_none() {
            it.dying_agent = it.agent.take();
        }
        let it = &mut self.guardians[number];
        let Some(agent) = it.dying_agent else { return };
        let has_hung_up = !self.connections[agent].agent_open;
        let is_over = until <= self.now;
        if is_over {
            return;
        }
        if has_hung_up {
            it.agent = it.dying_agent.take();
            it.has_agent_left = true;
        } else {
            it.work.push_front(Work::AwaitExit(until));
        }
        let it = &mut self.guardians[number];
        let held: Vec<usize> = it.held.iter().map(|held| held.1).collect();
        for index in held.into_iter().rev() {
            it.work.push_front(Work::Thaw(index));
        }
    }

    fn apply_action(&mut self, number: usize, action: Action) {
        let now = self.now;
        let it = &mut self.guardians[number];
        match action {
            Action::HandOver => self.hand_over(number),
            Action::Yield => {
                it.claim_limit = Some(now + THAW_CLAIM_TIMEOUT.as_millis() as u64);
                let (connection, response) = (it.agent, Response::Yours(it.report.clone()));
                self.send_response(number, connection, response);
            }
            Action::Await => it.claim_limit = Some(now + THAW_CLAIM_TIMEOUT.as_millis() as u64),
            Action::Undo {
                cause,
                hooks,
                reports_early_end,
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
                    reports_early_end,
                    count: 0,
                    expiry: None,
                });
                let rest = std::mem::take(&mut it.work);
                let thaws = it.held.iter().rev().map(|held| Work::Thaw(held.1));
                it.work.extend(thaws);
                it.work.extend([
                    Work::Mark,
                    Work::Unmark,
                    Work::AwaitExit(now + AGENT_EXIT_TIMEOUT),
                ]);
                it.work.extend(thawing);
                it.work.extend([
                    Work::ThawHooks,
                    Work::Keep,
                    Work::SendEnded,
                    Work::AwaitExit(NEVER),
                ]);
                it.work.extend(rest);
            }
            Action::Leave => {
                self.close_socket(number);
                self.kill_guardian(number);
            }
            // No FIFREEZE is given up in this simulation.
            Action::Retire | Action::TakeBack => {}
        }
    }

    fn hand_over(&mut self, number: usize) {
        let it = &self.guardians[number];
        let (Some(connection), Some(socket)) = (it.agent, it.listener) else {
            return;
        };
        let grace = AGENT_REPORT_GRACE.as_millis() as u64;
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
            left_ms: it.limit.map(|at| at.saturating_sub(self.now + grace)),
        };
        self.connections[connection].passed = Some(Passed {
            token: it.token.clone(),
            socket,
            roots: it.held.iter().map(|held| held.1).collect(),
        });
        self.send_response(
            number,
            Some(connection),
            Response::Freeze(Box::new(inherited)),
        );
    }
}

fn name_of(event: &Event) -> String {
    match event {
        Event::Request(Request::Frozen { .. }) => "Frozen".into(),
        Event::Request(Request::Filesystems(_)) => "Filesystems".into(),
        other => format!("{other:?}"),
    }
}
