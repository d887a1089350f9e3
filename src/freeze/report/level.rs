//! The consistency level of a snapshot taken between freeze and thaw, and what lowers it.
//!
//! The level refers to what the host asked for: every filesystem on a local disk that was writable, or those that it
//! named. What the operator excludes or makes optional does not lower it. docs/consistency.md has the rule as a table,
//! which tests/documents compares with this file.

use super::{Applications, FilesystemOutcome, FilesystemRecord, Report, RunEnd};
use crate::hooks::{HookRecord, HookStatus, Phase};
use serde::{Deserialize, Serialize};

/// Consistency of a snapshot, lowest first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The request failed: the host was told that nothing is frozen.
    #[default]
    None,
    /// As after a power cut: a filesystem that matters was not held until the thaw, or lost data before it.
    Crash,
    /// Every filesystem that matters was held until the thaw, but not all applications were surely quiesced.
    Filesystem,
    /// As `Filesystem`, and hooks ran, all of them with success.
    Application,
}

impl Level {
    /// Name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Crash => "crash",
            Self::Filesystem => "filesystem",
            Self::Application => "application",
        }
    }
}

/// Why a filesystem did not change until the thaw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// FIFREEZE succeeded.
    Frozen,
    /// It was flushed, and nothing was written to its device.
    Unchanged,
    /// It is mounted read-only.
    ReadOnly,
}

impl FilesystemRecord {
    /// Whether it did not change until the thaw.
    pub fn is_held(&self) -> bool {
        // Reports of earlier versions have no `held`.
        self.held.is_some()
            || matches!(
                self.outcome,
                FilesystemOutcome::Frozen | FilesystemOutcome::Thawed
            )
    }
    fn hold(&self) -> Option<Hold> {
        match self.outcome {
            FilesystemOutcome::Frozen | FilesystemOutcome::Thawed => Some(Hold::Frozen),
            FilesystemOutcome::Skipped if self.writable => None,
            FilesystemOutcome::Skipped if self.read_only => Some(Hold::ReadOnly),
            FilesystemOutcome::Skipped if self.watch.is_some() => Some(Hold::Unchanged),
            _ => None,
        }
    }

    /// Why it lowers the level to `crash`, if it does.
    fn fault(&self) -> Option<String> {
        let name = &self.mountpoint;
        match (self.outcome, &self.detail) {
            _ if self.is_held() => None,
            (FilesystemOutcome::ThawedByOthers, _) => {
                Some(format!("{name}: thawed by another process"))
            }
            // `optional` covers a failure to freeze, not a thaw by others after its writes were promised to wait.
            _ if self.optional => None,
            (_, Some(detail)) if detail.contains(name.as_str()) => Some(detail.clone()),
            (_, Some(detail)) => Some(format!("{name}: {detail}")),
            (_, None) => Some(format!("{name}: not frozen")),
        }
    }
}

impl Report {
    /// Updates durations and level by the current contents.
    pub fn compute_level(&mut self) {
        let stages = &self.stages;
        self.filesystems_seconds = stages.freeze + stages.held + stages.thaw;
        self.applications_seconds = if self.applications == Applications::Untouched {
            0.0
        } else {
            let hooks = stages.freeze_hooks + stages.thaw_hooks;
            hooks + stages.flush_again + self.filesystems_seconds
        };
        for record in &mut self.filesystems {
            record.held = record.hold();
        }
        let mut reasons = self.reasons();
        self.level = reasons
            .iter()
            .map(|(level, _)| *level)
            .min()
            .unwrap_or(Level::Application);
        // Lowest level first.
        reasons.sort_by_key(|(level, _)| *level);
        self.level_reasons = reasons.into_iter().map(|(_, text)| text).collect();
        let tag = |hook: &HookRecord| hook.tags.get(self.level.name()).cloned();
        self.tags = self.hooks.iter().filter_map(tag).collect();
        self.tags.sort_unstable();
        self.tags.dedup();
    }

    /// Each with the highest level that it leaves.
    fn reasons(&self) -> Vec<(Level, String)> {
        let mut reasons = Vec::new();
        match self.end {
            None | Some(RunEnd::Thaw | RunEnd::Recovery) => {}
            Some(RunEnd::Failure) => reasons.push((Level::None, "the freeze failed".to_owned())),
            Some(RunEnd::Nothing) => reasons.push((Level::Crash, "nothing was frozen".to_owned())),
            Some(RunEnd::Expiry) => {
                let why = self.ended_because.as_deref();
                let text = format!("ended before the thaw: {}", why.unwrap_or("unknown reason"));
                reasons.push((Level::Crash, text));
            }
        }
        let mut crash = |text| reasons.push((Level::Crash, text));
        self.filesystems
            .iter()
            .filter_map(FilesystemRecord::fault)
            .for_each(&mut crash);
        let skipped = self.skipped.iter().filter(|record| record.writable);
        skipped
            .filter_map(FilesystemRecord::fault)
            .for_each(&mut crash);
        for named in self
            .requested_not_frozen
            .iter()
            .filter(|named| named.writable)
        {
            crash(format!("{}: {}", named.mountpoint, named.reason));
        }
        self.write_errors.iter().cloned().for_each(&mut crash);
        let is_any_held = self.filesystems.iter().any(FilesystemRecord::is_held);
        if !is_any_held && self.end != Some(RunEnd::Nothing) {
            crash("no filesystem was held".into());
        }
        reasons.extend(
            self.applications_reason()
                .map(|text| (Level::Filesystem, text)),
        );
        reasons
    }

    fn applications_reason(&self) -> Option<String> {
        let named = |is_selected: &dyn Fn(&HookRecord) -> bool| {
            let mut hooks = self.hooks.iter().filter(|hook| is_selected(hook));
            let first = hooks.next().map(|hook| {
                let name = hook.path.rsplit('/').next().unwrap_or(&hook.path);
                format!("hook {name}")
            });
            let first = first.unwrap_or_else(|| "the hook master".to_owned());
            match hooks.count() {
                0 => first,
                more => format!("{first} and {more} more"),
            }
        };
        Some(match self.applications {
            Applications::Quiet => return None,
            Applications::Untouched => "no hook quiesced an application".into(),
            Applications::Unknown => {
                "the hook master is not ours and does not report whether its hooks succeeded".into()
            }
            Applications::Skipped => {
                let is_skipped = |hook: &HookRecord| {
                    hook.phase == Phase::Freeze && matches!(hook.status, HookStatus::Skipped(_))
                };
                format!("not called: {}", named(&is_skipped))
            }
            Applications::Failed => {
                let is_failed = |hook: &HookRecord| {
                    hook.lost || (hook.phase == Phase::Freeze && !hook.is_success())
                };
                format!("failed: {}", named(&is_failed))
            }
        })
    }
}
