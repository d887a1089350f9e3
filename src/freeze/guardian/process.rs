//! `qemu-ga guardian`: the process. It is started by the agent, never by hand.

use super::machine::{Action, Cause, Event, Machine};
use super::visitors::{self, Visitors};
use super::{CLAIM_LIMIT, COURTESY, Entrusted, Order, Stage, Standing, Word, door};
use crate::freeze::crew::{Crew, THAW};
use crate::freeze::history;
use crate::freeze::report::{End, Report};
use crate::freeze::root::Root;
use crate::hooks::{Phase, ThawReason, master};
use crate::state::{Expiry, StateDir};
use crate::sys::poll::{has_hung_up, is_readable, timeout};
use crate::sys::syslog::{Severity, Syslog};
use crate::sys::{guardian as sys, memory, process, strerror};
use anyhow::{Context, bail};
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long one FITHAW may take before the next filesystem is thawed without it.
const THAW_LIMIT: Option<Duration> = Some(Duration::from_secs(10));
/// How long the hook master may take when nobody waits for its answer.
const HOOKS_LIMIT: Duration = Duration::from_secs(300);

/// How long freeze hooks may go on after the agent died; a service manager ends them by then.
const FREEZE_HOOKS_LIMIT: Duration = Duration::from_secs(60);

/// How often an agent is looked at whose end must not be missed.
const LOOK: Duration = Duration::from_secs(1);
/// How soon is thawed again what an agent may freeze that cannot end; every pause is twice the one before, to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long the hooks wait for such an agent to end.
const MOMENT: Duration = Duration::from_secs(5);

/// What the process is called in lists; its program was found by a name that says nothing.
const NAME: &CStr = c"qga-guardian";

/// Stands guard; returns the exit status.
pub fn cli() -> u8 {
    process::call_self(NAME);
    let mut syslog = Syslog::connect("qemu-ga");
    match stand(&mut syslog) {
        Ok(()) => 0,
        Err(error) => {
            syslog
                .send(Severity::Error, &format!("critical: guardian: {error:#}"))
                .ok();
            1
        }
    }
}

struct Guardian<'a> {
    agent: Option<BufReader<UnixStream>>,
    /// The line to an agent that was killed and has not ended yet.
    parting: Option<UnixStream>,
    /// In the order of freezing.
    filesystems: Vec<Held>,
    hook: Option<PathBuf>,
    /// Hangs up when the hook master that was told to freeze has ended.
    freezing: Option<File>,
    state: StateDir,
    report: Option<Box<Report>>,
    /// It is not the agent that started us who is at the other end.
    succeeded: bool,
    frozen_at: Option<Instant>,
    limit: Option<Instant>,
    claim_limit: Option<Instant>,
    /// Where others find us; nowhere once another guardian may.
    door: Option<PathBuf>,
    visitors: Visitors,
    /// Who wanted the freeze ended.
    asker: Option<BufReader<UnixStream>>,
    syslog: &'a mut Syslog,
}

/// A filesystem in our hands.
struct Held {
    mountpoint: String,
    level: usize,
    root: Arc<Root>,
    /// FIFREEZE has not answered.
    is_late: bool,
}

/// What woke the guardian.
enum Happening {
    Event(Event),
    /// The first line of a connection to the door.
    Visit(BufReader<UnixStream>, Order),
}

fn stand(syslog: &mut Syslog) -> anyhow::Result<()> {
    let agent = sys::line_from_agent().context("no agent is at the other end")?;
    agent.set_nonblocking(false)?;
    let mut agent = BufReader::new(agent);
    let Some(Order::Watch {
        filesystems,
        hook,
        statedir,
        freezing,
    }) = read_order(&mut agent)?
    else {
        bail!("the agent said nothing of filesystems");
    };
    // All of these are for the worst day; guarding goes on without.
    sys::outlive_memory_pressure().ok();
    sys::leave_service_cgroup().ok();
    let door = door(&statedir);
    let listener =
        sys::listen(&door).with_context(|| format!("cannot listen at {}", door.display()))?;
    let signals = signals()?;
    let held = |entrusted: Entrusted| {
        Ok(Held {
            root: Arc::new(sys::inherited_file(entrusted.fd)?.into()),
            mountpoint: entrusted.mountpoint,
            level: entrusted.level,
            is_late: false,
        })
    };
    let mut guardian = Guardian {
        agent: Some(agent),
        parting: None,
        filesystems: filesystems
            .into_iter()
            .map(held)
            .collect::<io::Result<_>>()?,
        hook,
        freezing: freezing.and_then(|number| sys::inherited_file(number).ok()),
        state: StateDir::new(statedir),
        report: None,
        succeeded: false,
        frozen_at: None,
        limit: None,
        claim_limit: None,
        door: Some(door),
        visitors: Visitors::default(),
        asker: None,
        syslog,
    };
    memory::lock_all().ok();
    guardian.say(&Word::Ready);
    let result = guardian.watch(&listener, &signals);
    guardian.give_up_door();
    result
}

/// Signals that ask a process to end, as a descriptor.
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

fn read_order(agent: &mut BufReader<UnixStream>) -> anyhow::Result<Option<Order>> {
    let mut line = String::new();
    if agent.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(line.as_bytes())?))
}

impl Guardian<'_> {
    fn watch(&mut self, listener: &UnixListener, signals: &SignalFd) -> anyhow::Result<()> {
        let mut machine = Machine::default();
        loop {
            let event = match self.next_happening(listener, signals, machine.is_urgent())? {
                Happening::Event(event) => event,
                Happening::Visit(mut visitor, Order::Status) => {
                    let standing = Box::new(self.standing(machine.stage()));
                    visitors::answer(&mut visitor, &Word::Standing(standing));
                    continue;
                }
                Happening::Visit(mut visitor, Order::End) => {
                    if machine.stage() != Stage::Frozen {
                        visitors::answer(&mut visitor, &Word::Refused(refusal(machine.stage())));
                        continue;
                    }
                    self.asker = Some(visitor);
                    Event::Wanted
                }
                Happening::Visit(successor, order) => {
                    // An agent is trusted to end what it says.
                    successor.get_ref().set_read_timeout(None)?;
                    successor.get_ref().set_write_timeout(None)?;
                    self.agent = Some(successor);
                    self.succeeded = true;
                    Event::Order(order)
                }
            };
            match &event {
                Event::Order(Order::Frozen { limit_ms, report }) => {
                    self.report = Some(report.clone());
                    let now = Instant::now();
                    self.frozen_at = Some(now);
                    self.limit =
                        limit_ms.map(|limit| now + Duration::from_millis(limit) + COURTESY);
                }
                Event::Limit => self.limit = None,
                Event::ClaimLimit => self.claim_limit = None,
                Event::Order(Order::Late(number)) => {
                    let mut held = self.filesystems.iter_mut();
                    let named = held.find(|held| held.root.as_raw_fd() == *number);
                    named.into_iter().for_each(|held| held.is_late = true);
                }
                Event::Order(Order::Linger) => self.filesystems.retain(|held| held.is_late),
                _ => {}
            }
            for action in machine.on(event) {
                match action {
                    Action::Yield => {
                        self.claim_limit = Some(Instant::now() + CLAIM_LIMIT);
                        let report = self.report.clone().filter(|_| self.succeeded);
                        self.say(&Word::Yours(report));
                    }
                    Action::Undo { cause, hooks, tell } => self.undo(cause, hooks, tell),
                    Action::Retire => {
                        self.give_up_door();
                        self.visitors = Visitors::default();
                        memory::unlock_all().ok();
                        self.say(&Word::Ready);
                    }
                    Action::TakeBack => self.take_back(),
                    Action::Leave => return Ok(()),
                }
            }
        }
    }

    /// What the guardian knows.
    fn standing(&self, stage: Stage) -> Standing {
        let left = |limit: Instant| {
            let left = limit.saturating_duration_since(Instant::now());
            left.saturating_sub(COURTESY).as_secs_f64()
        };
        let name = |held: &Held| held.mountpoint.clone();
        Standing {
            stage,
            filesystems: self.filesystems.iter().map(name).collect(),
            has_agent: self.agent.is_some(),
            held: self.frozen_at.map(|at| at.elapsed().as_secs_f64()),
            left: self.limit.map(left),
            report: self.report.clone(),
        }
    }

    fn next_happening(
        &mut self,
        listener: &UnixListener,
        signals: &SignalFd,
        is_urgent: bool,
    ) -> io::Result<Happening> {
        let event = |event| Ok(Happening::Event(event));
        loop {
            let buffered = self.agent.as_ref().map(BufReader::buffer);
            if buffered.is_some_and(|bytes| !bytes.is_empty()) {
                return event(self.listen());
            }
            let now = Instant::now();
            if self.limit.is_some_and(|at| at <= now) {
                return event(Event::Limit);
            }
            if self.claim_limit.is_some_and(|at| at <= now) {
                return event(Event::ClaimLimit);
            }
            let next = [self.limit, self.claim_limit].into_iter().flatten().min();
            let left = next.map(|at| at.saturating_duration_since(now));
            let look = is_urgent.then_some(LOOK);
            let timeout = timeout(left.into_iter().chain(look).min());
            let agent = self.agent.as_ref().map(|agent| agent.get_ref().as_fd());
            let watched: Vec<BorrowedFd<'_>> = [signals.as_fd(), listener.as_fd()]
                .into_iter()
                .chain(self.visitors.lines())
                .chain(agent)
                .collect();
            let mut fds: Vec<PollFd<'_>> = watched
                .into_iter()
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            if is_urgent && !ready.contains(&true) && self.agent.as_ref().is_some_and(is_ending) {
                self.parting = self.agent.take().map(BufReader::into_inner);
                return event(Event::Gone);
            }
            let first_agent = 2 + self.visitors.count();
            if ready.get(first_agent) == Some(&true) {
                return event(self.listen());
            }
            if ready[0] && matches!(signals.read_signal(), Ok(Some(_))) {
                return event(Event::Asked);
            }
            let speaks = ready[2..first_agent].iter().position(|&ready| ready);
            if let Some((visitor, order)) = speaks.and_then(|index| self.visitors.hear(index)) {
                return Ok(Happening::Visit(visitor, order));
            }
            if ready[1] {
                if let Ok((visitor, _)) = listener.accept() {
                    self.visitors.receive(visitor);
                }
            }
        }
    }

    /// What the agent says; a line that is none ends the acquaintance as a hang-up does.
    fn listen(&mut self) -> Event {
        match self.agent.as_mut().map(read_order) {
            Some(Ok(Some(order))) => Event::Order(order),
            _ => {
                self.agent = None;
                Event::Gone
            }
        }
    }

    /// Tells the agent; one that is stopped reads it when it goes on.
    fn say(&mut self, word: &Word) {
        if let (Some(agent), Ok(mut line)) = (&self.agent, serde_json::to_vec(word)) {
            line.push(b'\n');
            let mut stream = agent.get_ref();
            stream.write_all(&line).ok();
        }
    }

    fn give_up_door(&mut self) {
        if let Some(door) = self.door.take() {
            std::fs::remove_file(door).ok();
        }
    }

    /// Thaws what was frozen after the run was over; nothing else knows of it.
    fn take_back(&mut self) {
        self.thaw_late();
        self.outlast(None);
    }

    /// Thaws again and again, for so long at most, as long as an agent that was killed has not ended: a thread of it may
    /// freeze a filesystem yet, or itself wait for the thaw of one.
    fn outlast(&mut self, time: Option<Duration>) {
        if self.parting.is_some() {
            // Its successor may freeze.
            self.give_up_door();
        }
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        while let Some(line) = &self.parting {
            if time.is_some_and(|time| begun.elapsed() > time) {
                return;
            }
            if has_hung_up(line.as_fd(), pause) {
                self.parting = None;
            }
            pause = LONGEST_PAUSE.min(pause * 2);
            // Once more after its end, which may have been that of an FIFREEZE.
            self.thaw_late();
        }
    }

    fn thaw_late(&mut self) {
        let (thawed, failures) = self.thaw();
        for mountpoint in thawed {
            let text = format!("warning: thawed {mountpoint}, frozen when the agent was dead");
            self.log(Severity::Warning, &text);
        }
        self.log_failures(&failures);
    }

    fn log_failures(&mut self, failures: &[String]) {
        for failure in failures {
            self.log(Severity::Error, &format!("critical: {failure}"));
        }
    }

    /// FITHAW of everything in our hands, in the reverse of the freeze order. Returns what was thawed, and one line for each
    /// that could not be.
    fn thaw(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut thawed, mut failures) = (Vec::new(), Vec::new());
        let levels = || self.filesystems.chunk_by(|a, b| a.level == b.level).rev();
        let crew = Crew::of(levels().map(<[_]>::len).max().unwrap_or(0));
        let mut silent = Vec::new();
        for level in levels() {
            let roots: Vec<&Arc<Root>> = level.iter().rev().map(|held| &held.root).collect();
            let done = crew.run(&roots, THAW_LIMIT, THAW);
            for (held, timed) in level.iter().rev().zip(done) {
                if timed.is_overdue() {
                    silent.push(held.root.as_raw_fd());
                }
                let mountpoint = &held.mountpoint;
                match timed.result {
                    Ok(()) => thawed.push(mountpoint.clone()),
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                    Err(error) => failures.push(format!("{mountpoint}: {}", strerror(&error))),
                }
            }
        }
        // The call is still out and thaws when it is its turn.
        let answers = |held: &Held| !silent.contains(&held.root.as_raw_fd());
        self.filesystems.retain(answers);
        (thawed, failures)
    }

    fn undo(&mut self, cause: Cause, hooks: bool, tell: bool) {
        let (thawed, mut failures) = self.thaw();
        memory::unlock_all().ok();
        let held = self.frozen_at.map_or(0.0, |at| at.elapsed().as_secs_f64());
        let reason = match cause {
            Cause::HoldLimit => "no guest-fsfreeze-thaw came within the hold limit".to_owned(),
            Cause::Stopped => "the service was stopped".to_owned(),
            Cause::Wanted => "somebody ran qemu-ga thaw --now".to_owned(),
            Cause::AgentDied => "the agent died".to_owned(),
        };
        let expiry = Expiry {
            when: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs_f64(),
            held,
            reason,
            count: thawed.len() as u64,
        };
        let told = tell.then(|| self.state.mark_expired(&expiry));
        for marked in told.into_iter().chain([self.state.mark_thawed()]) {
            failures.extend(marked.err().map(|error| error.text));
        }
        if let Some(asker) = &mut self.asker {
            let failures = failures.clone();
            let filesystems = thawed;
            let word = Word::Thawed {
                filesystems,
                failures,
            };
            visitors::answer(asker, &word);
        }
        self.log(Severity::Warning, &format!("warning: {expiry}"));
        // What a hook writes must not wait for a filesystem that is frozen in this moment.
        self.outlast(Some(MOMENT));
        let mut report = self.report.take();
        if let Some(hook) = self.hook.as_ref().filter(|_| hooks) {
            self.let_freeze_hooks_end();
            let limits = master::Limits {
                deadline: Some(HOOKS_LIMIT),
                reason: Some(match cause {
                    Cause::HoldLimit | Cause::Stopped | Cause::Wanted => ThawReason::TimedOut,
                    Cause::AgentDied => ThawReason::Failed,
                }),
                state: Some(self.state.path().to_owned()),
                ..master::Limits::default()
            };
            let master = master::call_within(hook, Phase::Thaw, limits);
            if let Some(report) = &mut report {
                report.stages.thaw_hooks = master.elapsed.as_secs_f64();
                report.hooks(Phase::Thaw, &master);
            }
            failures.extend(master.failure);
        }
        if let Some(mut report) = report {
            report.stages.held = held;
            report.errors.push(expiry.to_string());
            report.errors.extend(failures.iter().cloned());
            report.end(End::Expiry);
            failures.extend(history::keep(&self.state, &report).err());
        }
        self.log_failures(&failures);
        let word = Word::Ended(expiry);
        self.say(&word);
        self.visitors.tell(&word);
        if let Some(asker) = &mut self.asker {
            visitors::answer(asker, &word);
        }
        self.outlast(None);
    }

    /// A hook that is told to thaw while it still freezes would leave its application asleep. After a
    /// whole freeze this has been waited for; then a daemon that a hook left behind may hold the line.
    fn let_freeze_hooks_end(&self) {
        let Some(freezing) = self.freezing.as_ref().filter(|_| self.frozen_at.is_none()) else {
            return;
        };
        let until = Instant::now() + FREEZE_HOOKS_LIMIT;
        let mut fds = [PollFd::new(freezing.as_fd(), PollFlags::empty())];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if poll(&mut fds, timeout(Some(left))) != Err(nix::errno::Errno::EINTR) {
                return;
            }
        }
    }

    fn log(&mut self, severity: Severity, text: &str) {
        // Nobody is left to tell that the system log does not listen.
        self.syslog.send(severity, text).ok();
    }
}

/// Whether the agent at the other end has been killed, and all that it said was heard.
fn is_ending(agent: &BufReader<UnixStream>) -> bool {
    let line = agent.get_ref();
    let peer = getsockopt(line, PeerCredentials);
    let stat = peer.ok().and_then(|peer| process::stat(peer.pid()));
    stat.is_some_and(|stat| !stat.is_running) && !is_readable(line.as_fd(), Duration::ZERO)
}

/// Why the freeze is not ended at this stage.
fn refusal(stage: Stage) -> String {
    match stage {
        Stage::Freezing => "the agent is still freezing",
        Stage::Frozen | Stage::Thawing => "the agent is thawing already",
    }
    .to_owned()
}
