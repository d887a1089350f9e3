//! Hooks (floor 3): programs that make applications quiet before a freeze and let them go on after
//! the thaw.
//!
//! Two sides. The agent calls one program, the hook master, with `freeze` or `thaw` ([`master`]).
//! Our own master is `qemu-ga hook` ([`cli`], [`runner`]): it runs every hook of fsfreeze-hook.d,
//! writes the log that operators read ([`log`]), and tells the agent of each hook over a descriptor
//! that a foreign master ignores. What runs as root must not be writable by others ([`trust`]).

mod cli;
pub mod find;
pub mod log;
pub mod master;
pub mod runner;
#[cfg(test)]
mod tests;
pub mod trust;

use serde::{Deserialize, Serialize};

pub use cli::{USAGE, cli};

/// The variable in which a master finds the number of the descriptor that takes its records, one
/// JSON object a line ([`HookRecord`]).
pub const RECORDS_ENV: &str = "QGA_HOOK_RECORDS_FD";
/// The variable in which a master finds the number of a descriptor that only has to stay open while
/// it works.
pub const ALIVE_ENV: &str = "QGA_HOOK_ALIVE_FD";
/// The first line of our own master's records.
pub const RECORDS_HEAD: &str = "{\"master\":\"qemu-ga\"}\n";
/// The variable in which the master script finds the agent's own binary.
pub const BINARY_ENV: &str = "QGA_BINARY";

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
    /// The hold limit passed, the service was stopped, or a person ended the freeze.
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

/// How one hook ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookStatus {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// It could not be run.
    NotRun {
        /// 126, or 127 if it (or its interpreter) is not there, as a shell has it.
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

impl HookStatus {
    /// The number that the log's `finished with status=` line gives, as a shell has it.
    pub fn number(&self) -> i32 {
        match self {
            HookStatus::Exited(code) => *code,
            HookStatus::Signaled(signal) => 128 + signal,
            HookStatus::NotRun { status, .. } => *status,
            HookStatus::Skipped(_) => 0,
            // As timeout(1) has it.
            HookStatus::TimedOut => 124,
            HookStatus::Cancelled => 128 + nix::libc::SIGTERM,
        }
    }
}

/// What became of one hook in one call of the master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookRecord {
    /// The hook's path.
    pub path: String,
    /// What it was called with.
    pub phase: Phase,
    /// How it ended.
    pub status: HookStatus,
    /// How long it took, in seconds.
    pub elapsed: f64,
    /// The end of its output, if it failed: at most [`runner::TAIL`] bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

impl HookRecord {
    /// True if it ran and exited with 0, or was not called.
    pub fn is_success(&self) -> bool {
        matches!(self.status, HookStatus::Exited(0) | HookStatus::Skipped(_))
    }
}
