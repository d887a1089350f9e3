//! The files of the state directory: marker, expiry, reports.

use crate::freeze::FreezeError;
use crate::freeze::report::Report;
use crate::state::{Expiry, Marker, StateError};

/// What outlives the agent.
pub trait StateOps {
    /// Writes the marker for the next agent.
    ///
    /// # Errors
    /// What could not be written.
    fn mark_frozen(&mut self, marker: Marker) -> Result<(), StateError>;

    /// Removes the marker; whether there was one.
    ///
    /// # Errors
    /// What could not be removed.
    fn mark_thawed(&mut self) -> Result<bool, StateError>;

    /// Records, for the next thaw, that the freeze ended before it.
    ///
    /// # Errors
    /// What could not be written.
    fn mark_expired(&mut self, expiry: &Expiry) -> Result<(), StateError>;

    /// Returns what [`StateOps::mark_expired`] has recorded, and removes it.
    fn take_expired(&mut self) -> Option<Expiry>;

    /// The stored reports, newest first.
    fn reports(&mut self) -> Vec<Report>;

    /// Stores the report of a finished run.
    ///
    /// # Errors
    /// What could not be written.
    fn store_report(&mut self, report: &Report) -> Result<(), FreezeError>;
}
