//! The operations on the system that the engine needs, as a trait.
//!
//! [`super::linux::LinuxOps`] performs them; the simulator's implementation in the tests fails or dies at any step. The
//! engine calls the methods in the order of the transaction, one at a time.

use super::guardian::{Claim, Inherited, Request};
use super::plan::{Survey, Target};
use super::report::Report;
use crate::deadline::Timed;
use crate::hooks::invoke::MasterReport;
use crate::hooks::journal::RunInfo;
use crate::hooks::{Phase, ThawReason};
use crate::probe::filesystems::Filesystem;
use crate::probe::mountinfo::DeviceNumber;
use crate::probe::write_counters::Written;
use crate::state::{Expiry, Marker};
use nix::sys::eventfd::EventFd;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Why a chosen filesystem could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// open(2) of the mount point failed.
    Failed(io::Error),
    /// The path leads to another filesystem: a later mount covers this one.
    Covered,
    /// Only a socket, FIFO or device node of it is mounted. FIFREEZE needs a file or directory of the filesystem.
    NoDirectory,
    /// A debug build refuses to freeze anything but its own test images.
    Refused(String),
}

impl OpenError {
    /// Whether no path leads to the filesystem.
    pub fn is_hidden(&self) -> bool {
        matches!(self, Self::Covered | Self::NoDirectory)
    }

    /// Whether the process has no descriptor left (EMFILE).
    pub fn is_too_many(&self) -> bool {
        matches!(self, Self::Failed(error) if error.raw_os_error() == Some(nix::libc::EMFILE))
    }
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => f.write_str(&crate::sys::strerror(error)),
            Self::NoDirectory => f.write_str("only a socket, FIFO or device node of it is mounted"),
            Self::Covered => f.write_str("another filesystem is mounted over it"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

/// How long FIFREEZE may take before what is already frozen is thawed again. This filesystem may have to write to one
/// that is frozen (a loop device, for example), and then waits for it.
pub const REORDER_DELAY: Duration = Duration::from_secs(2);

/// How long to wait for an FIFREEZE that has not returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeWait {
    /// For [`REORDER_DELAY`]; it can be waited for again.
    Delay,
    /// Until the step limit, and no longer than the rest of the hold limit. The call is given up after that.
    Limit(Option<Duration>),
}

/// What the guardian has done unasked.
#[derive(Debug, PartialEq)]
pub enum GuardianNews {
    /// Nothing.
    Nothing,
    /// It has ended the freeze.
    Ended(Expiry),
    /// It closed the connection without a message.
    Gone,
}

/// What a dead agent has left.
#[derive(Debug)]
pub enum Legacy<H> {
    /// Its guardian has not answered yet.
    Unknown,
    /// Its guardian has handed over the freeze.
    Freeze(Box<Inherited>, Vec<H>),
    /// Its guardian has ended the freeze.
    Ended(Expiry),
    /// There is no guardian. The content of the marker; `None`: there is no marker either.
    Unguarded(Option<Marker>),
}

/// An open filesystem, as the guardian gets it.
#[derive(Debug)]
pub struct HeldFilesystem<'a, H> {
    /// The filesystem's index in the report, by which agent and guardian name it.
    pub number: usize,
    pub handle: &'a H,
    /// Mount point.
    pub mountpoint: &'a str,
}

/// The operations of a run. Methods are called in the order of the transaction, one at a time.
pub trait Ops {
    /// Keeps a filesystem open until its thaw.
    type Handle: Send;

    /// Reads the mount table.
    ///
    /// # Errors
    /// It cannot be read.
    fn survey(&mut self) -> io::Result<Survey>;

    /// Reads the mount table once more; `None` if it has not changed.
    ///
    /// # Errors
    /// It cannot be read.
    fn survey_again(&mut self) -> io::Result<Option<Survey>>;

    /// Opens filesystems and checks the device of each. If the first mount point is covered, it tries the others.
    fn open(&mut self, targets: &[Target]) -> Vec<Result<Self::Handle, OpenError>>;

    /// Bytes that the system has still to write back; `None` if unknown.
    fn dirty_bytes(&mut self) -> Option<u64>;

    /// Writes back what is dirty; one result for each. With `commits_first`, journals are committed before the data, so
    /// that writers do not wait for a commit that is queued behind it.
    fn flush(&mut self, handles: &[&Self::Handle], commits_first: bool) -> Vec<io::Result<()>>;

    /// Issues FIFREEZE on one batch in parallel. A result is `None` if the call has not returned within
    /// [`REORDER_DELAY`]; then [`Ops::wait_for_freeze`] must be called. EBUSY: it is already frozen; EOPNOTSUPP: it
    /// cannot be frozen (fs/super.c freeze_super, fs/ioctl.c ioctl_fsfreeze).
    fn freeze(&mut self, handles: &[&Self::Handle]) -> Vec<Option<Timed>>;

    /// Waits for the FIFREEZE calls that have not returned; results in the order of the batch.
    fn wait_for_freeze(&mut self, wait: FreezeWait) -> Vec<Option<Timed>>;

    /// Issues FITHAW on one after another, in this order. One that hangs does not hold up those after it. EINVAL: it is
    /// not frozen.
    fn thaw(&mut self, handles: &[&Self::Handle]) -> Vec<Timed>;

    /// The write counters of a block device; `None`: it has none. For a device that was asked for before the first
    /// FIFREEZE, this opens no file and allocates nothing.
    fn write_counters(&mut self, _device: DeviceNumber) -> Option<Written> {
        None
    }

    /// After the thaw: filesystems on local disks, writable, that were mounted since the last read of the mount table.
    fn mounted_since(&mut self) -> Vec<Filesystem> {
        Vec::new()
    }

    /// Calls the hook master; `None` if there is none. Ends the frozen section for log lines first. The master gets the
    /// `run`, and the reason with a thaw. The master's process itself reports its start to the guardian, so the
    /// guardian knows of it even if the agent dies at that moment.
    fn call_hooks(
        &mut self,
        phase: Phase,
        reason: Option<ThawReason>,
        run: &RunInfo,
    ) -> Option<MasterReport>;

    /// Starts the guardian of the run with this id.
    ///
    /// # Errors
    /// There is none, so that a freeze would outlive the agent; one line.
    fn start_guardian(&mut self, run: &str) -> Result<(), String>;

    /// Starts a guardian in place of one that has died, after the hooks were called, and waits until it has the
    /// filesystems. `since` is when everything was frozen; `None`: not yet.
    ///
    /// # Errors
    /// As [`Ops::start_guardian`].
    fn replace_guardian(
        &mut self,
        run: &str,
        held: &[HeldFilesystem<'_, Self::Handle>],
        limit: Option<Duration>,
        since: Option<Duration>,
    ) -> Result<(), String>;

    /// Waits until the guardian has started. Does nothing without one.
    ///
    /// # Errors
    /// As [`Ops::start_guardian`]; there is none afterwards.
    fn wait_for_guardian(&mut self) -> Result<(), String>;

    /// Sends the open filesystems, in freeze order, to the guardian, which thaws them after `limit`.
    ///
    /// # Errors
    /// As [`Ops::start_guardian`], also without a guardian. There is none afterwards, unless it has begun to thaw.
    fn entrust(
        &mut self,
        held: &[HeldFilesystem<'_, Self::Handle>],
        limit: Option<Duration>,
    ) -> Result<(), String>;

    /// Connects to the guardian of a dead agent; whether there is one.
    fn find_guardian(&mut self) -> bool;

    /// What a dead agent has left. With `waits`, waits briefly for its guardian's answer. A guardian that is found
    /// stopped twice in a row is killed.
    fn legacy(&mut self, waits: bool) -> Legacy<Self::Handle>;

    /// Sets the hook master to call until the end of the run.
    fn use_hook(&mut self, hook: Option<PathBuf>);

    /// Whether the journal lists hooks that were frozen and have not been thawed.
    fn has_journal(&self) -> bool;

    /// Whether any of these is frozen. Linux has no query for it, so this tries FIFREEZE: it fails with EBUSY on a
    /// frozen filesystem, and what it freezes is thawed at once.
    fn is_any_frozen(&mut self, handles: &[&Self::Handle]) -> bool;

    /// Sends a request to the guardian. Does nothing without one.
    fn send_to_guardian(&mut self, request: Request);

    /// Decides with the guardian which process thaws; without one it is the agent.
    fn claim(&mut self, is_early: bool) -> Claim;

    /// Whether neither the agent nor the guardian has begun to thaw.
    fn is_undecided(&self) -> bool;
    /// Whether the guardian has ended the freeze or has died; never waits.
    fn poll_guardian(&mut self) -> GuardianNews;

    /// Sends the guardian that nothing is left to do, and does not wait for its exit.
    fn release_guardian(&mut self);

    /// Leaves the rest of the undo to the guardian, which has ended a freeze before everything was frozen.
    /// [`Ops::legacy`] shows when it has finished.
    fn disconnect_guardian(&mut self);

    /// Ends the guardian and waits for its exit. Does nothing without one.
    fn dismiss_guardian(&mut self);

    /// A descriptor that becomes readable when the guardian sends something or exits; `None` without one.
    fn guardian_fd(&self) -> Option<OwnedFd>;

    /// Records, for the next thaw, that the freeze ended before it.
    ///
    /// # Errors
    /// What could not be written; one line.
    fn mark_expired(&mut self, expiry: &Expiry) -> Result<(), String>;

    /// Returns what [`Ops::mark_expired`] has recorded, and removes it.
    fn take_expired(&mut self) -> Option<Expiry>;

    /// Writes the marker for the next agent.
    ///
    /// # Errors
    /// What could not be written; one line.
    fn mark_frozen(&mut self, marker: Marker) -> Result<(), String>;

    /// Removes the marker; whether there was one.
    ///
    /// # Errors
    /// What could not be removed; one line.
    fn mark_thawed(&mut self) -> Result<bool, String>;

    /// Begins the section in which a write to a frozen filesystem would block the agent. Until
    /// [`Ops::leave_frozen_section`] or the thaw hooks, nothing is logged or written and the agent's memory stays
    /// resident. Threads for `at_once` parallel calls are started now, so that none has to be later.
    fn enter_frozen_section(&mut self, at_once: usize);

    /// Expedites RCU grace periods, which take most of the time of FIFREEZE, until [`Ops::restore_rcu`]. Only with a
    /// guardian, which switches it off if the agent dies.
    fn expedite_rcu(&mut self);

    /// Ends what [`Ops::expedite_rcu`] began.
    ///
    /// # Errors
    /// They stay expedited; one line.
    fn restore_rcu(&mut self) -> Result<(), String>;

    /// Ends the frozen section; writes the log lines that were kept first.
    fn leave_frozen_section(&mut self);

    /// Frees what only a run needs: threads, lists.
    fn release_resources(&mut self);

    /// Becomes readable when the agent is asked to stop. A freeze hook that runs is ended then.
    fn stop_event(&self) -> Option<Arc<EventFd>> {
        None
    }

    /// Whether the agent is asked to stop. A freeze that is not complete is given up then.
    fn is_stopping(&self) -> bool {
        false
    }

    /// Whether the system is shutting down, as far as the agent can see.
    fn is_system_stopping(&self) -> bool {
        false
    }

    fn now(&mut self) -> Duration;

    fn wall_clock(&mut self) -> SystemTime;

    /// The stored reports, newest first.
    fn reports(&mut self) -> Vec<Report>;

    /// Stores the report of a finished run.
    ///
    /// # Errors
    /// What could not be written; one line.
    fn store_report(&mut self, report: &Report) -> Result<(), String>;
}
