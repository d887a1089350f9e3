//! How a task ended: the verdict by the operator's settings, the record, and the texts for the log and the host.
//! [`super::runner`] calls this; nothing here has side effects.

use std::time::Duration;

use super::exec::CommandOutcome;
use super::settings::HookSettings;
use super::task::{Eligibility, HookTask};
use super::{HookRecord, HookStatus, Phase, ThawReason, Verdict};

pub struct TaskOutcome {
    pub status: HookStatus,
    pub tail: Vec<u8>,
    pub tries: u32,
    pub has_run: bool,
    pub holds: bool,
    /// A holding hook ended before it was ready.
    pub is_early: bool,
    pub lost: bool,
}

impl TaskOutcome {
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

pub fn error_name(task: &HookTask, phase: Phase, status: &HookStatus) -> Option<&'static str> {
    (task.adapter?.error_name)(phase, status)
}

/// A hook that holds has succeeded, a hook that stopped holding has failed, whatever its exit status.
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

pub fn record(
    task: &HookTask,
    (phase, reason): (Phase, Option<ThawReason>),
    done: TaskOutcome,
    elapsed: Duration,
    verdict: Verdict,
) -> HookRecord {
    let command = task.command(phase, reason);
    let path = match (command, &task.eligibility) {
        (Some(command), eligibility) if *eligibility == Eligibility::Fit || done.tries > 0 => {
            command.program.display().to_string()
        }
        _ => task.name.clone(),
    };
    let mut record = HookRecord::new(path, phase, done.status);
    record.source.clone_from(&task.source);
    record.elapsed = elapsed.as_secs_f64();
    record.tries = (done.tries > 1).then_some(done.tries);
    record.lost = done.lost;
    let tags = task.adapter.iter().flat_map(|adapter| adapter.tags);
    let tags = tags.map(|&(level, tag)| (level.to_owned(), tag.to_owned()));
    record.tags = tags.collect();
    if verdict == Verdict::Failure {
        record.error = match (&task.eligibility, &record.status) {
            (Eligibility::Unfit { error, .. }, _) if done.tries == 0 => *error,
            (_, status) => error_name(task, phase, status),
        }
        .map(str::to_owned);
        record.output = String::from_utf8_lossy(&done.tail).into_owned();
    }
    // The verdict is recorded only if the status alone means something else.
    if verdict != record.status.verdict() {
        record.verdict = Some(verdict);
    }
    record
}

/// For the host: one line, with the last three lines of output.
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
