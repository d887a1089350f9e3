//! The guardian of a run: its start, what it is sent, and which of the two processes thaws.

use super::FilesystemOps;
use crate::freeze::guardian::{Claim, Entrusted, Inherited, Request};
use crate::state::{Expiry, Marker};
use std::io;
use std::time::Duration;

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
pub type HeldFilesystem<'a, H> = (Entrusted, &'a H);

/// The guardian, which gets the open filesystems.
pub trait GuardianOps: FilesystemOps {
    /// Starts the guardian of the run with this id.
    ///
    /// # Errors
    /// There is none, so that a freeze would outlive the agent.
    fn start_guardian(&mut self, run: &str) -> io::Result<()>;

    /// Waits until the guardian has started. Does nothing without one.
    ///
    /// # Errors
    /// As [`GuardianOps::start_guardian`]; there is none afterwards.
    fn wait_for_guardian(&mut self) -> io::Result<()>;

    /// Sends the open filesystems, in freeze order, to the guardian, which thaws them after `limit`.
    ///
    /// # Errors
    /// As [`GuardianOps::start_guardian`], also without a guardian. There is none afterwards, unless it has begun to thaw.
    fn entrust(
        &mut self,
        held: &[HeldFilesystem<'_, Self::Handle>],
        limit: Option<Duration>,
    ) -> io::Result<()>;

    /// Starts a guardian in place of one that has died, after the hooks were called, and waits until it has the
    /// filesystems. `since` is when everything was frozen; `None`: not yet.
    ///
    /// # Errors
    /// As [`GuardianOps::start_guardian`].
    fn replace_guardian(
        &mut self,
        run: &str,
        held: &[HeldFilesystem<'_, Self::Handle>],
        limit: Option<Duration>,
        since: Option<Duration>,
    ) -> io::Result<()>;

    /// Sends a request to the guardian. Does nothing without one.
    fn send_to_guardian(&mut self, request: Request);

    /// Whether the guardian has ended the freeze or has died; never waits.
    fn poll_guardian(&mut self) -> GuardianNews;

    /// Whether neither the agent nor the guardian has begun to thaw.
    fn is_undecided(&self) -> bool;

    /// Decides with the guardian which process thaws; without one it is the agent.
    fn claim(&mut self, is_early: bool) -> Claim;

    /// Leaves the rest of the undo to the guardian, which has ended a freeze before everything was frozen.
    /// [`GuardianOps::legacy`] shows when it has finished.
    fn disconnect_guardian(&mut self);

    /// Sends the guardian that nothing is left to do, and does not wait for its exit.
    fn release_guardian(&mut self);

    /// Ends the guardian and waits for its exit. Does nothing without one.
    fn dismiss_guardian(&mut self);

    /// Connects to the guardian of a dead agent; whether there is one.
    fn find_guardian(&mut self) -> bool;

    /// What a dead agent has left. With `waits`, waits briefly for its guardian's answer. A guardian that is found
    /// stopped twice in a row is killed.
    fn legacy(&mut self, waits: bool) -> Legacy<Self::Handle>;
}
