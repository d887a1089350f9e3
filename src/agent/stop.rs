//! SIGTERM and SIGINT: the agent leaves between two requests, and not while anything is frozen.

use crate::freeze::Freezer;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for the signals that end the agent.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    asked: bool,
}

impl Stop {
    /// Installs the handlers.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self {
            terminate,
            interrupt,
            asked: false,
        })
    }

    /// Waits until the agent is to leave. A signal that comes while filesystems are frozen is
    /// remembered until the thaw, for leaving would strand them, unless a guardian ends the freeze
    /// at its limit: then a successor can take over at once.
    pub async fn requested(&mut self, freezer: &Freezer) {
        if !self.asked {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            };
            self.asked = true;
            tracing::debug!("received {name}, quitting");
            if freezer.is_frozen() && !freezer.is_guarded() {
                tracing::warn!("{name} waits: the agent leaves after guest-fsfreeze-thaw");
            }
        }
        if !freezer.is_guarded() {
            freezer.thawed().await;
        }
    }
}
