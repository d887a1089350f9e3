//! The story of one run, from the request to freeze until the last thaw hook.

use super::plan::{LeftOut, Plan, Target};
use crate::hooks::master::MasterReport;
use crate::hooks::{HookRecord, Phase, sources};
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
    /// It may fail without failing the run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// What a snapshot taken between freeze and thaw is worth.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The request failed: the host was told that nothing is frozen.
    #[default]
    None,
    /// As after a power cut: something chosen was not frozen, or not until the thaw.
    Crash,
    /// Every chosen filesystem was frozen until the thaw, but no application was made quiet, or
    /// one failed to be.
    Filesystem,
    /// Besides, hooks ran, and all of them succeeded.
    Application,
}

impl Level {
    /// Its name, as in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Crash => "crash",
            Self::Filesystem => "filesystem",
            Self::Application => "application",
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
    /// One failed.
    Failed,
}

/// How a freeze ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The host thawed.
    Thaw,
    /// It failed; nothing is frozen, and the host was told so.
    Failure,
    /// There was nothing to freeze.
    Nothing,
    /// The hold limit passed, the service was stopped, or a person ended the freeze.
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
    /// What a snapshot is worth; while frozen: if the thaw comes now.
    pub level: Level,
    /// How it ended; `None`: it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
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
        self.applications = if failed {
            Applications::Failed
        } else if master.is_ours && !master.hooks.iter().any(HookRecord::is_applicable) {
            Applications::Untouched
        } else {
            Applications::Quiet
        };
    }

    /// Adds up the times and judges, as things stand.
    pub fn judge(&mut self) {
        let stages = &self.stages;
        self.filesystems_seconds = stages.freeze + stages.held + stages.thaw;
        self.applications_seconds = if self.applications == Applications::Untouched {
            0.0
        } else {
            let hooks = stages.freeze_hooks + stages.thaw_hooks;
            hooks + stages.flush_again + self.filesystems_seconds
        };
        let must: Vec<Outcome> = self
            .filesystems
            .iter()
            .filter(|f| !f.optional)
            .map(|f| f.outcome)
            .collect();
        let held = |outcome: &Outcome| matches!(outcome, Outcome::Frozen | Outcome::Thawed);
        let any = self.filesystems.iter().any(|f| held(&f.outcome));
        self.level = match self.end {
            Some(End::Failure) => Level::None,
            Some(End::Nothing | End::Expiry) => Level::Crash,
            None | Some(End::Thaw | End::Recovery) if any && must.iter().all(held) => {
                match self.applications {
                    Applications::Quiet => Level::Application,
                    Applications::Untouched | Applications::Failed => Level::Filesystem,
                }
            }
            None | Some(End::Thaw | End::Recovery) => Level::Crash,
        };
        let sources = self.hooks.iter().map(|hook| hook.source.as_str());
        let tag = |source| sources::tag(source, self.level.name());
        self.tags = sources.filter_map(tag).map(str::to_owned).collect();
        self.tags.sort_unstable();
        self.tags.dedup();
    }

    /// Ends the run.
    pub fn end(&mut self, end: End) {
        for record in &mut self.filesystems {
            if record.outcome == Outcome::Frozen {
                record.outcome = Outcome::Thawed;
            }
        }
        self.end = Some(end);
        self.judge();
    }

    /// The run in one line.
    pub fn summary(&self) -> String {
        let held = |f: &&FilesystemRecord| matches!(f.outcome, Outcome::Frozen | Outcome::Thawed);
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
        self.everything(&plan.targets);
        let left_out = |left: &LeftOut| FilesystemRecord {
            mountpoint: String::from_utf8_lossy(&left.mountpoint).into_owned(),
            fstype: left.fstype.clone(),
            device: String::new(),
            outcome: Outcome::Skipped,
            detail: Some(left.reason.clone()),
            freeze_seconds: 0.0,
            optional: false,
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
            optional: target.optional,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[Outcome], applications: Applications, end: Option<End>) -> Report {
        let record = |outcome: &Outcome| FilesystemRecord {
            mountpoint: "/m".into(),
            fstype: "ext4".into(),
            device: "8:1".into(),
            outcome: *outcome,
            detail: None,
            freeze_seconds: 0.0,
            optional: false,
        };
        let mut report = Report {
            filesystems: outcomes.iter().map(record).collect(),
            applications,
            end,
            ..Report::default()
        };
        report.judge();
        report
    }

    #[test]
    fn the_level_is_what_a_snapshot_is_worth() {
        use Applications::{Failed, Quiet, Untouched};
        use Outcome::{Frozen, Skipped, Thawed, ThawedByOthers};
        let level =
            |outcomes: &[Outcome], applications, end| report(outcomes, applications, end).level;
        assert_eq!(level(&[Frozen, Frozen], Quiet, None), Level::Application);
        assert_eq!(level(&[Thawed], Quiet, Some(End::Thaw)), Level::Application);
        assert_eq!(level(&[Thawed], Failed, Some(End::Thaw)), Level::Filesystem);
        assert_eq!(
            level(&[Thawed], Untouched, Some(End::Recovery)),
            Level::Filesystem
        );
        assert_eq!(
            level(&[Thawed, Skipped], Quiet, Some(End::Thaw)),
            Level::Crash
        );
        assert_eq!(
            level(&[Thawed, ThawedByOthers], Quiet, Some(End::Thaw)),
            Level::Crash
        );
        assert_eq!(level(&[Thawed], Quiet, Some(End::Expiry)), Level::Crash);
        assert_eq!(level(&[], Quiet, Some(End::Nothing)), Level::Crash);
        assert_eq!(level(&[Thawed], Quiet, Some(End::Failure)), Level::None);
    }

    #[test]
    fn what_is_optional_does_not_lower_the_level() {
        let mut report = report(
            &[Outcome::Thawed, Outcome::Skipped],
            Applications::Quiet,
            Some(End::Thaw),
        );
        report.filesystems[1].optional = true;
        report.judge();
        assert_eq!(report.level, Level::Application);
    }

    #[test]
    fn adapters_have_their_own_words_for_the_level() {
        use Applications::{Failed, Quiet};
        let tags = |sources: &[&str], outcome, applications| {
            let mut report = report(&[outcome], applications, Some(End::Thaw));
            for source in sources {
                let status = crate::hooks::HookStatus::Exited(0);
                let mut hook = HookRecord::new("/h".into(), Phase::Freeze, status);
                hook.source = (*source).to_owned();
                report.hooks.push(hook);
            }
            report.judge();
            report.tags
        };
        let all = ["vmware", "azure", "alibaba", "azure", "google", ""];
        assert_eq!(
            tags(&all, Outcome::Thawed, Quiet),
            ["APPConsistent:True", "applicationConsistent"]
        );
        assert_eq!(
            tags(&all, Outcome::Thawed, Failed),
            ["FsConsistent:True", "fileSystemConsistent"]
        );
        assert_eq!(
            tags(&all, Outcome::Skipped, Quiet),
            ["crashConsistent"],
            "Alibaba has no word for it"
        );
        assert!(tags(&["", "vmware"], Outcome::Thawed, Quiet).is_empty());
    }

    #[test]
    fn a_report_of_another_version_is_read_as_far_as_it_goes() {
        let report: Report = serde_json::from_str(r#"{"id":"a","unheard":1}"#).unwrap();
        assert_eq!((report.id.as_str(), report.level), ("a", Level::None));
    }
}
