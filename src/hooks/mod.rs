//! Hooks (floor 3): programs that make applications quiet before a freeze and let them go on after
//! the thaw.
//!
//! Two sides. The agent calls one program, the hook master, with `freeze` or `thaw` ([`invoke`]).
//! Our own master is `qemu-ga hook` ([`mod@cli`], [`runner`]): it runs every hook of fsfreeze-hook.d,
//! writes the log that operators read ([`log`]), and tells the agent of each hook over a descriptor
//! that a foreign master ignores. What runs as root must not be writable by others ([`trust`]).
//!
//! What the master runs are steps ([`task`]): they come from [`sources`] and are run as the operator
//! wants it ([`settings`]). One that must hold on until the thaw is kept by a process of its own
//! ([`holder`]). What was started on freeze is in a journal ([`journal`]), so that just that is undone.

pub mod at_work;
mod budget;
mod cli;
mod exec;
pub mod holder;
mod hook_run;
pub mod invoke;
pub mod journal;
pub mod locate;
pub mod log;
mod outcome;
pub mod runner;
pub mod settings;
pub mod sources;
pub mod task;
#[cfg(test)]
mod tests;
pub mod trust;

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::probe::mountinfo::unescape;
use crate::sys::strerror;

pub use cli::{USAGE, cli, stop_signals};
pub use exec::MAX_TAIL_BYTES;

/// The variable in which a master finds the number of the descriptor that takes its records, one
/// JSON object a line ([`HookRecord`]).
pub const RECORDS_ENV: &str = "QGA_HOOK_RECORDS_FD";
/// The variable in which a master finds the number of a descriptor that only has to stay open while
/// it works.
pub const ALIVE_ENV: &str = "QGA_HOOK_ALIVE_FD";
/// The line among our own master's records that says: freeze no filesystem in this run.
pub const LEAVE_FILESYSTEMS: &str = "{\"freeze-filesystems\":false}";
/// The first line of our own master's records.
pub const RECORDS_HEAD: &str = "{\"master\":\"qemu-ga\"}\n";
/// The variable in which the master script finds the agent's own binary.
pub const BINARY_ENV: &str = "QGA_BINARY";

/// The variable in which a master finds the agent's state directory, for its memory.
pub const STATE_ENV: &str = "QGA_HOOK_STATE";
/// The variable that names the only run whose hooks our own master is to thaw.
pub const ONLY_RUN_ENV: &str = "QGA_HOOK_RUN";
/// In its place: whichever run the journal is of.
pub const ANY_RUN: &str = "*";
/// The variable in which hooks find the phase.
pub const PHASE_ENV: &str = "QGA_PHASE";
/// The variable in which hooks find the run's id, as in the report.
pub const RUN_ENV: &str = "QGA_RUN_ID";
/// The variable in which hooks find the mountpoints that the agent freezes, see [`words`].
pub const MOUNTPOINTS_ENV: &str = "QGA_MOUNTPOINTS";
/// The variable in which hooks find the devices of those, in the same order.
pub const DEVICES_ENV: &str = "QGA_DEVICES";
/// The variable in which hooks find how long the agent lets a freeze last, in seconds; 0 for ever.
pub const HOLD_LIMIT_ENV: &str = "QGA_HOLD_LIMIT";
/// The variable in which a hook finds how many seconds it has; without a limit there is none.
pub const DEADLINE_ENV: &str = "QGA_DEADLINE";

/// Joins names for a variable: one blank between two, and blanks, tabs, line ends and backslashes in
/// them in octal, as /proc/self/mountinfo has it, and bytes that are no text as well.
pub fn words<'a>(names: impl IntoIterator<Item = &'a (impl AsRef<[u8]> + ?Sized + 'a)>) -> String {
    let mut joined = String::new();
    for name in names {
        if !joined.is_empty() {
            joined.push(' ');
        }
        for chunk in name.as_ref().utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    ' ' | '\t' | '\n' | '\\' => push_octal(&mut joined, c as u8),
                    c => joined.push(c),
                }
            }
            let invalid = chunk.invalid().iter();
            invalid.for_each(|&byte| push_octal(&mut joined, byte));
        }
    }
    joined
}

fn push_octal(text: &mut String, byte: u8) {
    text.push('\\');
    for shift in [6, 3, 0] {
        text.push(char::from(b'0' + (byte >> shift & 7)));
    }
}

/// Takes apart what [`words`] joined.
pub fn from_words(text: &str) -> Vec<String> {
    text.split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(&unescape(word.as_bytes())).into_owned())
        .collect()
}

/// Which of the two calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before the filesystems are frozen.
    Freeze,
    /// After they were thawed.
    Thaw,
}

impl Phase {
    /// The argument that hooks get.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Freeze => "freeze",
            Phase::Thaw => "thaw",
        }
    }
}

/// Why hooks are told to thaw; they find it in [`REASON_ENV`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThawReason {
    /// The host asked for it.
    Ok,
    /// The freeze failed, or froze nothing.
    Failed,
    /// The hold limit passed, the system goes down, or a person ended the freeze.
    TimedOut,
    /// An agent that came back finishes what a dead one had begun.
    Recovered,
}

impl ThawReason {
    /// The variable's value.
    pub fn as_str(self) -> &'static str {
        match self {
            ThawReason::Ok => "ok",
            ThawReason::Failed => "failed",
            ThawReason::TimedOut => "timed-out",
            ThawReason::Recovered => "recovered",
        }
    }
}

/// The variable in which hooks find the reason of a thaw.
pub const REASON_ENV: &str = "QGA_THAW_REASON";

/// The number of one that took too long, as timeout(1) has it.
const TIMED_OUT: i32 = 124;
/// The number of one that cannot be run, as a shell has it.
const CANNOT_RUN: i32 = 126;
/// The number of one that is not there, or whose interpreter is not, as a shell has it.
const NOT_FOUND: i32 = 127;

/// How one hook ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "Value")]
pub enum HookStatus {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// It could not be run.
    NotRun {
        /// 124 if there was no time for it, 127 if it or its interpreter is not there, else 126.
        status: i32,
        /// Why.
        reason: String,
    },
    /// It was not called, for this reason (it is not executable).
    Skipped(String),
    /// Not within its deadline.
    TimedOut,
    /// The master was told to stop while it ran.
    Cancelled,
}

/// A text, if it is one.
fn text(value: &Value) -> Option<String> {
    Some(value.as_str()?.to_owned())
}

// By hand, as derived code for the same is several times as long.
impl TryFrom<Value> for HookStatus {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<HookStatus, &'static str> {
        let number = |value: &Value| i32::try_from(value.as_i64()?).ok();
        let tagged = |value: &Value| {
            let (tag, value) = value.as_object()?.iter().next()?;
            Some(match &tag[..] {
                "exited" => HookStatus::Exited(number(value)?),
                "signaled" => HookStatus::Signaled(number(value)?),
                "skipped" => HookStatus::Skipped(text(value)?),
                "not-run" => HookStatus::NotRun {
                    status: number(&value["status"])?,
                    reason: text(&value["reason"])?,
                },
                _ => return None,
            })
        };
        match value.as_str() {
            Some("timed-out") => Ok(HookStatus::TimedOut),
            Some("cancelled") => Ok(HookStatus::Cancelled),
            _ => tagged(&value).ok_or("no status of a hook"),
        }
    }
}

impl TryFrom<Value> for HookRecord {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<HookRecord, &'static str> {
        let status = HookStatus::try_from(value["status"].clone())?;
        let read = || {
            let phases = [Phase::Freeze, Phase::Thaw];
            let phase = value["phase"].as_str()?;
            let phase = phases.into_iter().find(|known| known.as_str() == phase)?;
            let mut record = HookRecord::new(text(&value["path"])?, phase, status);
            record.elapsed = value["elapsed"].as_f64()?;
            record.output = text(&value["output"]).unwrap_or_default();
            record.source = text(&value["source"]).unwrap_or_default();
            let tries = value["tries"].as_u64();
            record.tries = tries.and_then(|tries| tries.try_into().ok());
            record.verdict = match value["verdict"].as_str() {
                Some("success") => Some(Verdict::Success),
                Some("not-applicable") => Some(Verdict::NotApplicable),
                Some("failure") => Some(Verdict::Failure),
                _ => None,
            };
            record.error = text(&value["error"]);
            record.lost = value["lost"].as_bool().unwrap_or_default();
            Some(record)
        };
        read().ok_or("no record of a hook")
    }
}

impl HookStatus {
    /// It cannot be run, although it may be there: 126.
    pub fn cannot_run(reason: impl Into<String>) -> HookStatus {
        HookStatus::NotRun {
            status: CANNOT_RUN,
            reason: reason.into(),
        }
    }

    /// There was no time left to start it: 124.
    pub fn no_time(reason: impl Into<String>) -> HookStatus {
        HookStatus::NotRun {
            status: TIMED_OUT,
            reason: reason.into(),
        }
    }

    /// There is no such file: 127.
    pub fn missing(reason: impl Into<String>) -> HookStatus {
        HookStatus::NotRun {
            status: NOT_FOUND,
            reason: reason.into(),
        }
    }

    /// The system did not start it: 127 if it, or what interprets it, is not there, else 126.
    pub fn not_started(error: &io::Error) -> HookStatus {
        let reason = strerror(error);
        if error.kind() != io::ErrorKind::NotFound {
            return HookStatus::cannot_run(reason);
        }
        let hint = "check that the interpreter in its first line is installed";
        HookStatus::missing(format!("{reason}; {hint}"))
    }

    /// What it means unless the operator's settings say otherwise.
    pub fn verdict(&self) -> Verdict {
        match self {
            HookStatus::Exited(0) | HookStatus::Skipped(_) => Verdict::Success,
            _ => Verdict::Failure,
        }
    }

    /// The number that the log's `finished with status=` line gives, as a shell has it.
    pub fn number(&self) -> i32 {
        match self {
            HookStatus::Exited(code) => *code,
            HookStatus::Signaled(signal) => 128 + signal,
            HookStatus::NotRun { status, .. } => *status,
            HookStatus::Skipped(_) => 0,
            HookStatus::TimedOut => TIMED_OUT,
            HookStatus::Cancelled => 128 + nix::libc::SIGTERM,
        }
    }
}

/// What a hook's end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The application is quiet, or goes on.
    Success,
    /// There is nothing to make quiet here.
    NotApplicable,
    /// It did not do what it is there for.
    Failure,
}

/// What became of one hook in one call of the master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "Value")]
pub struct HookRecord {
    /// The hook's path.
    pub path: String,
    /// What it was called with.
    pub phase: Phase,
    /// How it ended.
    pub status: HookStatus,
    /// How long it took, in seconds, all tries together.
    pub elapsed: f64,
    /// The end of its output, if it failed: at most [`exec::MAX_TAIL_BYTES`] bytes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// The adapter that it belongs to; none: it is of the hooks' directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// How often it was started, where that was more than once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
    /// What its end means by the operator's settings; none: 0 is success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The failure's name in the adapter's own contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It was to hold on from freeze to thaw, and did not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

impl HookRecord {
    /// A record of the hook at `path` that ended like this.
    pub fn new(path: String, phase: Phase, status: HookStatus) -> HookRecord {
        HookRecord {
            path,
            phase,
            status,
            elapsed: 0.0,
            output: String::new(),
            source: String::new(),
            tries: None,
            verdict: None,
            error: None,
            lost: false,
        }
    }

    /// True unless it failed.
    pub fn is_success(&self) -> bool {
        self.verdict.unwrap_or_else(|| self.status.verdict()) != Verdict::Failure
    }

    /// True if it had something to do, whether or not it succeeded.
    pub fn is_applicable(&self) -> bool {
        !matches!(self.status, HookStatus::Skipped(_))
            && self.verdict != Some(Verdict::NotApplicable)
    }
}
