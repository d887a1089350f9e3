//! Which filesystems are frozen, and in which order.
//!
//! [`Survey`] is what the system looks like; [`make`] is a pure function of it, of the operator's
//! [`Policy`] and of the host's list. The mount table lists mounts as they were made: what was
//! mounted last is frozen first and the root last (protocol.md 4.9.4), but what is known to stand
//! on another filesystem always goes before that one, for a freeze writes back, and what is written
//! to a filesystem that is frozen already waits for ever. What does not stand on one another shares
//! a level ([`order`]) and is frozen side by side, so that whoever writes to the first does not
//! stand still for the sum of all. Of what nobody can tell what it stands on, it is assumed that
//! it stands on everything that was mounted before it.
//!
//! Patterns look at the first mountpoint of a filesystem alone, as does the host's list, which
//! chooses by the exact name: a bind mount of a directory below `/data` must not take the whole
//! filesystem with it. What the operator excludes stays excluded if the host names it.
//! Every filesystem and mount of the survey is in the plan once: as a target or with a reason.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::policy::{Mode, Pattern, Policy};
use crate::probe::filesystems::Filesystem;
use crate::probe::mountinfo::DeviceNumber;

mod notes;
pub mod order;
mod survey;
#[cfg(test)]
mod tests;

use order::Edge;
pub use survey::{Details, Survey, SwapSpace, Under};

/// One filesystem to freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The filesystem, by its first mount.
    pub filesystem: Filesystem,
    /// Further mountpoints to reach it by if the first is covered. See
    /// [`Details::alternatives`] for what to mind when they are opened.
    pub alternatives: Vec<Vec<u8>>,
    /// Name of its device for people: `/dev/mapper/vg-data`; `major:minor` if none is known.
    pub device: String,
    /// What it stands on, from its own device down, for people.
    pub stands_on: Vec<String>,
    /// A failure to open or freeze it is a note, and the run goes on.
    pub optional: bool,
    /// Targets of one level do not stand on one another; a lower level is frozen before a higher one.
    pub level: usize,
}

/// A mount that is not frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Where it is mounted.
    pub mountpoint: Vec<u8>,
    /// Filesystem type.
    pub fstype: String,
    /// Why; completes 'skipped: …'.
    pub reason: String,
}

/// What a freeze is going to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order of freezing.
    pub targets: Vec<Target>,
    /// The rest: filesystems that were not chosen, then mounts that cannot be frozen.
    pub skipped: Vec<LeftOut>,
    /// What the operator should know, one line each; nothing of it stops the freeze.
    pub notes: Vec<String>,
}

/// Filesystems that stand on one another in a circle: there is no order in which they can be
/// frozen. The text names them and says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circle {
    /// The members' mountpoints in mount order, each with what it stands on.
    pub members: Vec<(String, Vec<String>)>,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.members.iter().map(|(name, _)| name.as_str()).collect();
        write!(f, "filesystems stand on one another in a circle: ")?;
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

impl std::error::Error for Circle {}

/// The plan for a freeze. With `only`, of the filesystems that the policy allows those whose first
/// mountpoint equals one of the given; names that match nothing and names given twice are harmless.
///
/// # Errors
/// A filesystem to freeze is part of a [`Circle`].
pub fn make(survey: &Survey, policy: &Policy, only: Option<&[Vec<u8>]>) -> Result<Plan, Circle> {
    let mut plan = Plan {
        notes: survey.notes.clone(),
        ..Plan::default()
    };
    let mut chosen = HashSet::new();
    for filesystem in &survey.filesystems {
        match verdict(survey, policy, only, filesystem) {
            None => {
                chosen.insert(filesystem.device());
            }
            Some(reason) => plan.skipped.push(LeftOut {
                mountpoint: filesystem.mountpoint.clone(),
                fstype: filesystem.fstype.clone(),
                reason,
            }),
        }
    }
    plan.skip_mounts(survey, &chosen);
    let is_chosen = |filesystem: &Filesystem| chosen.contains(&filesystem.device());
    for (filesystem, level) in sorted(survey, Some(&is_chosen))? {
        if is_chosen(filesystem) {
            plan.targets.push(target(survey, policy, filesystem, level));
        }
    }
    plan.note_policy(survey, policy, &chosen);
    plan.note_only(survey, only, &chosen);
    plan.note_swaps(survey, &chosen);
    Ok(plan)
}

/// Every filesystem in the order of freezing, whatever the policy: for a thaw that does not know
/// what an earlier agent froze. Circles are cut open.
pub fn everything(survey: &Survey) -> Vec<Target> {
    let policy = Policy::default();
    // Without a choice no circle is an error.
    let order = sorted(survey, None).unwrap_or_default();
    let with_details = |(filesystem, level)| target(survey, &policy, filesystem, level);
    order.into_iter().map(with_details).collect()
}

/// Why a filesystem with a device is not chosen; `None` if it is.
fn verdict(
    survey: &Survey,
    policy: &Policy,
    only: Option<&[Vec<u8>]>,
    filesystem: &Filesystem,
) -> Option<String> {
    if policy.freeze != Mode::All {
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

fn target(survey: &Survey, policy: &Policy, filesystem: &Filesystem, level: usize) -> Target {
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
        stands_on: details.stands_on,
        optional: matching(survey, &policy.optional, filesystem).is_some(),
        level,
    }
}

/// All filesystems in the order of freezing, each with its level: also what is not chosen counts,
/// for it may stand between two that are. Without a choice all are, and circles are cut open.
fn sorted<'a>(
    survey: &'a Survey,
    is_chosen: Option<&dyn Fn(&Filesystem) -> bool>,
) -> Result<Vec<(&'a Filesystem, usize)>, Circle> {
    let (root, others): (Vec<_>, Vec<_>) = survey
        .filesystems
        .iter()
        .rev()
        .partition(|filesystem| filesystem.mountpoint == b"/");
    let root_last = !root.is_empty();
    let usual: Vec<&Filesystem> = others.into_iter().chain(root).collect();
    let chosen = |index: usize| match (is_chosen, usual.get(index)) {
        (Some(is_chosen), Some(filesystem)) => is_chosen(filesystem),
        (None, _) => true,
        (_, None) => false,
    };
    let get = |index: usize| usual.get(index).copied();
    let question = order::Question {
        count: usual.len(),
        edges: &edges(survey, &usual),
        chosen: &chosen,
        strict: is_chosen.is_some(),
        root_last,
    };
    match order::sort(&question) {
        Ok(places) => {
            let with_level = |place: order::Place| Some((get(place.number)?, place.level));
            Ok(places.into_iter().filter_map(with_level).collect())
        }
        Err(members) => Err(circle(survey, members.into_iter().rev().filter_map(get))),
    }
}

/// What stands on what, by the index in `usual`.
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
        edges.extend(details.under.iter().filter_map(|under| {
            Some(Edge {
                above,
                below: *place.get(&under.device)?,
                certain: under.certain,
            })
        }));
        if details.unclear {
            edges.extend((above + 1..usual.len()).map(|below| Edge {
                above,
                below,
                certain: false,
            }));
        }
    }
    edges
}

fn circle<'a>(survey: &Survey, members: impl Iterator<Item = &'a Filesystem>) -> Circle {
    let layers = |filesystem: &Filesystem| {
        let details = survey.details.get(&filesystem.device());
        let layers = details.map(|details| details.stands_on.clone());
        layers.unwrap_or_default()
    };
    Circle {
        members: members
            .map(|filesystem| (shown(&filesystem.mountpoint), layers(filesystem)))
            .collect(),
    }
}

fn shown(mountpoint: &[u8]) -> String {
    String::from_utf8_lossy(mountpoint).into_owned()
}
