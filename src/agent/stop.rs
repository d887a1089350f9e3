//! SIGTERM and SIGINT. Floor 5.
//!
//! The agent exits between two requests, and not while anything is frozen. A freeze that is not complete is undone. A
//! complete one stays: requests are answered until the thaw, or until the hold limit has passed. If the whole system
//! shuts down the freeze ends at once, because processes that wait to write could not be stopped before. `session` and
//! `service` wait here beside the channel.

use crate::freeze::Freezer;
use nix::sys::signal::{SigSet, Signal as SignalNumber};
use std::future::pending;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

/// For the thaw of a freeze that the agent ended because the system shuts down: the error in reply to that thaw is how
/// the host learns that its snapshot is not consistent. Hosts thaw within seconds.
const LATE_THAW_GRACE: Duration = Duration::from_secs(10);

pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    received: bool,
    /// The end of [`LATE_THAW_GRACE`].
    exit_at: Option<Instant>,
}

/// Blocks the signals until [`StopSignals::new`] handles them. Called before the channel is opened: whoever sees the
/// channel may send one, and its default action would end the agent without a message.
pub(crate) fn block_signals() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

fn signals() -> SigSet {
    SigSet::from_iter([SignalNumber::SIGTERM, SignalNumber::SIGINT])
}

impl StopSignals {
    /// Also unblocks the signals.
    pub(crate) fn new() -> io::Result<Self> {
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

    /// For a test, whose process must not catch these signals.
    #[cfg(test)]
    pub(super) fn never() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::user_defined1())?,
            interrupt: signal(SignalKind::user_defined2())?,
            received: false,
            exit_at: None,
        })
    }

    /// At the first signal an incomplete freeze is undone; later ones change nothing. Poll it during requests, too.
    pub(crate) async fn wait_for_signal(&mut self, freezer: &Freezer) {
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

    pub(crate) async fn wait_for_exit(&mut self, freezer: &Freezer) {
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
