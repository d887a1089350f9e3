//! The time that all steps of one source have together, where its contract limits that.

use std::time::Duration;

use super::Phase;
use super::desk::Desk;
use super::step::{Call, Step};

/// What a step has on thaw although the time is up.
const LEAST: Duration = Duration::from_secs(30);

/// Why a step whose source has used up its time is not called; on thaw it always is.
pub fn overdrawn(desk: &Desk, step: &Step) -> Option<String> {
    let budget = step.budget?;
    let is_spent = desk.phase == Phase::Freeze && desk.left_of(step.source, budget).is_zero();
    is_spent.then(|| {
        let seconds = budget.as_secs_f64();
        format!("the {seconds} s for all of {} had passed", step.source)
    })
}

/// The call with what is left of the time.
pub fn within(desk: &Desk, step: &Step, call: &Call) -> Call {
    let mut call = call.clone();
    if let Some(budget) = step.budget {
        let mut left = desk.left_of(step.source, budget);
        if desk.phase == Phase::Thaw {
            left = left.max(budget.min(LEAST));
        }
        call.timeout = Some(call.timeout.map_or(left, |timeout| timeout.min(left)));
    }
    call
}
