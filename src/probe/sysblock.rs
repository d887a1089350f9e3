//! Block devices in sysfs: from a device number to the hardware below. Floor 1.
//!
//! The device of a filesystem may be virtual (device mapper, RAID, loop); the devices on which it depends are its
//! `slaves`. Nothing is opened but directories of sysfs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::mountinfo::DeviceNumber;
use super::{Error, System};

/// Real stacks have three or four.
const MAX_LAYERS: usize = 32;

/// Below `/sys/devices`; `None` if the number is not in sysfs.
pub fn sysfs_path(system: &System, device: DeviceNumber) -> Result<Option<PathBuf>, Error> {
    let (major, minor) = device;
    match system.sysfs_link(Path::new(&format!("/sys/dev/block/{major}:{minor}"))) {
        Ok(path) => Ok(Some(path)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn name(sysfs_path: &Path) -> String {
    sysfs_path
        .file_name()
        .unwrap_or(OsStr::new(""))
        .to_string_lossy()
        .into_owned()
}

pub fn is_virtual(sysfs_path: &Path) -> bool {
    let path = sysfs_path.as_os_str().as_bytes();
    path.starts_with(b"/sys/devices/virtual/block/")
}

/// Whether it never depends on another device. There may be hundreds of these, so their `slaves` are not read.
fn is_independent(sysfs_path: &Path) -> bool {
    const KINDS: [&str; 4] = ["loop", "nbd", "ram", "zram"];
    let name = sysfs_path.file_name().and_then(OsStr::to_str);
    let is_kind = |name: &str| {
        let number = name.trim_start_matches(|c: char| c.is_ascii_lowercase());
        let kind = name.strip_suffix(number).unwrap_or_default();
        KINDS.contains(&kind) && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    is_virtual(sysfs_path) && name.is_some_and(is_kind)
}

pub fn slaves(system: &System, sysfs_path: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(slaves_if_listed(system, sysfs_path)?.unwrap_or_default())
}

/// `None` if the device has no such list.
pub fn slaves_if_listed(system: &System, sysfs_path: &Path) -> Result<Option<Vec<PathBuf>>, Error> {
    if is_independent(sysfs_path) {
        return Ok(Some(Vec::new()));
    }
    let directory = sysfs_path.join("slaves");
    let names = match system.names(&directory) {
        Err(error) if error.is_missing() => return Ok(None),
        names => names?,
    };
    let mut paths = Vec::with_capacity(names.len());
    // The order on the wire: QEMU's agent reverses the order of the directory.
    for name in names.iter().rev() {
        match system.sysfs_link(&directory.join(name)) {
            Ok(path) => paths.push(path),
            // It was unplugged meanwhile.
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(paths))
}

/// Itself, or the hardware below the slaves of a virtual device. A device that is reached in several ways is repeated,
/// as on the wire of QEMU's agent.
pub fn hardware(system: &System, sysfs_path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    descend(system, sysfs_path, MAX_LAYERS, &mut found)?;
    Ok(found)
}

fn descend(
    system: &System,
    sysfs_path: &Path,
    layers: usize,
    found: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    if !is_virtual(sysfs_path) {
        found.push(sysfs_path.to_owned());
    } else if layers > 0 {
        for slave in slaves(system, sysfs_path)? {
            descend(system, &slave, layers - 1, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::capture;
    use super::*;

    fn hardware_names(system: &System, device: DeviceNumber) -> Vec<String> {
        let path = sysfs_path(system, device).unwrap().unwrap();
        let mut names: Vec<_> = hardware(system, &path)
            .unwrap()
            .iter()
            .map(|path| name(path))
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_number_leads_to_the_device() {
        let (_root, system) = capture::build(capture::I440FX);
        assert_eq!(
            sysfs_path(&system, (254, 1)).unwrap().unwrap(),
            Path::new("/sys/devices/pci0000:00/0000:00:05.0/virtio0/block/vda/vda1")
        );
        assert_eq!(sysfs_path(&system, (1, 1)).unwrap(), None);
    }

    #[test]
    fn virtual_devices_come_down_to_hardware() {
        let (_root, system) = capture::build(capture::LVM);
        assert_eq!(hardware_names(&system, (254, 1)), ["vda1"]);
        assert_eq!(hardware_names(&system, (253, 0)), ["vda2"]);
        assert_eq!(hardware_names(&system, (253, 2)), ["vda2"]);
        assert_eq!(hardware_names(&system, (9, 127)), ["vda1", "vdb"]);
        let (_root, system) = capture::build(capture::I440FX);
        assert!(hardware_names(&system, (7, 0)).is_empty());
    }

    #[test]
    fn independent_devices_are_known_by_their_names() {
        let alone =
            |name: &str| is_independent(&Path::new("/sys/devices/virtual/block").join(name));
        assert!(
            ["loop0", "loop512", "zram1", "nbd3", "ram0"]
                .into_iter()
                .all(alone)
        );
        assert!(
            !["dm-0", "md127", "loopback-1", "loopx0", "drbd0"]
                .into_iter()
                .any(alone)
        );
        assert!(!is_independent(Path::new(
            "/sys/devices/pci0000:00/block/loop0"
        )));
    }

    #[test]
    fn a_cycle_ends() {
        let (_root, system) = capture::build(
            "disk 253:0 virtual/block/dm-0\nslave virtual/block/dm-0 virtual/block/dm-0\n",
        );
        assert!(hardware_names(&system, (253, 0)).is_empty());
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error() {
        let (root, system) = capture::build("dir virtual/block/dm-0\n");
        let path = Path::new("/sys/devices/virtual/block/dm-0");
        assert!(slaves(&system, path).unwrap().is_empty());
        std::fs::write(
            root.path().join("sys/devices/virtual/block/dm-0/slaves"),
            "",
        )
        .unwrap();
        let error = slaves(&system, path).unwrap_err();
        assert!(
            error.to_string().starts_with(
                "opendir(\"/sys/devices/virtual/block/dm-0/slaves\"): Not a directory"
            )
        );
    }
}
