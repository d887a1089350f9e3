//! The plan's texts for people: reasons of skipped mounts, and notes. Nothing here changes what is frozen.

use std::collections::{HashMap, HashSet};

use super::{Excluded, Plan, Survey, matching, shown};
use crate::freeze::policy::{FreezeMode, FreezePolicy, Pattern};
use crate::probe::filesystems::{SkipReason, Skipped};
use crate::probe::mountinfo::DeviceNumber;

type Chosen = HashSet<DeviceNumber>;

impl Plan {
    pub(super) fn skip_mounts(
        &mut self,
        survey: &Survey,
        policy: &FreezePolicy,
        only: Option<&[Vec<u8>]>,
        chosen: &Chosen,
    ) {
        let names: HashMap<DeviceNumber, &[u8]> = survey
            .filesystems
            .iter()
            .map(|filesystem| (filesystem.device(), filesystem.mountpoint.as_slice()))
            .collect();
        let layer = |device: &DeviceNumber| {
            let name = shown(names.get(device)?);
            let state = if chosen.contains(device) {
                "frozen"
            } else {
                "not frozen"
            };
            Some(format!("{name} ({state})"))
        };
        self.skipped.extend(survey.skipped.iter().map(|skipped| {
            let layers = survey.layers.get(&skipped.mountpoint);
            let layers: Vec<String> = layers.into_iter().flatten().filter_map(layer).collect();
            let mut reason = skipped.reason.to_string();
            if skipped.reason == SkipReason::Layered && !layers.is_empty() {
                reason += ": ";
                reason += &layers.join(", ");
            }
            let (mountpoint, fstype) = (&skipped.mountpoint, &skipped.fstype);
            let names = [shown(mountpoint)];
            let matches = |pattern: &Pattern| pattern.matches(mountpoint, fstype, &names);
            let is_selected = policy.freeze == FreezeMode::All
                && !policy.exclude.iter().any(matches)
                && (policy.include.is_empty() || policy.include.iter().any(matches))
                && only.is_none_or(|names| names.contains(mountpoint));
            Excluded {
                mountpoint: mountpoint.clone(),
                fstype: fstype.clone(),
                reason,
                writable: is_selected && survey.writable.contains(mountpoint),
            }
        }));
    }
    pub(super) fn note_policy(&mut self, survey: &Survey, policy: &FreezePolicy, chosen: &Chosen) {
        if policy.freeze != FreezeMode::All {
            return;
        }
        let lists = [
            ("fsfreeze-include", &policy.include),
            ("fsfreeze-exclude", &policy.exclude),
            ("fsfreeze-optional", &policy.optional),
        ];
        for (key, patterns) in lists {
            let without_effect = patterns.iter().filter_map(|p| idle(survey, key, p));
            self.notes.extend(without_effect);
        }
        for filesystem in &survey.filesystems {
            if chosen.contains(&filesystem.device()) {
                continue;
            }
            let Some(details) = survey.details.get(&filesystem.device()) else {
                continue;
            };
            let frozen = |device: &DeviceNumber| {
                let base = survey.filesystems.iter().find(|f| f.device() == *device)?;
                chosen.contains(device).then(|| shown(&base.mountpoint))
            };
            let bases: Vec<String> = details
                .depends_on_devices
                .iter()
                .filter_map(frozen)
                .collect();
            if !bases.is_empty() {
                self.notes.push(format!(
                    "{} is not frozen but depends on {}, which is: its writes block anyway, \
                     and it is in no clean state",
                    shown(&filesystem.mountpoint),
                    bases.join(", ")
                ));
            }
        }
    }

    /// Names of the host's list that select nothing.
    pub(super) fn note_only(&mut self, survey: &Survey, only: Option<&[Vec<u8>]>, chosen: &Chosen) {
        let mut noted = HashSet::new();
        let first_of = |mountpoint: &[u8]| {
            let mut filesystems = survey.filesystems.iter();
            filesystems.find(|filesystem| filesystem.mountpoint == mountpoint)
        };
        let is_chosen =
            |mountpoint: &[u8]| first_of(mountpoint).is_some_and(|f| chosen.contains(&f.device()));
        for name in only.unwrap_or_default() {
            if is_chosen(name) || !noted.insert(name) {
                continue;
            }
            let excluded = self.skipped.iter().find(|s| s.mountpoint == *name);
            let (reason, fstype) = match excluded {
                Some(excluded) => (excluded.reason.as_str(), excluded.fstype.clone()),
                None => ("nothing is mounted there", String::new()),
            };
            let mounts = survey.skipped.iter().filter(|s| s.mountpoint == *name);
            let writable = match mounts.map(|mount| &mount.reason).next() {
                Some(SkipReason::SecondMount { first }) => !is_chosen(first),
                // A filesystem in memory or on another machine is in no snapshot. One that lowers the level is among
                // the skipped ones and is not reported twice.
                Some(_) => false,
                None => {
                    let details = first_of(name).and_then(|f| survey.details.get(&f.device()));
                    !details.is_some_and(|details| details.is_read_only)
                }
            };
            let shown = shown(name);
            self.notes.push(format!(
                "the request names {shown}, which is left out: {reason}"
            ));
            self.not_frozen.push(Excluded {
                mountpoint: name.clone(),
                fstype,
                reason: format!("the request names it, but {reason}"),
                writable,
            });
        }
    }

    pub(super) fn note_swaps(&mut self, survey: &Survey, chosen: &Chosen) {
        for swap in survey.swaps.iter().filter(|swap| chosen.contains(&swap.on)) {
            let Some(on) = survey.filesystems.iter().find(|f| f.device() == swap.on) else {
                continue;
            };
            let (name, on) = (&swap.name, shown(&on.mountpoint));
            self.notes.push(if swap.through {
                format!(
                    "swap space {name} is kept in a file on {on}: while that is frozen nothing \
                     can be swapped out to it. The agent's own memory is locked; give the guest \
                     swap space on a device of its own"
                )
            } else {
                format!(
                    "swap file {name} is on {on}: swapping goes on while that is frozen, for the \
                     kernel writes to the file's blocks itself; the agent's own memory is locked"
                )
            });
        }
    }
}

/// `None` if the pattern matches a filesystem, or excludes what is skipped anyhow.
fn idle(survey: &Survey, key: &str, pattern: &Pattern) -> Option<String> {
    let only_this = std::slice::from_ref(pattern);
    let matches = |filesystem| matching(survey, only_this, filesystem).is_some();
    if survey.filesystems.iter().any(matches) {
        return None;
    }
    let matches = |skipped: &&Skipped| pattern.matches(&skipped.mountpoint, &skipped.fstype, &[]);
    let mounts = || survey.skipped.iter().filter(matches);
    let further = mounts().find_map(|skipped| match &skipped.reason {
        SkipReason::SecondMount { first } => Some((&skipped.mountpoint, first)),
        _ => None,
    });
    if let Some((mountpoint, first)) = further {
        let (mountpoint, first) = (shown(mountpoint), shown(first));
        return Some(format!(
            "{key} has {pattern} without effect: {mountpoint} is the same filesystem as {first}, \
             and a filesystem is known by its first mount point"
        ));
    }
    match mounts().next() {
        Some(_) if key == "fsfreeze-exclude" => None,
        Some(skipped) => Some(format!(
            "{key} has {pattern} without effect: {} is not frozen: {}",
            shown(&skipped.mountpoint),
            skipped.reason
        )),
        None => Some(format!(
            "{key} has {pattern} without effect: no mounted filesystem matches it"
        )),
    }
}
