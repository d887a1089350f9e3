//! The report of one run, from the request to freeze to the last thaw hook.
//!
//! The engine fills it in; the guardian completes a copy if it ends the run. `history` stores it as JSON, so its serde
//! names are a file format: a field that is missing in the file of another version gets its default.

mod level;

use super::plan::{Excluded, Plan, Target};
use crate::hooks::invoke::MasterReport;
use crate::hooks::{HookRecord, HookStatus, Phase, words};
use crate::probe::mountinfo::DeviceNumber;
pub use level::{Hold, Level};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

/// Result for one filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilesystemOutcome {
    /// Opened, but the run ended before it was frozen.
    Untouched,
    /// Frozen, and not thawed yet.
    Frozen,
    /// Frozen and thawed by this run.
    Thawed,
    /// Frozen, and thawed by another process before this run did.
    ThawedByOthers,
    /// Not frozen; the detail has the reason.
    Skipped,
    /// Not opened, frozen or thawed; the detail has the reason.
    Failed,
}

/// One filesystem of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FilesystemRecord {
    /// The first mount point.
    pub mountpoint: String,
    /// Filesystem type.
    pub fstype: String,
    /// Its name, or `major:minor`.
    pub device: String,
    /// Result of the run for it.
    pub outcome: FilesystemOutcome,
    /// Reason of a skip or failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Duration of its FIFREEZE.
    pub freeze_seconds: f64,
    /// A failure to open or freeze it does not fail the run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// `None`: nothing kept it from changing until the thaw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Hold>,
    /// The whole filesystem is mounted read-only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// It cannot be frozen, so writes to its device are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<DeviceWatch>,
    /// It was not frozen, is on a local disk and was writable, so it lowers the level.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub writable: bool,
}

/// Writes are counted while filesystems are frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWatch {
    /// Device number.
    pub device: DeviceNumber,
    /// Writes and discards completed before the first FIFREEZE.
    pub writes: u64,
}

/// A mount point that the host named and that is not frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotFrozen {
    /// As the host named it.
    pub mountpoint: String,
    /// Why it is not frozen.
    pub reason: String,
    /// It lowers the level.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub writable: bool,
}

impl FilesystemRecord {
    /// A record without a result.
    pub fn new(mountpoint: &[u8], fstype: &str) -> Self {
        Self {
            mountpoint: String::from_utf8_lossy(mountpoint).into_owned(),
            fstype: fstype.to_owned(),
            device: String::new(),
            outcome: FilesystemOutcome::Untouched,
            detail: None,
            freeze_seconds: 0.0,
            optional: false,
            held: None,
            read_only: false,
            watch: None,
            writable: false,
        }
    }
}

/// Whether the applications were quiesced.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applications {
    /// No hook ran.
    #[default]
    Untouched,
    /// Every hook that ran for the freeze succeeded.
    Quiet,
    /// A hook was not called because it is not executable.
    Skipped,
    /// The hook master is not ours, and does not report its hooks.
    Unknown,
    /// A hook failed.
    Failed,
}

/// How a freeze ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunEnd {
    /// By a thaw of the host.
    Thaw,
    /// It failed: nothing is frozen, and the host got the error.
    Failure,
    /// There was nothing to freeze.
    Nothing,
    /// By the hold limit, a shutdown, or a person.
    Expiry,
    /// A later agent thawed in place of one that had died.
    Recovery,
}

/// Duration of each stage, in seconds.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stages {
    /// While applications still write.
    pub(crate) flush: f64,
    pub(crate) freeze_hooks: f64,
    /// After the applications were quiesced.
    pub(crate) flush_again: f64,
    /// First FIFREEZE to last.
    pub(crate) freeze: f64,
    /// Last FIFREEZE to first FITHAW.
    pub(crate) held: f64,
    /// First FITHAW to last.
    pub(crate) thaw: f64,
    pub(crate) thaw_hooks: f64,
}

/// The report of a run.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[serde(default)]
pub struct Report {
    /// Id of the run, unique on this machine.
    pub id: String,
    /// Time of the request, in seconds since the epoch.
    pub started: f64,
    /// The mount points that the host named; `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<Vec<String>>,
    /// What the host named and is not frozen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requested_not_frozen: Vec<NotFrozen>,
    /// Consistency of a snapshot; while frozen: as if the thaw came now.
    pub level: Level,
    /// What keeps the level below `application`, one line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub level_reasons: Vec<String>,
    /// How the run ended; `None`: it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<RunEnd>,
    /// Why it ended before the host's thaw, for use within a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_because: Option<String>,
    /// Whether the applications were quiesced.
    pub applications: Applications,
    /// Seconds for which applications were quiesced: from the first freeze hook to the last thaw hook.
    pub applications_seconds: f64,
    /// Seconds for which filesystems were frozen: from the first FIFREEZE to the last FITHAW.
    pub filesystems_seconds: f64,
    /// Chosen filesystems in freeze order.
    pub filesystems: Vec<FilesystemRecord>,
    /// Mounts that cannot be frozen, in mount order.
    pub skipped: Vec<FilesystemRecord>,
    /// Hooks in the order in which they ran; empty if the hook master is not ours.
    pub hooks: Vec<HookRecord>,
    /// The level in the terms of the backup systems whose adapters' scripts ran.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Durations.
    pub stages: Stages,
    /// All errors, in order.
    pub errors: Vec<String>,
    /// Errors of write-back: data that was written before the freeze is lost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub write_errors: Vec<String>,
    /// The mount points of `filesystems`, byte for byte, as hooks get them.
    #[serde(skip)]
    pub mountpoints: String,
}

impl Report {
    /// An empty report of a run that begins at `when`.
    pub fn begin(when: SystemTime) -> Self {
        let started = when.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id: format!("{:x}-{:x}", started.as_micros(), std::process::id()),
            started: started.as_secs_f64(),
            ..Self::default()
        }
    }

    /// Adds the results of a hook master.
    pub fn hooks(&mut self, phase: Phase, master: &MasterReport) {
        self.hooks.extend(master.hooks.iter().cloned());
        if phase == Phase::Thaw {
            // An application that had to stay quiesced until now did not.
            if master.hooks.iter().any(|hook| hook.lost) {
                self.applications = Applications::Failed;
            }
            return;
        }
        let failed = master.failure.is_some() || !master.hooks.iter().all(HookRecord::is_success);
        let is_skipped = |hook: &HookRecord| matches!(hook.status, HookStatus::Skipped(_));
        self.applications = if failed {
            Applications::Failed
        } else if !master.is_ours {
            Applications::Unknown
        } else if master.hooks.iter().any(is_skipped) {
            Applications::Skipped
        } else if !master.hooks.iter().any(HookRecord::is_applicable) {
            Applications::Untouched
        } else {
            Applications::Quiet
        };
    }

    /// Ends the run, in which every filesystem is thawed by now.
    pub fn end(&mut self, end: RunEnd) {
        for record in &mut self.filesystems {
            if record.outcome == FilesystemOutcome::Frozen {
                record.outcome = FilesystemOutcome::Thawed;
            }
        }
        self.end = Some(end);
        self.compute_level();
    }

    /// The run in one line, for the log.
    pub fn summary(&self) -> String {
        let held = |f: &&FilesystemRecord| f.is_held();
        let failed = self.hooks.iter().filter(|hook| !hook.is_success()).count();
        format!(
            "freeze {}: consistency {}, {} of {} filesystems held for {:.3} s, {} hooks, {failed} failed",
            self.id,
            self.level.name(),
            self.filesystems.iter().filter(held).count(),
            self.filesystems.len(),
            self.filesystems_seconds,
            self.hooks.len(),
        )
    }

    /// Target `n` becomes record `n`.
    pub(crate) fn plan(&mut self, plan: &Plan) {
        self.add_all(&plan.targets);
        let skipped = |excluded: &Excluded| FilesystemRecord {
            detail: Some(excluded.reason.clone()),
            outcome: FilesystemOutcome::Skipped,
            writable: excluded.writable,
            ..FilesystemRecord::new(&excluded.mountpoint, &excluded.fstype)
        };
        self.skipped = plan.skipped.iter().map(skipped).collect();
        let not_frozen = |excluded: &Excluded| NotFrozen {
            mountpoint: String::from_utf8_lossy(&excluded.mountpoint).into_owned(),
            reason: excluded.reason.clone(),
            writable: excluded.writable,
        };
        self.requested_not_frozen = plan.not_frozen.iter().map(not_frozen).collect();
    }

    /// What the host named and a hook has unmounted cannot change, unless it is in use elsewhere.
    pub(crate) fn ignore_unmounted(&mut self, before: &[Target]) {
        for named in &mut self.requested_not_frozen {
            let mut before = before.iter();
            let before = before.find(|target| target.filesystem.name() == named.mountpoint);
            let is_in_use = |target: &Target| {
                let mut skipped = self.skipped.iter();
                skipped.any(|skipped| skipped.mountpoint == target.device)
            };
            if before.is_some_and(|target| !is_in_use(target)) {
                named.reason = "it was unmounted while the hooks ran".into();
                named.writable = false;
            }
        }
    }
    pub(crate) fn add_all(&mut self, targets: &[Target]) {
        let record = |target: &Target| FilesystemRecord {
            device: target.device.clone(),
            optional: target.optional,
            read_only: target.is_read_only,
            ..FilesystemRecord::new(&target.filesystem.mountpoint, &target.filesystem.fstype)
        };
        self.filesystems = targets.iter().map(record).collect();
        self.mountpoints = words(targets.iter().map(|target| &target.filesystem.mountpoint));
    }

    /// Of a thaw of the whole mount table, for what this run had frozen.
    pub(crate) fn copy_outcomes(&mut self, thaw: &Self) {
        for record in &mut self.filesystems {
            if record.outcome != FilesystemOutcome::Frozen {
                continue;
            }
            let mut found = thaw.filesystems.iter();
            let found = found.find(|found| found.device == record.device);
            record.outcome = match found.map(|found| found.outcome) {
                Some(FilesystemOutcome::Untouched) => FilesystemOutcome::ThawedByOthers,
                Some(outcome) => outcome,
                None => FilesystemOutcome::Failed,
            };
            record.detail = found.and_then(|found| found.detail.clone());
        }
    }

    pub(crate) fn set(&mut self, record: usize, outcome: FilesystemOutcome) {
        if let Some(entry) = self.filesystems.get_mut(record) {
            entry.outcome = outcome;
        }
    }

    pub(crate) fn set_with_detail(
        &mut self,
        record: usize,
        outcome: FilesystemOutcome,
        detail: impl Display,
    ) {
        self.set(record, outcome);
        if let Some(entry) = self.filesystems.get_mut(record) {
            entry.detail = Some(detail.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::Verdict;

    fn report(
        outcomes: &[FilesystemOutcome],
        applications: Applications,
        end: Option<RunEnd>,
    ) -> Report {
        let record = |outcome: &FilesystemOutcome| FilesystemRecord {
            outcome: *outcome,
            ..FilesystemRecord::new(b"/m", "ext4")
        };
        let mut report = Report {
            filesystems: outcomes.iter().map(record).collect(),
            applications,
            end,
            ..Report::default()
        };
        report.compute_level();
        report
    }

    #[test]
    fn the_level_is_what_a_snapshot_is_worth() {
        use Applications::{Failed, Quiet, Untouched};
        use FilesystemOutcome::{Frozen, Skipped, Thawed, ThawedByOthers};
        let level = |outcomes: &[FilesystemOutcome], applications, end| {
            report(outcomes, applications, end).level
        };
        assert_eq!(level(&[Frozen, Frozen], Quiet, None), Level::Application);
        assert_eq!(
            level(&[Thawed], Quiet, Some(RunEnd::Thaw)),
            Level::Application
        );
        assert_eq!(
            level(&[Thawed], Failed, Some(RunEnd::Thaw)),
            Level::Filesystem
        );
        assert_eq!(
            level(&[Thawed], Untouched, Some(RunEnd::Recovery)),
            Level::Filesystem
        );
        assert_eq!(
            level(&[Thawed, Skipped], Quiet, Some(RunEnd::Thaw)),
            Level::Crash
        );
        assert_eq!(
            level(&[Thawed, ThawedByOthers], Quiet, Some(RunEnd::Thaw)),
            Level::Crash
        );
        assert_eq!(level(&[Thawed], Quiet, Some(RunEnd::Expiry)), Level::Crash);
        assert_eq!(level(&[], Quiet, Some(RunEnd::Nothing)), Level::Crash);
        assert_eq!(level(&[Thawed], Quiet, Some(RunEnd::Failure)), Level::None);
    }

    #[test]
    fn a_walk_over_the_mount_table_shows_what_others_thawed() {
        let mut run = report(&[FilesystemOutcome::Frozen; 3], Applications::Quiet, None);
        let mut thaw = report(
            &[FilesystemOutcome::Thawed, FilesystemOutcome::Untouched],
            Applications::Quiet,
            None,
        );
        for (record, name) in run.filesystems.iter_mut().zip(["a", "b", "c"]) {
            record.device = name.into();
        }
        for (record, name) in thaw.filesystems.iter_mut().zip(["a", "b"]) {
            record.device = name.into();
        }
        run.copy_outcomes(&thaw);
        run.end(RunEnd::Recovery);
        let outcomes: Vec<FilesystemOutcome> = run.filesystems.iter().map(|f| f.outcome).collect();
        assert_eq!(
            outcomes,
            [
                FilesystemOutcome::Thawed,
                FilesystemOutcome::ThawedByOthers,
                FilesystemOutcome::Failed
            ]
        );
        assert_eq!(run.level, Level::Crash);
    }

    #[test]
    fn what_hooks_did_decides_whether_applications_were_quiet() {
        let after = |codes: &[(i32, Option<Verdict>)], lost, is_ours| {
            let mut report = report(&[FilesystemOutcome::Frozen], Applications::Untouched, None);
            let hook = |&(code, verdict): &(i32, _)| {
                let mut hook =
                    HookRecord::new("/h".into(), Phase::Freeze, HookStatus::Exited(code));
                hook.verdict = verdict;
                hook
            };
            let mut master = MasterReport {
                failure: None,
                hooks: codes.iter().map(hook).collect(),
                elapsed: std::time::Duration::ZERO,
                leaves_filesystems: false,
                is_ours,
            };
            report.hooks(Phase::Freeze, &master);
            master.hooks.iter_mut().for_each(|hook| hook.lost = lost);
            report.hooks(Phase::Thaw, &master);
            report.applications
        };
        let not_applicable = (77, Some(Verdict::NotApplicable));
        let success = (0, None);
        assert_eq!(after(&[success], false, true), Applications::Quiet);
        assert_eq!(
            after(&[success, not_applicable], false, true),
            Applications::Quiet
        );
        assert_eq!(
            after(&[not_applicable], false, true),
            Applications::Untouched
        );
        assert_eq!(after(&[], false, true), Applications::Untouched);
        assert_eq!(after(&[success], true, true), Applications::Failed);
        assert_eq!(after(&[], false, false), Applications::Unknown);
        assert_eq!(after(&[(3, None)], false, false), Applications::Failed);
    }

    #[test]
    fn what_is_optional_does_not_lower_the_level() {
        let mut report = report(
            &[FilesystemOutcome::Thawed, FilesystemOutcome::Skipped],
            Applications::Quiet,
            Some(RunEnd::Thaw),
        );
        report.filesystems[1].optional = true;
        report.compute_level();
        assert_eq!(report.level, Level::Application);
    }

    #[test]
    fn adapters_have_their_own_words_for_the_level() {
        use Applications::{Failed, Quiet};
        let azure = [
            ("crash", "crashConsistent"),
            ("application", "applicationConsistent"),
        ];
        let alibaba = [("application", "APPConsistent:True")];
        let tags = |of_hooks: &[&[(&str, &str)]], outcome, applications| {
            let mut report = report(&[outcome], applications, Some(RunEnd::Thaw));
            for tags in of_hooks {
                let status = HookStatus::Exited(0);
                let mut hook = HookRecord::new("/h".into(), Phase::Freeze, status);
                let tags = tags
                    .iter()
                    .map(|(level, tag)| ((*level).into(), (*tag).into()));
                hook.tags = tags.collect();
                report.hooks.push(hook);
            }
            report.compute_level();
            report.tags
        };
        let all: [&[_]; 4] = [&azure, &alibaba, &azure, &[]];
        assert_eq!(
            tags(&all, FilesystemOutcome::Thawed, Quiet),
            ["APPConsistent:True", "applicationConsistent"]
        );
        assert!(tags(&all, FilesystemOutcome::Thawed, Failed).is_empty());
        assert_eq!(
            tags(&all, FilesystemOutcome::Skipped, Quiet),
            ["crashConsistent"],
            "one has no word for it"
        );
        assert!(tags(&[&[]], FilesystemOutcome::Thawed, Quiet).is_empty());
    }

    #[test]
    fn a_report_of_another_version_is_read_as_far_as_it_goes() {
        let report: Report = serde_json::from_str(r#"{"id":"a","unheard":1}"#).unwrap();
        assert_eq!((report.id.as_str(), report.level), ("a", Level::None));
    }
}
