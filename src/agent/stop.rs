//! SIGTERM and SIGINT: the agent leaves between two requests, and not while anything is frozen.
//!
//! A freeze that is not whole yet is given up. One that is whole goes on: requests are answered until the
//! thaw, or until the hold limit has passed. If the whole system goes down the freeze is ended at once, as
//! nothing that writes could stop before.

use crate::freeze::Freezer;
use nix::sys::signal::{SigSet, Signal as SignalNumber};
use std::future::pending;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

/// How long an agent stays for the thaw of a freeze that it has ended because the system goes down: hosts
/// thaw within seconds, and after the restart nothing would tell them that the snapshot is worthless.
const LATE_THAW_GRACE: Duration = Duration::from_secs(10);

/// Listens for the signals that end the agent.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    received: bool,
    /// Until when the host may still ask for the thaw.
    exit_at: Option<Instant>,
}

/// Keeps the signals back until [`StopSignals::new`] can hear them. Call it before the channel is opened:
/// whoever sees the channel may already send one.
///
/// # Errors
/// None that the kernel documents for this call.
pub fn block_signals() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

fn signals() -> SigSet {
    SigSet::from_iter([SignalNumber::SIGTERM, SignalNumber::SIGINT])
}

impl StopSignals {
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
            received: false,
            exit_at: None,
        })
    }

    /// Waits for the first signal and has a freeze that is not whole given up; further signals change
    /// nothing. Poll it while a request is at work, too.
    pub async fn wait_for_signal(&mut self, freezer: &Freezer) {
        if self.received {
            return pending().await;
        }
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        self.received = true;
        tracing::debug!("received {name}, quitting");
        freezer.stop();
    }

    /// Waits until the agent is to leave.
    pub async fn wait_for_exit(&mut self, freezer: &Freezer) {
        if !self.received {
            self.wait_for_signal(freezer).await;
        }
        freezer.thawed().await;
        if freezer.owes_an_answer() {
            let exit_at = self
                .exit_at
                .get_or_insert_with(|| Instant::now() + LATE_THAW_GRACE);
            sleep_until(*exit_at).await;
        }
    }
}
