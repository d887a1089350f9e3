//! Hooks (floor 3): programs that bring applications into a consistent state before a freeze and let them
//! continue after the thaw.
//!
//! The agent calls one program, the hook master, with `freeze` or `thaw` ([`invoke`]). Our own master is
//! `qemu-ga hook` (`cli`, `runner`): it runs every hook of fsfreeze-hook.d, writes the log for operators
//! (`log`), and reports each hook to the agent over a descriptor that a foreign master ignores. Nothing
//! runs as root that other users could have changed (`trust`).
//!
//! The master runs tasks ([`task`]). They come from [`discovery`] and run by the operator's
//! [`settings`]. A hook that must stay alive until the thaw runs under a process of its own (`holder`). The [`journal`]
//! records what was started on freeze, so that exactly this is thawed.

pub mod adapter;
pub(crate) mod at_work;
mod budget;
mod cli;
pub(crate) mod directory;
pub mod discovery;
mod exec;
pub(crate) mod holder;
mod hook_run;
pub mod invoke;
pub mod journal;
pub(crate) mod locate;
pub(crate) mod log;
mod outcome;
pub(crate) mod runner;
pub mod settings;
pub mod task;
#[cfg(test)]
mod tests;
pub(crate) mod trust;

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::probe::mountinfo::unescape;
use crate::sys::strerror;

pub use cli::{CONF, DIR, LOG, USAGE, helper, run_master, stop_signals};
pub use exec::MAX_TAIL_BYTES;

/// The variable with the number of the descriptor to which a master writes its records, one JSON object a
/// line ([`HookRecord`]).
pub const RECORDS_ENV: &str = "QGA_HOOK_RECORDS_FD";
/// The variable with the number of a descriptor that a master keeps open while it runs.
pub const ALIVE_ENV: &str = "QGA_HOOK_ALIVE_FD";
/// The line in our own master's records that asks the agent to freeze no filesystem in this run.
pub const LEAVE_FILESYSTEMS: &str = "{\"freeze-filesystems\":false}";
/// The first line of our own master's records.
pub const RECORDS_HEAD: &str = "{\"master\":\"qemu-ga\"}\n";
/// The variable in which the master script finds the path of the agent's binary.
pub const BINARY_ENV: &str = "QGA_BINARY";

/// The variable with the agent's state directory, where our own master keeps its journal.
pub const STATE_ENV: &str = "QGA_HOOK_STATE";
/// The variable with the id of the only run whose hooks our own master may thaw.
pub const ONLY_RUN_ENV: &str = "QGA_HOOK_RUN";
/// The value of [`ONLY_RUN_ENV`] that matches every run in the journal.
pub const ANY_RUN: &str = "*";
/// The variable with the phase, `freeze` or `thaw`, for hooks.
pub const PHASE_ENV: &str = "QGA_PHASE";
/// The variable with the run's id, the same as in the report, for hooks.
pub const RUN_ENV: &str = "QGA_RUN_ID";
/// The variable with the mount points that the agent freezes, joined by [`words`], for hooks.
pub const MOUNTPOINTS_ENV: &str = "QGA_MOUNTPOINTS";
/// The variable with the devices of these mount points, in the same order, for hooks.
pub const DEVICES_ENV: &str = "QGA_DEVICES";
/// The variable with the agent's hold limit in seconds, for hooks; 0 means no limit.
pub const HOLD_LIMIT_ENV: &str = "QGA_HOLD_LIMIT";
/// The variable with the hook's own timeout in seconds; not set if it has none.
pub const DEADLINE_ENV: &str = "QGA_DEADLINE";

/// Joins names with single blanks for an environment variable. Blanks, tabs, line ends and backslashes in a
/// name are written in octal as in /proc/self/mountinfo (proc_pid_mountinfo(5)), and so are bytes that are
/// not UTF-8.
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

/// Splits what [`words`] joined. Bytes that are not UTF-8 are replaced.
pub fn from_words(text: &str) -> Vec<String> {
    text.split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(&unescape(word.as_bytes())).into_owned())
        .collect()
}

/// The two calls of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before the filesystems are frozen.
    Freeze,
    /// After they were thawed.
    Thaw,
}

impl Phase {
    /// The argument of a hook.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Freeze => "freeze",
            Phase::Thaw => "thaw",
        }
    }
}

/// Why hooks are called with `thaw`; hooks find it in [`REASON_ENV`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThawReason {
    /// The host sent guest-fsfreeze-thaw.
    Ok,
    /// The freeze failed, or froze nothing.
    Failed,
    /// The hold limit expired, the system shuts down, or an operator ended the freeze.
    TimedOut,
    /// A restarted agent completes the thaw of an agent that died.
    Recovered,
}

impl ThawReason {
    /// The value of [`REASON_ENV`].
    pub fn as_str(self) -> &'static str {
        match self {
            ThawReason::Ok => "ok",
            ThawReason::Failed => "failed",
            ThawReason::TimedOut => "timed-out",
            ThawReason::Recovered => "recovered",
        }
    }
}

/// The variable with the [`ThawReason`], for hooks.
pub const REASON_ENV: &str = "QGA_THAW_REASON";

/// The exit status for a timeout, as timeout(1) returns it.
pub(crate) const TIMED_OUT: i32 = 124;
/// The exit status of a program that cannot be executed, as sh(1) returns it.
const CANNOT_RUN: i32 = 126;
/// The exit status if a program or its interpreter does not exist, as sh(1) returns it.
pub(crate) const NOT_FOUND: i32 = 127;

/// How one hook ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "Value")]
pub enum HookStatus {
    /// Exited with this status.
    Exited(i32),
    /// Ended by this signal.
    Signaled(i32),
    /// It could not be started.
    NotRun {
        /// 124 if no time was left, 127 if the program or its interpreter does not exist, else 126.
        status: i32,
        /// Why.
        reason: String,
    },
    /// It was not called, for this reason (for example, it is not executable).
    Skipped(String),
    /// Its timeout expired.
    TimedOut,
    /// The master was stopped by a signal while it ran.
    Cancelled,
}

fn text(value: &Value) -> Option<String> {
    Some(value.as_str()?.to_owned())
}

// Written by hand: serde's derived code for these types is several times as long.
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
            let tags = value["tags"].as_object().into_iter().flatten();
            let tags = tags.filter_map(|(level, tag)| Some((level.clone(), text(tag)?)));
            record.tags = tags.collect();
            Some(record)
        };
        read().ok_or("no record of a hook")
    }
}

impl HookStatus {
    /// A status for a program that exists but cannot be run: 126.
    pub fn cannot_run(reason: impl Into<String>) -> HookStatus {
        HookStatus::NotRun {
            status: CANNOT_RUN,
            reason: reason.into(),
        }
    }

    /// A status for a hook for which no time was left: 124.
    pub fn no_time(reason: impl Into<String>) -> HookStatus {
        HookStatus::NotRun {
            status: TIMED_OUT,
            reason: reason.into(),
        }
    }

    /// A status for a file that does not exist: 127.
    pub fn missing(reason: impl Into<String>) -> HookStatus {
        HookStatus::NotRun {
            status: NOT_FOUND,
            reason: reason.into(),
        }
    }

    /// A status for an execve(2) that failed: 127 for ENOENT, which the kernel also returns if the
    /// interpreter does not exist, else 126.
    pub fn not_started(error: &io::Error) -> HookStatus {
        let reason = strerror(error);
        if error.kind() != io::ErrorKind::NotFound {
            return HookStatus::cannot_run(reason);
        }
        let hint = "check that the interpreter in its first line is installed";
        HookStatus::missing(format!("{reason}; {hint}"))
    }

    /// The verdict without `success` and `not-applicable` of the operator's settings.
    pub fn verdict(&self) -> Verdict {
        match self {
            HookStatus::Exited(0) | HookStatus::Skipped(_) => Verdict::Success,
            _ => Verdict::Failure,
        }
    }

    /// The number in the log's `finished with status=` line: the exit status, or 128 plus the signal as in
    /// sh(1).
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

/// The meaning of a hook's end by the operator's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The application is quiesced, or continues.
    Success,
    /// The hook has nothing to do on this machine.
    NotApplicable,
    /// The hook failed.
    Failure,
}

/// The result of one hook in one call of the master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "Value")]
pub struct HookRecord {
    /// The hook's path.
    pub path: String,
    /// The phase of the call.
    pub phase: Phase,
    /// How it ended.
    pub status: HookStatus,
    /// Seconds from the first start to the end, all tries together.
    pub elapsed: f64,
    /// The end of a failed hook's output, at most [`exec::MAX_TAIL_BYTES`] bytes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// The name of its adapter; empty for a hook of the hooks' directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The number of starts, if more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
    /// The verdict, if the operator's settings change it; None: status 0 is success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The name of the failure in the adapter's own contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// A holding hook ended before its release.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// What the adapter's system calls a snapshot of each level, by the level's name in the report.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

impl HookRecord {
    /// A record without output or duration of the hook at `path`.
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
            tags: BTreeMap::new(),
        }
    }

    /// Whether its verdict is not a failure.
    pub fn is_success(&self) -> bool {
        self.verdict.unwrap_or_else(|| self.status.verdict()) != Verdict::Failure
    }

    /// Whether it had something to do, even if it failed.
    pub fn is_applicable(&self) -> bool {
        !matches!(self.status, HookStatus::Skipped(_))
            && self.verdict != Some(Verdict::NotApplicable)
    }
}
