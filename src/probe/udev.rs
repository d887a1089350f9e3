//! What the kernel's uevent file and udev's database say of a block device. Floor 1.
//!
//! The database (/run/udev/data) is read as it lies, without the udev library: lines of one letter,
//! a colon and text, of which `E:` lines are properties. A guest without udev still has the device
//! node's name, for that comes from the kernel.

use std::fs;
use std::path::Path;

use super::System;
use super::mountinfo::DeviceNumber;

/// What is known of a block device; unknown or empty members are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockDevice {
    /// Path of the device node, such as `/dev/vda1`.
    pub devnode: Option<String>,
    /// `ID_SERIAL`: the serial number, with vendor and model for some buses.
    pub serial: Option<String>,
    /// `DM_NAME`: the name of a device-mapper device.
    pub dm_name: Option<String>,
    /// Paths of the links to the device node, such as `/dev/disk/by-label/data`.
    pub links: Vec<String>,
}

/// Looks up the device at `sysfs_path` (`/sys/devices/…`).
pub fn block_device(system: &System, sysfs_path: &Path) -> BlockDevice {
    // A missing file says as much as an empty one: there may be no udev in this guest.
    let text = |path: &Path| {
        let content = fs::read(system.path(path)).unwrap_or_default();
        String::from_utf8_lossy(&content).into_owned()
    };
    let uevent = system.attribute(&sysfs_path.join("uevent"));
    let database = match (property(&uevent, "MAJOR"), property(&uevent, "MINOR")) {
        (Some(major), Some(minor)) => text(Path::new(&format!("/run/udev/data/b{major}:{minor}"))),
        _ => String::new(),
    };
    parse(&uevent, &database)
}

/// Major and minor number of the device at `sysfs_path`; `None` if it is no block device.
pub fn number(system: &System, sysfs_path: &Path) -> Option<DeviceNumber> {
    let uevent = fs::read_to_string(system.path(sysfs_path.join("uevent"))).ok()?;
    let number = |key| property(&uevent, key)?.parse().ok();
    Some((number("MAJOR")?, number("MINOR")?))
}

/// Whether a whole disk is at `sysfs_path`: not a partition, and not the controller above it.
pub fn is_disk(system: &System, sysfs_path: &Path) -> bool {
    fs::read_to_string(system.path(sysfs_path.join("uevent")))
        .is_ok_and(|uevent| property(&uevent, "DEVTYPE") == Some("disk"))
}

/// Combines a uevent file (`KEY=VALUE` lines) and a database entry.
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
