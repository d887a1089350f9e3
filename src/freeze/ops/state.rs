//! The files of the state directory: marker, expiry, reports.

use crate::freeze::FreezeError;
use crate::freeze::report::Report;
use crate::state::{Expiry, Marker, StateError};

pub trait StateOps {
    /// For the next agent.
    fn mark_frozen(&mut self, marker: Marker) -> Result<(), StateError>;

    /// Returns whether there was a marker.
    fn mark_thawed(&mut self) -> Result<bool, StateError>;

    /// For the next thaw.
    fn mark_expired(&mut self, expiry: &Expiry) -> Result<(), StateError>;

    fn take_expired(&mut self) -> Option<Expiry>;

    /// Newest first.
    fn reports(&mut self) -> Vec<Report>;

    fn store_report(&mut self, report: &Report) -> Result<(), FreezeError>;
}
