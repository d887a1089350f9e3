//! The guardian of a run: its start, what it is sent, and which of the two processes thaws.

use super::FilesystemOps;
use crate::freeze::guardian::{Claim, Entrusted, Inherited, Request};
use crate::state::{Expiry, Marker};
use std::io;
use std::time::Duration;

#[derive(Debug, PartialEq)]
pub enum GuardianNews {
    Nothing,
    Ended(Expiry),
    Gone,
}
#[derive(Debug)]
pub enum Legacy<H> {
    Unknown,
    Freeze(Box<Inherited>, Vec<H>),
    Ended(Expiry),
    /// Without a guardian: the content of the marker; `None`: there is no marker either.
    Unguarded(Option<Marker>),
}

pub type HeldFilesystem<'a, H> = (Entrusted, &'a H);

pub trait GuardianOps: FilesystemOps {
    /// Fails if there is none: a freeze would outlive the agent.
    fn start_guardian(&mut self, run: &str) -> io::Result<()>;

    /// Does nothing without one. There is none after an error.
    fn wait_for_guardian(&mut self) -> io::Result<()>;

    /// In freeze order; the guardian thaws after `limit`. After an error there is none, unless it has begun to thaw.
    fn entrust(
        &mut self,
        held: &[HeldFilesystem<'_, Self::Handle>],
        limit: Option<Duration>,
    ) -> io::Result<()>;

    /// After the hooks were called. `since` is when everything was frozen; `None`: not yet.
    fn replace_guardian(
        &mut self,
        run: &str,
        held: &[HeldFilesystem<'_, Self::Handle>],
        limit: Option<Duration>,
        since: Option<Duration>,
    ) -> io::Result<()>;

    fn send_to_guardian(&mut self, request: Request);

    fn poll_guardian(&mut self) -> GuardianNews;

    /// Whether neither the agent nor the guardian has begun to thaw.
    fn is_undecided(&self) -> bool;

    /// Decides with the guardian which process thaws; without one it is the agent.
    fn claim(&mut self, is_early: bool) -> Claim;

    /// Leaves the rest of the undo to the guardian. [`GuardianOps::legacy`] shows when it has finished.
    fn disconnect_guardian(&mut self);

    /// Does not wait for the guardian's exit.
    fn release_guardian(&mut self);

    /// Ends the guardian and waits for its exit.
    fn dismiss_guardian(&mut self);

    fn find_guardian(&mut self) -> bool;

    /// With `waits`, waits briefly for its guardian's answer. One that is found stopped twice in a row is killed.
    fn legacy(&mut self, waits: bool) -> Legacy<Self::Handle>;
}
