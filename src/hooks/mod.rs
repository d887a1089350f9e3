//! Hooks (floor 3): programs that bring applications into a consistent state before a freeze and let them continue
//! after the thaw.
//!
//! The agent calls one program, the hook master, with `freeze` or `thaw` ([`invoke`]). Our own master is `qemu-ga hook`
//! (`cli`, `runner`): it runs every hook of fsfreeze-hook.d, writes the log for operators (`log`), and reports each
//! hook to the agent over a descriptor that a foreign master ignores. Nothing runs as root that other users could have
//! changed (`trust`).
//!
//! The master runs tasks ([`task`]). They come from [`discovery`] and run by the operator's [`settings`]. A hook that
//! must stay alive until the thaw runs under a process of its own (`holder`). The [`journal`] records what was started
//! on freeze, so that exactly this is thawed.

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
pub(crate) mod restore;
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

pub(crate) use cli::{CONF, DIR, LOG, USAGE, helper, run_master, stop_signals};
pub(crate) use exec::MAX_TAIL_BYTES;

/// The number of the descriptor to which a master writes its records, one JSON object a line ([`HookRecord`]).
pub(crate) const RECORDS_ENV: &str = "QGA_HOOK_RECORDS_FD";
/// The number of a descriptor that a master keeps open while it runs.
pub(crate) const ALIVE_ENV: &str = "QGA_HOOK_ALIVE_FD";
/// A record of our own master that asks the agent to freeze no filesystem in this run.
pub(crate) const LEAVE_FILESYSTEMS: &str = "{\"freeze-filesystems\":false}";
/// The first line of our own master's records.
pub(crate) const RECORDS_HEAD: &str = "{\"master\":\"qemu-ga\"}\n";
/// Where the master script finds the agent's binary.
pub(crate) const BINARY_ENV: &str = "QGA_BINARY";

/// The agent's state directory, where our own master keeps its journal.
pub(crate) const STATE_ENV: &str = "QGA_HOOK_STATE";
/// The id of the only run whose hooks our own master may thaw, or [`ANY_RUN`].
pub(crate) const ONLY_RUN_ENV: &str = "QGA_HOOK_RUN";
pub(crate) const ANY_RUN: &str = "*";
pub(crate) const PHASE_ENV: &str = "QGA_PHASE";
pub(crate) const RUN_ENV: &str = "QGA_RUN_ID";
/// What the agent freezes, joined by [`words`].
pub(crate) const MOUNTPOINTS_ENV: &str = "QGA_MOUNTPOINTS";
/// The devices of [`MOUNTPOINTS_ENV`], in the same order.
pub(crate) const DEVICES_ENV: &str = "QGA_DEVICES";
/// In seconds; 0 means no limit.
pub(crate) const HOLD_LIMIT_ENV: &str = "QGA_HOLD_LIMIT";
/// The hook's own timeout in seconds; not set if it has none.
pub(crate) const DEADLINE_ENV: &str = "QGA_DEADLINE";

/// Joins names with single blanks for an environment variable. Blanks, tabs, line ends and backslashes in a name are
/// written in octal as in /proc/self/mountinfo (proc_pid_mountinfo(5)), and so are bytes that are not UTF-8.
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
        text.push(char::from(b'0' + ((byte >> shift) & 7)));
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
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Phase::Freeze => "freeze",
            Phase::Thaw => "thaw",
        }
    }
}

/// Why hooks are called with `thaw`.
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
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ThawReason::Ok => "ok",
            ThawReason::Failed => "failed",
            ThawReason::TimedOut => "timed-out",
            ThawReason::Recovered => "recovered",
        }
    }
}

pub(crate) const REASON_ENV: &str = "QGA_THAW_REASON";

/// The exit statuses of timeout(1) and, below, of sh(1).
pub(crate) const TIMED_OUT: i32 = 124;
const CANNOT_RUN: i32 = 126;
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
        /// Why it could not be started.
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
    pub(crate) fn cannot_run(reason: impl Into<String>) -> HookStatus {
        HookStatus::NotRun {
            status: CANNOT_RUN,
            reason: reason.into(),
        }
    }

    pub(crate) fn no_time(reason: impl Into<String>) -> HookStatus {
        HookStatus::NotRun {
            status: TIMED_OUT,
            reason: reason.into(),
        }
    }

    pub(crate) fn missing(reason: impl Into<String>) -> HookStatus {
        HookStatus::NotRun {
            status: NOT_FOUND,
            reason: reason.into(),
        }
    }

    /// For an execve(2) that failed: it returns ENOENT also if the interpreter does not exist.
    pub(crate) fn not_started(error: &io::Error) -> HookStatus {
        let reason = strerror(error);
        if error.kind() != io::ErrorKind::NotFound {
            return HookStatus::cannot_run(reason);
        }
        let hint = "check that the interpreter in its first line is installed";
        HookStatus::missing(format!("{reason}; {hint}"))
    }

    /// Without `success` and `not-applicable` of the operator's settings.
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            HookStatus::Exited(0) | HookStatus::Skipped(_) => Verdict::Success,
            _ => Verdict::Failure,
        }
    }

    /// As in the log's `finished with status=` line: the exit status, or 128 plus the signal as in sh(1).
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

/// What a hook's end means by the operator's settings.
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
    pub(crate) elapsed: f64,
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
    pub(crate) tags: BTreeMap<String, String>,
}

impl HookRecord {
    /// A record without output or duration.
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
