//! The kernel's uevent file and udev's database entry of a block device. Floor 1.
//!
//! The database (/run/udev/data) is read directly, without libudev: lines of a letter, a colon and text, of which `E:` lines
//! are properties, `S:` links and `N:` the name. In a guest without udev the kernel still has the name of the device node.
//! Disk addresses and the plan's device names come from this.

use std::path::Path;

use super::System;
use super::mountinfo::DeviceNumber;

/// Unknown or empty members are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockDevice {
    pub(crate) devnode: Option<String>,
    /// `ID_SERIAL`: the serial number, with vendor and model for some buses.
    pub(crate) serial: Option<String>,
    pub(crate) dm_name: Option<String>,
    /// Paths such as `/dev/disk/by-label/data`.
    pub(crate) links: Vec<String>,
}

pub(crate) fn block_device(system: &System, sysfs_path: &Path) -> BlockDevice {
    let uevent = system.attribute(&sysfs_path.join("uevent"));
    let entry = match (property(&uevent, "MAJOR"), property(&uevent, "MINOR")) {
        // A missing file is like an empty one: this guest may not have udev.
        (Some(major), Some(minor)) => system
            .text(format!("/run/udev/data/b{major}:{minor}"))
            .unwrap_or_default(),
        _ => String::new(),
    };
    parse(&uevent, &entry)
}

pub(crate) fn number(system: &System, sysfs_path: &Path) -> Option<DeviceNumber> {
    let uevent = system.attribute(&sysfs_path.join("uevent"));
    let number = |key| property(&uevent, key)?.parse().ok();
    Some((number("MAJOR")?, number("MINOR")?))
}

/// Whether a whole disk is at `sysfs_path`, and not a partition or a controller.
pub(crate) fn is_disk(system: &System, sysfs_path: &Path) -> bool {
    let uevent = system.attribute(&sysfs_path.join("uevent"));
    property(&uevent, "DEVTYPE") == Some("disk")
}

/// Combines a uevent file (`KEY=VALUE` lines) with an entry of the database.
pub fn parse(uevent: &str, database: &str) -> BlockDevice {
    let stored = |key| {
        let property = |line: &str| {
            let (name, value) = line.strip_prefix("E:")?.split_once('=')?;
            (name == key && !value.is_empty()).then(|| value.to_owned())
        };
        database.lines().find_map(property)
    };
    let devname = property(uevent, "DEVNAME")
        .or_else(|| database.lines().find_map(|line| line.strip_prefix("N:")));
    BlockDevice {
        devnode: devname.map(|name| format!("/dev/{}", name.trim_start_matches("/dev/"))),
        serial: stored("ID_SERIAL"),
        dm_name: stored("DM_NAME"),
        links: database
            .lines()
            .filter_map(|line| Some(format!("/dev/{}", line.strip_prefix("S:")?)))
            .collect(),
    }
}

fn property<'a>(uevent: &'a str, key: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(key)?.strip_prefix('=');
    uevent
        .lines()
        .find_map(value)
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::capture;
    use super::*;

    #[test]
    fn uevent_and_database_together() {
        let found = parse(
            "MAJOR=253\nMINOR=0\nDEVNAME=dm-0\nDEVTYPE=disk\n",
            "S:disk/by-id/dm-name-vg-root\nI:123\nE:DM_NAME=vg-root\nE:ID_SERIAL=a=b\nE:DM_NAMED=x\nV:1\n",
        );
        assert_eq!(found.devnode.as_deref(), Some("/dev/dm-0"));
        assert_eq!(found.dm_name.as_deref(), Some("vg-root"));
        assert_eq!(found.serial.as_deref(), Some("a=b"));
        assert_eq!(found.links, ["/dev/disk/by-id/dm-name-vg-root"]);
    }

    #[test]
    fn what_is_missing_or_empty_is_none() {
        assert_eq!(parse("", ""), BlockDevice::default());
        let found = parse(
            "DEVNAME=\nDEVTYPE=disk\n",
            "N:vda\nE:ID_SERIAL=\nE:DM_NAME\n",
        );
        assert_eq!(found.devnode.as_deref(), Some("/dev/vda"));
        assert_eq!((found.serial, found.dm_name), (None, None));
        assert_eq!(
            parse("DEVNAME=mapper/x", "").devnode.as_deref(),
            Some("/dev/mapper/x")
        );
    }

    #[test]
    fn the_database_is_found_by_the_device_number() {
        let (_root, system) = capture::build(capture::I440FX);
        let path = |name| format!("/sys/devices/pci0000:00/0000:00:05.0/virtio0/block/vda/{name}");
        let first = block_device(&system, Path::new(&path("vda1")));
        assert_eq!(first.devnode.as_deref(), Some("/dev/vda1"));
        assert_eq!(first.serial.as_deref(), Some("ROOT1"));
        let second = block_device(&system, Path::new(&path("vda2")));
        assert_eq!(second.devnode.as_deref(), Some("/dev/vda2"));
        assert_eq!(second.serial, None);
        assert_eq!(number(&system, Path::new(&path("vda2"))), Some((254, 2)));
        assert_eq!(number(&system, Path::new("/sys/none")), None);
        assert!(
            is_disk(&system, Path::new(&path(""))) && !is_disk(&system, Path::new(&path("vda1")))
        );
        assert_eq!(
            block_device(&system, Path::new("/sys/none")),
            BlockDevice::default()
        );
    }
}
