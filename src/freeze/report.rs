//! The story of one run, from the request to freeze until the last thaw hook.

use crate::hooks::HookRecord;
use serde::{Deserialize, Serialize};

/// What became of one filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Opened, but the run ended before its turn.
    Untouched,
    /// Frozen, and not thawed yet.
    Frozen,
    /// Frozen and thawed by this run.
    Thawed,
    /// It was frozen, and someone else thawed it before us.
    ThawedByOthers,
    /// Left alone; the detail says why.
    Skipped,
    /// Could not be opened, frozen or thawed; the detail says why.
    Failed,
}

/// One filesystem of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FilesystemRecord {
    /// Where it is mounted.
    pub mountpoint: String,
    /// Filesystem type.
    pub fstype: String,
    /// `major:minor`.
    pub device: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Reason of a skip or failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How long its FIFREEZE took, in seconds.
    pub freeze_seconds: f64,
}

/// How long each stage took, in seconds.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stages {
    /// First flush, while applications still write.
    pub flush: f64,
    /// Freeze hooks.
    pub freeze_hooks: f64,
    /// Second flush, after the applications went quiet.
    pub flush_again: f64,
    /// First FIFREEZE to last.
    pub freeze: f64,
    /// Last FIFREEZE to first FITHAW.
    pub held: f64,
    /// First FITHAW to last.
    pub thaw: f64,
    /// Thaw hooks.
    pub thaw_hooks: f64,
}

/// One run.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// When the request came: seconds since the epoch.
    pub started: f64,
    /// Chosen filesystems in the order of freezing.
    pub filesystems: Vec<FilesystemRecord>,
    /// Mounts that cannot be frozen, in mount order.
    pub skipped: Vec<FilesystemRecord>,
    /// Hooks in the order in which they ran; empty if the hook master is not ours.
    pub hooks: Vec<HookRecord>,
    /// Times.
    pub stages: Stages,
    /// Everything that went wrong, in order.
    pub errors: Vec<String>,
}
