//! The engine's real hands.

use super::crew::{Crew, FREEZE, THAW, Task};
use super::guard;
use super::guardian::link::{Heard, Link};
use super::guardian::{Claim, Order};
use super::history;
use super::limited::limited;
use super::ops::{OpenError, Ops, Timed};
use super::plan::{Survey, Target};
use super::report::Report;
use super::root::Root;
use crate::hooks::memory::Run;
use crate::hooks::{Phase, ThawReason, master};
use crate::probe::System;
use crate::probe::filesystems::Filesystem;
use crate::probe::mountinfo::{self, Mount};
use crate::state::{Expiry, StateDir};
use crate::sys::process::Announcement;
use crate::sys::{self, fsfreeze, memory, strerror};
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, makedev};
use nix::unistd::{fsync, pipe2};
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

/// A thread that only waits for another needs little stack.
const WAIT_STACK: usize = 64 * 1024;

/// How long a flush waits for the journal to be committed first.
const COMMIT_LIMIT: Duration = Duration::from_secs(1);

/// The gate in front of everything that logs.
pub trait Gate: Send {
    /// From now on lines are kept in memory.
    fn shut(&self);
    /// Lines are written again, the kept ones first.
    fn open(&self);
}

/// Acts on the running system.
pub struct RealOps {
    state: StateDir,
    hook: Option<PathBuf>,
    gate: Box<dyn Gate>,
    step_limit: Option<Duration>,
    mounts: Vec<Mount>,
    /// For FIFREEZE and FITHAW while frozen.
    crew: Option<Crew<Root>>,
    /// What FIFREEZE did not answer for within the step limit; gone once it has.
    late: Vec<Weak<Root>>,
    guardian: Option<Link>,
    /// For the next hook master: the guardian sees it closed when that has ended.
    alive: Option<OwnedFd>,
    epoch: Instant,
}

impl RealOps {
    /// `hook`: the hook master, if one is configured; `step_limit`: how long opening, flushing,
    /// freezing or thawing one filesystem may take.
    pub fn new(
        state: StateDir,
        hook: Option<PathBuf>,
        gate: Box<dyn Gate>,
        step_limit: Option<Duration>,
    ) -> Self {
        Self {
            state,
            hook,
            gate,
            step_limit,
            mounts: Vec::new(),
            crew: None,
            late: Vec::new(),
            guardian: None,
            alive: None,
            epoch: Instant::now(),
        }
    }
}

impl RealOps {
    /// Opens `path` and makes sure that it leads to `filesystem`.
    fn open_at(&self, path: &[u8], filesystem: &Filesystem) -> Result<Arc<Root>, OpenError> {
        let path = OsStr::from_bytes(path).to_owned();
        let open = move || {
            // Non-blocking: what is mounted may be a single file, and that a FIFO.
            let root = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
                .open(path)?;
            let device = root.metadata()?.dev();
            Ok((root, device))
        };
        let (root, device) = limited(self.step_limit, open, drop).map_err(OpenError::Failed)?;
        // A btrfs subvolume has an anonymous device number of its own, so only the others show
        // by theirs that the path led elsewhere.
        let meant = makedev(filesystem.major.into(), filesystem.minor.into());
        if filesystem.fstype != "btrfs" && device != meant {
            return Err(OpenError::Covered);
        }
        Ok(Arc::new(Root::from(root)))
    }
}

/// Commits a filesystem's journal, not its data, by syncing a file that has neither name nor content.
///
/// A journal commits by itself every few seconds. In the middle of a flush that makes writers wait for blocks that
/// queue behind all the data: half a second and more on ext4 at 100 MB/s. A small commit before the flush starts
/// that interval anew. It never returns while someone else has the filesystem frozen.
fn commit_journal(root: &Root) -> io::Result<()> {
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = openat(root, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(fsync(file)?)
}

impl RealOps {
    /// Freezes or thaws side by side, within the step limit.
    fn all(&self, handles: &[&Arc<Root>], task: Task<Root>) -> Vec<Timed> {
        match &self.crew {
            Some(crew) => crew.run(handles, self.step_limit, task),
            None => Crew::of(handles.len()).run(handles, self.step_limit, task),
        }
    }

    /// The master that thaws tells the guardian that it has begun. It leaves the service's control
    /// group, for a service manager that stops or restarts the service, or cleans up after an agent
    /// that died, would end it before every hook has thawed.
    fn thaw_announcements(&self) -> Vec<Announcement> {
        let mut announcements = sys::guardian::ways_out_of_service().unwrap_or_else(|error| {
            tracing::debug!("thaw hooks stay in the service's control group: {error}");
            Vec::new()
        });
        let announce = |guardian: &Link| guardian.announcement(&Order::HooksThawed).ok();
        announcements.extend(self.guardian.as_ref().and_then(announce));
        announcements
    }
}

impl Ops for RealOps {
    type Handle = Arc<Root>;

    fn survey(&mut self) -> io::Result<Survey> {
        self.mounts = mountinfo::read(Path::new("/"))?;
        Ok(Survey::take(&System::host(), &self.mounts))
    }

    fn open(&mut self, target: &Target) -> Result<Arc<Root>, OpenError> {
        if let Some(why) = guard::refusal(&self.mounts, &target.filesystem) {
            return Err(OpenError::Refused(why));
        }
        let first = self.open_at(&target.filesystem.mountpoint, &target.filesystem);
        if first.is_ok() {
            return first;
        }
        let other = |path: &Vec<u8>| self.open_at(path, &target.filesystem).ok();
        target.alternatives.iter().find_map(other).map_or(first, Ok)
    }

    fn flush(&mut self, handles: &[&Arc<Root>]) -> Vec<io::Result<()>> {
        let limit = self.step_limit;
        let flush = |root: Arc<Root>| {
            let same = root.clone();
            // Only a kindness that nothing depends on: read-only, full and other filesystems refuse it.
            limited(Some(COMMIT_LIMIT), move || commit_journal(&same), drop).ok();
            limited(limit, move || fsfreeze::flush(root.as_ref()), drop)
        };
        std::thread::scope(|scope| {
            let started: Vec<_> = handles
                .iter()
                .map(|&root| {
                    let root = root.clone();
                    std::thread::Builder::new()
                        .name("flush".into())
                        .stack_size(WAIT_STACK)
                        .spawn_scoped(scope, move || flush(root))
                })
                .collect();
            started
                .into_iter()
                .map(|thread| match thread?.join() {
                    Ok(result) => result,
                    Err(_) => Err(io::Error::other("the flush thread died")),
                })
                .collect()
        })
    }

    fn freeze(&mut self, handles: &[&Arc<Root>]) -> Vec<Timed> {
        let done = self.all(handles, FREEZE);
        let both = done.iter().zip(handles);
        let late = both.filter(|(timed, _)| timed.is_overdue());
        self.late
            .extend(late.map(|(_, &root)| Arc::downgrade(root)));
        done
    }

    fn thaw(&mut self, handles: &[&Arc<Root>]) -> Vec<Timed> {
        self.all(handles, THAW)
    }

    fn call_hooks(
        &mut self,
        phase: Phase,
        reason: Option<ThawReason>,
        run: &Run,
    ) -> Option<master::MasterReport> {
        let hook = self.hook.clone()?;
        tracing::info!(target: crate::AUDIT, "executing fsfreeze hook with arg '{}'", phase.as_str());
        let limits = master::Limits {
            reason,
            run: Some(run.clone()),
            state: Some(self.state.path().to_owned()),
            alive: self.alive.take(),
            announcements: match phase {
                Phase::Freeze => Vec::new(),
                Phase::Thaw => self.thaw_announcements(),
            },
            ..master::Limits::default()
        };
        Some(master::call_within(&hook, phase, limits))
    }

    fn stand_guard(&mut self, held: &[(&Arc<Root>, &str, usize)]) -> Result<(), String> {
        let filesystems: Vec<_> = held
            .iter()
            .map(|&(root, name, level)| (root.as_fd(), name.to_owned(), level))
            .collect();
        // Without a pipe the guardian cannot wait for a freeze hook that is still at work.
        let (freezing, alive) = pipe2(OFlag::O_CLOEXEC).ok().unzip();
        self.alive = alive;
        let link = Link::start(
            &filesystems,
            self.hook.clone(),
            self.state.path().to_owned(),
            freezing.as_ref().map(AsFd::as_fd),
        )
        .map_err(|e| {
            format!(
                "no guardian stands by, so if the agent dies while frozen nobody thaws: {}",
                strerror(&e)
            )
        })?;
        self.guardian = Some(link);
        Ok(())
    }

    fn find_guardian(&mut self) {
        self.guardian = Link::find(self.state.path());
    }

    fn tell_guardian(&mut self, order: Order) {
        let told = self.guardian.as_mut().map(|guardian| guardian.tell(&order));
        if let Some(Err(error)) = told {
            tracing::warn!("the guardian is gone: {}", strerror(&error));
            self.guardian = None;
        }
    }

    fn claim(&mut self) -> Claim {
        self.guardian
            .as_mut()
            .map_or(Claim::Ours(None), Link::claim)
    }

    fn hear_guardian(&mut self) -> Option<Expiry> {
        match self.guardian.as_mut()?.hear() {
            Heard::Nothing => None,
            Heard::Ended(expiry) => Some(expiry),
            Heard::Gone => {
                tracing::warn!("the guardian is gone");
                self.guardian = None;
                None
            }
        }
    }

    fn dismiss_guardian(&mut self) {
        let late: Vec<Arc<Root>> = self.late.drain(..).filter_map(|l| l.upgrade()).collect();
        let Some(guardian) = self.guardian.take() else {
            return;
        };
        if late.is_empty() {
            return guardian.dismiss();
        }
        let numbers: Vec<_> = late.iter().map(|root| root.as_raw_fd()).collect();
        let lingering = Arc::new(guardian.linger(&numbers));
        for root in late {
            root.guardian.set(lingering.clone()).ok();
        }
    }

    fn guardian_line(&self) -> Option<OwnedFd> {
        self.guardian.as_ref()?.watch().ok()
    }

    fn mark_expired(&mut self, expiry: &Expiry) -> Result<(), String> {
        self.state.mark_expired(expiry).map_err(|e| e.text)
    }

    fn take_expired(&mut self) -> Option<Expiry> {
        self.state.take_expired()
    }

    fn mark_frozen(&mut self) -> Result<(), String> {
        self.state.mark_frozen().map_err(|e| e.text)
    }

    fn mark_thawed(&mut self) -> Result<(), String> {
        self.state.mark_thawed().map_err(|e| e.text)
    }

    fn hush(&mut self, at_once: usize) {
        self.gate.shut();
        if let Err(e) = memory::lock_all() {
            tracing::debug!("memory stays unlocked while frozen: {}", strerror(&e));
        }
        // After the lock, so that the threads' stacks are resident, too.
        self.crew = Some(Crew::of(at_once));
    }

    fn speak(&mut self) {
        self.crew = None;
        if let Err(e) = memory::unlock_all() {
            tracing::debug!("memory stays locked: {}", strerror(&e));
        }
        self.gate.open();
    }

    fn now(&mut self) -> Duration {
        self.epoch.elapsed()
    }

    fn wall_clock(&mut self) -> SystemTime {
        SystemTime::now()
    }

    fn reports(&mut self) -> Vec<Report> {
        let (reports, wrong) = history::read(&self.state);
        if let Some(text) = wrong {
            tracing::warn!("{text}");
        }
        reports
    }

    fn keep(&mut self, report: &Report) -> Result<(), String> {
        history::keep(&self.state, report)
    }
}
