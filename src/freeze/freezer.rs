//! The engine behind a thread: what commands hold.

use super::engine::{Engine, FreezeError};
use super::linux::LinuxOps;
use super::ops::Ops;
use super::report::Report;
use crate::sys::{memory, strerror};
use nix::sys::eventfd::EventFd;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// The engine's own stack: it calls no deep code.
const ENGINE_STACK_SIZE: usize = 256 * 1024;

/// How long after the end of a run its memory is given back.
const MEMORY_RELEASE_DELAY: Duration = Duration::from_millis(200);

/// Pause before the watch over a freeze is tried again.
const HOLD_CHECK_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often a frozen agent that is asked to stop looks whether the system goes down.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// What is known of the engine without waiting for it.
#[derive(Clone, Default)]
struct EngineStatus {
    /// Filesystems are frozen, or about to be.
    frozen: bool,
    /// When the hold limit ends the freeze.
    ends: Option<Instant>,
    /// Where the guardian speaks.
    guardian: Option<Arc<OwnedFd>>,
    /// It is not known yet what an earlier agent has left.
    has_legacy: bool,
    /// See [`Freezer::owes_an_answer`].
    owes_an_answer: bool,
    /// The agent is asked to stop.
    is_stopping: bool,
}

impl EngineStatus {
    fn of<O: Ops>(engine: &mut Engine<O>) -> Self {
        let guardian = engine.guardian_line().map(Arc::new);
        Self {
            frozen: engine.is_frozen(),
            ends: engine.time_left().map(|left| Instant::now() + left),
            guardian,
            has_legacy: engine.has_legacy(),
            owes_an_answer: engine.owes_an_answer(),
            is_stopping: engine.is_stopping(),
        }
    }
}

/// Work for the engine's thread.
type Job<O> = Box<dyn FnOnce(&mut Engine<O>) + Send>;

struct Shared<O: Ops> {
    engine: Mutex<Engine<O>>,
    jobs: Mutex<Jobs<O>>,
    queued: Condvar,
    /// Tells the engine that the agent is asked to stop.
    stop: Option<Arc<EventFd>>,
}

struct Jobs<O: Ops> {
    queue: VecDeque<Job<O>>,
    /// A thread takes them. It stays while anything is frozen: one more could not be had then for want of
    /// memory, and to start it would take the thaw as long as the thaw itself.
    has_thread: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<O: Ops> Shared<O> {
    /// Does what is queued, until that is all and nothing is frozen.
    fn run_thread(&self) {
        let mut is_frozen = false;
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(job) = jobs.queue.pop_front() {
                drop(jobs);
                is_frozen = self.run_job(job);
                jobs = lock(&self.jobs);
            } else if is_frozen {
                jobs = self
                    .queued
                    .wait(jobs)
                    .unwrap_or_else(PoisonError::into_inner);
            } else {
                jobs.has_thread = false;
                return;
            }
        }
    }
}

impl<O: Ops> Shared<O> {
    /// Does it, and answers whether anything is frozen then.
    fn run_job(&self, job: Job<O>) -> bool {
        let mut engine = lock(&self.engine);
        job(&mut engine);
        engine.is_frozen()
    }
}

/// A handle to the engine; clones share it.
pub struct Freezer<O: Ops = LinuxOps> {
    shared: Arc<Shared<O>>,
    standing: watch::Sender<EngineStatus>,
}

impl<O: Ops> Clone for Freezer<O> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            standing: self.standing.clone(),
        }
    }
}

impl<O: Ops + Send + 'static> Freezer<O> {
    /// Takes the engine.
    pub fn new(mut engine: Engine<O>) -> Self {
        let (standing, _) = watch::channel(EngineStatus::of(&mut engine));
        let stop = engine.stop_line();
        let jobs = Jobs {
            queue: VecDeque::new(),
            has_thread: false,
        };
        Self {
            shared: Arc::new(Shared {
                engine: Mutex::new(engine),
                jobs: Mutex::new(jobs),
                queued: Condvar::new(),
                stop,
            }),
            standing,
        }
    }

    /// Whether filesystems are frozen, or about to be, as far as this agent knows. Never waits.
    pub fn is_frozen(&self) -> bool {
        self.standing.borrow().frozen
    }

    /// The agent is asked to stop: a freeze that is not whole is given up, and none begins any more. One that
    /// is whole goes on, unless the system goes down.
    pub fn stop(&self) {
        if let Some(stop) = &self.shared.stop {
            stop.write(1).ok();
            self.standing
                .send_modify(|standing| standing.is_stopping = true);
        }
    }

    async fn stopping(&self) {
        let mut standing = self.standing.subscribe();
        // As in `thawed`.
        standing
            .wait_for(|standing| standing.is_stopping)
            .await
            .ok();
    }

    /// Whether the host is yet to hear that its freeze was ended because the system goes down. Never waits.
    pub fn owes_an_answer(&self) -> bool {
        self.standing.borrow().owes_an_answer
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
        self.check_hold();
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
    pub fn check_hold(&self) {
        if self.needs_care() {
            tokio::spawn(stand_by(self.clone()));
        }
    }

    fn needs_care(&self) -> bool {
        let standing = self.standing.borrow();
        standing.frozen || standing.has_legacy
    }

    /// Has the engine's thread do it.
    fn enqueue(&self, job: Job<O>) {
        let mut jobs = lock(&self.shared.jobs);
        jobs.queue.push_back(job);
        let has_thread = std::mem::replace(&mut jobs.has_thread, true);
        drop(jobs);
        if has_thread {
            self.shared.queued.notify_one();
        } else {
            let shared = self.shared.clone();
            let started = std::thread::Builder::new()
                .name("freeze".into())
                .stack_size(ENGINE_STACK_SIZE)
                .spawn(move || shared.run_thread());
            if let Err(error) = started {
                // A thaw must not fail for want of memory; the agent answers again after it.
                tracing::warn!("cannot start a thread; requests wait: {error}");
                self.run_here();
            }
        }
    }

    /// Does what is queued on the caller's thread.
    fn run_here(&self) {
        let mut jobs = lock(&self.shared.jobs);
        jobs.has_thread = false;
        let queue = std::mem::take(&mut jobs.queue);
        drop(jobs);
        for job in queue {
            self.shared.run_job(job);
        }
    }

    /// Waits until what is left of a run that has ended is done: for an agent that leaves. It does not
    /// wait for a run at work.
    pub fn update_status(&self) {
        if !self.is_frozen() {
            lock(&self.shared.engine).conclude();
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine<O>) -> Result<T, FreezeError> + Send + 'static,
    ) -> Result<T, FreezeError> {
        let (tell, told) = oneshot::channel();
        let (concluded, over) = oneshot::channel();
        let standing = self.standing.clone();
        let job: Job<O> = Box::new(move |engine| {
            let result = job(engine);
            standing.send_replace(EngineStatus::of(engine));
            // The session may have ended meanwhile; the outcome stays in state and report.
            tell.send(result).ok();
            // The host does not wait for this; what comes next does.
            engine.conclude();
            standing.send_replace(EngineStatus::of(engine));
            concluded.send(()).ok();
        });
        self.enqueue(job);
        tokio::spawn(release_memory(self.clone(), over));
        told.await
            .unwrap_or_else(|_| Err(FreezeError("the freeze thread died".into())))
    }
}

/// Gives the memory back that a run took. The engine's thread has to have ended, for what it keeps for its
/// own next use lies between what others use.
async fn release_memory<O: Ops + Send + 'static>(
    freezer: Freezer<O>,
    concluded: oneshot::Receiver<()>,
) {
    concluded.await.ok();
    tokio::time::sleep(MEMORY_RELEASE_DELAY).await;
    if freezer.is_frozen() {
        return;
    }
    memory::empty_thread_cache();
    memory::release_free_heap();
    if let Err(error) = memory::release_file_pages() {
        tracing::debug!("pages of files stay resident: {}", strerror(&error));
    }
}

/// Until nothing is frozen any more. What an earlier agent has left is looked at first.
async fn stand_by<O: Ops + Send + 'static>(freezer: Freezer<O>) {
    let mut is_new = freezer.standing.borrow().has_legacy;
    while freezer.needs_care() {
        let EngineStatus {
            ends,
            guardian,
            has_legacy,
            is_stopping,
            ..
        } = freezer.standing.borrow().clone();
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
            () = freezer.thawed(), if !has_legacy => return,
            () = limit, if !is_new => {}
            () = spoken, if !is_new => {}
            () = std::future::ready(()), if is_new => {}
            () = freezer.stopping(), if !is_stopping => {}
            () = tokio::time::sleep(STOP_CHECK_INTERVAL), if is_stopping => {}
        }
        is_new = false;
        let done = freezer.run(|engine| {
            engine.check_hold();
            Ok(())
        });
        if let Err(error) = done.await {
            tracing::error!("{error}");
            // The guardian is still there.
            tokio::time::sleep(HOLD_CHECK_RETRY_INTERVAL).await;
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
