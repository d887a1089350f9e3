//! The restore hooks at the start of an agent. Floor 5.
//!
//! They run on a thread, in a process of their own. Until that has ended, only commands that report that the agent lives
//! are answered; others wait in `session`.

use crate::freeze::Freezer;
use crate::freeze::restored::StartCheck;
use crate::protocol::error::CommandError;
use tokio::sync::watch;

/// Answered while restore hooks run.
const PROMPT_COMMANDS: [&str; 4] = [
    "guest-sync",
    "guest-sync-delimited",
    "guest-ping",
    "guest-info",
];

/// It follows a child process and reads a small file.
const RESTORE_STACK_SIZE: usize = 256 * 1024;

/// Whether restore hooks have to run, run, or have ended.
pub(super) struct Restore {
    check: Option<StartCheck>,
    /// `None`: no hooks had to run.
    running: Option<watch::Receiver<bool>>,
    /// The agent was asked to stop before they had ended.
    is_cancelled: bool,
}

impl Restore {
    pub(super) fn new(check: Option<StartCheck>) -> Self {
        Self {
            check,
            running: None,
            is_cancelled: false,
        }
    }

    /// Starts the hooks, if any. An agent that is asked to stop ends them.
    pub(super) fn start(&mut self, freezer: &Freezer) {
        let Some(check) = self.check.take() else {
            return;
        };
        let stop = freezer.stop_fd();
        let (running_sender, running) = watch::channel(true);
        let thread = std::thread::Builder::new()
            .name("restore".into())
            .stack_size(RESTORE_STACK_SIZE);
        let started = thread.spawn(move || {
            check.run_hooks(stop);
            running_sender.send_replace(false);
        });
        match started {
            Ok(_) => self.running = Some(running),
            Err(error) => {
                tracing::error!("restore hooks are not run: cannot start a thread: {error}");
            }
        }
    }

    /// Whether the command has to wait.
    pub(super) fn holds_up(&self, command: &str) -> bool {
        let is_running = |running: &watch::Receiver<bool>| *running.borrow();
        let waits = self.is_cancelled || self.running.as_ref().is_some_and(is_running);
        waits && !PROMPT_COMMANDS.contains(&command)
    }

    /// Waits for the end of the hooks. Fails if the agent was asked to stop meanwhile: the hooks are then not complete.
    pub(super) async fn ended(&mut self, freezer: &Freezer) -> Result<(), CommandError> {
        if let Some(running) = &mut self.running {
            // Err: the thread is gone.
            running.wait_for(|running| !running).await.ok();
        }
        self.is_cancelled = freezer.is_stopping();
        match self.is_cancelled {
            true => Err(CommandError::generic(
                "the agent was asked to stop before the restore hooks had ended",
            )),
            false => Ok(()),
        }
    }
}
