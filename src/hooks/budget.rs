//! The time of one start, where all steps of a run (`total-timeout`) or of a source (VMware's
//! contract), or all tries of a step (Azure's), have one limit together.
//!
//! That limit ends a freeze in time. A thaw that is not called leaves an application quiet for good, so
//! on thaw each step has its own time, and where it has none at least [`MIN_BUDGET`] of the common one.

use std::time::Duration;

use super::Phase;
use super::hook_run::HookRun;
use super::task::{CommandLine, HookTask};

/// What a step has on thaw although the time for all is up.
const MIN_BUDGET: Duration = Duration::from_secs(30);

/// Why a step whose source has used up its time is not called; on thaw it always is.
pub fn overdrawn(hook_run: &HookRun, task: &HookTask) -> Option<String> {
    let budget = task.budget?;
    let is_spent =
        hook_run.phase == Phase::Freeze && hook_run.left_of(task.source, budget).is_zero();
    is_spent.then(|| {
        let seconds = budget.as_secs_f64();
        format!("the {seconds} s for all of {} had passed", task.source)
    })
}

/// What is left for another try, if there is a limit.
pub fn for_retry(hook_run: &HookRun, task: &HookTask) -> Option<Duration> {
    let of_source = task.budget.map(|all| hook_run.left_of(task.source, all));
    of_source.into_iter().chain(hook_run.time_for(None)).min()
}

/// The call with the time that its start has which is the `tries`-th.
pub fn within(
    hook_run: &HookRun,
    task: &HookTask,
    command: &CommandLine,
    tries: u32,
) -> CommandLine {
    let mut command = command.clone();
    let of_source = task.budget.map(|all| hook_run.left_of(task.source, all));
    let common = of_source.into_iter().chain(hook_run.left()).min();
    command.timeout = match hook_run.phase {
        Phase::Freeze => command.timeout.into_iter().chain(common).min(),
        Phase::Thaw if tries > 1 => command.timeout.into_iter().chain(of_source).min(),
        Phase::Thaw => command.timeout.or(common.map(|left| left.max(MIN_BUDGET))),
    };
    command
}
