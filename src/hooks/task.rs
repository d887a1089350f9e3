//! What the master runs: tasks, from the hooks' directory or an adapter.
//!
//! A task is a pair: what happens on freeze and what undoes it on thaw. [`super::discovery`] creates tasks,
//! `runner` runs them, and [`super::journal`] restores the thaw of a started one.

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
    /// The program's absolute path.
    pub program: PathBuf,
    /// Arguments without the program's name.
    pub args: Vec<OsString>,
    /// Time for one start; None: no limit.
    pub timeout: Option<Duration>,
    /// Starts after a failure, without the first.
    pub retries: u32,
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
        /// The name of the failure in the source's own contract.
        error: Option<&'static str>,
    },
}

impl Eligibility {
    /// It cannot run, and its contract has no name for that.
    pub fn unfit(reason: Diagnostic) -> Eligibility {
        Eligibility::Unfit {
            reason,
            error: None,
        }
    }
}

/// Something to do on freeze, and what undoes it on thaw.
#[derive(Clone, Debug)]
pub struct HookTask {
    /// The adapter's name; empty for the hooks' directory. A task from the journal keeps the name of an adapter
    /// that this version does not have.
    pub source: String,
    /// The adapter, if it has one.
    pub adapter: Option<&'static Adapter>,
    /// Its name in log, journal and report: a path.
    pub name: String,
    /// The settings that apply to it.
    pub policy: HookSettings,
    /// The command of the freeze; None: nothing runs on freeze, but the thaw still belongs to this task.
    pub freeze: Option<CommandLine>,
    /// The command of the thaw; None: nothing runs.
    pub thaw: Option<CommandLine>,
    /// The command in place of the thaw if the freeze failed; None: the thaw's.
    pub undo: Option<CommandLine>,
    /// Whether a task that failed on freeze is thawed as well.
    pub undone_if_failed: bool,
    /// Time for all tasks of the source in one phase together; None: no such limit.
    pub budget: Option<Duration>,
    /// Whether it can run.
    pub eligibility: Eligibility,
    /// The journal's entry of its freeze; None: there is none.
    pub started: Option<StartedTask>,
}

impl HookTask {
    /// A task called `name` of the hooks' directory, without commands.
    pub fn new(name: String, policy: HookSettings) -> HookTask {
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

    /// Makes it a task of `adapter`. Discovery does this for every task that an adapter returns.
    pub fn set_adapter(&mut self, adapter: &'static Adapter) {
        adapter.name.clone_into(&mut self.source);
        self.adapter = Some(adapter);
    }

    /// The command for this phase; on a thaw after a failed freeze the one that undoes.
    pub fn command(&self, phase: Phase, reason: Option<ThawReason>) -> Option<&CommandLine> {
        match (phase, reason) {
            (Phase::Freeze, _) => self.freeze.as_ref(),
            (Phase::Thaw, Some(ThawReason::Failed)) => self.undo.as_ref().or(self.thaw.as_ref()),
            (Phase::Thaw, _) => self.thaw.as_ref(),
        }
    }
}

/// Groups tasks for execution: groups run one after another, tasks in one group in parallel. Stages run in
/// ascending order; in a stage first the serial tasks, then the parallel ones together.
pub fn batches(tasks: Vec<HookTask>) -> Vec<Vec<HookTask>> {
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
