//! The engine on a thread of its own, as the commands use it.
//!
//! One thread works on the queued requests in order. It stays while anything is frozen: a new thread might not be
//! possible then, because memory is short, and its start would take as long as the thaw itself.

use super::engine::Engine;
use super::error::FreezeError;
use super::linux::LinuxOps;
use super::ops::SystemOps;
use super::report::Report;
use crate::sys::{memory, strerror};
use nix::sys::eventfd::EventFd;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

type LinuxEngine = Engine<LinuxOps>;

const ENGINE_STACK_SIZE: usize = 256 * 1024;

const MEMORY_RELEASE_DELAY: Duration = Duration::from_millis(200);

const HOLD_CHECK_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often a frozen agent that is asked to stop checks whether the system shuts down.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(500);
#[derive(Clone, Default)]
struct EngineStatus {
    /// Filesystems are frozen or about to be.
    frozen: bool,
    ends: Option<Instant>,
    /// Readable when the guardian sends something or exits.
    guardian: Option<Arc<OwnedFd>>,
    has_legacy: bool,
    owes_an_answer: bool,
    is_stopping: bool,
}

impl EngineStatus {
    fn of(engine: &mut LinuxEngine) -> Self {
        let guardian = engine.ops().guardian_fd().map(Arc::new);
        Self {
            frozen: engine.is_frozen(),
            ends: engine.time_left().map(|left| Instant::now() + left),
            guardian,
            has_legacy: engine.has_legacy(),
            owes_an_answer: engine.owes_an_answer(),
            is_stopping: engine.ops().is_stopping(),
        }
    }
}

type Job = Box<dyn FnOnce(&mut LinuxEngine) + Send>;

struct Shared {
    engine: Mutex<LinuxEngine>,
    jobs: Mutex<Jobs>,
    queued: Condvar,
    stop: Option<Arc<EventFd>>,
}

struct Jobs {
    queue: VecDeque<Job>,
    /// See the module for why it stays while anything is frozen.
    has_thread: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
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
    fn run_job(&self, job: Job) -> bool {
        let mut engine = lock(&self.engine);
        job(&mut engine);
        engine.is_frozen()
    }
}
#[derive(Clone)]
pub struct Freezer {
    shared: Arc<Shared>,
    status: watch::Sender<EngineStatus>,
}

impl Freezer {
    pub fn new(mut engine: LinuxEngine) -> Self {
        let (status, _) = watch::channel(EngineStatus::of(&mut engine));
        let stop = engine.ops().stop_event();
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
            status,
        }
    }

    /// Whether filesystems are frozen or about to be, as far as this agent knows. Never waits.
    pub fn is_frozen(&self) -> bool {
        self.status.borrow().frozen
    }

    /// A freeze that is not complete is given up, and none begins. A complete one goes on unless the system shuts down.
    pub fn stop(&self) {
        if let Some(stop) = &self.shared.stop {
            // It fails only at the counter's maximum, and is readable then as well.
            stop.write(1).ok();
            self.status.send_modify(|status| status.is_stopping = true);
        }
    }

    /// Becomes readable at [`Freezer::stop`]; `None`: no descriptor is left.
    pub fn stop_fd(&self) -> Option<OwnedFd> {
        let stop = self.shared.stop.as_ref()?;
        stop.as_fd().try_clone_to_owned().ok()
    }

    pub fn is_stopping(&self) -> bool {
        self.status.borrow().is_stopping
    }

    async fn stopping(&self) {
        let mut status = self.status.subscribe();
        // Err only without a sender, as in `thawed`.
        status.wait_for(|status| status.is_stopping).await.ok();
    }

    pub fn owes_an_answer(&self) -> bool {
        self.status.borrow().owes_an_answer
    }

    /// Waits until nothing is frozen or about to be.
    pub async fn thawed(&self) {
        let mut status = self.status.subscribe();
        // Err only without a sender, which `self` holds.
        status.wait_for(|status| !status.frozen).await.ok();
    }

    pub async fn freeze(&self, only: Option<Vec<Vec<u8>>>) -> Result<u64, FreezeError> {
        self.status.send_modify(|status| status.frozen = true);
        let result = self.run(move |engine| engine.freeze(only.as_deref())).await;
        self.check_hold();
        result
    }

    pub async fn thaw(&self) -> Result<u64, FreezeError> {
        self.run(Engine::thaw).await
    }

    pub async fn end_early(&self, why: &'static str) -> Result<(), FreezeError> {
        self.run(move |engine| engine.end_early(why)).await
    }

    pub async fn reports(&self) -> Result<Vec<Report>, FreezeError> {
        self.run(|engine| Ok(engine.reports())).await
    }

    /// Starts a task that ends a freeze at its limit and reacts to its guardian. To be called once at the start, too,
    /// for a freeze that an earlier agent left.
    pub fn check_hold(&self) {
        if self.needs_checks() {
            tokio::spawn(watch_freeze(self.clone()));
        }
    }

    fn needs_checks(&self) -> bool {
        let status = self.status.borrow();
        status.frozen || status.has_legacy
    }

    fn enqueue(&self, job: Job) {
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
                // A thaw must not fail for lack of memory. The agent answers no other request until it is done.
                tracing::warn!("cannot start a thread; requests wait: {error}");
                self.run_here();
            }
        }
    }

    fn run_here(&self) {
        let mut jobs = lock(&self.shared.jobs);
        jobs.has_thread = false;
        let queue = std::mem::take(&mut jobs.queue);
        drop(jobs);
        for job in queue {
            self.shared.run_job(job);
        }
    }

    /// Before the agent exits. Does not wait for a run that goes on.
    pub fn update_status(&self) {
        if !self.is_frozen() {
            lock(&self.shared.engine).conclude();
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut LinuxEngine) -> Result<T, FreezeError> + Send + 'static,
    ) -> Result<T, FreezeError> {
        let (result_sender, result_receiver) = oneshot::channel();
        let (concluded, conclusion) = oneshot::channel();
        let status = self.status.clone();
        let job: Job = Box::new(move |engine| {
            let result = job(engine);
            status.send_replace(EngineStatus::of(engine));
            // The session may have ended meanwhile; state and report have the result.
            result_sender.send(result).ok();
            // After the reply, so that the host does not wait for this; the next job does.
            engine.conclude();
            status.send_replace(EngineStatus::of(engine));
            // The runtime may have ended, and with it the task that waits.
            concluded.send(()).ok();
        });
        self.enqueue(job);
        tokio::spawn(release_memory(self.clone(), conclusion));
        result_receiver
            .await
            .unwrap_or_else(|_| Err(FreezeError::ThreadDied))
    }
}

/// After the engine's thread has exited: what it keeps for its next allocations lies between what others use.
async fn release_memory(freezer: Freezer, concluded: oneshot::Receiver<()>) {
    // Err: the job panicked. Memory is given back all the same.
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

/// First checks what an earlier agent has left.
async fn watch_freeze(freezer: Freezer) {
    let mut is_new = freezer.status.borrow().has_legacy;
    while freezer.needs_checks() {
        let EngineStatus {
            ends,
            guardian,
            has_legacy,
            is_stopping,
            ..
        } = freezer.status.borrow().clone();
        let limit = async {
            match ends {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let guardian_event = async {
            // If it cannot be watched, the guardian's end is noticed at the hold limit or with the next request.
            match guardian.and_then(|guardian| watch_fd(guardian).ok()) {
                Some(fd) => drop(fd.readable().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = freezer.thawed(), if !has_legacy => return,
            () = limit, if !is_new => {}
            () = guardian_event, if !is_new => {}
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
            // The guardian still enforces the limit.
            tokio::time::sleep(HOLD_CHECK_RETRY_INTERVAL).await;
        }
    }
}

#[allow(
    deprecated,
    reason = "its replacement is unsafe; an owned descriptor is what that asks for"
)]
fn watch_fd(fd: Arc<OwnedFd>) -> std::io::Result<AsyncFd<Arc<OwnedFd>>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}
