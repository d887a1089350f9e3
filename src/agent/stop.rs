//! SIGTERM and SIGINT: the agent leaves between two requests, and not while anything is frozen.

use crate::freeze::Freezer;
use nix::sys::signal::{SigSet, Signal as Number};
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for the signals that end the agent.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    asked: bool,
}

/// Keeps the signals back until [`Stop::new`] can hear them. Call it before the channel is opened:
/// whoever sees the channel may already send one.
///
/// # Errors
/// None that the kernel documents for this call.
pub fn hold_back() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

fn signals() -> SigSet {
    SigSet::from_iter([Number::SIGTERM, Number::SIGINT])
}

impl Stop {
    /// Installs the handlers and lets the signals through that were held back.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        signals().thread_unblock()?;
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
