//! What the engine needs from the world. One implementation acts ([`super::real::RealOps`]), one
//! in the tests fails at any step it is told to.

use super::guardian::{Claim, Order};
use super::plan::{Survey, Target};
use super::report::Report;
use crate::hooks::master::MasterReport;
use crate::hooks::memory::Run;
use crate::hooks::{Phase, ThawReason};
use crate::state::Expiry;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

/// Why a filesystem that was chosen is not held open.
#[derive(Debug)]
pub enum OpenError {
    /// open(2) of the mountpoint failed.
    Failed(io::Error),
    /// The path leads to another filesystem: a later mount covers this one.
    Covered,
    /// A development build refuses to touch anything but its own test images.
    Refused(String),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => f.write_str(&crate::sys::strerror(error)),
            Self::Covered => f.write_str("another filesystem is mounted over it"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

/// What came of one call of several that were made side by side.
#[derive(Debug)]
pub struct Timed {
    /// The kernel's answer; TimedOut if there was none within the step limit.
    pub result: io::Result<()>,
    /// How long the call itself took.
    pub took: Duration,
}

impl Timed {
    /// Whether it did not answer within the step limit; it may still be at work.
    pub fn is_overdue(&self) -> bool {
        matches!(&self.result, Err(error) if error.kind() == io::ErrorKind::TimedOut)
    }
}

/// The engine's hands. Methods are called in the order of the transaction, one at a time.
pub trait Ops {
    /// Keeps a filesystem reachable from its opening to its thaw.
    type Handle: Send;

    /// Reads the mount table once.
    ///
    /// # Errors
    /// It cannot be read.
    fn survey(&mut self) -> io::Result<Survey>;

    /// Opens a filesystem, by another of its mountpoints if the first is covered, and makes sure that it is the one meant.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn open(&mut self, target: &Target) -> Result<Self::Handle, OpenError>;

    /// Writes back what is dirty, all filesystems side by side; one result each.
    fn flush(&mut self, handles: &[&Self::Handle]) -> Vec<io::Result<()>>;

    /// FIFREEZE of filesystems that do not stand on one another, side by side; one result each. EBUSY:
    /// someone else has frozen it; EOPNOTSUPP: it cannot be frozen.
    fn freeze(&mut self, handles: &[&Self::Handle]) -> Vec<Timed>;

    /// FITHAW, likewise; EINVAL: it is not frozen.
    fn thaw(&mut self, handles: &[&Self::Handle]) -> Vec<Timed>;

    /// Calls the hook master; `None` if there is none. Hooks are told about the `run`. The reason goes with a thaw; that the master
    /// has started it, the guardian learns in the same moment.
    fn call_hooks(
        &mut self,
        phase: Phase,
        reason: Option<ThawReason>,
        run: &Run,
    ) -> Option<MasterReport>;

    /// Entrusts the opened filesystems, in the order of freezing, each with its mountpoint and level, to
    /// a guardian.
    ///
    /// # Errors
    /// One line: none stands by, and the death of the agent would leave everything as it is.
    fn stand_guard(&mut self, held: &[(&Self::Handle, &str, usize)]) -> Result<(), String>;

    /// Looks for the guardian that a predecessor left.
    fn find_guardian(&mut self);

    /// Tells the guardian how far the run is; without one nothing happens.
    fn tell_guardian(&mut self, order: Order);

    /// Asks the guardian who thaws; without one it is the agent.
    fn claim(&mut self) -> Claim;

    /// Whether the guardian has ended the freeze by itself; never waits.
    fn hear_guardian(&mut self) -> Option<Expiry>;

    /// Lets the guardian go; without one nothing happens.
    fn dismiss_guardian(&mut self);

    /// A descriptor that becomes readable when the guardian speaks or goes; `None` without one.
    fn guardian_line(&self) -> Option<OwnedFd>;

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
    fn mark_frozen(&mut self) -> Result<(), String>;

    /// Takes the marker away.
    ///
    /// # Errors
    /// One line that says what could not be removed.
    fn mark_thawed(&mut self) -> Result<(), String>;

    /// From here to [`Ops::speak`] nothing is logged or written, the agent's memory stays resident,
    /// and so many filesystems can be frozen or thawed at once without any more of it.
    fn hush(&mut self, at_once: usize);

    /// Logging goes on, the kept lines first.
    fn speak(&mut self);

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
    fn keep(&mut self, report: &Report) -> Result<(), String>;
}
