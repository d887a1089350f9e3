//! Which filesystems are frozen, and in which order.
//!
//! [`make`] is a pure function of the system's [`Survey`], the operator's [`FreezePolicy`] and the host's list. The
//! order is the reverse of the mount table with the root filesystem last, as QEMU documents it for
//! guest-fsfreeze-freeze: what needs another filesystem was mounted after it, also where sysfs shows no dependency. It
//! is changed only where a dependency is known ([`order`]). Neighbors in that order that are on the machine's own
//! hardware form one batch and are frozen in parallel: on disks with a latency of 1 ms, 20 of them freeze in half the
//! time.
//!
//! Patterns and the host's list are compared with the first mount point of a filesystem only: a bind mount of a
//! directory below `/data` must not select the whole filesystem. What the operator excludes stays excluded if the host
//! names it. Every filesystem and mount of the survey is in the plan once: as a target or with a reason.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::policy::{FreezeMode, FreezePolicy, Pattern};
use super::report::Hold;
use crate::probe::filesystems::Filesystem;
use crate::probe::mountinfo::{DeviceNumber, is_never_written};

mod notes;
pub(crate) mod order;
mod survey;
#[cfg(test)]
mod tests;

use order::Edge;
pub use survey::{Details, Survey, SwapSpace};

/// A filesystem to freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The filesystem, by its first mount.
    pub filesystem: Filesystem,
    /// If the first mount point is covered; see [`Details::alternatives`] before opening one.
    pub(crate) alternatives: Vec<Vec<u8>>,
    /// For messages: `/dev/mapper/vg-data`; `major:minor` if it has no name.
    pub(crate) device: String,
    /// Devices and files from its own device down, for messages.
    pub(crate) depends_on: Vec<String>,
    pub(crate) optional: bool,
    /// The whole filesystem is mounted read-only, or its type cannot be written.
    pub(crate) is_read_only: bool,
    /// Targets of one batch are neighbors in the order, and are frozen in parallel.
    pub batch: usize,
}

/// A mount that is not frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded {
    pub(crate) mountpoint: Vec<u8>,
    pub(crate) fstype: String,
    /// Follows `skipped: `.
    pub(crate) reason: String,
    /// On a local disk, writable and not excluded by the operator, so it lowers the consistency level.
    pub(crate) writable: bool,
}

/// What a freeze does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In freeze order.
    pub targets: Vec<Target>,
    /// Filesystems that were not chosen, then mounts that cannot be frozen.
    pub skipped: Vec<Excluded>,
    /// What the host's list names and is not frozen.
    pub(crate) not_frozen: Vec<Excluded>,
    /// One line each; nothing of it stops the freeze.
    pub(crate) notes: Vec<String>,
}

/// Filesystems that depend on one another (through loop devices): no order of freezing works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cycle {
    /// Mount points in mount order, each with what it depends on.
    pub members: Vec<(String, Vec<String>)>,
}

impl Target {
    /// It cannot be frozen itself, so the writes to its device are counted while the others are frozen.
    pub(crate) fn is_watched(&self) -> bool {
        let fstype = &self.filesystem.fstype;
        !can_freeze(fstype) && !is_never_written(fstype)
    }

    /// The result of FIFREEZE decides.
    pub(crate) fn expected_hold(&self) -> Hold {
        match &self.filesystem.fstype[..] {
            fstype if can_freeze(fstype) => Hold::Frozen,
            _ if self.is_read_only => Hold::ReadOnly,
            _ => Hold::Unchanged,
        }
    }
}

/// Whether the kernel's driver for this type implements FIFREEZE (super_operations.freeze_fs or freeze_super). For
/// others it fails with EOPNOTSUPP (fs/ioctl.c ioctl_fsfreeze).
fn can_freeze(fstype: &str) -> bool {
    const TYPES: [&str; 11] = [
        "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "gfs2", "jfs", "nilfs2", "reiserfs",
        "bcachefs",
    ];
    TYPES.contains(&fstype)
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.members.iter().map(|(name, _)| name.as_str()).collect();
        write!(f, "filesystems depend on one another in a cycle: ")?;
        for (index, (name, layers)) in self.members.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(f, "{comma}{name} on {}", layers.join(", "))?;
        }
        write!(
            f,
            ". Freezing one of them would never end. Take them apart, or leave all of them out: \
             fsfreeze-exclude={}",
            names.join(",")
        )
    }
}

impl std::error::Error for Cycle {}

/// With `only`, of the filesystems that the policy allows, those whose first mount point is in the list. Names without
/// a match and names given twice are no errors; a filesystem to freeze that is part of a [`Cycle`] is.
pub fn make(
    survey: &Survey,
    policy: &FreezePolicy,
    only: Option<&[Vec<u8>]>,
) -> Result<Plan, Cycle> {
    let mut plan = Plan {
        notes: survey.notes.clone(),
        ..Plan::default()
    };
    let mut chosen = HashSet::new();
    for filesystem in &survey.filesystems {
        match exclusion_reason(survey, policy, only, filesystem) {
            None => {
                chosen.insert(filesystem.device());
            }
            Some(reason) => plan.skipped.push(Excluded {
                mountpoint: filesystem.mountpoint.clone(),
                fstype: filesystem.fstype.clone(),
                reason,
                writable: false,
            }),
        }
    }
    plan.skip_mounts(survey, policy, only, &chosen);
    let is_chosen = |filesystem: &Filesystem| chosen.contains(&filesystem.device());
    let order = sorted(survey, Some(&is_chosen))?.into_iter();
    plan.targets = targets(
        survey,
        policy,
        order.filter(|&filesystem| is_chosen(filesystem)),
    );
    plan.note_policy(survey, policy, &chosen);
    plan.note_only(survey, only, &chosen);
    plan.note_swaps(survey, &chosen);
    Ok(plan)
}

/// In freeze order, whatever the policy: for a thaw that does not know what an earlier agent froze. Cycles are broken.
pub fn everything(survey: &Survey) -> Vec<Target> {
    let policy = FreezePolicy::default();
    // Without chosen filesystems no cycle is an error.
    let order = sorted(survey, None).unwrap_or_default();
    targets(survey, &policy, order.into_iter())
}

fn targets<'a>(
    survey: &Survey,
    policy: &FreezePolicy,
    order: impl Iterator<Item = &'a Filesystem>,
) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    let mut may_join = false;
    for filesystem in order {
        let details = survey.details.get(&filesystem.device());
        let is_independent =
            filesystem.mountpoint != b"/" && details.is_some_and(|details| details.is_on_hardware);
        let batch = match targets.last() {
            Some(last) => last.batch + usize::from(!(is_independent && may_join)),
            None => 0,
        };
        may_join = is_independent;
        targets.push(target(survey, policy, filesystem, batch));
    }
    targets
}

fn exclusion_reason(
    survey: &Survey,
    policy: &FreezePolicy,
    only: Option<&[Vec<u8>]>,
    filesystem: &Filesystem,
) -> Option<String> {
    if policy.freeze != FreezeMode::All {
        return Some(format!("fsfreeze-mode is {}", policy.freeze.name()));
    }
    if let Some(pattern) = matching(survey, &policy.exclude, filesystem) {
        return Some(format!("fsfreeze-exclude has {pattern}"));
    }
    if !policy.include.is_empty() && matching(survey, &policy.include, filesystem).is_none() {
        return Some("no pattern of fsfreeze-include means it".into());
    }
    if only.is_some_and(|names| !names.contains(&filesystem.mountpoint)) {
        return Some("the request does not name it".into());
    }
    None
}

fn matching<'a>(
    survey: &Survey,
    patterns: &'a [Pattern],
    filesystem: &Filesystem,
) -> Option<&'a Pattern> {
    let names = survey
        .details
        .get(&filesystem.device())
        .map(|details| details.names.as_slice())
        .unwrap_or_default();
    patterns
        .iter()
        .find(|pattern| pattern.matches(&filesystem.mountpoint, &filesystem.fstype, names))
}

fn target(survey: &Survey, policy: &FreezePolicy, filesystem: &Filesystem, batch: usize) -> Target {
    let details = survey
        .details
        .get(&filesystem.device())
        .cloned()
        .unwrap_or_default();
    let number = || format!("{}:{}", filesystem.major, filesystem.minor);
    Target {
        filesystem: filesystem.clone(),
        alternatives: details.alternatives,
        device: details.names.into_iter().next().unwrap_or_else(number),
        depends_on: details.depends_on,
        optional: matching(survey, &policy.optional, filesystem).is_some(),
        is_read_only: details.is_read_only,
        batch,
    }
}

/// Those that are not chosen take part, because two chosen ones may depend on each other through one that is not.
/// Without a choice all are chosen, and cycles are broken.
fn sorted<'a>(
    survey: &'a Survey,
    is_chosen: Option<&dyn Fn(&Filesystem) -> bool>,
) -> Result<Vec<&'a Filesystem>, Cycle> {
    let (root, others): (Vec<_>, Vec<_>) = survey
        .filesystems
        .iter()
        .rev()
        .partition(|filesystem| filesystem.mountpoint == b"/");
    let usual: Vec<&Filesystem> = others.into_iter().chain(root).collect();
    let chosen = |index: usize| match (is_chosen, usual.get(index)) {
        (Some(is_chosen), Some(filesystem)) => is_chosen(filesystem),
        (None, _) => true,
        (_, None) => false,
    };
    let get = |index: usize| usual.get(index).copied();
    let input = order::OrderInput {
        count: usual.len(),
        edges: &edges(survey, &usual),
        chosen: &chosen,
        strict: is_chosen.is_some(),
    };
    match order::sort(&input) {
        Ok(order) => Ok(order.into_iter().filter_map(get).collect()),
        Err(members) => Err(cycle_of(survey, members.into_iter().rev().filter_map(get))),
    }
}
fn edges(survey: &Survey, usual: &[&Filesystem]) -> Vec<Edge> {
    let place: HashMap<DeviceNumber, usize> = usual
        .iter()
        .enumerate()
        .map(|(index, filesystem)| (filesystem.device(), index))
        .collect();
    let mut edges = Vec::new();
    for (above, filesystem) in usual.iter().enumerate() {
        let Some(details) = survey.details.get(&filesystem.device()) else {
            continue;
        };
        let places = details
            .depends_on_devices
            .iter()
            .filter_map(|under| place.get(under));
        edges.extend(places.map(|&below| Edge { above, below }));
    }
    edges
}

fn cycle_of<'a>(survey: &Survey, members: impl Iterator<Item = &'a Filesystem>) -> Cycle {
    let layers = |filesystem: &Filesystem| {
        let details = survey.details.get(&filesystem.device());
        let layers = details.map(|details| details.depends_on.clone());
        layers.unwrap_or_default()
    };
    Cycle {
        members: members
            .map(|filesystem| (shown(&filesystem.mountpoint), layers(filesystem)))
            .collect(),
    }
}

fn shown(mountpoint: &[u8]) -> String {
    String::from_utf8_lossy(mountpoint).into_owned()
}
