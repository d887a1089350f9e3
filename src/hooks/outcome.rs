//! How a task ended, the verdict by the operator's settings, and the texts for the log and the host.
//! [`super::runner`] builds records from this; nothing here has side effects.

use std::time::Duration;

use super::exec::CommandOutcome;
use super::settings::HookSettings;
use super::task::HookTask;
use super::{HookRecord, HookStatus, Phase, Verdict, sources};

/// The end of a task after its last try.
pub struct TaskOutcome {
    pub status: HookStatus,
    pub tail: Vec<u8>,
    pub tries: u32,
    /// At least one try was started.
    pub has_run: bool,
    pub holds: bool,
    /// A holding hook ended before it was ready.
    pub is_early: bool,
    pub lost: bool,
}

impl TaskOutcome {
    /// The outcome of a task that was not started.
    pub fn of(status: HookStatus) -> TaskOutcome {
        TaskOutcome {
            status,
            tail: Vec::new(),
            tries: 0,
            has_run: false,
            holds: false,
            is_early: false,
            lost: false,
        }
    }
}

impl From<CommandOutcome> for TaskOutcome {
    fn from(ended: CommandOutcome) -> TaskOutcome {
        TaskOutcome {
            tail: ended.tail,
            tries: 1,
            ..TaskOutcome::of(ended.status)
        }
    }
}

/// The name of this end in the contract of the task's source.
pub fn error_name(task: &HookTask, phase: Phase, status: &HookStatus) -> Option<&'static str> {
    (sources::adapter(task.source)?.error_name)(phase, status)
}

/// The verdict by the operator's settings. A hook that holds has succeeded, a hook that stopped holding has
/// failed, whatever its exit status.
pub fn verdict(policy: &HookSettings, done: &TaskOutcome) -> Verdict {
    match &done.status {
        _ if done.holds => Verdict::Success,
        _ if done.lost => Verdict::Failure,
        HookStatus::Exited(code) if !done.is_early && policy.success.contains(code) => {
            Verdict::Success
        }
        HookStatus::Exited(code) if policy.not_applicable.contains(code) => Verdict::NotApplicable,
        HookStatus::Exited(_) => Verdict::Failure,
        status => status.verdict(),
    }
}

/// The failure in one line for the host, with the last three lines of output.
pub fn describe_record(record: &HookRecord) -> String {
    let how = match &record.status {
        _ if record.lost => "did not hold until the thaw".to_owned(),
        HookStatus::Exited(code) => format!("exit status {code}"),
        HookStatus::Signaled(signal) => format!("ended by signal {signal}"),
        HookStatus::NotRun { reason, .. } => reason.clone(),
        HookStatus::Skipped(why) => why.clone(),
        HookStatus::TimedOut => "not finished in time".to_owned(),
        HookStatus::Cancelled => "stopped".to_owned(),
    };
    let name = record.error.as_deref().map(|name| format!("{name}: "));
    let name = name.unwrap_or_default();
    let last = record.output.trim_end().lines().rev().take(3);
    let last: Vec<&str> = last.collect::<Vec<_>>().into_iter().rev().collect();
    let last = match last.is_empty() {
        true => String::new(),
        false => format!("; its last output: {}", last.join(" | ")),
    };
    format!(
        "{name}hook {} {}: {how}{last}",
        record.path,
        record.phase.as_str()
    )
}

/// The log's explanation of a status whose number is not enough.
pub fn explanation(status: &HookStatus, limit: Option<Duration>) -> Option<String> {
    match status {
        HookStatus::TimedOut => {
            let seconds = limit.unwrap_or_default().as_secs_f64();
            Some(format!("did not finish within {seconds} s and was ended"))
        }
        HookStatus::Cancelled => Some("was ended because the run was stopped".to_owned()),
        // The log has a line of its own for what was not run.
        HookStatus::NotRun { .. }
        | HookStatus::Exited(_)
        | HookStatus::Signaled(_)
        | HookStatus::Skipped(_) => None,
    }
}
