//! What the master runs: tasks, from the hooks' directory or an adapter.
//!
//! A task is a pair: what happens on freeze and what undoes it on thaw. [`super::discovery`] creates tasks, `runner`
//! runs them, and [`super::journal`] restores the thaw of a started one.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::adapter::Adapter;
use super::journal::StartedTask;
use super::settings::HookSettings;
use super::{Phase, ThawReason};
use crate::diagnostic::Diagnostic;

/// One program to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// For one start; None: no limit.
    pub timeout: Option<Duration>,
    /// Starts after a failure, without the first.
    pub(crate) retries: u32,
}

/// Whether a task can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eligibility {
    /// It can run.
    Fit,
    /// It is ignored, which is not a failure.
    Skipped(Diagnostic),
    /// It is wanted and cannot run, which is a failure.
    Unfit {
        /// Why, and what to do; [`Diagnostic::what`] is only set where the task's name does not say it.
        reason: Diagnostic,
        /// What the source's own contract calls that.
        error: Option<&'static str>,
    },
}

impl Eligibility {
    pub(crate) fn unfit(reason: Diagnostic) -> Eligibility {
        Eligibility::Unfit {
            reason,
            error: None,
        }
    }

    /// Why it does not run; `None`: it runs.
    pub(crate) fn refusal(&self) -> Option<&Diagnostic> {
        match self {
            Eligibility::Fit => None,
            Eligibility::Skipped(reason) | Eligibility::Unfit { reason, .. } => Some(reason),
        }
    }
}

/// Something to do on freeze, and what undoes it on thaw.
#[derive(Clone, Debug)]
pub struct HookTask {
    /// The adapter's name; empty for the hooks' directory. A task from the journal keeps the name of an adapter that
    /// this version does not have.
    pub source: String,
    pub(crate) adapter: Option<&'static Adapter>,
    /// In log, journal and report: a path.
    pub name: String,
    /// The settings that apply to it.
    pub policy: HookSettings,
    /// None: nothing runs on freeze, but the thaw still belongs to this task.
    pub freeze: Option<CommandLine>,
    pub(crate) thaw: Option<CommandLine>,
    /// In place of the thaw if the freeze failed; None: the thaw's.
    pub(crate) undo: Option<CommandLine>,
    /// Whether a task that failed on freeze is thawed as well.
    pub(crate) undone_if_failed: bool,
    /// Time for all tasks of the source in one phase together; None: no such limit.
    pub budget: Option<Duration>,
    /// Whether it can run.
    pub eligibility: Eligibility,
    /// The journal's entry of its freeze, if there is one.
    pub started: Option<StartedTask>,
}

impl HookTask {
    pub(crate) fn new(name: String, policy: HookSettings) -> HookTask {
        HookTask {
            source: String::new(),
            adapter: None,
            name,
            policy,
            freeze: None,
            thaw: None,
            undo: None,
            undone_if_failed: true,
            budget: None,
            eligibility: Eligibility::Fit,
            started: None,
        }
    }

    /// Discovery calls this for every task that an adapter returns.
    pub(crate) fn set_adapter(&mut self, adapter: &'static Adapter) {
        adapter.name.clone_into(&mut self.source);
        self.adapter = Some(adapter);
    }

    /// On a thaw after a failed freeze the command that undoes.
    pub(crate) fn command(&self, phase: Phase, reason: Option<ThawReason>) -> Option<&CommandLine> {
        match (phase, reason) {
            (Phase::Freeze, _) => self.freeze.as_ref(),
            (Phase::Thaw, Some(ThawReason::Failed)) => self.undo.as_ref().or(self.thaw.as_ref()),
            (Phase::Thaw, _) => self.thaw.as_ref(),
        }
    }
}

/// Groups run one after another, the tasks of a group in parallel: in each stage first the serial ones, one by one.
pub(crate) fn batches(tasks: Vec<HookTask>) -> Vec<Vec<HookTask>> {
    // The index keeps the order of tasks within a stage.
    let mut tasks: Vec<(usize, HookTask)> = tasks.into_iter().enumerate().collect();
    tasks.sort_unstable_by_key(|(at, task)| (task.policy.stage, task.policy.parallel, *at));
    let mut batches: Vec<Vec<HookTask>> = Vec::new();
    for (_, task) in tasks {
        match batches.last_mut() {
            Some(batch)
                if task.policy.parallel
                    && batch[0].policy.parallel
                    && batch[0].policy.stage == task.policy.stage =>
            {
                batch.push(task);
            }
            _ => batches.push(vec![task]),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_in_order_and_parallel_steps_together_at_the_end_of_theirs() {
        let task = |name: &str, stage, parallel| {
            let policy = HookSettings {
                stage,
                parallel,
                ..HookSettings::default()
            };
            HookTask::new(name.to_owned(), policy)
        };
        let tasks = vec![
            task("a", 50, true),
            task("b", 50, false),
            task("c", 50, true),
            task("d", 10, true),
            task("e", 60, true),
            task("f", 50, false),
        ];
        let names: Vec<Vec<String>> = batches(tasks)
            .into_iter()
            .map(|batch| batch.into_iter().map(|task| task.name).collect())
            .collect();
        assert_eq!(
            names,
            [vec!["d"], vec!["b"], vec!["f"], vec!["a", "c"], vec!["e"]]
        );
    }
}
