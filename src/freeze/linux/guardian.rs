//! The agent's side of its guardians: start, replacement, handover from an earlier agent, end. At most one guardian
//! belongs to a run. One that failed is killed before the run goes on, unless it has begun to thaw.

use super::step::step;
use super::{LinuxOps, SYS};
use crate::child::launcher;
use crate::freeze::guardian::client::{AgentClient, Received, Socket};
use crate::freeze::guardian::{Claim, Entrustment, Replaced, Request};
use crate::freeze::ops::{GuardianNews, GuardianOps, HeldFilesystem, Legacy};
use crate::freeze::root::Root;
use crate::hooks::Phase;
use crate::sys::process::PreExecWrite;
use crate::sys::rcu::{self, Expedition};
use crate::sys::{guardian, strerror};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The directory may be on a frozen filesystem.
const SOCKET_OPEN_TIMEOUT: Duration = Duration::from_secs(1);

impl LinuxOps {
    /// From here on no process thaws if the agent dies.
    fn give_up_guardian(&mut self) {
        // One that was stopped must not act when it is continued. One that thaws already has to finish.
        if let Some(mut guardian) = self.guardian.take_if(|guardian| guardian.is_undecided()) {
            guardian.kill();
        }
        self.expedites_rcu = false;
    }

    /// The master's start, for the guardian. A thawing master also leaves the service's control group: a service
    /// manager that stops or restarts the service, or cleans up after an agent that died, would kill it before every
    /// hook has thawed.
    pub(super) fn pre_exec_writes(&self, phase: Phase) -> Vec<PreExecWrite> {
        let (mut writes, request) = match phase {
            Phase::Freeze => (Vec::new(), Request::HooksCalled),
            // The launcher of a confined agent does this itself.
            Phase::Thaw if launcher::current().is_some() => (Vec::new(), Request::HooksThawed),
            Phase::Thaw => {
                let escape = guardian::service_cgroup_escape().unwrap_or_else(|error| {
                    tracing::debug!("thaw hooks stay in the service's control group: {error}");
                    Vec::new()
                });
                (escape, Request::HooksThawed)
            }
        };
        // Without a descriptor, Filesystems shows that hooks were called, and the journal which of them wait.
        let announcement = |guardian: &AgentClient| guardian.pre_exec_write(&request).ok();
        writes.extend(self.guardian.as_ref().and_then(announcement));
        writes
    }

    pub(super) fn hook(&self) -> Option<PathBuf> {
        self.inherited_hook.as_ref().unwrap_or(&self.hook).clone()
    }

    fn entrustment<'a>(
        &mut self,
        held: &[HeldFilesystem<'a, Arc<Root>>],
        limit: Option<Duration>,
    ) -> (Entrustment, Vec<BorrowedFd<'a>>) {
        let entrusted = held
            .iter()
            .map(|(entrusted, root)| (entrusted.number, Arc::downgrade(root)));
        self.entrusted = entrusted.collect();
        let entrustment = Entrustment {
            filesystems: held
                .iter()
                .map(|(entrusted, _)| entrusted.clone())
                .collect(),
            expedites_rcu: self.expedites_rcu,
            limit_ms: limit.map(|limit| limit.as_millis() as u64),
        };
        let roots = held.iter().map(|held| held.1.as_fd());
        (entrustment, roots.collect())
    }

    /// Not where RCU is expedited already: the agent must not switch it off afterwards for whoever has set it.
    fn may_expedite_rcu(&self) -> bool {
        !self.keeps_rcu
            && match rcu::read_state(Path::new(SYS)) {
                Expedition::Available => true,
                other => {
                    tracing::debug!("RCU grace periods are not expedited: {other}");
                    false
                }
            }
    }

    /// All guardians of a freeze use the same listening socket.
    fn start_client(
        &mut self,
        run: &str,
        replaces: Option<(Replaced, Vec<BorrowedFd<'_>>)>,
    ) -> io::Result<AgentClient> {
        let (hook, statedir) = (self.hook(), self.state.path().to_owned());
        if self.socket.is_none() {
            let dir = statedir.clone();
            // The directory may be on a filesystem that an earlier agent has frozen.
            let opened = self
                .pool
                .run_one(Some(SOCKET_OPEN_TIMEOUT), Socket::close, move || {
                    Socket::open(&dir)
                });
            self.socket = opened
                .inspect_err(|error| {
                    tracing::warn!(
                        "cannot listen in {}: {}; no successor of this agent, and neither qemu-ga status nor thaw, finds the guardian",
                        statedir.display(),
                        strerror(error)
                    );
                })
                .ok();
        }
        let socket = self.socket.as_ref();
        let (freezing, alive) = pipe2(OFlag::O_CLOEXEC)?;
        self.alive = Some(alive);
        let run = run.to_owned();
        let snapshot = self.snapshot.as_ref();
        let snapshot = snapshot.map(|snapshot| snapshot.path().to_owned());
        let paths = (statedir, snapshot);
        AgentClient::start(hook, paths, run, socket, freezing.as_fd(), replaces)
    }
}

impl GuardianOps for LinuxOps {
    fn start_guardian(&mut self, run: &str) -> io::Result<()> {
        step("start_guardian");
        let started = self.start_client(run, None);
        self.guardian = Some(started.inspect_err(|_| self.give_up_guardian())?);
        Ok(())
    }

    fn wait_for_guardian(&mut self) -> io::Result<()> {
        step("wait_for_guardian");
        let ready = self
            .guardian
            .as_mut()
            .map_or(Ok(()), AgentClient::await_ready);
        ready.inspect_err(|_| self.give_up_guardian())
    }

    fn entrust(
        &mut self,
        held: &[HeldFilesystem<'_, Arc<Root>>],
        limit: Option<Duration>,
    ) -> io::Result<()> {
        step("entrust");
        self.expedites_rcu = self.guardian.is_some() && self.may_expedite_rcu();
        let (entrustment, roots) = self.entrustment(held, limit);
        let entrusted = match &mut self.guardian {
            Some(guardian) => guardian.entrust(entrustment, &roots),
            None => Err(io::Error::other("it did not get ready")),
        };
        entrusted.inspect_err(|_| self.give_up_guardian())
    }

    fn replace_guardian(
        &mut self,
        run: &str,
        held: &[HeldFilesystem<'_, Arc<Root>>],
        limit: Option<Duration>,
        since: Option<Duration>,
    ) -> io::Result<()> {
        step("replace_guardian");
        // With everything frozen no FIFREEZE follows.
        self.expedites_rcu = since.is_none() && self.may_expedite_rcu();
        let (entrustment, roots) = self.entrustment(held, limit);
        let replaced = Replaced {
            entrustment,
            since_ms: since.map(|since| since.as_millis() as u64),
        };
        let started = self.start_client(run, Some((replaced, roots)));
        started
            .and_then(|started| self.guardian.insert(started).await_ready())
            .inspect_err(|_| self.give_up_guardian())
    }

    fn send_to_guardian(&mut self, request: Request) {
        step("send_to_guardian");
        let Some(guardian) = &mut self.guardian else {
            return;
        };
        if let Err(error) = guardian.send(&request) {
            tracing::warn!("the guardian is gone: {}", strerror(&error));
            // A guardian that has missed a request must not act on what it knows. The connection stays: its hang-up
            // makes the engine start another guardian.
            guardian.kill();
        }
    }

    fn poll_guardian(&mut self) -> GuardianNews {
        let Some(guardian) = &mut self.guardian else {
            return GuardianNews::Nothing;
        };
        match guardian.receive(false) {
            Received::Ended(expiry) => GuardianNews::Ended(expiry),
            Received::Gone => {
                tracing::warn!("the guardian is gone; another one is started");
                self.guardian = None;
                GuardianNews::Gone
            }
            Received::Nothing | Received::Freeze(..) => GuardianNews::Nothing,
        }
    }

    fn is_undecided(&self) -> bool {
        self.guardian.as_ref().is_none_or(AgentClient::is_undecided)
    }

    fn claim(&mut self, is_early: bool) -> Claim {
        step("claim");
        self.guardian
            .as_mut()
            .map_or(Claim::Ours(None), |guardian| guardian.claim(is_early))
    }

    fn disconnect_guardian(&mut self) {
        step("disconnect_guardian");
        self.guardian.as_mut().map(AgentClient::close_sending_side);
    }

    fn release_guardian(&mut self) {
        step("release_guardian");
        self.late.retain(|late| late.strong_count() > 0);
        if self.late.is_empty() {
            self.send_to_guardian(Request::Done);
        }
    }

    fn dismiss_guardian(&mut self) {
        step("dismiss_guardian");
        let late: Vec<Arc<Root>> = self.late.drain(..).filter_map(|l| l.upgrade()).collect();
        if let Some(socket) = self.socket.take() {
            socket.close();
        }
        let Some(guardian) = self.guardian.take() else {
            return;
        };
        if late.is_empty() {
            return guardian.dismiss();
        }
        let is_late = |root: &Weak<Root>| {
            let root = root.upgrade();
            root.is_some_and(|root| late.iter().any(|late| Arc::ptr_eq(late, &root)))
        };
        let entrusted = std::mem::take(&mut self.entrusted);
        let numbers = entrusted.iter().filter(|(_, root)| is_late(root));
        let numbers: Vec<usize> = numbers.map(|(number, _)| *number).collect();
        let lingering = Arc::new(guardian.linger(&numbers));
        for root in late {
            // Set only here, when the call is given up.
            root.guardian.set(lingering.clone()).ok();
        }
    }

    fn find_guardian(&mut self) -> bool {
        step("find_guardian");
        self.guardian = AgentClient::find(self.state.path());
        self.guardian.is_some()
    }

    fn legacy(&mut self, waits: bool) -> Legacy<Arc<Root>> {
        if let Some(guardian) = &mut self.guardian {
            match guardian.receive(waits) {
                Received::Nothing if !guardian.stays_stopped() => return Legacy::Unknown,
                Received::Nothing => {
                    tracing::warn!(
                        "the guardian of a freeze is stopped; it is ended, and the agent goes on"
                    );
                    guardian.kill();
                }
                Received::Ended(expiry) => return Legacy::Ended(expiry),
                Received::Freeze(inherited, roots, socket) => {
                    self.socket = Some(socket);
                    let root = |root| Arc::new(Root::from(File::from(root)));
                    return Legacy::Freeze(inherited, roots.into_iter().map(root).collect());
                }
                Received::Gone => {}
            }
            self.guardian = None;
        }
        let is_marked = self.state.is_marked_frozen().unwrap_or(true);
        let marker = is_marked.then(|| self.state.read_marker());
        Legacy::Unguarded(marker.map(Option::unwrap_or_default))
    }
}
