//! What the engine needs from the world. One implementation acts ([`super::linux::LinuxOps`]), one
//! in the tests fails at any step it is told to.

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

/// Why a filesystem that was chosen is not held open.
#[derive(Debug)]
pub enum OpenError {
    /// open(2) of the mountpoint failed.
    Failed(io::Error),
    /// The path leads to another filesystem: a later mount covers this one.
    Covered,
    /// Only a socket, FIFO or device node of it is mounted.
    NoDirectory,
    /// A development build refuses to touch anything but its own test images.
    Refused(String),
}

impl OpenError {
    /// Whether no mountpoint leads to it, so that it cannot be reached by a path.
    pub fn is_hidden(&self) -> bool {
        matches!(self, Self::Covered | Self::NoDirectory)
    }

    /// Whether no descriptor was left.
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

/// How long a FIFREEZE may take before whatever is frozen already is thawed again: it may be what this one
/// writes to.
pub const REORDER_DELAY: Duration = Duration::from_secs(2);

/// How long FIFREEZE is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeWait {
    /// For [`REORDER_DELAY`]; then it may be waited for again.
    Delay,
    /// Until the step limit, and not longer than this, which is left of the hold limit. Then it is given
    /// up.
    Limit(Option<Duration>),
}

/// What the guardian has done by itself.
#[derive(Debug, PartialEq)]
pub enum GuardianNews {
    /// Nothing.
    Nothing,
    /// It has ended the freeze.
    Ended(Expiry),
    /// It is gone without a word.
    Gone,
}

/// A freeze that an earlier agent left.
#[derive(Debug)]
pub enum Legacy<H> {
    /// Its guardian has not said yet.
    Unknown,
    /// Its guardian has handed it over.
    Freeze(Box<Inherited>, Vec<H>),
    /// Its guardian has ended it.
    Ended(Expiry),
    /// No guardian stands by. What the marker says; `None`: there is no marker any more.
    Unguarded(Option<Marker>),
}

/// A filesystem that is held open, as the guardian gets it.
#[derive(Debug)]
pub struct HeldFilesystem<'a, H> {
    /// By this number the guardian is told of it.
    pub number: usize,
    /// Its handle.
    pub handle: &'a H,
    /// Where it is mounted.
    pub mountpoint: &'a str,
}

/// The engine's hands. Methods are called in the order of the transaction, one at a time.
pub trait Ops {
    /// Keeps a filesystem reachable from its opening to its thaw.
    type Handle: Send;

    /// Reads the mount table.
    ///
    /// # Errors
    /// It cannot be read.
    fn survey(&mut self) -> io::Result<Survey>;

    /// Reads the mount table once more; `None` if it is as before.
    ///
    /// # Errors
    /// It cannot be read.
    fn survey_again(&mut self) -> io::Result<Option<Survey>>;

    /// Opens filesystems, each by another of its mountpoints if the first is covered, and makes sure that
    /// it is the one meant.
    fn open(&mut self, targets: &[Target]) -> Vec<Result<Self::Handle, OpenError>>;

    /// How many bytes the system has still to write back; `None` if that cannot be found out.
    fn dirty_bytes(&mut self) -> Option<u64>;

    /// Writes back what is dirty; one result each. With `commits_first` journals are committed before
    /// the data, so that writers do not wait for a commit behind it.
    fn flush(&mut self, handles: &[&Self::Handle], commits_first: bool) -> Vec<io::Result<()>>;

    /// FIFREEZE of one batch, side by side; one answer each, or none from those that have not answered
    /// within [`REORDER_DELAY`]: [`Ops::wait_for_freeze`] waits for these, and has to be called then. EBUSY:
    /// someone else has frozen it; EOPNOTSUPP: it cannot be frozen.
    fn freeze(&mut self, handles: &[&Self::Handle]) -> Vec<Option<Timed>>;

    /// Waits for those that have not answered yet, in the order of the batch, until `patience` ends.
    fn wait_for_freeze(&mut self, patience: FreezeWait) -> Vec<Option<Timed>>;

    /// FITHAW, one after another in this order; one that is stuck does not hold up those after it.
    /// EINVAL: it is not frozen.
    fn thaw(&mut self, handles: &[&Self::Handle]) -> Vec<Timed>;

    /// What was written to a block device so far. Of a device that was asked for before the first FIFREEZE nothing is
    /// opened or allocated. `None`: that is not counted.
    fn write_counters(&mut self, _device: DeviceNumber) -> Option<Written> {
        None
    }

    /// After the thaw: what has been mounted on a local disk since the mount table was read last, and can be written.
    fn mounted_since(&mut self) -> Vec<Filesystem> {
        Vec::new()
    }

    /// Calls the hook master; `None` if there is none. Lines are logged again before that. Hooks are told about the `run`. The reason goes with a thaw; that the master
    /// has started it, the guardian learns in the same moment.
    fn call_hooks(
        &mut self,
        phase: Phase,
        reason: Option<ThawReason>,
        run: &RunInfo,
    ) -> Option<MasterReport>;

    /// Starts a guardian for the run of this id.
    ///
    /// # Errors
    /// One line: there is none, and the death of the agent would leave everything as it is.
    fn start_guardian(&mut self, run: &str) -> Result<(), String>;

    /// Starts a guardian in place of one that is gone, after the hooks were called, and waits until it watches over
    /// what is held. `since` is when everything was frozen; `None`: it is not yet.
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

    /// Waits until the guardian watches. Without one nothing happens.
    ///
    /// # Errors
    /// As [`Ops::start_guardian`]; it is gone then.
    fn wait_for_guardian(&mut self) -> Result<(), String>;

    /// Entrusts the opened filesystems, in the order of freezing, to the guardian, which thaws them after
    /// `limit`.
    ///
    /// # Errors
    /// As [`Ops::start_guardian`], also if there is none; it is gone then, unless it has begun to thaw.
    fn entrust(
        &mut self,
        held: &[HeldFilesystem<'_, Self::Handle>],
        limit: Option<Duration>,
    ) -> Result<(), String>;

    /// Looks for the guardian that a predecessor left; whether there is one.
    fn find_guardian(&mut self) -> bool;

    /// What a predecessor has left. If its guardian has not said yet, it is waited for for a moment, or, unless
    /// `waits`, not at all; one that is found stopped twice in a row is ended.
    fn legacy(&mut self, waits: bool) -> Legacy<Self::Handle>;

    /// The hook master that is called from here on, until the end of the run.
    fn use_hook(&mut self, hook: Option<PathBuf>);

    /// Whether hooks were told to freeze and have not been thawed, as far as their journal says.
    fn has_journal(&self) -> bool;

    /// Whether any of these is frozen. FIFREEZE tells: it refuses what is frozen, and what it freezes is
    /// thawed at once.
    fn is_any_frozen(&mut self, handles: &[&Self::Handle]) -> bool;

    /// Tells the guardian how far the run is; without one nothing happens.
    fn send_to_guardian(&mut self, order: Request);

    /// Asks the guardian who thaws; without one it is the agent.
    fn claim(&mut self, is_early: bool) -> Claim;

    /// Whether neither the agent nor the guardian has begun to thaw.
    fn is_undecided(&self) -> bool;
    /// Whether there was a guardian and it is gone without a word, and whether it has ended the freeze by
    /// itself; never waits.
    fn poll_guardian(&mut self) -> GuardianNews;

    /// Tells the guardian that nothing is left to do, and does not wait for its end.
    fn release_guardian(&mut self);

    /// Leaves the guardian, which has ended a freeze that was not whole, to what it still does;
    /// [`Ops::legacy`] says when that is over.
    fn disconnect_guardian(&mut self);

    /// Lets the guardian go, and waits for its end; without one nothing happens.
    fn dismiss_guardian(&mut self);

    /// A descriptor that becomes readable when the guardian speaks or goes; `None` without one.
    fn guardian_fd(&self) -> Option<OwnedFd>;

    /// Remembers, for the next thaw, that a freeze ended before it.
    ///
    /// # Errors
    /// One line that says what could not be written.
    fn mark_expired(&mut self, expiry: &Expiry) -> Result<(), String>;

    /// What was remembered, once.
    fn take_expired(&mut self) -> Option<Expiry>;

    /// Leaves the marker for a successor.
    ///
    /// # Errors
    /// One line that says what could not be written.
    fn mark_frozen(&mut self, marker: Marker) -> Result<(), String>;

    /// Removes the marker and returns whether it was there.
    ///
    /// # Errors
    /// One line that says what could not be removed.
    fn mark_thawed(&mut self) -> Result<bool, String>;

    /// From here to [`Ops::leave_frozen_section`], or to the thaw hooks, nothing is logged or written, the agent's memory stays resident,
    /// and so many filesystems can be frozen or thawed at once without any more of it.
    fn enter_frozen_section(&mut self, at_once: usize);

    /// Expedites RCU grace periods, most of what FIFREEZE waits for, until [`Ops::restore_rcu`]. Only with a
    /// guardian, who switches that off should the agent die.
    fn expedite_rcu(&mut self);

    /// Ends what [`Ops::expedite_rcu`] began.
    ///
    /// # Errors
    /// One line: they stay expedited.
    fn restore_rcu(&mut self) -> Result<(), String>;

    /// Logging goes on, the kept lines first.
    fn leave_frozen_section(&mut self);

    /// Lets go of what only a run needs: threads, lists.
    fn release_resources(&mut self);

    /// What asks the agent to stop, by becoming readable: a freeze hook at work is ended by it.
    fn stop_event(&self) -> Option<Arc<EventFd>> {
        None
    }

    /// Whether the agent is asked to stop: a freeze that is not whole is given up.
    fn is_stopping(&self) -> bool {
        false
    }

    /// Whether the system goes down, as far as can be found out.
    fn is_system_stopping(&self) -> bool {
        false
    }

    /// Time since a fixed moment, monotonic.
    fn now(&mut self) -> Duration;

    /// The time of day.
    fn wall_clock(&mut self) -> SystemTime;

    /// The reports that are kept, the newest first.
    fn reports(&mut self) -> Vec<Report>;

    /// Keeps the report of a finished run.
    ///
    /// # Errors
    /// One line that says what could not be written.
    fn store_report(&mut self, report: &Report) -> Result<(), String>;
}
