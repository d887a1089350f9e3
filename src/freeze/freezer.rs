//! The engine behind a thread: what commands hold.

use super::engine::{Engine, FreezeError};
use super::ops::Ops;
use super::real::RealOps;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{oneshot, watch};

/// The engine's own stack: it calls no deep code.
const STACK: usize = 256 * 1024;

/// A handle to the engine; clones share it.
pub struct Freezer<O: Ops = RealOps> {
    engine: Arc<Mutex<Engine<O>>>,
    frozen: watch::Sender<bool>,
}

impl<O: Ops> Clone for Freezer<O> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            frozen: self.frozen.clone(),
        }
    }
}

impl<O: Ops + Send + 'static> Freezer<O> {
    /// Takes the engine.
    pub fn new(engine: Engine<O>) -> Self {
        let (frozen, _) = watch::channel(engine.is_frozen());
        Self {
            engine: Arc::new(Mutex::new(engine)),
            frozen,
        }
    }

    /// Whether filesystems are frozen, or about to be, as far as this agent knows. Never waits.
    pub fn is_frozen(&self) -> bool {
        *self.frozen.borrow()
    }

    /// Waits until nothing is frozen or about to be.
    pub async fn thawed(&self) {
        // An error would mean that the sender is gone, but `self` holds it.
        self.frozen
            .subscribe()
            .wait_for(|frozen| !frozen)
            .await
            .ok();
    }

    /// [`Engine::freeze`] on a thread of its own.
    ///
    /// # Errors
    /// The engine's, or that no thread could be started.
    pub async fn freeze(&self, only: Option<Vec<Vec<u8>>>) -> Result<u64, FreezeError> {
        self.frozen.send_replace(true);
        self.run(move |engine| engine.freeze(only.as_deref())).await
    }

    /// [`Engine::thaw`] on a thread of its own.
    ///
    /// # Errors
    /// The engine's, or that no thread could be started.
    pub async fn thaw(&self) -> Result<u64, FreezeError> {
        self.run(Engine::thaw).await
    }

    async fn run(
        &self,
        job: impl FnOnce(&mut Engine<O>) -> Result<u64, FreezeError> + Send + 'static,
    ) -> Result<u64, FreezeError> {
        let (tell, told) = oneshot::channel();
        let this = self.clone();
        std::thread::Builder::new()
            .name("freeze".into())
            .stack_size(STACK)
            .spawn(move || {
                let mut engine = this.engine.lock().unwrap_or_else(PoisonError::into_inner);
                let result = job(&mut engine);
                this.frozen.send_replace(engine.is_frozen());
                drop(engine);
                // The session may have ended meanwhile; the outcome stays in state and report.
                tell.send(result).ok();
            })
            .map_err(|e| {
                let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
                self.frozen.send_replace(engine.is_frozen());
                FreezeError(format!("failed to start a thread: {e}"))
            })?;
        told.await
            .unwrap_or_else(|_| Err(FreezeError("the freeze thread died".into())))
    }
}
