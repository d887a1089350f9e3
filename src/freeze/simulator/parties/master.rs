//! The hook master with its journal, and the two hooks.

use super::world::{Ms, NEVER, World};
use crate::freeze::guardian::Request;
use crate::hooks::invoke::MasterReport;
use crate::hooks::{HookRecord, HookStatus, Phase};
use std::time::Duration;

const HOOK_LIMIT: Ms = 30_000;
const STOPPED_MASTER_TIMEOUT: Ms = 60_000;
/// How long a master waits for another one.
const LOCK_LIMIT: Ms = 240_000;
pub const HOOKS: usize = 2;

/// `qga.hooks`.
#[derive(Debug, Default)]
pub struct Journal {
    run: String,
    pub exists: bool,
    /// Hooks that were started and are not thawed, in the order of starting.
    pub open: Vec<usize>,
    locked_by: Option<usize>,
    unfinished_master: Option<usize>,
}

#[derive(Debug)]
pub struct HookProcess {
    hook: usize,
    phase: Phase,
    master: usize,
    pub is_alive: bool,
    pub ends: Ms,
    pub stopped_until: Ms,
    is_success: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Point {
    Announce,
    Lock(Ms),
    Start,
    Run,
    Await(usize, Ms),
    Enter(usize),
    Close,
    Exit,
}

#[derive(Debug)]
pub struct Master {
    pub phase: Phase,
    pub is_alive: bool,
    pub stopped_until: Ms,
    /// What it sends as it starts, on this connection.
    pub announces: Option<(usize, Request)>,
    pub run: Option<String>,
    only_run: Option<String>,
    pub stopped_at: Ms,
    next: Ms,
    point: Point,
    /// The next one last.
    todo: Vec<(usize, Phase)>,
    records: Vec<HookRecord>,
    failure: Option<String>,
    /// By itself.
    pub has_ended: bool,
    started: Ms,
}

impl Master {
    /// A master that was killed is a failure.
    pub fn report(&self, now: Ms) -> MasterReport {
        let killed = (!self.has_ended).then(|| "killed by signal 9".to_owned());
        MasterReport {
            failure: killed.or_else(|| self.failure.clone()),
            hooks: self.records.clone(),
            elapsed: Duration::from_millis(now - self.started),
            leaves_filesystems: false,
            is_ours: true,
        }
    }
}

impl World {
    pub fn start_master(
        &mut self,
        phase: Phase,
        announces: Option<(usize, Request)>,
        only_run: Option<String>,
    ) -> usize {
        let next = self.next_step_time();
        self.trace_step(|_| format!("master {} starts", phase.as_str()));
        self.masters.push(Master {
            phase,
            is_alive: true,
            stopped_until: 0,
            announces,
            run: None,
            only_run,
            stopped_at: 0,
            next,
            point: Point::Announce,
            todo: Vec::new(),
            records: Vec::new(),
            failure: None,
            has_ended: false,
            started: self.now,
        });
        self.masters.len() - 1
    }

    pub fn master_time(&self, number: usize) -> Option<Ms> {
        let master = &self.masters[number];
        if !master.is_alive || master.stopped_until == NEVER {
            return None;
        }
        let at = match master.point {
            Point::Lock(until) if self.is_locked() => until,
            Point::Await(hook, until) if self.hooks[hook].is_alive => until,
            _ => master.next,
        };
        Some(at.max(master.stopped_until))
    }

    pub fn stopped_limit(&self, number: usize) -> Ms {
        let master = &self.masters[number];
        match master.stopped_until > self.now {
            true => master.stopped_at + STOPPED_MASTER_TIMEOUT,
            false => NEVER,
        }
    }

    pub fn is_journal_open(&self) -> bool {
        self.is_locked() || self.journal.exists && !self.journal.open.is_empty()
    }

    fn is_locked(&self) -> bool {
        self.journal
            .locked_by
            .is_some_and(|by| self.masters[by].is_alive)
    }

    pub fn kill_master(&mut self, number: usize) {
        self.masters[number].is_alive = false;
    }

    /// And the hooks that it started.
    pub fn end_session(&mut self, number: usize) {
        let master = &self.masters[number];
        let is_at_work = master.is_alive && master.stopped_until <= self.now;
        let is_young = self.now < master.started + HOOK_LIMIT;
        if master.phase == Phase::Thaw && is_at_work && is_young {
            self.broken.push("a thaw at work is ended".into());
        }
        self.kill_master(number);
        for hook in 0..self.hooks.len() {
            if self.hooks[hook].master == number {
                self.kill_hook(hook);
            }
        }
    }

    pub fn kill_hook(&mut self, number: usize) {
        let hook = &mut self.hooks[number];
        if std::mem::take(&mut hook.is_alive) {
            let (index, phase) = (hook.hook, hook.phase);
            self.truth.hook_ended(index, phase, false);
        }
    }

    pub fn hook_ends(&mut self, number: usize) {
        let hook = &mut self.hooks[number];
        if hook.is_alive && hook.stopped_until <= self.now {
            hook.is_alive = false;
            hook.is_success = true;
            let (index, phase) = (hook.hook, hook.phase);
            self.truth.hook_ended(index, phase, true);
            self.trace_step(|_| format!("hook {index} has ended {}", phase.as_str()));
        }
    }

    /// Whether the journal lists hooks to thaw, as far as others than a master can read it.
    pub fn owes_hooks(&self) -> bool {
        !self.is_locked() && self.journal.exists && !self.journal.open.is_empty()
    }

    pub fn master_step(&mut self, number: usize) {
        let next = self.next_step_time();
        let now = self.now;
        let is_locked = self.is_locked();
        let master = &mut self.masters[number];
        if !master.is_alive || master.stopped_until > now {
            return;
        }
        master.next = next;
        let phase = master.phase;
        match master.point {
            Point::Announce => {
                let announces = master.announces.take();
                master.point = Point::Lock(now + LOCK_LIMIT);
                if let Some((connection, request)) = announces {
                    if self.connections[connection].guardian_open {
                        self.connections[connection]
                            .to_guardian
                            .push_back((request, Some(number)));
                    }
                }
            }
            Point::Lock(_) if is_locked => {
                master.failure = Some("another hook master has locked it".into());
                master.point = Point::Exit;
            }
            Point::Lock(_) => {
                let only = master.only_run.as_ref();
                let is_other = only.is_some_and(|run| *run != self.journal.run);
                if phase == Phase::Thaw && (is_other || !self.journal.exists) {
                    master.point = Point::Exit;
                    return;
                }
                if let Some(run) = master.run.take() {
                    self.journal.run = run;
                }
                self.journal.locked_by = Some(number);
                if let Some(dead) = self.journal.unfinished_master.replace(number) {
                    self.end_session(dead);
                }
                self.journal.exists = true;
                let mut todo = Vec::new();
                if phase == Phase::Freeze {
                    todo.extend((0..HOOKS).rev().map(|hook| (hook, Phase::Freeze)));
                }
                let open = self.journal.open.iter();
                todo.extend(open.map(|&hook| (hook, Phase::Thaw)));
                let master = &mut self.masters[number];
                master.todo = todo;
                master.point = Point::Start;
            }
            Point::Start => match master.todo.last() {
                None => master.point = Point::Close,
                Some(&(hook, phase)) => {
                    master.point = Point::Run;
                    if phase == Phase::Freeze {
                        self.journal.open.push(hook);
                        self.truth.hook_recorded(hook);
                    }
                }
            },
            Point::Run => {
                let Some((hook, phase)) = master.todo.pop() else {
                    return;
                };
                let duration = match self.random.below(8) {
                    0 => 1_000 + self.random.below(11_000),
                    _ => 1 + self.random.below(40),
                };
                self.hooks.push(HookProcess {
                    hook,
                    phase,
                    master: number,
                    is_alive: true,
                    ends: now + duration,
                    stopped_until: 0,
                    is_success: false,
                });
                let process = self.hooks.len() - 1;
                self.masters[number].point = Point::Await(process, now + HOOK_LIMIT);
                self.trace_step(|_| format!("hook {hook} starts {}", phase.as_str()));
                self.hook_starts(hook, phase);
            }
            Point::Await(process, _) => {
                self.kill_hook(process);
                self.masters[number].point = Point::Enter(process);
            }
            Point::Enter(process) => {
                let process = &self.hooks[process];
                let (hook, phase) = (process.hook, process.phase);
                let code = i32::from(!process.is_success);
                let record = HookRecord::new(format!("{hook}"), phase, HookStatus::Exited(code));
                if phase == Phase::Thaw {
                    self.journal.open.retain(|&open| open != hook);
                }
                let aborts = self.aborts && phase == Phase::Freeze && !process.is_success;
                let master = &mut self.masters[number];
                if phase == master.phase {
                    master.records.push(record);
                }
                master.point = Point::Start;
                if aborts {
                    master.failure = Some("a hook failed".into());
                    master.todo = Vec::new();
                }
            }
            Point::Close => {
                master.point = Point::Exit;
                self.journal.unfinished_master = None;
                self.journal.locked_by = None;
                if phase == Phase::Thaw && self.journal.open.is_empty() {
                    self.journal.exists = false;
                }
            }
            Point::Exit => {
                master.is_alive = false;
                master.has_ended = true;
            }
        }
    }
}
