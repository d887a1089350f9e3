//! The agent: the real engine, with hands that reach into the world, and the loop that serves the host.

use super::world::{Link, Ms, Socket, World};
use crate::deadline::Timed;
use crate::freeze::guardian::{
    Claim, Entrusted, Entrustment, Replaced, Request, Response, THAW_CLAIM_TIMEOUT,
    THAW_HOOKS_TIMEOUT,
};
use crate::freeze::ops::{FreezeWait, GuardianNews, HeldFilesystem, Legacy, OpenError, Ops};
use crate::freeze::plan::{Details, Survey, Target};
use crate::freeze::report::Report;
use crate::hooks::invoke::MasterReport;
use crate::hooks::journal::RunInfo;
use crate::hooks::{Phase, ThawReason};
use crate::probe::filesystems::Filesystem;
use crate::state::{Expiry, Marker, boot_id};
use crate::sys::fds::Token;
use nix::libc;
use std::cell::{RefCell, RefMut};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

pub const MOUNTPOINTS: [&str; 2] = ["/", "/data"];

/// As in the link.
const ANSWER_TIMEOUT: Ms = 2_000;

/// The agent's hands.
#[derive(Clone)]
pub struct Hands(pub Rc<RefCell<World>>);

/// What came over a line.
enum Read {
    Word(Response),
    Nothing,
    Closed,
}

impl World {
    /// The agent's next step.
    fn turn(&mut self) {
        self.wait(&|_| true, None);
    }

    /// What the guardian says within a time.
    fn read(&mut self, timeout: Ms) -> Read {
        let Some(line) = self.agent.link.as_ref().map(|link| link.line) else {
            return Read::Closed;
        };
        let speaks = move |w: &World| {
            let line = &w.lines[line];
            !line.to_agent.is_empty() || !line.guardian_open
        };
        if timeout > 0 {
            self.agent.is_waiting = true;
            let deadline = self.now + timeout;
            self.wait(&speaks, Some(deadline));
            self.agent.is_waiting = false;
        }
        let line = &mut self.lines[line];
        match line.to_agent.pop_front() {
            Some(word) => Read::Word(word),
            None if line.guardian_open => Read::Nothing,
            None => Read::Closed,
        }
    }

    /// Sends; false if the guardian is gone.
    fn send(&mut self, order: Request) -> bool {
        self.turn();
        let loses = std::mem::take(&mut self.agent.loses);
        let Some(link) = &self.agent.link else {
            return false;
        };
        let line = &mut self.lines[link.line];
        if line.guardian_open && !loses {
            line.to_guardian.push_back((order, None));
        }
        line.guardian_open && !loses
    }

    /// The guardian is ended, whatever it does.
    fn end_guardian(&mut self) {
        if let Some(guardian) = self.agent.link.as_ref().map(|link| link.guardian) {
            if self.guardians[guardian].is_alive {
                self.kill_guardian(guardian);
            }
        }
    }

    fn start_link(&mut self, run: &str, replaces: Option<Replaced>) -> Result<(), String> {
        self.drop_link();
        if std::mem::take(&mut self.agent.loses) {
            return Err("no guardian can be started".into());
        }
        let socket = match self.agent.socket {
            Some(socket) => socket,
            None => {
                self.sockets.push(Socket {
                    agent_has_it: true,
                    ..Socket::default()
                });
                self.sockets.len() - 1
            }
        };
        if self.agent.socket.replace(socket).is_none() {
            self.door = Some(socket);
        }
        let token = Rc::new(Token::new().map_err(|error| error.to_string())?);
        let line = self.start_guardian(token.clone(), Some(socket), run.to_owned(), replaces);
        self.agent.link = Some(Link {
            guardian: self.guardians.len() - 1,
            line,
            token: Some(token),
            has_token: false,
        });
        Ok(())
    }

    fn drop_link(&mut self) {
        if let Some(link) = self.agent.link.take() {
            self.hang_up(link.line);
        }
    }

    fn unguarded(&mut self) -> Result<(), String> {
        if self.is_undecided() {
            self.end_guardian();
            self.drop_link();
        }
        Err("there is no guardian".into())
    }

    fn is_undecided(&self) -> bool {
        self.agent.link.as_ref().is_none_or(|link| {
            link.has_token || link.token.as_ref().is_none_or(|token| token.is_free())
        })
    }

    fn await_ready(&mut self) -> Result<(), String> {
        match self.read(ANSWER_TIMEOUT) {
            Read::Word(Response::Ready) => Ok(()),
            _ => self.unguarded(),
        }
    }

    fn claim(&mut self, is_early: bool) -> Claim {
        self.turn();
        let Some(link) = &self.agent.link else {
            return Claim::Ours(None);
        };
        if link.has_token {
            return Claim::Ours(None);
        }
        let order = match link.token {
            Some(_) => Request::Claimed { is_early },
            None => Request::Claim,
        };
        if !self.send(order) {
            self.end_guardian();
        }
        self.turn();
        if let Some(link) = &mut self.agent.link {
            link.has_token = link.token.as_ref().is_some_and(|token| token.try_take());
            if link.has_token {
                return Claim::Ours(None);
            }
        }
        let mut timeout = THAW_CLAIM_TIMEOUT;
        loop {
            match self.read(timeout.as_millis() as Ms) {
                Read::Word(Response::Ended(expiry)) => return Claim::Ended(expiry),
                Read::Word(Response::Yours(report)) => return Claim::Ours(report),
                Read::Word(Response::Thawed { .. }) => {
                    timeout = THAW_HOOKS_TIMEOUT + THAW_CLAIM_TIMEOUT
                }
                Read::Word(_) => {}
                Read::Nothing | Read::Closed => {
                    self.end_guardian();
                    return Claim::Ours(None);
                }
            }
        }
    }

    fn call_master(&mut self, phase: Phase, run: &str) -> MasterReport {
        let line = self.agent.link.as_ref().map(|link| link.line);
        let order = match phase {
            Phase::Freeze => Request::HooksCalled,
            Phase::Thaw => Request::HooksThawed,
        };
        let is_lost = std::mem::take(&mut self.agent.loses);
        let mut announces = line.filter(|_| !is_lost).map(|line| (line, order));
        for tries in 0.. {
            let master = self.start_master(phase, announces.take(), None);
            self.masters[master].run = (phase == Phase::Freeze).then(|| run.to_owned());
            let guardian = self.agent.link.as_ref().map(|link| link.guardian);
            if let (Phase::Freeze, Some(guardian)) = (phase, guardian) {
                self.freezing_master_is(guardian, master);
            }
            let is_over = |w: &World| {
                let cancels = phase == Phase::Freeze && w.agent.is_terminated;
                let is_due = w.stopped_limit(master) <= w.now;
                !w.masters[master].is_alive || cancels || is_due
            };
            // From time to time it looks whether the master was stopped.
            loop {
                let look = self.now + 30_000;
                if self.wait(&is_over, Some(look)) {
                    break;
                }
            }
            if self.masters[master].is_alive {
                self.end_session(master);
            }
            let it = &self.masters[master];
            if it.has_ended || phase == Phase::Freeze || tries == 2 {
                return it.report(self.now);
            }
        }
        unreachable!()
    }
}

impl Hands {
    pub fn world(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }

    /// The world after one step.
    fn turn(&self) -> RefMut<'_, World> {
        let mut world = self.world();
        world.turn();
        world
    }
}

fn survey() -> Survey {
    let filesystem = |(index, name): (usize, &&str)| Filesystem {
        mountpoint: name.as_bytes().to_vec(),
        fstype: "ext4".into(),
        major: 8,
        minor: index as u32,
        mount_id: index as u64,
    };
    let filesystems: Vec<Filesystem> = MOUNTPOINTS.iter().enumerate().map(filesystem).collect();
    let details = |filesystem: &Filesystem| (filesystem.device(), Details::default());
    Survey {
        details: filesystems.iter().map(details).collect(),
        filesystems,
        ..Survey::default()
    }
}

fn entrustment(held: &[HeldFilesystem<'_, usize>], limit: Option<Duration>) -> Entrustment {
    let entrusted = |held: &HeldFilesystem<'_, usize>| Entrusted {
        number: held.number,
        mountpoint: held.mountpoint.to_owned(),
    };
    Entrustment {
        filesystems: held.iter().map(entrusted).collect(),
        expedites_rcu: false,
        limit_ms: limit.map(|limit| limit.as_millis() as u64),
    }
}

fn timed(is_done: bool, refusal: i32) -> Timed {
    let took = Duration::from_millis(1);
    let result = match is_done {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(refusal)),
    };
    Timed { result, took }
}

impl Ops for Hands {
    type Handle = usize;

    fn survey(&mut self) -> io::Result<Survey> {
        self.turn();
        Ok(survey())
    }

    fn survey_again(&mut self) -> io::Result<Option<Survey>> {
        Ok(None)
    }

    fn open(&mut self, targets: &[Target]) -> Vec<Result<usize, OpenError>> {
        let open = |target: &Target| Ok(target.filesystem.minor as usize);
        targets.iter().map(open).collect()
    }

    fn dirty_bytes(&mut self) -> Option<u64> {
        Some(0)
    }

    fn flush(&mut self, handles: &[&usize], _: bool) -> Vec<io::Result<()>> {
        self.turn();
        handles.iter().map(|_| Ok(())).collect()
    }

    fn freeze(&mut self, handles: &[&usize]) -> Vec<Option<Timed>> {
        let freeze = |&&index: &&usize| {
            let mut world = self.world();
            world.agent.freezing = Some(index);
            world.turn();
            world.agent.freezing = None;
            Some(timed(world.fifreeze(index), libc::EBUSY))
        };
        handles.iter().map(freeze).collect()
    }

    fn wait_for_freeze(&mut self, _: FreezeWait) -> Vec<Option<Timed>> {
        Vec::new()
    }

    fn thaw(&mut self, handles: &[&usize]) -> Vec<Timed> {
        let thaw = |&&index: &&usize| timed(self.turn().fithaw(index), libc::EINVAL);
        handles.iter().map(thaw).collect()
    }

    fn call_hooks(
        &mut self,
        phase: Phase,
        _: Option<ThawReason>,
        run: &RunInfo,
    ) -> Option<MasterReport> {
        Some(self.turn().call_master(phase, &run.id))
    }

    fn start_guardian(&mut self, run: &str) -> Result<(), String> {
        self.turn().start_link(run, None)
    }

    fn replace_guardian(
        &mut self,
        run: &str,
        held: &[HeldFilesystem<'_, usize>],
        limit: Option<Duration>,
        since: Option<Duration>,
    ) -> Result<(), String> {
        let replaced = Replaced {
            entrustment: entrustment(held, limit),
            since_ms: since.map(|since| since.as_millis() as u64),
        };
        self.turn().start_link(run, Some(replaced))?;
        self.wait_for_guardian()
    }

    fn wait_for_guardian(&mut self) -> Result<(), String> {
        let mut world = self.world();
        match world.agent.link {
            Some(_) => world.await_ready(),
            None => Ok(()),
        }
    }

    fn entrust(
        &mut self,
        held: &[HeldFilesystem<'_, usize>],
        limit: Option<Duration>,
    ) -> Result<(), String> {
        let mut world = self.world();
        if world.agent.link.is_none() {
            return Err("there is no guardian".into());
        }
        let order = Request::Filesystems(entrustment(held, limit));
        match world.send(order) {
            true => world.await_ready(),
            false => world.unguarded(),
        }
    }

    fn find_guardian(&mut self) -> bool {
        let mut world = self.turn();
        let Some(socket) = world.door.filter(|&socket| world.is_heard(socket)) else {
            return false;
        };
        let line = world.new_line();
        world.lines[line]
            .to_guardian
            .push_back((Request::Succeed, None));
        world.sockets[socket].backlog.push_back(line);
        let has_it = |g: &super::guardian::Guardian| g.listener == Some(socket);
        let guardian = world.guardians.iter().rposition(has_it).unwrap_or_default();
        world.agent.link = Some(Link {
            guardian,
            line,
            token: None,
            has_token: false,
        });
        true
    }

    fn legacy(&mut self, waits: bool) -> Legacy<usize> {
        let mut world = self.turn();
        let timeout = if waits { ANSWER_TIMEOUT } else { 0 };
        while world.agent.link.is_some() {
            match world.read(timeout) {
                Read::Word(Response::Ended(expiry)) => return Legacy::Ended(expiry),
                Read::Word(Response::Freeze(inherited)) => {
                    let line = world.agent.link.as_ref().map(|link| link.line);
                    let passed = line.and_then(|line| world.lines[line].passed.take());
                    let Some(passed) = passed else { continue };
                    world.sockets[passed.socket].agent_has_it = true;
                    world.agent.socket = Some(passed.socket);
                    if let Some(link) = &mut world.agent.link {
                        link.token = Some(passed.token);
                    }
                    return Legacy::Freeze(inherited, passed.roots);
                }
                Read::Word(_) => {}
                Read::Nothing => {
                    let link = world.agent.link.as_ref();
                    let number = link.map_or(0, |link| link.guardian);
                    let guardian = &world.guardians[number];
                    let is_stopped = guardian.is_alive && guardian.stopped_until > world.now;
                    let was_stopped = std::mem::replace(&mut world.agent.saw_stopped, is_stopped);
                    if !(is_stopped && was_stopped) {
                        return Legacy::Unknown;
                    }
                    world.end_guardian();
                    world.drop_link();
                }
                Read::Closed => {
                    world.drop_link();
                }
            }
        }
        Legacy::Unguarded(world.marker.clone())
    }

    fn use_hook(&mut self, _: Option<PathBuf>) {}

    fn has_journal(&self) -> bool {
        self.world().is_journal_open()
    }

    fn is_any_frozen(&mut self, handles: &[&usize]) -> bool {
        let world = self.turn();
        handles.iter().any(|&&index| world.frozen[index])
    }

    fn send_to_guardian(&mut self, order: Request) {
        let mut world = self.world();
        if world.agent.link.is_some() && !world.send(order) {
            world.end_guardian();
        }
    }

    fn claim(&mut self, is_early: bool) -> Claim {
        self.world().claim(is_early)
    }

    fn is_undecided(&self) -> bool {
        self.world().is_undecided()
    }

    fn poll_guardian(&mut self) -> GuardianNews {
        let mut world = self.turn();
        while world.agent.link.is_some() {
            match world.read(0) {
                Read::Word(Response::Ended(expiry)) => return GuardianNews::Ended(expiry),
                Read::Word(Response::Freeze(_)) | Read::Nothing => return GuardianNews::Nothing,
                Read::Word(_) => {}
                Read::Closed => {
                    world.end_guardian();
                    world.drop_link();
                    return GuardianNews::Gone;
                }
            }
        }
        GuardianNews::Nothing
    }

    fn disconnect_guardian(&mut self) {
        let mut world = self.turn();
        if let Some(line) = world.agent.link.as_ref().map(|link| link.line) {
            world.hang_up(line);
        }
    }

    fn release_guardian(&mut self) {
        self.send_to_guardian(Request::Done);
    }

    fn dismiss_guardian(&mut self) {
        let mut world = self.turn();
        if let Some(socket) = world.agent.socket.take() {
            if world.door == Some(socket) {
                world.door = None;
            }
            world.sockets[socket].agent_has_it = false;
            world.close_deaf(socket);
        }
        if world.agent.link.is_none() {
            return;
        }
        world.send(Request::Done);
        while let Read::Word(_) = world.read(ANSWER_TIMEOUT) {}
        world.end_guardian();
        world.drop_link();
    }

    fn guardian_fd(&self) -> Option<OwnedFd> {
        None
    }

    fn mark_expired(&mut self, expiry: &Expiry) -> Result<(), String> {
        self.turn().expired = Some(expiry.clone());
        Ok(())
    }

    fn take_expired(&mut self) -> Option<Expiry> {
        self.turn().expired.take()
    }

    fn mark_frozen(&mut self, marker: Marker) -> Result<(), String> {
        let boot = boot_id();
        self.turn().marker = Some(Marker { boot, ..marker });
        Ok(())
    }

    fn mark_thawed(&mut self) -> Result<bool, String> {
        Ok(self.turn().marker.take().is_some())
    }

    fn enter_frozen_section(&mut self, _: usize) {}

    fn expedite_rcu(&mut self) {}

    fn restore_rcu(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn leave_frozen_section(&mut self) {}

    fn release_resources(&mut self) {}

    fn is_stopping(&self) -> bool {
        self.world().agent.is_terminated
    }

    fn now(&mut self) -> Duration {
        Duration::from_millis(self.world().now)
    }

    fn wall_clock(&mut self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.world().now)
    }

    fn reports(&mut self) -> Vec<Report> {
        self.world().kept.iter().rev().cloned().collect()
    }

    fn store_report(&mut self, report: &Report) -> Result<(), String> {
        self.turn().keep(report);
        Ok(())
    }
}
