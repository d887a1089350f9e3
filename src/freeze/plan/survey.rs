//! What the plan needs to know of the system, read once.
//!
//! A filesystem is identified by its device number; a btrfs by that of its first mount's device. What cannot be read
//! becomes a note, and the order is that of the mount table, as if there were no dependency.

use std::collections::{HashMap, HashSet};

use crate::probe::filesystems::{Filesystem, SkipReason, Skipped, block_filesystems};
use crate::probe::location::{Location, Locator, StatSource};
use crate::probe::mountinfo::{self, DeviceNumber, Mount};
use crate::probe::stack::{self, Layer};
use crate::probe::swaps;
use crate::probe::{System, superblocks, sysblock, udev};
use crate::sys::loopdev;

/// Enough to find one that is not covered, on a host whose containers make thousands.
const MAX_ALTERNATIVES: usize = 16;

/// By the kernel's name of the loop device and the file's path.
type FindFile<'a> = &'a dyn Fn(&str, &[u8]) -> Location;

/// From each device of a filesystem to the device number that identifies it.
type Numbers = HashMap<DeviceNumber, DeviceNumber>;

/// The filesystems of the mount table, and what is known of them.
#[derive(Debug, Default, Clone)]
pub struct Survey {
    /// The first mount of each filesystem, in mount order.
    pub filesystems: Vec<Filesystem>,
    /// All other mounts, each with its reason.
    pub skipped: Vec<Skipped>,
    /// Mount points of `skipped` that are on a local disk and writable.
    pub writable: HashSet<Vec<u8>>,
    /// By the filesystem's device; one whose details are unknown is missing.
    pub details: HashMap<DeviceNumber, Details>,
    /// The filesystems with the layers of an overlay, by the overlay's mount point.
    pub layers: HashMap<Vec<u8>, Vec<DeviceNumber>>,
    /// Swap space that is kept on filesystems.
    pub swaps: Vec<SwapSpace>,
    /// What could not be read, one line each.
    pub notes: Vec<String>,
}

/// What is known of a filesystem beyond its entry in the mount table.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Details {
    /// Those of its root directory first. Some may be mounts of a single file: open them with O_NONBLOCK, and check
    /// what was opened.
    pub(crate) alternatives: Vec<Vec<u8>>,
    /// Of its device or devices, the mount table's first.
    pub(crate) names: Vec<String>,
    /// Devices and files from the top down, for messages.
    pub(crate) depends_on: Vec<String>,
    /// The filesystems that it depends on.
    pub depends_on_devices: Vec<DeviceNumber>,
    /// All its devices end at the machine's own hardware, so no other filesystem of this system is below it.
    pub is_on_hardware: bool,
    pub(crate) is_read_only: bool,
}

/// Swap space whose pages are written to a filesystem's device or file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapSpace {
    pub(crate) name: String,
    /// The filesystem.
    pub(crate) on: DeviceNumber,
    /// Pages are written through the filesystem (a loop device is in between), so a freeze blocks them.
    pub(crate) through: bool,
}

impl Survey {
    /// Opens no device, except a loop device whose file is not at its recorded path.
    pub fn read(system: &System, mounts: &[Mount]) -> Self {
        Self::read_with(
            system,
            mounts,
            &|source| mountinfo::block_device(system, source),
            // Without it the file is looked for by its recorded path only.
            &|name| loopdev::backing_filesystem(&system.path("/dev").join(name)).ok(),
        )
    }

    /// `stat_source`: the device number of a node; `loop_status`: that of the filesystem of a loop device's file.
    pub(super) fn read_with(
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
        let members = stack::read_btrfs_members(system);
        survey.fold_btrfs(&members);
        let locator = Locator::new(system, mounts, stat_source);
        let file = |device: &str, path: &[u8]| locator.locate_file(path, &|| loop_status(device));
        survey.find_names_and_stacks(system, mounts, &members, &file);
        let own = survey.own_numbers(&members);
        survey.unify_numbers(&own);
        survey.find_mounts(mounts, &own, &locator);
        survey.find_swaps(system, &own, &file, stat_source);
        survey.find_writable(mounts, stat_source);
        survey.find_elsewhere(system, mounts);
        survey
    }

    /// Mounts that cannot be frozen and may be written on a local disk meanwhile.
    fn find_writable(&mut self, mounts: &[Mount], stat_source: StatSource<'_>) {
        let seen: HashSet<DeviceNumber> = mounts
            .iter()
            .filter(|mount| mount.fstype == "btrfs" && stat_source(&mount.source).is_some())
            .map(Mount::device)
            .collect();
        for skipped in &self.skipped {
            let is_it = |mount: &&Mount| {
                mount.mountpoint == skipped.mountpoint && mount.fstype == skipped.fstype
            };
            let mount = mounts.iter().find(is_it);
            let is_local = |mount: &Mount| match skipped.reason {
                // Another mount of the same filesystem has a device node.
                SkipReason::BtrfsSource { .. } => !seen.contains(&mount.device()),
                SkipReason::NoDeviceNumber => true,
                SkipReason::NoDevice | SkipReason::Fuse => stat_source(&mount.source).is_some(),
                _ => false,
            };
            if mount.is_some_and(|mount| is_local(mount) && !mount.is_filesystem_read_only()) {
                self.writable.insert(skipped.mountpoint.clone());
            }
        }
    }

    /// Filesystems that are not mounted in this process's mount namespace.
    fn find_elsewhere(&mut self, system: &System, mounts: &[Mount]) {
        for found in superblocks::find_elsewhere(system, mounts) {
            let text = match &found.place {
                Some((mountpoint, pid)) => format!(
                    "{} is mounted in another mount namespace only, at {} for process {pid}",
                    found.device,
                    String::from_utf8_lossy(mountpoint)
                ),
                None => format!(
                    "{} was unmounted while it was in use, or is mounted in another mount namespace",
                    found.device
                ),
            };
            // It has no mount point here.
            let mountpoint = found.device.into_bytes();
            self.writable.insert(mountpoint.clone());
            self.skipped.push(Skipped {
                mountpoint,
                fstype: found.fstype,
                reason: SkipReason::Elsewhere(text),
            });
        }
    }

    /// A btrfs that is mounted by several of its devices becomes one filesystem, that of its first mount.
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
            let is_read_only = mount.is_some_and(|mount| mount.is_filesystem_read_only());
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
            let stack = stack::read_stack(system, &devices);
            self.notes.extend(stack.problems.iter().map(|problem| {
                format!(
                    "dependencies of {} are uncertain: {problem}",
                    String::from_utf8_lossy(&filesystem.mountpoint)
                )
            }));
            details.is_read_only = is_read_only;
            details.is_on_hardware =
                stack.is_on_hardware() && !mount.is_some_and(|mount| has_further_devices(mount));
            for layer in &stack.layers {
                details.add_layer(layer, find_file);
            }
            self.details.insert(own, details);
        }
    }

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

    fn unify_numbers(&mut self, own: &Numbers) {
        for under in self
            .details
            .values_mut()
            .flat_map(|details| &mut details.depends_on_devices)
        {
            *under = own.get(under).copied().unwrap_or(*under);
        }
    }

    /// Further mounts of each filesystem, and the layers of overlays.
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
            let is_known = first.get(device) == Some(&mount.mountpoint.as_slice())
                || details.alternatives.contains(&mount.mountpoint);
            if !is_known && details.alternatives.len() < MAX_ALTERNATIVES {
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
            let unify = |device| own.get(&device).copied().unwrap_or(device);
            devices.into_iter().map(unify).collect()
        };
        for swap in swaps::read(system) {
            let name = String::from_utf8_lossy(&swap.path).into_owned();
            // Filesystems that pages are written through, whose dependencies are still to be followed.
            let mut waiting: Vec<DeviceNumber> = Vec::new();
            if swap.is_file {
                for on in holders("", &swap.path) {
                    waiting.extend(self.under(on));
                    self.swaps.push(SwapSpace {
                        name: name.clone(),
                        on,
                        through: false,
                    });
                }
            } else if let Some(device) = stat_source(&swap.path) {
                let stack = stack::read_stack(system, &[device]);
                for layer in &stack.layers {
                    if let Layer::File { path, device } = layer {
                        waiting.extend(holders(device, path));
                    }
                }
            }
            let mut seen = HashSet::new();
            while let Some(on) = waiting.pop() {
                if seen.insert(on) {
                    waiting.extend(self.under(on));
                    self.swaps.push(SwapSpace {
                        name: name.clone(),
                        on,
                        through: true,
                    });
                }
            }
        }
    }

    fn under(&self, device: DeviceNumber) -> Vec<DeviceNumber> {
        let details = self.details.get(&device);
        details
            .map(|details| details.depends_on_devices.clone())
            .unwrap_or_default()
    }
}

impl Details {
    fn add_layer(&mut self, layer: &Layer, find_file: FindFile<'_>) {
        let (path, device) = match layer {
            Layer::Device { name, dm_name } => {
                self.depends_on.push(match dm_name {
                    Some(dm_name) => format!("{name} ({dm_name})"),
                    None => name.clone(),
                });
                return;
            }
            Layer::File { path, device } => (path, device),
        };
        let file = String::from_utf8_lossy(path);
        let location = find_file(device, path);
        self.depends_on.push(match location.mount {
            Some((mountpoint, fstype)) => {
                let mountpoint = String::from_utf8_lossy(&mountpoint);
                format!("file {file} on {mountpoint} ({fstype})")
            }
            None => format!("file {file}, which is not to be found from here"),
        });
        self.depends_on_devices.extend(location.devices);
    }
}

/// Whether an XFS has its log or its real-time data on a further device.
fn has_further_devices(mount: &Mount) -> bool {
    let mut options = mount.super_options.split(',');
    options.any(|option| option.starts_with("logdev=") || option.starts_with("rtdev="))
}

fn group(members: &[Vec<DeviceNumber>], device: DeviceNumber) -> Option<&[DeviceNumber]> {
    members
        .iter()
        .find(|group| group.contains(&device))
        .map(Vec::as_slice)
}
