//! The agent's own process: its clock, the frozen section, requests to stop.

use std::time::{Duration, SystemTime};

/// The agent's process.
pub trait SystemOps {
    /// Begins the section in which a write to a frozen filesystem would block the agent. Until
    /// [`SystemOps::leave_frozen_section`] or the thaw hooks, nothing is logged or written and the agent's memory stays
    /// resident. Threads for `at_once` parallel calls are started now, so that none has to be later.
    fn enter_frozen_section(&mut self, at_once: usize);

    /// Ends the frozen section; writes the log lines that were kept first.
    fn leave_frozen_section(&mut self);

    /// Frees what only a run needs: threads, lists.
    fn release_resources(&mut self);

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
}
