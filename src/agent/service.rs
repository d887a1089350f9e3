//! The agent's main loop. Floor 5.
//!
//! Serves one channel after the other until the agent is to exit, or, without `--retry-path`, until the channel is lost.
//! `app` calls [`run`] once, inside the runtime. Whatever ends the loop, nothing stays frozen behind it: either the freezer
//! ends the freeze here, or the guardian does.

use super::session::{Session, SessionEnd, serve};
use super::stop::StopSignals;
use crate::sys::strerror;
use crate::transport::{ChannelError, Endpoint};
use anyhow::Context as _;
use std::time::Duration;

/// Long enough that a device that is gone costs nothing.
const REOPEN_INTERVAL: Duration = Duration::from_secs(5);

/// Serves `first`, and after it is lost the channels that `reopen` opens, if given.
pub(crate) async fn run(
    mut session: Session,
    first: Option<Endpoint>,
    reopen: Option<impl Fn() -> Result<Endpoint, ChannelError>>,
) -> anyhow::Result<()> {
    let mut stop = StopSignals::new().context("cannot handle signals")?;
    // A freeze that an earlier agent left goes on until the thaw or its hold limit.
    session.context().freezer.check_hold();
    let freezer = session.context().freezer.clone();
    session.restore.start(&freezer);
    let mut next = first;
    loop {
        if let Some(endpoint) = next.take() {
            let mut channel = endpoint.start().context("cannot watch the channel")?;
            match serve(&mut session, &mut channel, &mut stop).await {
                SessionEnd::Stopped => return Ok(()),
                SessionEnd::Lost(error) => {
                    tracing::warn!("error reading channel: {}", strerror(&error));
                }
            }
        }
        let Some(reopen) = &reopen else { break };
        tracing::warn!(
            "lost the channel; opening it again in {} s",
            REOPEN_INTERVAL.as_secs()
        );
        let freezer = session.context().freezer.clone();
        tokio::select! {
            () = tokio::time::sleep(REOPEN_INTERVAL) => {}
            () = stop.wait_for_exit(&freezer) => return Ok(()),
        }
        match reopen() {
            Ok(endpoint) => next = Some(endpoint),
            Err(error) => tracing::error!("{error}"),
        }
    }
    // Without a channel no host can ask for the thaw.
    let freezer = session.context().freezer.clone();
    if freezer.is_frozen() {
        if let Err(error) = freezer.end_early("the host's channel is gone").await {
            let text =
                format!("failed to clean up frozen filesystems: {error}; run \"qemu-ga thaw\"");
            tracing::error!("{text}");
            tracing::info!(target: crate::AUDIT, "{text}");
        }
    }
    Ok(())
}
