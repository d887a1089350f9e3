//! Floor 4: filesystems and the disks they are on: guest-get-fsinfo.
//!
//! Read-only. The filesystems are those that a freeze would count, the last mounted first. The time is linear in the length
//! of the mount table, which has thousands of lines on container hosts. A filesystem that does not respond delays the
//! reply by one second at most (`sizes`), and is listed without sizes.

mod sizes;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;

use super::{Class, Command, answer, probe_error, worker};
use crate::probe::address::{self, CcwAddress, PciAddress};
use crate::probe::filesystems::Filesystem;
use crate::probe::{System, sysblock};
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::error::CommandError;
use crate::protocol::text::from_os_bytes;
use crate::sys::strerror;
use sizes::PendingSizes;

pub(super) const COMMANDS: &[Command] = &[Command::later(
    26,
    "guest-get-fsinfo",
    Class::Query,
    |_, arguments| {
        Box::pin(async move {
            let NoArguments {} = decode(arguments)?;
            answer(worker::run(worker::FILE_COMMAND_TIMEOUT, || get_fsinfo(&System::host())).await?)
        })
    },
)];

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct FilesystemInfo {
    /// Or `major:minor` where sysfs does not know the device.
    name: String,
    mountpoint: String,
    #[serde(rename = "type")]
    fstype: String,
    /// None where statvfs(3) fails or does not return.
    used_bytes: Option<u64>,
    /// Without the blocks that are reserved for root.
    total_bytes: Option<u64>,
    total_bytes_privileged: Option<u64>,
    disk: Vec<DiskAddress>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct DiskAddress {
    pci_controller: PciController,
    bus_type: &'static str,
    bus: u64,
    target: u64,
    unit: u64,
    serial: Option<String>,
    dev: Option<String>,
    ccw_address: Option<CcwController>,
}

/// All -1 where there is no PCI controller or it is not recognized.
#[derive(Debug, Serialize)]
struct PciController {
    domain: i64,
    bus: i64,
    slot: i64,
    function: i64,
}

#[derive(Debug, Serialize)]
struct CcwController {
    cssid: u32,
    ssid: u32,
    subchno: u32,
    devno: u32,
}

impl From<address::DiskAddress> for DiskAddress {
    fn from(found: address::DiskAddress) -> Self {
        Self {
            pci_controller: found.pci.into(),
            bus_type: found.bus_type.name(),
            bus: found.bus,
            target: found.target,
            unit: found.unit,
            serial: found.serial,
            dev: found.dev,
            ccw_address: found.ccw.map(CcwController::from),
        }
    }
}

impl From<Option<PciAddress>> for PciController {
    fn from(found: Option<PciAddress>) -> Self {
        match found {
            Some(pci) => Self {
                domain: pci.domain.into(),
                bus: pci.bus.into(),
                slot: pci.slot.into(),
                function: pci.function.into(),
            },
            None => Self {
                domain: -1,
                bus: -1,
                slot: -1,
                function: -1,
            },
        }
    }
}

impl From<CcwAddress> for CcwController {
    fn from(found: CcwAddress) -> Self {
        let CcwAddress {
            cssid,
            ssid,
            subchno,
            devno,
        } = found;
        Self {
            cssid,
            ssid,
            subchno,
            devno,
        }
    }
}

fn get_fsinfo(system: &System) -> Result<Vec<FilesystemInfo>, CommandError> {
    let mounts = system.mounts().map_err(|error| {
        CommandError::generic(format!("cannot read the mount table: {}", strerror(&error)))
    })?;
    let (filesystems, _) = system.block_filesystems(&mounts);
    let path = |filesystem: &Filesystem| system.path(OsStr::from_bytes(&filesystem.mountpoint));
    // The filesystems are asked while sysfs is read.
    let pending = PendingSizes::start(filesystems.iter().rev().map(path).collect());
    let infos = filesystems
        .iter()
        .rev()
        .map(|filesystem| describe(system, filesystem));
    let mut infos = infos.collect::<Result<Vec<_>, _>>()?;
    for (info, sizes) in infos.iter_mut().zip(pending.answers()) {
        info.used_bytes = sizes.map(|sizes| sizes.used);
        info.total_bytes = sizes.map(|sizes| sizes.total);
        info.total_bytes_privileged = sizes.map(|sizes| sizes.privileged);
    }
    Ok(infos)
}

/// All but the sizes.
fn describe(system: &System, filesystem: &Filesystem) -> Result<FilesystemInfo, CommandError> {
    let (name, disk) =
        match sysblock::sysfs_path(system, filesystem.device()).map_err(probe_error)? {
            Some(path) => {
                let disks = sysblock::hardware(system, &path).map_err(probe_error)?;
                let addresses = disks
                    .iter()
                    .filter_map(|disk| address::disk_address(system, disk));
                (
                    sysblock::name(&path),
                    addresses.map(DiskAddress::from).collect(),
                )
            }
            None => (
                format!("{}:{}", filesystem.major, filesystem.minor),
                Vec::new(),
            ),
        };
    Ok(FilesystemInfo {
        name,
        mountpoint: from_os_bytes(&filesystem.mountpoint),
        fstype: filesystem.fstype.clone(),
        used_bytes: None,
        total_bytes: None,
        total_bytes_privileged: None,
        disk,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::capture;
    use crate::protocol::{reply, value::to_value};
    use std::fs;

    fn system(description: &str, mountinfo: &str) -> (tempfile::TempDir, System) {
        let (root, system) = capture::build(description);
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::write(root.path().join("proc/self/mountinfo"), mountinfo).unwrap();
        (root, system)
    }

    fn reply_line(system: &System) -> String {
        let mut line = Vec::new();
        let result = get_fsinfo(system).map(|reply| to_value(&reply));
        reply::write(&mut line, None, result.as_ref(), false);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn members_as_on_the_wire() {
        let (_root, system) = system(
            capture::I440FX,
            "28 1 8:48 / /gone rw - ext4 /dev/sdd rw\n\
             30 28 7:0 / /gone/l rw - ext2 /dev/loop0 rw\n\
             31 28 12:34 / /gone/\\351 rw - xfs /dev/x rw\n\
             32 28 0:5 / /proc rw - proc proc rw\n",
        );
        assert_eq!(
            reply_line(&system),
            "{\"return\": [\
             {\"name\": \"12:34\", \"mountpoint\": \"/gone/\\uFFFD\", \"disk\": [], \"type\": \"xfs\"}, \
             {\"name\": \"loop0\", \"mountpoint\": \"/gone/l\", \"disk\": [], \"type\": \"ext2\"}, \
             {\"name\": \"sdd\", \"mountpoint\": \"/gone\", \"disk\": [\
             {\"serial\": \"QEMU_HARDDISK_QM00004\", \"bus-type\": \"ide\", \"bus\": 1, \"unit\": 1, \
             \"pci-controller\": {\"bus\": 0, \"slot\": 1, \"domain\": 0, \"function\": 1}, \
             \"dev\": \"/dev/sdd\", \"target\": 0}], \"type\": \"ext4\"}]}\n"
        );
    }

    #[test]
    fn channel_devices_and_no_pci() {
        let (_root, system) = system(
            capture::NOPCI,
            "28 1 254:16 / /gone rw - ext4 /dev/vdb rw\n",
        );
        assert_eq!(
            reply_line(&system),
            "{\"return\": [{\"name\": \"vdb\", \"mountpoint\": \"/gone\", \"disk\": [\
             {\"ccw-address\": {\"cssid\": 0, \"ssid\": 0, \"subchno\": 1, \"devno\": 162}, \
             \"bus-type\": \"virtio\", \"bus\": 0, \"unit\": 0, \
             \"pci-controller\": {\"bus\": -1, \"slot\": -1, \"domain\": -1, \"function\": -1}, \
             \"dev\": \"/dev/vdb\", \"target\": 0}], \"type\": \"ext4\"}]}\n"
        );
    }

    #[test]
    fn sizes_of_a_directory_that_is_there() {
        let (_root, system) = system("", "28 1 254:0 / / rw - ext4 /dev/vda rw\n");
        let [filesystem] = &get_fsinfo(&system).unwrap()[..] else {
            panic!()
        };
        let used = filesystem.used_bytes.unwrap();
        let total = filesystem.total_bytes.unwrap();
        let privileged = filesystem.total_bytes_privileged.unwrap();
        assert!(
            0 < used && used < total && total <= privileged,
            "{used} {total} {privileged}"
        );
        assert!(reply_line(&system).contains("\"total-bytes\": "));
    }

    #[test]
    fn a_volume_tells_the_disks_below_it() {
        let (_root, system) = system(capture::LVM, "28 1 9:127 / /gone rw - ext4 /dev/md127 rw\n");
        let [filesystem] = &get_fsinfo(&system).unwrap()[..] else {
            panic!()
        };
        let mut devices: Vec<_> = filesystem
            .disk
            .iter()
            .filter_map(|disk| disk.dev.as_deref())
            .collect();
        devices.sort_unstable();
        assert_eq!(
            (filesystem.name.as_str(), devices),
            ("md127", vec!["/dev/vda1", "/dev/vdb"])
        );
    }

    #[test]
    fn failures_name_the_call_and_the_path() {
        let (root, system) = system(capture::LVM, "28 1 253:0 / /gone rw - ext4 /dev/dm-0 rw\n");
        let slaves = root.path().join("sys/devices/virtual/block/dm-0/slaves");
        fs::remove_dir_all(&slaves).unwrap();
        fs::write(&slaves, "").unwrap();
        let error = get_fsinfo(&system).unwrap_err();
        assert_eq!(
            error.desc,
            "opendir(\"/sys/devices/virtual/block/dm-0/slaves\"): Not a directory"
        );
        fs::remove_dir_all(root.path().join("proc")).unwrap();
        let error = get_fsinfo(&system).unwrap_err();
        assert_eq!(
            error.desc,
            "cannot read the mount table: No such file or directory"
        );
    }
}
