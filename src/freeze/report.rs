//! The story of one run, from the request to freeze until the last thaw hook.

mod level;

use super::plan::{Excluded, Plan, Target};
use crate::hooks::invoke::MasterReport;
use crate::hooks::{HookRecord, HookStatus, Phase, words};
use crate::probe::mountinfo::DeviceNumber;
pub use level::{Hold, Level};
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// What became of one filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilesystemOutcome {
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
    pub outcome: FilesystemOutcome,
    /// Reason of a skip or failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How long its FIFREEZE took, in seconds.
    pub freeze_seconds: f64,
    /// It may fail without failing the run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// What kept it from changing until the thaw; `None`: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Hold>,
    /// The whole filesystem is mounted read-only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// It cannot be frozen: what its device had written before the first FIFREEZE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<DeviceWatch>,
    /// It was not frozen, is on a local disk and could be written: it lowers the level.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub writable: bool,
}

/// A block device whose writes are counted while filesystems are frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWatch {
    /// Its number.
    pub device: DeviceNumber,
    /// Writes and discards that had ended before the freeze.
    pub writes: u64,
}

/// A mountpoint that the host named and that is not frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotFrozen {
    /// As the host named it.
    pub mountpoint: String,
    /// Why.
    pub reason: String,
    /// It lowers the level.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub writable: bool,
}

impl FilesystemRecord {
    /// One of which nothing is known yet.
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

/// Whether applications were made quiet.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applications {
    /// No hook ran.
    #[default]
    Untouched,
    /// Every hook that ran for the freeze succeeded.
    Quiet,
    /// A hook that is there was not called, as it is not executable.
    Skipped,
    /// The hook master is not ours, and does not report its hooks.
    Unknown,
    /// One failed.
    Failed,
}

/// How a freeze ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunEnd {
    /// The host thawed.
    Thaw,
    /// It failed; nothing is frozen, and the host was told so.
    Failure,
    /// There was nothing to freeze.
    Nothing,
    /// The hold limit passed, the system goes down, or a person ended the freeze.
    Expiry,
    /// An agent that came after thawed for one that had died.
    Recovery,
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
#[serde(default)]
pub struct Report {
    /// Names the run: unique on this machine.
    pub id: String,
    /// When the request came: seconds since the epoch.
    pub started: f64,
    /// The mountpoints that the host named; `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<Vec<String>>,
    /// What the host named and is not frozen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requested_not_frozen: Vec<NotFrozen>,
    /// What a snapshot is worth; while frozen: if the thaw comes now.
    pub level: Level,
    /// What keeps the level below `application`, one line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub level_reasons: Vec<String>,
    /// How it ended; `None`: it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<RunEnd>,
    /// Why it ended before the host thawed, as half a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_because: Option<String>,
    /// Whether applications were made quiet.
    pub applications: Applications,
    /// How long applications stood still: from the first freeze hook to the last thaw hook.
    pub applications_seconds: f64,
    /// How long filesystems stood still: from the first FIFREEZE to the last FITHAW.
    pub filesystems_seconds: f64,
    /// Chosen filesystems in the order of freezing.
    pub filesystems: Vec<FilesystemRecord>,
    /// Mounts that cannot be frozen, in mount order.
    pub skipped: Vec<FilesystemRecord>,
    /// Hooks in the order in which they ran; empty if the hook master is not ours.
    pub hooks: Vec<HookRecord>,
    /// What the snapshot is worth in the words of the adapters whose scripts ran.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Times.
    pub stages: Stages,
    /// Everything that went wrong, in order.
    pub errors: Vec<String>,
    /// Errors of write-back: data that was written before the freeze is lost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub write_errors: Vec<String>,
    /// The mountpoints of `filesystems`, byte for byte, as hooks find them.
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

    /// Enters what the hook master did.
    pub fn hooks(&mut self, phase: Phase, master: &MasterReport) {
        self.hooks.extend(master.hooks.iter().cloned());
        if phase == Phase::Thaw {
            // What was to stay quiet until now did not.
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

    /// Ends the run.
    pub fn end(&mut self, end: RunEnd) {
        for record in &mut self.filesystems {
            if record.outcome == FilesystemOutcome::Frozen {
                record.outcome = FilesystemOutcome::Thawed;
            }
        }
        self.end = Some(end);
        self.compute_level();
    }

    /// The run in one line.
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

    /// Enters what was planned; target `n` becomes record `n`.
    pub fn plan(&mut self, plan: &Plan) {
        self.add_all(&plan.targets);
        let left_out = |left: &Excluded| FilesystemRecord {
            detail: Some(left.reason.clone()),
            outcome: FilesystemOutcome::Skipped,
            writable: left.writable,
            ..FilesystemRecord::new(&left.mountpoint, &left.fstype)
        };
        self.skipped = plan.skipped.iter().map(left_out).collect();
        let not_frozen = |left: &Excluded| NotFrozen {
            mountpoint: String::from_utf8_lossy(&left.mountpoint).into_owned(),
            reason: left.reason.clone(),
            writable: left.writable,
        };
        self.requested_not_frozen = plan.not_frozen.iter().map(not_frozen).collect();
    }

    /// What the host named and a hook has unmounted cannot change, unless it is in use.
    pub fn ignore_unmounted(&mut self, before: &[Target]) {
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

    /// Enters filesystems that nobody planned to freeze.
    pub fn add_all(&mut self, targets: &[Target]) {
        let record = |target: &Target| FilesystemRecord {
            device: target.device.clone(),
            optional: target.optional,
            read_only: target.is_read_only,
            ..FilesystemRecord::new(&target.filesystem.mountpoint, &target.filesystem.fstype)
        };
        self.filesystems = targets.iter().map(record).collect();
        self.mountpoints = words(targets.iter().map(|target| &target.filesystem.mountpoint));
    }

    /// Takes over what a walk of FITHAWs over the mount table found of what this run had frozen.
    pub fn copy_outcomes(&mut self, walk: &Self) {
        for record in &mut self.filesystems {
            if record.outcome != FilesystemOutcome::Frozen {
                continue;
            }
            let mut found = walk.filesystems.iter();
            let found = found.find(|found| found.device == record.device);
            record.outcome = match found.map(|found| found.outcome) {
                Some(FilesystemOutcome::Untouched) => FilesystemOutcome::ThawedByOthers,
                Some(outcome) => outcome,
                None => FilesystemOutcome::Failed,
            };
            record.detail = found.and_then(|found| found.detail.clone());
        }
    }

    /// Sets what became of a filesystem.
    pub fn set(&mut self, record: usize, outcome: FilesystemOutcome) {
        if let Some(entry) = self.filesystems.get_mut(record) {
            entry.outcome = outcome;
        }
    }

    /// Sets what became of a filesystem, and why.
    pub fn set_with_detail(&mut self, record: usize, outcome: FilesystemOutcome, detail: &str) {
        self.set(record, outcome);
        if let Some(entry) = self.filesystems.get_mut(record) {
            entry.detail = Some(detail.to_owned());
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
        let mut walk = report(
            &[FilesystemOutcome::Thawed, FilesystemOutcome::Untouched],
            Applications::Quiet,
            None,
        );
        for (record, name) in run.filesystems.iter_mut().zip(["a", "b", "c"]) {
            record.device = name.into();
        }
        for (record, name) in walk.filesystems.iter_mut().zip(["a", "b"]) {
            record.device = name.into();
        }
        run.copy_outcomes(&walk);
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
        let tags = |sources: &[&str], outcome, applications| {
            let mut report = report(&[outcome], applications, Some(RunEnd::Thaw));
            for source in sources {
                let status = HookStatus::Exited(0);
                let mut hook = HookRecord::new("/h".into(), Phase::Freeze, status);
                hook.source = (*source).to_owned();
                report.hooks.push(hook);
            }
            report.compute_level();
            report.tags
        };
        let all = ["vmware", "azure", "alibaba", "azure", "google", ""];
        assert_eq!(
            tags(&all, FilesystemOutcome::Thawed, Quiet),
            ["APPConsistent:True", "applicationConsistent"]
        );
        assert_eq!(
            tags(&all, FilesystemOutcome::Thawed, Failed),
            ["FsConsistent:True", "fileSystemConsistent"]
        );
        assert_eq!(
            tags(&all, FilesystemOutcome::Skipped, Quiet),
            ["crashConsistent"],
            "Alibaba has no word for it"
        );
        assert!(tags(&["", "vmware"], FilesystemOutcome::Thawed, Quiet).is_empty());
    }

    #[test]
    fn a_report_of_another_version_is_read_as_far_as_it_goes() {
        let report: Report = serde_json::from_str(r#"{"id":"a","unheard":1}"#).unwrap();
        assert_eq!((report.id.as_str(), report.level), ("a", Level::None));
    }
}
