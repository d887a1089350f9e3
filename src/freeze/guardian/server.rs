//! `qemu-ga guardian`: the guardian's process, started by the agent only.
//!
//! One thread polls the agent's connection, the listening socket, its clients and the signals, passes events to
//! [`GuardianState`] and carries out the actions that it returns. The memory is locked before the first FIFREEZE: a
//! page fault could need memory that only a write to a frozen filesystem frees. No file is written between the first
//! FIFREEZE and the thaw; messages go to the system log's socket.

use super::hooks::Masters;
use super::limits::Limits;
use super::pending_clients::{self, PendingClients};
use super::progress::Progress;
use super::state::{Action, Event, GuardianState};
use super::thaw::Filesystems;
use super::{
    AGENT_REPORT_GRACE, Activity, Entrustment, FreezeStatus, Inherited, PROTOCOL_VERSION, Replaced,
    Request, Response, Stage, THAW_CLAIM_TIMEOUT,
};
use crate::freeze::report::Report;
use crate::freeze::snapshot::SnapshotFile;
use crate::hooks::Phase;
use crate::ipc::Connection;
use crate::state::StateDir;
use crate::sys::fds::{self, Token};
use crate::sys::guardian::SocketPath;
use crate::sys::poll::{is_readable, timeout};
use crate::sys::syslog::{Severity, Syslog};
use crate::sys::{guardian as sys, memory, process};
use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{Backlog, listen};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// How often the guardian checks whether its agent was killed, while the agent must not die unnoticed.
const AGENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// It blocks when the agent is stopped and the socket buffer is full.
const AGENT_SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// For process lists, which else show `exe`, the last part of /proc/self/exe.
const NAME: &CStr = c"qga-guardian";

pub fn cli() -> u8 {
    process::set_process_name(NAME);
    let mut syslog = Syslog::connect("qemu-ga");
    match run_guardian(&mut syslog) {
        Ok(()) => 0,
        Err(error) => {
            // As in `Guardian::log`.
            syslog
                .send(Severity::Error, &format!("critical: guardian: {error:#}"))
                .ok();
            1
        }
    }
}

pub(super) struct Guardian<'a> {
    pub(super) agent: Option<Connection>,
    /// Connection to an agent that was killed and has a thread that has not exited, or that was stopped while freezing.
    pub(super) dying_agent: Option<Connection>,
    /// It has hung up. What is frozen after that belongs to the next agent.
    pub(super) has_agent_left: bool,
    pub(super) filesystems: Filesystems,
    /// The agent has switched expedited RCU grace periods on and has not sent [`Request::Frozen`] yet.
    pub(super) expedites_rcu: bool,
    pub(super) masters: Masters,
    pub(super) token: Token,
    pub(super) state: StateDir,
    pub(super) snapshot: Option<SnapshotFile>,
    pub(super) report: Option<Box<Report>>,
    pub(super) progress: Progress,
    pub(super) limit: Option<Instant>,
    pub(super) claim_limit: Option<Instant>,
    /// Closed once another guardian may use the path.
    pub(super) listener: Option<UnixListener>,
    pub(super) socket_path: Option<SocketPath>,
    pub(super) clients: PendingClients,
    pub(super) requester: Option<Connection>,
    pub(super) syslog: &'a mut Syslog,
}

enum Wakeup {
    Event(Event),
    Request(Connection, Request),
}

/// What a guardian that died was sent: its state, and the roots of the filesystems.
type Predecessor = (Box<Replaced>, Vec<OwnedFd>);

fn run_guardian(syslog: &mut Syslog) -> anyhow::Result<()> {
    let agent = sys::line_from_agent()
        .context("no connection to an agent; only the agent starts a guardian")?;
    agent.set_nonblocking(false)?;
    let agent = Connection::from(agent);
    agent.identify_senders()?;
    let (mut guardian, replaces) = Guardian::new(agent, syslog)?;
    // These protect the guardian from the OOM killer and from a stop of the service, and let it take many descriptors.
    // Without them it still thaws.
    sys::outlive_memory_pressure().ok();
    sys::leave_service_cgroup().ok();
    fds::raise_limit().ok();
    let signals = signals()?;
    let machine = match replaces {
        None => {
            guardian.send(&Response::Ready);
            GuardianState::default()
        }
        Some((replaced, roots)) => {
            let since = replaced.since_ms.map(Duration::from_millis);
            guardian.progress = Progress::replacing(since);
            guardian.add_filesystems(&replaced.entrustment, roots);
            GuardianState::replacing(since.is_some())
        }
    };
    // It may be refused (mlockall(2)); the guardian still thaws, unless memory gets short.
    memory::lock_all().ok();
    let result = guardian.run(machine, &signals);
    guardian.close_socket();
    result
}

fn signals() -> anyhow::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

impl<'a> Guardian<'a> {
    fn new(
        mut agent: Connection,
        syslog: &'a mut Syslog,
    ) -> anyhow::Result<(Self, Option<Predecessor>)> {
        let Request::Watch {
            hook,
            statedir,
            snapshot,
            socket_path,
            run,
            replaces,
        } = agent.recv(None)?
        else {
            bail!("the agent did not say what to watch");
        };
        if let Some(limits) = Limits::of_this_process()? {
            let paths = [
                hook.as_deref(),
                snapshot.as_deref(),
                socket_path.as_ref().map(SocketPath::path),
            ];
            limits.check(&statedir, paths)?;
        }
        let mut passed = agent.take_fds().into_iter();
        let (Some(token), Some(freezing)) = (passed.next(), passed.next()) else {
            bail!("descriptors did not arrive");
        };
        let listener = socket_path.as_ref().and_then(|_| passed.next());
        let listener = listener.map(UnixListener::from);
        if let Some(listener) = &listener {
            // SO_PEERCRED shows clients the credentials of the process that called listen(2) last (unix(7)). The agent
            // bound the socket; clients must see the guardian.
            listen(listener, Backlog::MAXALLOWABLE)?;
        }
        let guardian = Self {
            agent: Some(agent),
            dying_agent: None,
            has_agent_left: false,
            filesystems: Filesystems::default(),
            expedites_rcu: false,
            masters: Masters::new(hook, run, freezing),
            token: token.into(),
            state: StateDir::new(statedir),
            snapshot: snapshot.map(SnapshotFile::from),
            report: None,
            progress: Progress::begin(),
            limit: None,
            claim_limit: None,
            listener,
            socket_path,
            clients: PendingClients::default(),
            requester: None,
            syslog,
        };
        Ok((
            guardian,
            replaces.map(|replaced| (replaced, passed.collect())),
        ))
    }

    fn run(&mut self, mut machine: GuardianState, signals: &SignalFd) -> anyhow::Result<()> {
        loop {
            let wakeup = self.next_wakeup(signals, machine.is_urgent())?;
            let Some(event) = self.event_of(wakeup, machine.stage()) else {
                continue;
            };
            self.record_event(&event);
            for action in machine.apply(event, Some(&self.token)) {
                match action {
                    Action::HandOver => self.hand_over(),
                    Action::Yield => {
                        self.claim_limit = Some(Instant::now() + THAW_CLAIM_TIMEOUT);
                        self.send(&Response::Yours(self.report.clone()));
                    }
                    Action::Await => {
                        self.claim_limit = Some(Instant::now() + THAW_CLAIM_TIMEOUT);
                        if let Some(requester) = self.requester.take() {
                            pending_clients::respond(&requester, &machine.stage().refusal());
                        }
                    }
                    Action::Undo {
                        cause,
                        hooks,
                        reports_early_end,
                    } => self.undo(cause, hooks, reports_early_end),
                    Action::Retire => {
                        self.close_socket();
                        self.clients = PendingClients::default();
                        // Locked pages cost memory and nothing else.
                        memory::unlock_all().ok();
                        self.send(&Response::Ready);
                    }
                    Action::TakeBack => self.thaw_late_freezes(),
                    Action::Leave => return Ok(()),
                }
            }
        }
    }

    /// `None`: a client that was answered, or that has to wait.
    fn event_of(&mut self, wakeup: Wakeup, stage: Stage) -> Option<Event> {
        match wakeup {
            Wakeup::Event(event) => Some(event),
            Wakeup::Request(client, Request::Status) => {
                let status = Box::new(self.freeze_status(stage));
                pending_clients::respond(&client, &Response::Standing(status));
                None
            }
            Wakeup::Request(client, Request::End) if stage != Stage::Frozen => {
                pending_clients::respond(&client, &stage.refusal());
                None
            }
            Wakeup::Request(client, Request::End) => {
                self.requester = Some(client);
                Some(Event::ThawRequested)
            }
            // A next agent shows that the previous one died, but its connection may still be open: in a thread in
            // FIFREEZE, or in a child that has not yet executed the hook master. Its end is noticed as always; the new
            // one waits for the undo.
            Wakeup::Request(successor, _) if stage != Stage::Frozen => {
                self.clients.push(successor);
                None
            }
            Wakeup::Request(successor, request) => {
                self.agent = Some(successor);
                Some(Event::Request(request))
            }
        }
    }

    fn record_event(&mut self, event: &Event) {
        if let Event::Request(request) = event {
            self.progress.apply(request);
        }
        match event {
            Event::Request(Request::HooksCalled) => {
                let sender = self.agent.as_ref().and_then(Connection::sender);
                self.masters.announced(Phase::Freeze, sender);
            }
            Event::Request(Request::Filesystems(entrustment)) => {
                let roots = self.agent.as_mut().map(Connection::take_fds);
                self.add_filesystems(entrustment, roots.unwrap_or_default());
            }
            Event::Request(Request::Frozen { report, order, .. }) => {
                self.expedites_rcu = false;
                self.filesystems.reorder(order);
                self.report = Some(report.clone());
            }
            Event::Request(Request::HooksThawed) => {
                let sender = self.agent.as_ref().and_then(Connection::sender);
                self.masters.announced(Phase::Thaw, sender);
            }
            Event::Limit => self.limit = None,
            Event::ClaimLimit { .. } => {
                self.claim_limit = Some(Instant::now() + THAW_CLAIM_TIMEOUT)
            }
            Event::Request(Request::Late(number)) => self.filesystems.mark_late(*number),
            Event::Request(Request::Linger) => self.filesystems.retain_late(),
            _ => {}
        }
    }

    fn add_filesystems(&mut self, entrustment: &Entrustment, roots: Vec<OwnedFd>) {
        let filesystems = &entrustment.filesystems;
        self.filesystems = Filesystems::new(filesystems, roots);
        self.expedites_rcu = entrustment.expedites_rcu;
        let limit = entrustment.limit_ms;
        let limit = limit.map(|limit| Duration::from_millis(limit) + AGENT_REPORT_GRACE);
        self.limit = limit.map(|limit| Instant::now() + limit);
        let missing = filesystems.len() - self.filesystems.count();
        self.send(&match missing {
            0 => Response::Ready,
            _ => Response::Refused(format!("{missing} descriptors did not arrive")),
        });
    }

    fn hand_over(&mut self) {
        let (Some(agent), Some(listener), Some(socket_path)) =
            (&self.agent, &self.listener, &self.socket_path)
        else {
            return;
        };
        let inherited = Inherited {
            version: PROTOCOL_VERSION,
            filesystems: self.filesystems.list(),
            hook: self.masters.program().cloned(),
            socket_path: socket_path.clone(),
            report: self.report.clone().unwrap_or_default(),
            since_ms: self.progress.frozen_at.unwrap_or_default().as_millis() as u64,
            left_ms: self.limit.map(|limit| time_left(limit).as_millis() as u64),
        };
        let mut fds = vec![self.token.as_fd(), listener.as_fd()];
        fds.extend(self.filesystems.roots());
        let response = Response::Freeze(Box::new(inherited));
        // If it is gone, the connection is closed and Gone follows.
        agent
            .send_with_fds(&response, &fds, AGENT_SEND_TIMEOUT)
            .ok();
    }

    fn freeze_status(&self, stage: Stage) -> FreezeStatus {
        let name = |held: super::Entrusted| held.mountpoint;
        let have_ended = || self.masters.has_frozen();
        let activity = match self.progress.activity {
            Activity::FreezeHooks if have_ended() => Activity::FlushAgain,
            other => other,
        };
        FreezeStatus {
            stage,
            filesystems: self.filesystems.list().into_iter().map(name).collect(),
            has_agent: self.agent.is_some(),
            activity: Some(activity),
            activity_seconds: self.progress.seconds(),
            held: self.progress.frozen_at.map(|_| self.progress.held()),
            left: self.limit.map(|limit| time_left(limit).as_secs_f64()),
            report: self.report.clone(),
        }
    }

    fn next_wakeup(&mut self, signals: &SignalFd, is_urgent: bool) -> io::Result<Wakeup> {
        loop {
            if let Some(event) = self.due_event() {
                return Ok(Wakeup::Event(event));
            }
            let ready = self.poll(signals, is_urgent)?;
            if is_urgent && !ready.contains(&true) && self.agent.as_ref().is_some_and(is_ending) {
                self.dying_agent = self.agent.take();
                return Ok(Wakeup::Event(Event::Gone));
            }
            if let Some(wakeup) = self.read_ready(&ready, signals) {
                return Ok(wakeup);
            }
        }
    }

    fn due_event(&mut self) -> Option<Event> {
        // A line that was read together with the one before it does not wake poll(2).
        if self.agent.as_ref().is_some_and(Connection::has_message) {
            return Some(self.recv_event());
        }
        // Limits before sockets: clients that keep sending must not put them off.
        let now = Instant::now();
        if self.limit.is_some_and(|at| at <= now) {
            return Some(Event::Limit);
        }
        if self.claim_limit.is_some_and(|at| at <= now) {
            // Without its process id an agent does not count as stopped.
            let agent = self.agent.as_ref().and_then(|agent| agent.peer().ok());
            let is_stuck = self.masters.are_stuck(agent.map(|agent| agent.pid()));
            return Some(Event::ClaimLimit { is_stuck });
        }
        // Another kind of agent (QEMU's) does not use the socket, but removes the marker when it thaws. Without a
        // marker no next agent would ask for the freeze.
        let is_unmarked = self.agent.is_none() && !self.state.is_marked_frozen().unwrap_or(true);
        is_unmarked.then_some(Event::Unmarked)
    }

    /// Whether the signals, the agent, the listening socket and its clients are ready, in this order.
    fn poll(&self, signals: &SignalFd, is_urgent: bool) -> io::Result<Vec<bool>> {
        let next = [self.limit, self.claim_limit].into_iter().flatten().min();
        let left = next.map(|at| at.saturating_duration_since(Instant::now()));
        // Neither the removal of the marker nor the death of an agent with a thread in FIFREEZE wakes poll(2).
        let needs_checks = is_urgent || self.agent.is_none();
        let check_interval = needs_checks.then_some(AGENT_CHECK_INTERVAL);
        let agent = self.agent.as_ref().map(Connection::as_fd);
        let listener = self.listener.as_ref().map(AsFd::as_fd);
        let watched = [Some(signals.as_fd()), agent, listener];
        let watched = watched.into_iter().flatten().chain(self.clients.fds());
        let mut fds: Vec<PollFd<'_>> = watched
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match poll(
            &mut fds,
            timeout(left.into_iter().chain(check_interval).min()),
        ) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(fds.iter().map(|fd| fd.any().unwrap_or(false)).collect())
    }

    /// Reads from the first that is ready; `None`: a new client, or nothing.
    fn read_ready(&mut self, ready: &[bool], signals: &SignalFd) -> Option<Wakeup> {
        let mut ready = ready.iter().copied();
        let is_signaled = ready.next() == Some(true);
        if self.agent.is_some() && ready.next() == Some(true) {
            return Some(Wakeup::Event(self.recv_event()));
        }
        if is_signaled && matches!(signals.read_signal(), Ok(Some(_))) {
            return Some(Wakeup::Event(Event::Signaled));
        }
        let accepted = match &self.listener {
            // A client that has left meanwhile needs no answer.
            Some(listener) if ready.next() == Some(true) => listener.accept().ok(),
            _ => None,
        };
        let readable = ready.position(|ready| ready);
        let request = readable.and_then(|index| self.clients.recv_request(index));
        // Only now: to add a client may drop the oldest, and shift the indices of `readable`.
        if let Some((client, _)) = accepted {
            self.clients.push(client.into());
        }
        request.map(|(client, request)| Wakeup::Request(client, request))
    }

    /// A line that is no request is treated as a hang-up.
    fn recv_event(&mut self) -> Event {
        // No time limit: the agent runs with the same rights and writes whole lines.
        match self.agent.as_mut().map(|agent| agent.recv(None)) {
            Some(Ok(request)) => Event::Request(request),
            _ => {
                self.agent = None;
                Event::Gone
            }
        }
    }

    /// Sends to the agent. One that is stopped reads it when it is continued; if one is gone, Gone follows.
    pub(super) fn send(&mut self, response: &Response) {
        if let Some(agent) = &self.agent {
            agent.send(response, AGENT_SEND_TIMEOUT).ok();
        }
    }

    pub(super) fn close_socket(&mut self) {
        self.listener = None;
        if let Some(path) = self.socket_path.take() {
            path.remove();
        }
    }

    pub(super) fn log(&mut self, severity: Severity, text: &str) {
        // Without the system log there is no other place for messages.
        self.syslog.send(severity, text).ok();
    }
}

/// Whether the agent has ended and its requests were read; if its process cannot be seen, its hang-up shows that.
fn is_ending(agent: &Connection) -> bool {
    let stat = agent.peer().ok().and_then(|peer| process::stat(peer.pid()));
    stat.is_some_and(|stat| !stat.is_running) && !is_readable(agent.as_fd(), Duration::ZERO)
}

/// Time until the agent acts on the hold limit; the guardian's own limit is [`AGENT_REPORT_GRACE`] later.
fn time_left(limit: Instant) -> Duration {
    let left = limit.saturating_duration_since(Instant::now());
    left.saturating_sub(AGENT_REPORT_GRACE)
}
