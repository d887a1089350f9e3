//! Restore hooks: programs of restore-hook.d that run once in a machine that was started from a copy.
//!
//! They are found, checked, limited and logged as the hooks of fsfreeze-hook.d, by the same code, and they are never
//! those: a hook of fsfreeze-hook.d knows only freeze and thaw. The caller ([`crate::freeze`]'s `restored`) decides
//! which of them still have to run, and records each start, so that none runs twice.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::directory;
use super::exec;
use super::hook_run::HookRun;
use super::journal::{Journal, RunInfo};
use super::log::{HookLog, LogLine};
use super::outcome::{TaskOutcome, verdict};
use super::runner::log_end;
use super::settings::{HookConfig, HookKind};
use super::task::{CommandLine, Eligibility, HookTask, batches};
use super::{HookStatus, Phase, Verdict};
use crate::diagnostic::Diagnostic;

/// The argument of a restore hook, and its value of `QGA_PHASE`.
pub(crate) const RESTORED: &str = "restored";
/// `copy`, or `unknown` if the machine may also have died while frozen.
pub(crate) const ORIGIN_ENV: &str = "QGA_RESTORE_ORIGIN";
/// The level of the copy.
pub(crate) const LEVEL_ENV: &str = "QGA_RESTORE_LEVEL";
/// When the run of the copy began, in seconds since the epoch.
pub(crate) const TIME_ENV: &str = "QGA_RESTORE_TIME";

/// The hooks of one directory, in the order in which they run.
pub(crate) struct RestoreHooks {
    hook_run: HookRun,
    pub tasks: Vec<HookTask>,
}

pub(crate) struct RestoreOutcome {
    pub status: HookStatus,
    pub succeeded: bool,
    pub took: Duration,
    /// Of a failed hook.
    pub output: String,
}

impl RestoreHooks {
    /// `variables` are those that only restore hooks have. Nothing is run yet.
    ///
    /// # Errors
    /// Another user could have changed the directory or a hook in it, or it cannot be read.
    pub(crate) fn find(
        dir: &Path,
        log: &Path,
        run: RunInfo,
        variables: Vec<(&'static str, String)>,
        stop: Option<OwnedFd>,
    ) -> Result<Self, Diagnostic> {
        let found = directory::find(dir, &HookConfig::default());
        // The journal of freeze and thaw is not opened.
        let unused = Journal::in_dir(Path::new("/"));
        let mut hook_run = HookRun::new(Phase::Thaw, stop, (HookLog::new(log), unused));
        hook_run.run = run;
        hook_run.restored = Some(variables);
        let found = found.inspect_err(|refusal| hook_run.log().line(&refusal.to_string()))?;
        for warning in &found.warnings {
            hook_run.log().line(warning);
        }
        let enabled = found.tasks.into_iter().filter(|task| task.policy.enabled);
        let tasks = batches(enabled.collect()).into_iter().flatten().collect();
        Ok(Self { hook_run, tasks })
    }

    /// Whether the run of the hooks is asked to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        self.hook_run.is_stopped()
    }

    /// Runs one hook, once, and waits for its end.
    pub(crate) fn run(&self, task: &HookTask) -> RestoreOutcome {
        let begun = Instant::now();
        let done = match &task.eligibility {
            Eligibility::Skipped(why) => {
                let (hook, why) = (&task.name, &why.to_string());
                self.hook_run
                    .log()
                    .hook_line(LogLine::Skipped { hook, why });
                TaskOutcome::of(HookStatus::Skipped(why.clone()))
            }
            Eligibility::Unfit { reason, .. } => self.refuse(task, &reason.to_string()),
            Eligibility::Fit if task.policy.kind == HookKind::Hold => {
                self.refuse(task, "type = hold has no meaning for a restore hook")
            }
            Eligibility::Fit => self.start(task),
        };
        let verdict = verdict(&task.policy, &done);
        let is_failure = verdict == Verdict::Failure;
        RestoreOutcome {
            status: done.status,
            succeeded: !is_failure,
            took: begun.elapsed(),
            output: match is_failure {
                true => String::from_utf8_lossy(&done.tail).into_owned(),
                false => String::new(),
            },
        }
    }

    fn refuse(&self, task: &HookTask, why: &str) -> TaskOutcome {
        let hook = &task.name;
        self.hook_run
            .log()
            .hook_line(LogLine::CannotRun { hook, why });
        TaskOutcome::of(HookStatus::cannot_run(why))
    }

    fn start(&self, task: &HookTask) -> TaskOutcome {
        let command = CommandLine {
            program: task.name.clone().into(),
            args: vec![RESTORED.into()],
            timeout: task.policy.timeout,
            // Each runs once.
            retries: 0,
        };
        self.hook_run.log().hook_line(LogLine::Execute {
            hook: &task.name,
            args: RESTORED,
        });
        let ended = exec::run_once(&self.hook_run, &task.policy, &command, true);
        log_end(
            &self.hook_run,
            task,
            &task.name,
            command.timeout,
            (&ended, false),
        );
        TaskOutcome::from(ended)
    }
}
