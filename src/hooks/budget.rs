//! The timeout of one start where several share one: all tasks of a run (`total-timeout`), all tasks of a source
//! (VMware's contract), or all tries of a task (Azure's).
//!
//! On freeze the common limit applies strictly. A thaw that is not called leaves an application quiesced for good, so
//! on thaw each task has its own timeout, and one without has at least [`MIN_BUDGET`].

use std::time::Duration;

use super::Phase;
use super::hook_run::HookRun;
use super::task::{CommandLine, HookTask};

const MIN_BUDGET: Duration = Duration::from_secs(30);

pub fn overdrawn(hook_run: &HookRun, task: &HookTask) -> Option<String> {
    let budget = task.budget?;
    let is_spent =
        hook_run.phase == Phase::Freeze && hook_run.left_of(&task.source, budget).is_zero();
    is_spent.then(|| {
        let seconds = budget.as_secs_f64();
        format!("the {seconds} s for all of {} had passed", task.source)
    })
}

/// The time that is left for a retry; None: no limit.
pub fn for_retry(hook_run: &HookRun, task: &HookTask) -> Option<Duration> {
    let of_source = task.budget.map(|all| hook_run.left_of(&task.source, all));
    of_source.into_iter().chain(hook_run.time_for(None)).min()
}

pub fn within(
    hook_run: &HookRun,
    task: &HookTask,
    command: &CommandLine,
    tries: u32,
) -> CommandLine {
    let mut command = command.clone();
    let of_source = task.budget.map(|all| hook_run.left_of(&task.source, all));
    let common = of_source.into_iter().chain(hook_run.left()).min();
    command.timeout = match hook_run.phase {
        Phase::Freeze => command.timeout.into_iter().chain(common).min(),
        Phase::Thaw if tries > 1 => command.timeout.into_iter().chain(of_source).min(),
        Phase::Thaw => command.timeout.or(common.map(|left| left.max(MIN_BUDGET))),
    };
    command
}
