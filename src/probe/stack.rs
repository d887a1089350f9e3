//! The devices and files of which a block device is made, down to the hardware. Floor 1.
//!
//! This follows `slaves` (device mapper, RAID), the disk of a partition, and the file behind a loop device, and visits
//! each device once, so a cycle ends. [`super::location`] finds the filesystem of a file. Nothing is opened but sysfs.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::address::numbered;
use super::mountinfo::DeviceNumber;
use super::{System, sysblock, udev};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    Device {
        name: String,
        dm_name: Option<String>,
    },
    File {
        path: Vec<u8>,
        device: String,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stack {
    /// Layers from the top down, the devices themselves first.
    pub layers: Vec<Layer>,
    pub problems: Vec<String>,
    /// Devices at the bottom that are not known to be hardware.
    soft_ends: usize,
}

impl Stack {
    /// Whether no program or file of this system, which a freeze could block, is behind it.
    pub fn is_on_hardware(&self) -> bool {
        self.soft_ends == 0 && self.problems.is_empty() && !self.layers.is_empty()
    }
}

pub fn read_stack(system: &System, devices: &[DeviceNumber]) -> Stack {
    let mut stack = Stack::default();
    let mut seen = HashSet::new();
    for &device in devices {
        match sysblock::sysfs_path(system, device) {
            Ok(Some(path)) => descend(system, path, &mut seen, &mut stack),
            Ok(None) => stack.soft_ends += 1,
            Err(error) => stack.problems.push(error.to_string()),
        }
    }
    stack
}

/// Whether a disk is a device of the machine: on PCI, virtio of the platform, or a channel of s390. iSCSI, NVMe over
/// fabrics, nbd and what else is virtual or without a bus may be served by a program of this system, and a session of
/// iSCSI or a remote port can also be below an adapter on PCI.
fn is_hardware(sysfs_path: &Path) -> bool {
    let Ok(path) = sysfs_path.strip_prefix("/sys/devices") else {
        return false;
    };
    let mut components = path.iter().filter_map(|component| component.to_str());
    let bus = components.next().unwrap_or_default();
    let is_remote = |component: &str| {
        numbered(component, "session").is_some() || component.starts_with("rport-")
    };
    let mut rest: Vec<&str> = components.collect();
    if rest.iter().any(|component| is_remote(component)) {
        return false;
    }
    rest.truncate(3);
    let is_virtio = rest
        .iter()
        .any(|component| numbered(component, "virtio").is_some());
    bus.starts_with("pci") || bus.starts_with("css") || bus == "platform" && is_virtio
}

fn descend(system: &System, top: PathBuf, seen: &mut HashSet<PathBuf>, stack: &mut Stack) {
    // Not recursive: a stack of devices may be deeper than the thread's stack allows. The next one is the last.
    let mut waiting = vec![top];
    while let Some(path) = waiting.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        stack.layers.push(Layer::Device {
            name: sysblock::name(&path),
            dm_name: udev::block_device(system, &path).dm_name,
        });
        match backing_file(system, &path) {
            Ok(Some(file)) => stack.layers.push(Layer::File {
                path: file,
                device: sysblock::name(&path),
            }),
            Ok(None) => {}
            Err(error) => {
                let file = path.join("loop/backing_file");
                stack.problems.push(format!("{}: {error}", file.display()));
            }
        }
        let count = waiting.len();
        match sysblock::slaves(system, &path) {
            Ok(mut slaves) => {
                slaves.sort_unstable();
                waiting.extend(slaves.into_iter().rev());
            }
            Err(error) => stack.problems.push(error.to_string()),
        }
        // The directory of a partition is in that of its disk.
        if let Some(disk) = path.parent().filter(|parent| udev::is_disk(system, parent)) {
            waiting.push(disk.to_owned());
        }
        if waiting.len() == count && !is_hardware(&path) {
            stack.soft_ends += 1;
        }
    }
}

/// `None` for a loop device without a file and for any other device.
fn backing_file(system: &System, sysfs_path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(system.path(sysfs_path.join("loop/backing_file"))) {
        Ok(mut path) => {
            if path.last() == Some(&b'\n') {
                path.pop();
            }
            Ok((!path.is_empty()).then_some(path))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn read_btrfs_members(system: &System) -> Vec<Vec<DeviceNumber>> {
    let base = Path::new("/sys/fs/btrfs");
    // Without btrfs in the kernel there is no such directory, and `features` has no devices.
    let mut filesystems = system.names(base).unwrap_or_default();
    filesystems.sort_unstable();
    let members = |filesystem: &std::ffi::OsString| {
        let directory = base.join(filesystem).join("devices");
        let names = system.names(&directory).ok()?;
        let mut numbers: Vec<DeviceNumber> = names
            .iter()
            .filter_map(|name| udev::number(system, &system.resolve(&directory.join(name)).ok()?))
            .collect();
        numbers.sort_unstable();
        (!numbers.is_empty()).then_some(numbers)
    };
    filesystems.iter().filter_map(members).collect()
}

#[cfg(test)]
mod tests {
    use super::super::capture;
    use super::*;

    #[test]
    fn hardware_is_what_the_machine_has_on_a_bus_of_its_own() {
        let hardware = [
            "pci0000:00/0000:00:05.0/virtio2/block/vda",
            "pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda",
            "pci0000:00/0000:00:07.0/nvme/nvme0/nvme0n1",
            "platform/a003e00.virtio_mmio/virtio0/block/vda",
            "css0/0.0.0001/0.0.0001/virtio1/block/vda",
        ];
        let soft = [
            "virtual/block/nbd0",
            "virtual/nvme-fabrics/ctl/nvme1/nvme1n1",
            "virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
            "platform/host3/session1/target3:0:0/3:0:0:0/block/sdb",
            "pci0000:00/0000:00:08.0/host4/session2/target4:0:0/4:0:0:0/block/sdc",
            "pci0000:00/0000:00:09.0/host5/rport-5:0-2/target5:0:0/5:0:0:0/block/sdd",
            "tcm_loop_0/tcm_loop_adapter_0/host2/target2:0:1/2:0:1:0/block/sda",
            "vduse/vduse0/vdpa0/virtio9/block/vdb",
            "rbd/0/block/rbd0",
        ];
        let is = |path: &&str| is_hardware(&Path::new("/sys/devices").join(path));
        assert!(hardware.iter().all(is));
        assert!(!soft.iter().any(is));
        assert!(!is_hardware(Path::new("/elsewhere/pci0/vda")));
    }

    fn summary(system: &System, devices: &[DeviceNumber]) -> Vec<String> {
        let stack = read_stack(system, devices);
        assert_eq!(stack.problems, Vec::<String>::new());
        let line = |layer: &Layer| match layer {
            Layer::Device {
                name,
                dm_name: Some(dm),
            } => format!("{name}={dm}"),
            Layer::Device { name, .. } => name.clone(),
            Layer::File { path, .. } => String::from_utf8_lossy(path).into_owned(),
        };
        stack.layers.iter().map(line).collect()
    }

    #[test]
    fn volumes_and_raid_come_down_to_disks() {
        let (_root, system) = capture::build(capture::LVM);
        assert_eq!(summary(&system, &[(254, 1)]), ["vda1", "vda"]);
        assert_eq!(
            summary(&system, &[(253, 2)]),
            ["dm-2=secret", "dm-1", "vda2", "vda"]
        );
        assert_eq!(
            summary(&system, &[(9, 127)]),
            ["md127", "vda1", "vda", "vdb"]
        );
        assert!(summary(&system, &[(1, 1)]).is_empty());
    }

    #[test]
    fn a_loop_device_has_a_file_also_below_partitions_and_volumes() {
        let (_root, system) = capture::build(
            "disk 7:0 virtual/block/loop0\n\
             part 259:0 virtual/block/loop0/loop0p1\n\
             disk 7:1 virtual/block/loop1\n\
             disk 253:0 virtual/block/dm-0\n\
             slave virtual/block/dm-0 virtual/block/loop0/loop0p1\n\
             loop virtual/block/loop0 /srv/disk image.img\n",
        );
        assert_eq!(
            summary(&system, &[(253, 0)]),
            ["dm-0", "loop0p1", "loop0", "/srv/disk image.img"]
        );
        assert_eq!(summary(&system, &[(7, 1)]), ["loop1"]);
        assert_eq!(
            read_stack(&system, &[(7, 0)]).layers[1],
            Layer::File {
                path: b"/srv/disk image.img".to_vec(),
                device: "loop0".into()
            }
        );
    }

    #[test]
    fn a_cycle_ends_and_unreadable_devices_are_reported() {
        let (root, system) = capture::build(
            "disk 253:0 virtual/block/dm-0\ndisk 253:1 virtual/block/dm-1\n\
             slave virtual/block/dm-0 virtual/block/dm-1\n\
             slave virtual/block/dm-1 virtual/block/dm-0\n",
        );
        assert_eq!(summary(&system, &[(253, 0)]), ["dm-0", "dm-1"]);
        let slaves = root.path().join("sys/devices/virtual/block/dm-1/slaves");
        fs::remove_dir_all(&slaves).unwrap();
        fs::write(&slaves, "").unwrap();
        let stack = read_stack(&system, &[(253, 0)]);
        assert_eq!(stack.layers.len(), 2);
        assert!(stack.problems[0].contains("dm-1/slaves"));
    }

    #[test]
    fn btrfs_lists_its_devices() {
        let (_root, system) = capture::build(
            "disk 254:16 virtual/x/vdb\ndisk 254:32 virtual/x/vdc\ndisk 254:48 virtual/x/vdd\n\
             btrfs 1111-2222 virtual/x/vdc\nbtrfs 1111-2222 virtual/x/vdb\n\
             btrfs 3333-4444 virtual/x/vdd\n",
        );
        assert_eq!(
            read_btrfs_members(&system),
            [vec![(254, 16), (254, 32)], vec![(254, 48)]]
        );
        let (_root, system) = capture::build("");
        assert!(read_btrfs_members(&system).is_empty());
    }
}
