//! The engine behind a thread: what commands hold.

use super::engine::{Engine, FreezeError};
use super::ops::Ops;
use super::real::RealOps;
use super::report::Report;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// The engine's own stack: it calls no deep code.
const STACK: usize = 256 * 1024;

/// Pause before the watch over a freeze is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the engine without waiting for it.
#[derive(Clone, Default)]
struct Standing {
    /// Filesystems are frozen, or about to be.
    frozen: bool,
    /// When the hold limit ends the freeze.
    ends: Option<Instant>,
    /// Where the guardian speaks.
    guardian: Option<Arc<OwnedFd>>,
    /// The guardian ends the freeze if nobody else does.
    guarded: bool,
}

impl Standing {
    fn of<O: Ops>(engine: &mut Engine<O>) -> Self {
        let guardian = engine.guardian_line().map(Arc::new);
        Self {
            frozen: engine.is_frozen(),
            ends: engine.time_left().map(|left| Instant::now() + left),
            guarded: guardian.is_some() && engine.has_limit(),
            guardian,
        }
    }
}

/// A handle to the engine; clones share it.
pub struct Freezer<O: Ops = RealOps> {
    engine: Arc<Mutex<Engine<O>>>,
    standing: watch::Sender<Standing>,
}

impl<O: Ops> Clone for Freezer<O> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            standing: self.standing.clone(),
        }
    }
}

impl<O: Ops + Send + 'static> Freezer<O> {
    /// Takes the engine.
    pub fn new(mut engine: Engine<O>) -> Self {
        let (standing, _) = watch::channel(Standing::of(&mut engine));
        Self {
            engine: Arc::new(Mutex::new(engine)),
            standing,
        }
    }

    /// Whether filesystems are frozen, or about to be, as far as this agent knows. Never waits.
    pub fn is_frozen(&self) -> bool {
        self.standing.borrow().frozen
    }

    /// Whether somebody else ends the freeze at work if this agent leaves. Never waits.
    pub fn is_guarded(&self) -> bool {
        self.standing.borrow().guarded
    }

    /// Waits until nothing is frozen or about to be.
    pub async fn thawed(&self) {
        let mut standing = self.standing.subscribe();
        // An error would mean that the sender is gone, but `self` holds it.
        standing.wait_for(|standing| !standing.frozen).await.ok();
    }

    /// [`Engine::freeze`] on a thread of its own. A freeze that holds is looked after from then on.
    ///
    /// # Errors
    /// The engine's.
    pub async fn freeze(&self, only: Option<Vec<Vec<u8>>>) -> Result<u64, FreezeError> {
        self.standing.send_modify(|standing| standing.frozen = true);
        let result = self.run(move |engine| engine.freeze(only.as_deref())).await;
        self.look_after();
        result
    }

    /// [`Engine::thaw`] on a thread of its own.
    ///
    /// # Errors
    /// The engine's.
    pub async fn thaw(&self) -> Result<u64, FreezeError> {
        self.run(Engine::thaw).await
    }

    /// [`Engine::end_early`] on a thread of its own.
    ///
    /// # Errors
    /// The engine's, or that no thread could be started.
    pub async fn end_early(&self, why: &'static str) -> Result<(), FreezeError> {
        self.run(move |engine| engine.end_early(why)).await
    }

    /// [`Engine::reports`] on a thread of its own.
    ///
    /// # Errors
    /// Its thread died.
    pub async fn reports(&self) -> Result<Vec<Report>, FreezeError> {
        self.run(|engine| Ok(engine.reports())).await
    }

    /// Looks after a freeze, if there is one: ends it at its limit, and hears of it when the
    /// guardian has ended it. Call it once more for a freeze that an earlier agent left.
    pub fn look_after(&self) {
        if self.is_frozen() {
            tokio::spawn(stand_by(self.clone()));
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine<O>) -> Result<T, FreezeError> + Send + 'static,
    ) -> Result<T, FreezeError> {
        let (tell, told) = oneshot::channel();
        let this = self.clone();
        let work = move || {
            let mut engine = this.engine.lock().unwrap_or_else(PoisonError::into_inner);
            let result = job(&mut engine);
            this.standing.send_replace(Standing::of(&mut engine));
            drop(engine);
            // The session may have ended meanwhile; the outcome stays in state and report.
            tell.send(result).ok();
        };
        // Shared, so that it is still there if no thread takes it.
        let ours = Arc::new(Mutex::new(Some(work)));
        let theirs = ours.clone();
        let take =
            |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
        let started = std::thread::Builder::new()
            .name("freeze".into())
            .stack_size(STACK)
            .spawn(move || {
                if let Some(work) = take(&theirs) {
                    work();
                }
            });
        if let Err(error) = started {
            if let Some(work) = take(&ours) {
                // A thaw must not fail for want of memory; the agent answers again after it.
                tracing::warn!("no thread to be had, so requests wait: {error}");
                work();
            }
        }
        told.await
            .unwrap_or_else(|_| Err(FreezeError("the freeze thread died".into())))
    }
}

/// Until nothing is frozen any more.
async fn stand_by<O: Ops + Send + 'static>(freezer: Freezer<O>) {
    while freezer.is_frozen() {
        let Standing { ends, guardian, .. } = freezer.standing.borrow().clone();
        let limit = async {
            match ends {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let spoken = async {
            match guardian.and_then(|line| watched(line).ok()) {
                Some(line) => drop(line.readable().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = freezer.thawed() => return,
            () = limit => {}
            () = spoken => {}
        }
        let done = freezer.run(|engine| {
            engine.look_after();
            Ok(())
        });
        if let Err(error) = done.await {
            tracing::error!("{error}");
            // The guardian is still there.
            tokio::time::sleep(RETRY).await;
        }
    }
}

#[allow(
    deprecated,
    reason = "its replacement is unsafe; an owned descriptor is what that asks for"
)]
fn watched(line: Arc<OwnedFd>) -> std::io::Result<AsyncFd<Arc<OwnedFd>>> {
    AsyncFd::with_interest(line, Interest::READABLE)
}
