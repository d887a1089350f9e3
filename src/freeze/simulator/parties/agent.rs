//! The agent: the real engine over simulated operations.

use super::world::{AgentClient, Ms, Socket, World};
use crate::deadline::Timed;
use crate::freeze::FreezeError;
use crate::freeze::guardian::{
    Claim, Entrustment, Replaced, Request, Response, THAW_CLAIM_TIMEOUT, THAW_HOOKS_TIMEOUT,
};
use crate::freeze::ops::{
    FilesystemOps, FreezeWait, GuardianNews, GuardianOps, HeldFilesystem, HookOps, Legacy,
    OpenError, SnapshotOps, StateOps, SystemOps,
};
use crate::freeze::plan::{Details, Survey, Target};
use crate::freeze::report::Report;
use crate::hooks::invoke::MasterReport;
use crate::hooks::journal::RunInfo;
use crate::hooks::{Phase, ThawReason};
use crate::probe::filesystems::Filesystem;
use crate::probe::mountinfo::DeviceNumber;
use crate::state::{Expiry, Marker, StateError, boot_id};
use crate::sys::fds::Token;
use nix::libc;
use std::cell::{RefCell, RefMut};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

pub const MOUNTPOINTS: [&str; 2] = ["/", "/data"];

/// As in `client`.
const RESPONSE_TIMEOUT: Ms = 2_000;

#[derive(Clone)]
pub struct AgentOps(pub Rc<RefCell<World>>);

enum Read {
    Response(Response),
    Nothing,
    Closed,
}

impl World {
    fn turn(&mut self) {
        self.wait(&|_| true, None);
    }

    fn read(&mut self, timeout: Ms) -> Read {
        let Some(connection) = self.agent.client.as_ref().map(|client| client.connection) else {
            return Read::Closed;
        };
        let is_readable = move |w: &World| {
            let connection = &w.connections[connection];
            !connection.to_agent.is_empty() || !connection.guardian_open
        };
        if timeout > 0 {
            self.agent.is_waiting = true;
            let deadline = self.now + timeout;
            self.wait(&is_readable, Some(deadline));
            self.agent.is_waiting = false;
        }
        let connection = &mut self.connections[connection];
        match connection.to_agent.pop_front() {
            Some(response) => Read::Response(response),
            None if connection.guardian_open => Read::Nothing,
            None => Read::Closed,
        }
    }

    /// False if the guardian is gone.
    fn send(&mut self, request: Request) -> bool {
        self.turn();
        let loses_message = std::mem::take(&mut self.agent.loses_message);
        let Some(client) = &self.agent.client else {
            return false;
        };
        // A stream loses nothing as long as its reader is well.
        self.guardians[client.guardian].has_fault |= loses_message;
        let connection = &mut self.connections[client.connection];
        if connection.guardian_open && !loses_message {
            connection.to_guardian.push_back((request, None));
        }
        connection.guardian_open && !loses_message
    }

    fn end_guardian(&mut self) {
        if let Some(guardian) = self.agent.client.as_ref().map(|client| client.guardian) {
            if self.guardians[guardian].is_alive {
                self.kill_guardian(guardian);
            }
        }
    }

    fn start_client(&mut self, run: &str, replaces: Option<Replaced>) -> io::Result<()> {
        self.drop_client();
        if std::mem::take(&mut self.agent.loses_message) {
            return Err(io::Error::other("no guardian can be started"));
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
            self.socket_path = Some(socket);
        }
        let token = Rc::new(Token::new()?);
        let connection = self.start_guardian(token.clone(), Some(socket), run.to_owned(), replaces);
        self.agent.client = Some(AgentClient {
            guardian: self.guardians.len() - 1,
            connection,
            token: Some(token),
            has_token: false,
        });
        Ok(())
    }

    fn drop_client(&mut self) {
        if let Some(client) = self.agent.client.take() {
            self.hang_up(client.connection);
        }
    }

    fn unguarded(&mut self) -> io::Result<()> {
        if self.is_undecided() {
            self.end_guardian();
            self.drop_client();
        }
        Err(io::Error::other("there is no guardian"))
    }

    fn is_undecided(&self) -> bool {
        self.agent.client.as_ref().is_none_or(|client| {
            client.has_token || client.token.as_ref().is_none_or(|token| token.is_free())
        })
    }

    fn await_ready(&mut self) -> io::Result<()> {
        match self.read(RESPONSE_TIMEOUT) {
            Read::Response(Response::Ready) => Ok(()),
            _ => self.unguarded(),
        }
    }

    fn claim(&mut self, is_early: bool) -> Claim {
        self.turn();
        let Some(client) = &self.agent.client else {
            return Claim::Ours(None);
        };
        if client.has_token {
            return Claim::Ours(None);
        }
        let request = match client.token {
            Some(_) => Request::Claimed { is_early },
            None => Request::Claim,
        };
        if !self.send(request) {
            self.end_guardian();
        }
        self.turn();
        if let Some(client) = &mut self.agent.client {
            client.has_token = client.token.as_ref().is_some_and(|token| token.try_take());
            if client.has_token {
                return Claim::Ours(None);
            }
        }
        let mut timeout = THAW_CLAIM_TIMEOUT;
        loop {
            match self.read(timeout.as_millis() as Ms) {
                Read::Response(Response::Ended(expiry)) => return Claim::Ended(expiry),
                Read::Response(Response::Yours(report)) => return Claim::Ours(report),
                Read::Response(Response::Thawed(_)) => {
                    timeout = THAW_HOOKS_TIMEOUT + THAW_CLAIM_TIMEOUT
                }
                Read::Response(_) => {}
                Read::Nothing | Read::Closed => {
                    self.end_guardian();
                    return Claim::Ours(None);
                }
            }
        }
    }

    fn call_master(&mut self, phase: Phase, run: &str) -> MasterReport {
        let connection = self.agent.client.as_ref().map(|client| client.connection);
        let request = match phase {
            Phase::Freeze => Request::HooksCalled,
            Phase::Thaw => Request::HooksThawed,
        };
        let is_lost = std::mem::take(&mut self.agent.loses_message);
        if let Some(client) = self.agent.client.as_ref().filter(|_| is_lost) {
            self.guardians[client.guardian].has_fault = true;
        }
        let mut announces = connection
            .filter(|_| !is_lost)
            .map(|connection| (connection, request));
        for tries in 0.. {
            let master = self.start_master(phase, announces.take(), None);
            self.masters[master].run = (phase == Phase::Freeze).then(|| run.to_owned());
            let guardian = self.agent.client.as_ref().map(|client| client.guardian);
            if let (Phase::Freeze, Some(guardian)) = (phase, guardian) {
                self.set_freezing_master(guardian, master);
            }
            let is_over = |w: &World| {
                let cancels = phase == Phase::Freeze && w.agent.is_terminated;
                let is_due = w.stopped_limit(master) <= w.now;
                !w.masters[master].is_alive || cancels || is_due
            };
            // The real caller polls for a stopped master.
            loop {
                let next_check = self.now + 30_000;
                if self.wait(&is_over, Some(next_check)) {
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

impl AgentOps {
    pub fn world(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }

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
    Entrustment {
        filesystems: held
            .iter()
            .map(|(entrusted, _)| entrusted.clone())
            .collect(),
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

impl FilesystemOps for AgentOps {
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
            let is_frozen = world.fifreeze(index);
            // An agent that was stopped right before the call. It reads next that the run is over.
            world.frozen_late[index] |= is_frozen && world.is_run_over();
            Some(timed(is_frozen, libc::EBUSY))
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

    fn is_any_frozen(&mut self, handles: &[&usize]) -> bool {
        let world = self.turn();
        handles.iter().any(|&&index| world.frozen[index])
    }

    fn expedite_rcu(&mut self) {}

    fn restore_rcu(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HookOps for AgentOps {
    fn call_hooks(
        &mut self,
        phase: Phase,
        _: Option<ThawReason>,
        run: &RunInfo,
    ) -> Option<MasterReport> {
        Some(self.turn().call_master(phase, &run.id))
    }

    fn use_hook(&mut self, _: Option<PathBuf>) {}

    fn has_journal(&self) -> bool {
        self.world().is_journal_open()
    }
}

impl GuardianOps for AgentOps {
    fn start_guardian(&mut self, run: &str) -> io::Result<()> {
        self.turn().start_client(run, None)
    }

    fn wait_for_guardian(&mut self) -> io::Result<()> {
        let mut world = self.world();
        match world.agent.client {
            Some(_) => world.await_ready(),
            None => Ok(()),
        }
    }

    fn entrust(
        &mut self,
        held: &[HeldFilesystem<'_, usize>],
        limit: Option<Duration>,
    ) -> io::Result<()> {
        let mut world = self.world();
        if world.agent.client.is_none() {
            return Err(io::Error::other("there is no guardian"));
        }
        let request = Request::Filesystems(entrustment(held, limit));
        match world.send(request) {
            true => world.await_ready(),
            false => world.unguarded(),
        }
    }

    fn replace_guardian(
        &mut self,
        run: &str,
        held: &[HeldFilesystem<'_, usize>],
        limit: Option<Duration>,
        since: Option<Duration>,
    ) -> io::Result<()> {
        let replaced = Replaced {
            entrustment: entrustment(held, limit),
            since_ms: since.map(|since| since.as_millis() as u64),
        };
        self.turn().start_client(run, Some(replaced))?;
        self.wait_for_guardian()
    }

    fn send_to_guardian(&mut self, request: Request) {
        let mut world = self.world();
        if world.agent.client.is_some() && !world.send(request) {
            world.end_guardian();
        }
    }

    fn poll_guardian(&mut self) -> GuardianNews {
        let mut world = self.turn();
        while world.agent.client.is_some() {
            match world.read(0) {
                Read::Response(Response::Ended(expiry)) => return GuardianNews::Ended(expiry),
                Read::Response(Response::Freeze(_)) | Read::Nothing => {
                    return GuardianNews::Nothing;
                }
                Read::Response(_) => {}
                Read::Closed => {
                    world.end_guardian();
                    world.drop_client();
                    return GuardianNews::Gone;
                }
            }
        }
        GuardianNews::Nothing
    }

    fn is_undecided(&self) -> bool {
        self.world().is_undecided()
    }

    fn claim(&mut self, is_early: bool) -> Claim {
        self.world().claim(is_early)
    }

    fn disconnect_guardian(&mut self) {
        let mut world = self.turn();
        if let Some(connection) = world.agent.client.as_ref().map(|client| client.connection) {
            world.hang_up(connection);
        }
    }

    fn release_guardian(&mut self) {
        self.send_to_guardian(Request::Done);
    }

    fn dismiss_guardian(&mut self) {
        let mut world = self.turn();
        if let Some(socket) = world.agent.socket.take() {
            if world.socket_path == Some(socket) {
                world.socket_path = None;
            }
            world.sockets[socket].agent_has_it = false;
            world.close_unowned(socket);
        }
        if world.agent.client.is_none() {
            return;
        }
        world.send(Request::Done);
        while let Read::Response(_) = world.read(RESPONSE_TIMEOUT) {}
        world.end_guardian();
        world.drop_client();
    }

    fn find_guardian(&mut self) -> bool {
        let mut world = self.turn();
        let Some(socket) = world.socket_path.filter(|&socket| world.has_owner(socket)) else {
            return false;
        };
        let connection = world.new_connection();
        world.connections[connection]
            .to_guardian
            .push_back((Request::Succeed, None));
        world.sockets[socket].backlog.push_back(connection);
        let has_it = |g: &super::guardian::Guardian| g.listener == Some(socket);
        let guardian = world.guardians.iter().rposition(has_it).unwrap_or_default();
        world.agent.client = Some(AgentClient {
            guardian,
            connection,
            token: None,
            has_token: false,
        });
        true
    }

    fn legacy(&mut self, waits: bool) -> Legacy<usize> {
        let mut world = self.turn();
        let timeout = if waits { RESPONSE_TIMEOUT } else { 0 };
        while world.agent.client.is_some() {
            match world.read(timeout) {
                Read::Response(Response::Ended(expiry)) => return Legacy::Ended(expiry),
                Read::Response(Response::Freeze(inherited)) => {
                    let connection = world.agent.client.as_ref().map(|client| client.connection);
                    let passed = connection
                        .and_then(|connection| world.connections[connection].passed.take());
                    let Some(passed) = passed else { continue };
                    world.sockets[passed.socket].agent_has_it = true;
                    world.agent.socket = Some(passed.socket);
                    if let Some(client) = &mut world.agent.client {
                        client.token = Some(passed.token);
                    }
                    return Legacy::Freeze(inherited, passed.roots);
                }
                Read::Response(_) => {}
                Read::Nothing => {
                    let client = world.agent.client.as_ref();
                    let number = client.map_or(0, |client| client.guardian);
                    let guardian = &world.guardians[number];
                    let is_stopped = guardian.is_alive && guardian.stopped_until > world.now;
                    let was_stopped = std::mem::replace(&mut world.agent.saw_stopped, is_stopped);
                    if !(is_stopped && was_stopped) {
                        return Legacy::Unknown;
                    }
                    world.end_guardian();
                    world.drop_client();
                }
                Read::Closed => {
                    world.drop_client();
                }
            }
        }
        Legacy::Unguarded(world.marker.clone())
    }
}

impl StateOps for AgentOps {
    fn mark_frozen(&mut self, marker: Marker) -> Result<(), StateError> {
        let boot = boot_id();
        self.turn().marker = Some(Marker { boot, ..marker });
        Ok(())
    }

    fn mark_thawed(&mut self) -> Result<bool, StateError> {
        Ok(self.turn().marker.take().is_some())
    }

    fn mark_expired(&mut self, expiry: &Expiry) -> Result<(), StateError> {
        self.turn().expired = Some(expiry.clone());
        Ok(())
    }

    fn take_expired(&mut self) -> Option<Expiry> {
        self.turn().expired.take()
    }

    fn reports(&mut self) -> Vec<Report> {
        self.world().kept.iter().rev().cloned().collect()
    }

    fn store_report(&mut self, report: &Report) -> Result<(), FreezeError> {
        self.turn().keep(report);
        Ok(())
    }
}

impl SnapshotOps for AgentOps {
    fn snapshot_device(&mut self) -> Option<DeviceNumber> {
        Some((8, 0))
    }

    fn write_snapshot(&mut self, _: &Report) -> Result<(), FreezeError> {
        // In one step with its neighbors, so that the seeds of the rounds keep their meaning.
        self.world().says_frozen = true;
        Ok(())
    }

    fn withdraw_snapshot(&mut self) -> Result<(), FreezeError> {
        self.world().says_frozen = false;
        Ok(())
    }

    fn finish_snapshot(&mut self, _: &Report) -> Result<(), FreezeError> {
        Ok(())
    }
}

impl SystemOps for AgentOps {
    fn enter_frozen_section(&mut self, _: usize) {}

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
}
