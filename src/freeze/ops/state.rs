//! The files of the state directory: marker, expiry, reports.

use crate::freeze::FreezeError;
use crate::freeze::report::Report;
use crate::state::{Expiry, Marker, StateError};

pub trait StateOps {
    fn mark_frozen(&mut self, marker: Marker) -> Result<(), StateError>;

    /// Returns whether there was a marker.
    fn mark_thawed(&mut self) -> Result<bool, StateError>;

    fn mark_expired(&mut self, expiry: &Expiry) -> Result<(), StateError>;

    fn take_expired(&mut self) -> Option<Expiry>;

    fn reports(&mut self) -> Vec<Report>;

    fn store_report(&mut self, report: &Report) -> Result<(), FreezeError>;
}
