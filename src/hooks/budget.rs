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
pub fn overdrawn(desk: &HookRun, step: &HookTask) -> Option<String> {
    let budget = step.budget?;
    let is_spent = desk.phase == Phase::Freeze && desk.left_of(step.source, budget).is_zero();
    is_spent.then(|| {
        let seconds = budget.as_secs_f64();
        format!("the {seconds} s for all of {} had passed", step.source)
    })
}

/// What is left for another try, if there is a limit.
pub fn for_retry(desk: &HookRun, step: &HookTask) -> Option<Duration> {
    let of_source = step.budget.map(|all| desk.left_of(step.source, all));
    of_source.into_iter().chain(desk.time_for(None)).min()
}

/// The call with the time that its start has which is the `tries`-th.
pub fn within(desk: &HookRun, step: &HookTask, call: &CommandLine, tries: u32) -> CommandLine {
    let mut call = call.clone();
    let of_source = step.budget.map(|all| desk.left_of(step.source, all));
    let common = of_source.into_iter().chain(desk.left()).min();
    call.timeout = match desk.phase {
        Phase::Freeze => call.timeout.into_iter().chain(common).min(),
        Phase::Thaw if tries > 1 => call.timeout.into_iter().chain(of_source).min(),
        Phase::Thaw => call.timeout.or(common.map(|left| left.max(MIN_BUDGET))),
    };
    call
}
