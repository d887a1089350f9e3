//! What the master runs: steps, whatever source they come from.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::journal::StartedTask;
use super::settings::HookSettings;
use super::{Phase, ThawReason};

/// One program to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Its path, absolute.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Time for one start; None: as long as it takes.
    pub timeout: Option<Duration>,
    /// How many further starts after a failure.
    pub retries: u32,
}

/// Whether a step can be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eligibility {
    /// It can.
    Fit,
    /// It is passed over, and that is no failure; the reason, with the remedy.
    Skipped(String),
    /// It should be, but cannot: a failure.
    Unfit {
        /// Why, with the remedy.
        reason: String,
        /// The failure's name in the source's own contract.
        error: Option<&'static str>,
    },
}

/// Something to do at a freeze, and its other half at the thaw.
#[derive(Clone, Debug)]
pub struct HookTask {
    /// The source's name; empty for the hooks' directory.
    pub source: &'static str,
    /// What it is known by: a path.
    pub name: String,
    /// How it is run.
    pub policy: HookSettings,
    /// What happens on freeze; None: nothing, but the other half belongs to it.
    pub freeze: Option<CommandLine>,
    /// What happens on thaw; None: nothing.
    pub thaw: Option<CommandLine>,
    /// What happens instead of the thaw if the freeze failed; None: the same.
    pub undo: Option<CommandLine>,
    /// Whether a step that itself failed on freeze is undone, too.
    pub undone_if_failed: bool,
    /// Time for all steps of its source in one phase together; None: no such limit.
    pub budget: Option<Duration>,
    /// Whether it can be taken.
    pub eligibility: Eligibility,
    /// What the journal holds of its freeze; None: it holds nothing of it.
    pub started: Option<StartedTask>,
}

impl HookTask {
    /// A step of `source` known as `name`, with nothing to do yet.
    pub fn new(source: &'static str, name: String, policy: HookSettings) -> HookTask {
        HookTask {
            source,
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

    /// What is to be called in this phase, if anything.
    pub fn command(&self, phase: Phase, reason: Option<ThawReason>) -> Option<&CommandLine> {
        match (phase, reason) {
            (Phase::Freeze, _) => self.freeze.as_ref(),
            (Phase::Thaw, Some(ThawReason::Failed)) => self.undo.as_ref().or(self.thaw.as_ref()),
            (Phase::Thaw, _) => self.thaw.as_ref(),
        }
    }
}

/// In what goes on: each element runs when the one before it has ended; what is in one element runs
/// side by side. Stages in order; in each first the serial steps, then the parallel ones together.
pub fn batches(tasks: Vec<HookTask>) -> Vec<Vec<HookTask>> {
    // The place in the list keeps steps of one stage in their order.
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
            HookTask::new("", name.to_owned(), policy)
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
