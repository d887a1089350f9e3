//! What the planning needs to know of the system, read at one moment.
//!
//! A filesystem goes by the number of its device; a btrfs by that of the device of its first mount.
//! The mount table says which filesystems there are, sysfs what each stands on. What can't be read
//! becomes a note: the order is then that of the mount table, as if nothing were known.

use std::collections::{HashMap, HashSet};

use crate::probe::filesystems::{Filesystem, SkipReason, Skipped, block_filesystems};
use crate::probe::location::{Location, Locator, StatSource};
use crate::probe::mountinfo::{self, DeviceNumber, Mount};
use crate::probe::stack::{self, Layer};
use crate::probe::swaps;
use crate::probe::{System, sysblock, udev};
use crate::sys::loopdev;

/// Further mountpoints that are kept of a filesystem: enough to find one that is not covered, where
/// containers make thousands.
const MAX_ALTERNATIVES: usize = 16;

/// Names of devices whose pages another program or a driver keeps where sysfs does not say, be it in a
/// file of this very system: network block devices, ublk, DRBD, volumes of ZFS.
const HIDDEN: [&str; 4] = ["nbd", "ublkb", "drbd", "zd"];

/// Where the file behind a loop device lies, by the kernel's name of the device and the file's path.
type FindFile<'a> = &'a dyn Fn(&str, &[u8]) -> Location;

/// From each device of a filesystem to the number by which it goes.
type Numbers = HashMap<DeviceNumber, DeviceNumber>;

/// The mount table, sorted into what can be frozen and what cannot; and what is known of the
/// filesystems beyond it.
#[derive(Debug, Default, Clone)]
pub struct Survey {
    /// One entry a filesystem: its first mount, in mount order.
    pub filesystems: Vec<Filesystem>,
    /// Everything else, each with its reason.
    pub skipped: Vec<Skipped>,
    /// More about a filesystem, by its device; nothing is known of one that is missing here.
    pub details: HashMap<DeviceNumber, Details>,
    /// The filesystems that keep the layers of an overlay, by its mountpoint.
    pub layers: HashMap<Vec<u8>, Vec<DeviceNumber>>,
    /// Where swapped pages end up on filesystems.
    pub swaps: Vec<SwapSpace>,
    /// What could not be found out: one line each.
    pub notes: Vec<String>,
}

/// What is known of a filesystem beyond its entry in the mount table.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Details {
    /// Other mounts of it, those of its root directory first. A mount of a single file is among
    /// them: open with O_NONBLOCK, and check what was opened.
    pub alternatives: Vec<Vec<u8>>,
    /// Names of its device or devices, the mount table's first.
    pub names: Vec<String>,
    /// What its device is made of, from the top down, for people.
    pub stands_on: Vec<String>,
    /// The filesystems that it stands on.
    pub under: Vec<Under>,
    /// There may be more that it stands on, and nobody can tell which.
    pub unclear: bool,
}

/// A filesystem that another stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Under {
    /// Its device.
    pub device: DeviceNumber,
    /// Known for sure, and not only probable.
    pub certain: bool,
}

/// Swap space whose pages end up on a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapSpace {
    /// The swap file or device.
    pub name: String,
    /// Device of the filesystem.
    pub on: DeviceNumber,
    /// Pages are written through the filesystem (a loop device is on the way) rather than right to
    /// the blocks of a swap file: then a freeze stops them.
    pub through: bool,
}

impl Survey {
    /// Looks at `system`, whose mount table is `mounts`. Reads /proc, /sys and /run/udev, and looks
    /// up the files behind loop devices; opens no device but a loop device whose file is not where
    /// its path says.
    pub fn take(system: &System, mounts: &[Mount]) -> Self {
        Self::take_with(
            system,
            mounts,
            &|source| mountinfo::block_device(system.root(), source),
            &|name| loopdev::backing_filesystem(&system.path("/dev").join(name)).ok(),
        )
    }

    /// [`Survey::take`] with the question for device nodes answered by `stat_source`, and that for
    /// the filesystem of the file behind a loop device by `loop_status`.
    pub(super) fn take_with(
        system: &System,
        mounts: &[Mount],
        stat_source: StatSource<'_>,
        loop_status: &dyn Fn(&str) -> Option<DeviceNumber>,
    ) -> Self {
        let (filesystems, skipped) = block_filesystems(mounts, stat_source);
        let mut survey = Self {
            filesystems,
            skipped,
            ..Self::default()
        };
        let members = stack::btrfs_members(system);
        survey.fold_btrfs(&members);
        let locator = Locator::new(system, mounts, stat_source);
        let file = |device: &str, path: &[u8]| locator.file(path, &|| loop_status(device));
        survey.find_names_and_stacks(system, mounts, &members, &file);
        let own = survey.own_numbers(&members);
        survey.settle_numbers(&own);
        survey.find_mounts(mounts, &own, &locator);
        survey.find_swaps(system, &own, &file, stat_source);
        survey
    }

    /// A btrfs that is mounted by several of its devices is one filesystem: the first.
    fn fold_btrfs(&mut self, members: &[Vec<DeviceNumber>]) {
        let mut first: HashMap<DeviceNumber, Vec<u8>> = HashMap::new();
        let mut kept = Vec::with_capacity(self.filesystems.len());
        for filesystem in std::mem::take(&mut self.filesystems) {
            let all = match filesystem.fstype.as_str() {
                "btrfs" => group(members, filesystem.device()),
                _ => None,
            };
            let Some(id) = all.and_then(|all| all.first()) else {
                kept.push(filesystem);
                continue;
            };
            match first.get(id) {
                None => {
                    first.insert(*id, filesystem.mountpoint.clone());
                    kept.push(filesystem);
                }
                Some(first) => self.skip_as_second(filesystem, first),
            }
        }
        self.filesystems = kept;
    }

    /// Leaves out what counted as a filesystem until now; its own further mounts go with it.
    fn skip_as_second(&mut self, filesystem: Filesystem, first: &[u8]) {
        for skipped in &mut self.skipped {
            if let SkipReason::SecondMount { first: other } = &mut skipped.reason {
                if *other == filesystem.mountpoint {
                    *other = first.to_owned();
                }
            }
        }
        self.skipped.push(Skipped {
            mountpoint: filesystem.mountpoint,
            fstype: filesystem.fstype,
            reason: SkipReason::SecondMount {
                first: first.to_owned(),
            },
        });
    }

    fn find_names_and_stacks(
        &mut self,
        system: &System,
        mounts: &[Mount],
        members: &[Vec<DeviceNumber>],
        find_file: FindFile<'_>,
    ) {
        let by_key: HashMap<(u64, &[u8]), &Mount> = mounts
            .iter()
            .map(|mount| ((mount.mount_id, mount.mountpoint.as_slice()), mount))
            .collect();
        for filesystem in &self.filesystems {
            let own = filesystem.device();
            let devices = match group(members, own) {
                Some(all) if filesystem.fstype == "btrfs" => all.to_vec(),
                _ => vec![own],
            };
            let mut details = Details::default();
            let mut name = |name: String| {
                if name.starts_with('/') && !details.names.contains(&name) {
                    details.names.push(name);
                }
            };
            let key = (filesystem.mount_id, filesystem.mountpoint.as_slice());
            let mount = by_key.get(&key);
            if let Some(mount) = mount {
                name(String::from_utf8_lossy(&mount.source).into_owned());
            }
            for &device in &devices {
                if let Ok(Some(path)) = sysblock::sysfs_path(system, device) {
                    let device = udev::block_device(system, &path);
                    let mapper = device.dm_name.map(|name| format!("/dev/mapper/{name}"));
                    device
                        .devnode
                        .into_iter()
                        .chain(mapper)
                        .chain(device.links)
                        .for_each(&mut name);
                }
            }
            let stack = stack::below(system, &devices);
            self.notes.extend(stack.problems.iter().map(|problem| {
                format!(
                    "what {} stands on is not known for sure: {problem}",
                    String::from_utf8_lossy(&filesystem.mountpoint)
                )
            }));
            details.unclear = stack.layers.is_empty()
                || !stack.problems.is_empty()
                || mount.is_some_and(|mount| has_further_devices(mount));
            for layer in &stack.layers {
                details.add_layer(layer, find_file);
            }
            self.details.insert(own, details);
        }
    }

    /// From each device of a filesystem to the number by which it goes.
    fn own_numbers(&self, members: &[Vec<DeviceNumber>]) -> Numbers {
        let mut numbers = Numbers::new();
        for filesystem in &self.filesystems {
            let own = filesystem.device();
            numbers.insert(own, own);
            if filesystem.fstype == "btrfs" {
                let all = group(members, own).unwrap_or_default();
                numbers.extend(all.iter().map(|&device| (device, own)));
            }
        }
        numbers
    }

    fn settle_numbers(&mut self, own: &Numbers) {
        for (number, details) in &mut self.details {
            for under in &mut details.under {
                under.device = own.get(&under.device).copied().unwrap_or(under.device);
            }
            // That something may stand on itself is no knowledge.
            details
                .under
                .retain(|under| under.certain || under.device != *number);
        }
    }

    /// Further mounts of each filesystem, and what overlays are made of.
    fn find_mounts(&mut self, mounts: &[Mount], own: &Numbers, locator: &Locator<'_>) {
        let first: HashMap<DeviceNumber, &[u8]> = self
            .filesystems
            .iter()
            .map(|filesystem| (filesystem.device(), filesystem.mountpoint.as_slice()))
            .collect();
        let (roots, parts): (Vec<&Mount>, Vec<&Mount>) =
            mounts.iter().partition(|mount| mount.root == b"/");
        for mount in roots.into_iter().chain(parts) {
            let Some(device) = locator.device(mount) else {
                if mount.fstype == "overlay" {
                    let layers = locator.layers(mount);
                    self.layers.insert(mount.mountpoint.clone(), layers);
                }
                continue;
            };
            let Some(device) = own.get(&device) else {
                continue;
            };
            let Some(details) = self.details.get_mut(device) else {
                continue;
            };
            let known = first.get(device) == Some(&mount.mountpoint.as_slice())
                || details.alternatives.contains(&mount.mountpoint);
            if !known && details.alternatives.len() < MAX_ALTERNATIVES {
                details.alternatives.push(mount.mountpoint.clone());
            }
        }
    }

    fn find_swaps(
        &mut self,
        system: &System,
        own: &Numbers,
        find_file: FindFile<'_>,
        stat_source: StatSource<'_>,
    ) {
        let holders = |device: &str, path: &[u8]| -> Vec<DeviceNumber> {
            let devices = find_file(device, path).devices;
            let settle = |device| own.get(&device).copied().unwrap_or(device);
            devices.into_iter().map(settle).collect()
        };
        for swap in swaps::read(system) {
            let name = String::from_utf8_lossy(&swap.path).into_owned();
            // Filesystems that pages are written through, to follow down.
            let mut waiting: Vec<DeviceNumber> = Vec::new();
            if swap.is_file {
                for on in holders("", &swap.path) {
                    waiting.extend(self.certainly_under(on));
                    self.swaps.push(SwapSpace {
                        name: name.clone(),
                        on,
                        through: false,
                    });
                }
            } else if let Some(device) = stat_source(&swap.path) {
                let stack = stack::below(system, &[device]);
                for layer in &stack.layers {
                    if let Layer::File { path, device } = layer {
                        waiting.extend(holders(device, path));
                    }
                }
            }
            let mut seen = HashSet::new();
            while let Some(on) = waiting.pop() {
                if seen.insert(on) {
                    waiting.extend(self.certainly_under(on));
                    self.swaps.push(SwapSpace {
                        name: name.clone(),
                        on,
                        through: true,
                    });
                }
            }
        }
    }

    fn certainly_under(&self, device: DeviceNumber) -> Vec<DeviceNumber> {
        let under = self.details.get(&device).map(|details| &details.under);
        let certain = under.into_iter().flatten().filter(|under| under.certain);
        certain.map(|under| under.device).collect()
    }
}

impl Details {
    fn add_layer(&mut self, layer: &Layer, find_file: FindFile<'_>) {
        let (path, device) = match layer {
            Layer::Device { name, dm_name } => {
                self.unclear |= HIDDEN.iter().any(|hidden| name.starts_with(hidden));
                self.stands_on.push(match dm_name {
                    Some(dm_name) => format!("{name} ({dm_name})"),
                    None => name.clone(),
                });
                return;
            }
            Layer::File { path, device } => (path, device),
        };
        let file = String::from_utf8_lossy(path);
        let location = find_file(device, path);
        let not_found = location.mount.is_none();
        self.stands_on.push(match location.mount {
            Some((mountpoint, fstype)) => {
                let mountpoint = String::from_utf8_lossy(&mountpoint);
                format!("file {file} on {mountpoint} ({fstype})")
            }
            None => format!("file {file}, which is not to be found from here"),
        });
        self.unclear |= not_found && location.devices.is_empty();
        let certain = location.devices.into_iter().map(|device| (device, true));
        let perhaps = location.perhaps.into_iter().map(|device| (device, false));
        for (device, certain) in certain.chain(perhaps) {
            self.under.push(Under { device, certain });
        }
    }
}

/// Whether an XFS keeps its log or its data on a further device.
fn has_further_devices(mount: &Mount) -> bool {
    let mut options = mount.super_options.split(',');
    options.any(|option| option.starts_with("logdev=") || option.starts_with("rtdev="))
}

/// The devices of the btrfs that has `device`.
fn group(members: &[Vec<DeviceNumber>], device: DeviceNumber) -> Option<&[DeviceNumber]> {
    members
        .iter()
        .find(|group| group.contains(&device))
        .map(Vec::as_slice)
}
