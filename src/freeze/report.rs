//! The story of one run, from the request to freeze until the last thaw hook.

use super::plan::{LeftOut, Plan, Target};
use crate::hooks::HookRecord;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

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
    /// Its device's name, or `major:minor`.
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

impl Report {
    /// An empty report of a run that begins at `when`.
    pub fn begin(when: SystemTime) -> Self {
        let started = when.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: started.as_secs_f64(),
            ..Self::default()
        }
    }

    /// Enters what was planned; target `n` becomes record `n`.
    pub fn plan(&mut self, plan: &Plan) {
        self.everything(&plan.targets);
        let left_out = |left: &LeftOut| FilesystemRecord {
            mountpoint: String::from_utf8_lossy(&left.mountpoint).into_owned(),
            fstype: left.fstype.clone(),
            device: String::new(),
            outcome: Outcome::Skipped,
            detail: Some(left.reason.clone()),
            freeze_seconds: 0.0,
        };
        self.skipped = plan.skipped.iter().map(left_out).collect();
    }

    /// Enters filesystems that nobody planned to freeze.
    pub fn everything(&mut self, targets: &[Target]) {
        let record = |target: &Target| FilesystemRecord {
            mountpoint: String::from_utf8_lossy(&target.filesystem.mountpoint).into_owned(),
            fstype: target.filesystem.fstype.clone(),
            device: target.device.clone(),
            outcome: Outcome::Untouched,
            detail: None,
            freeze_seconds: 0.0,
        };
        self.filesystems = targets.iter().map(record).collect();
    }

    /// Sets what became of a filesystem.
    pub fn set(&mut self, record: usize, outcome: Outcome) {
        if let Some(entry) = self.filesystems.get_mut(record) {
            entry.outcome = outcome;
        }
    }

    /// Sets what became of a filesystem, and why.
    pub fn explain(&mut self, record: usize, outcome: Outcome, detail: &str) {
        self.set(record, outcome);
        if let Some(entry) = self.filesystems.get_mut(record) {
            entry.detail = Some(detail.to_owned());
        }
    }
}
