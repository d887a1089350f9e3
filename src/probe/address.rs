//! The hardware address of a disk, from its path in sysfs. Floor 1.
//!
//! The host finds its own disk by this address, so numbers are those that the host has configured (port, SCSI target,
//! LUN), not those that Linux counts. The drivers are those that QEMU's agent recognizes; any other disk still has its
//! device node and serial number.

use std::path::Path;

use super::System;
use super::udev;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusType {
    Ide,
    Scsi,
    Virtio,
    Usb,
    Sata,
    Nvme,
    Unknown,
}

impl BusType {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ide => "ide",
            Self::Scsi => "scsi",
            Self::Virtio => "virtio",
            Self::Usb => "usb",
            Self::Sata => "sata",
            Self::Nvme => "nvme",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciAddress {
    pub domain: u32,
    pub bus: u8,
    pub slot: u8,
    pub function: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CcwAddress {
    pub cssid: u32,
    pub ssid: u32,
    pub subchno: u32,
    pub devno: u32,
}

/// The address of a disk or partition. Members of an unrecognized disk are 0 and `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskAddress {
    /// The PCI function of its controller.
    pub pci: Option<PciAddress>,
    pub ccw: Option<CcwAddress>,
    pub bus_type: BusType,
    pub bus: u64,
    pub target: u64,
    /// LUN, port or drive.
    pub unit: u64,
    pub serial: Option<String>,
    pub dev: Option<String>,
}

/// `None` if nothing is known of it.
pub fn disk_address(system: &System, sysfs_path: &Path) -> Option<DiskAddress> {
    let device = udev::block_device(system, sysfs_path);
    let mut address = DiskAddress {
        pci: None,
        ccw: None,
        bus_type: BusType::Unknown,
        bus: 0,
        target: 0,
        unit: 0,
        serial: device.serial,
        dev: device.devnode,
    };
    // A multipath namespace is a virtual device; its controllers have the PCI address.
    let controller = nvme_controller(system, sysfs_path);
    let hardware_path = controller.as_deref().unwrap_or(sysfs_path);
    let text = hardware_path.to_string_lossy();
    let parts: Vec<&str> = text.split('/').collect();
    address.ccw = ccw_address(&parts);
    let place = match controlling_function(system, &parts) {
        Some(function) => {
            address.pci = Some(function.address);
            function.place(system, &parts)
        }
        None => virtio_place(&parts),
    };
    if let Some(place) = place {
        address.bus_type = place.bus_type;
        (address.bus, address.target, address.unit) = (place.bus, place.target, place.unit);
    }
    let known = place.is_some()
        || address.pci.is_some()
        || address.ccw.is_some()
        || address.dev.is_some()
        || address.serial.is_some();
    known.then_some(address)
}

#[derive(Debug, Clone, Copy)]
struct Place {
    bus_type: BusType,
    bus: u64,
    target: u64,
    unit: u64,
}

impl Place {
    fn new(bus_type: BusType, bus: u64, target: u64, unit: u64) -> Self {
        Self {
            bus_type,
            bus,
            target,
            unit,
        }
    }
}

/// A PCI function above a disk, with one of [`controlling_function`]'s drivers.
struct Function {
    address: PciAddress,
    driver: &'static str,
    /// Its index among the components of the disk's path.
    index: usize,
}

/// The first one of the path with a driver of the table. It may be anywhere, not only below `/sys/devices/pci*`: on
/// arm64 the PCI host is a platform device, and with VMD or Hyper-V a PCI domain is below another bus.
fn controlling_function(system: &System, parts: &[&str]) -> Option<Function> {
    const DRIVERS: [&str; 7] = [
        "virtio-pci",
        "ata_piix",
        "ahci",
        "sym53c8xx",
        "nvme",
        "xhci_hcd",
        "ehci-pci",
    ];
    parts.iter().enumerate().find_map(|(index, part)| {
        let address = pci_address(part)?;
        let link = parts.get(..=index)?.join("/") + "/driver";
        let target = std::fs::read_link(system.path(link)).ok()?;
        let name = target.file_name()?.to_str()?;
        let driver = DRIVERS.into_iter().find(|driver| *driver == name)?;
        Some(Function {
            address,
            driver,
            index,
        })
    })
}

impl Function {
    fn place(&self, system: &System, parts: &[&str]) -> Option<Place> {
        let below = parts.get(self.index + 1..)?;
        match self.driver {
            // The host numbers the disks of its virtio-scsi controllers by LUN.
            "virtio-pci" => Some(match scsi_numbers(below) {
                Some([_, _, _, lun]) => Place::new(BusType::Scsi, 0, 0, lun),
                None => Place::new(BusType::Virtio, 0, 0, 0),
            }),
            // The host addresses IDE disks by port (bus) and drive (unit).
            "ata_piix" => {
                let [_, _, target, _] = scsi_numbers(below)?;
                Some(Place::new(
                    BusType::Ide,
                    self.port(system, parts)?,
                    0,
                    target,
                ))
            }
            "ahci" => Some(Place::new(BusType::Sata, 0, 0, self.port(system, parts)?)),
            "sym53c8xx" => {
                let [_, _, target, _] = scsi_numbers(below)?;
                Some(Place::new(BusType::Scsi, 0, 0, target))
            }
            "nvme" => Some(Place::new(BusType::Nvme, 0, 0, 0)),
            _ => Some(Place::new(BusType::Usb, 0, 0, 0)),
        }
    }

    /// The disk's port at this controller. Linux numbers ATA ports, and SCSI hosts where a driver has no ATA level, across
    /// all controllers; the port is the index among those of this controller.
    fn port(&self, system: &System, parts: &[&str]) -> Option<u64> {
        let own = parts.get(self.index + 1)?;
        let kind = ["ata", "host"]
            .into_iter()
            .find(|kind| numbered(own, kind).is_some())?;
        let number = numbered(own, kind)?;
        let directory = parts.get(..=self.index)?.join("/");
        let names = system.names(Path::new(&directory)).ok()?;
        let lower = |name: &&std::ffi::OsString| {
            name.to_str()
                .and_then(|name| numbered(name, kind))
                .is_some_and(|other| other < number)
        };
        u64::try_from(names.iter().filter(lower).count()).ok()
    }
}

fn virtio_place(parts: &[&str]) -> Option<Place> {
    let index = parts.iter().position(|part| part.starts_with("virtio"))?;
    Some(match scsi_numbers(parts.get(index..)?) {
        Some([_, channel, target, lun]) => Place::new(BusType::Scsi, channel, target, lun),
        None => Place::new(BusType::Virtio, 0, 0, 0),
    })
}

/// `…/cssX/C.S.SUBC/C.S.DEVN/…`, numbers in hexadecimal.
fn ccw_address(parts: &[&str]) -> Option<CcwAddress> {
    let index = parts
        .iter()
        .position(|part| numbered_hex(part, "css").is_some())?;
    let triple = |part: &&str| -> Option<[u32; 3]> {
        let mut numbers = part
            .split('.')
            .map(|number| u32::from_str_radix(number, 16).ok());
        let triple = [numbers.next()??, numbers.next()??, numbers.next()??];
        numbers.next().is_none().then_some(triple)
    };
    let [_, _, subchno] = parts.get(index + 1).and_then(triple)?;
    let [cssid, ssid, devno] = parts.get(index + 2).and_then(triple)?;
    Some(CcwAddress {
        cssid,
        ssid,
        subchno,
        devno,
    })
}

/// The controller of a namespace that the kernel shows as a multipath device (below nvme-subsystem): the one of its
/// subsystem with the lowest number, so that the answer is always the same.
fn nvme_controller(system: &System, sysfs_path: &Path) -> Option<std::path::PathBuf> {
    let below = sysfs_path
        .strip_prefix("/sys/devices/virtual/nvme-subsystem")
        .ok()?;
    let subsystem = sysfs_path
        .ancestors()
        .nth(below.components().count().checked_sub(1)?)?;
    let names = system.names(subsystem).ok()?;
    let number = names
        .iter()
        .filter_map(|name| numbered(name.to_str()?, "nvme"))
        .min()?;
    system
        .resolve(&subsystem.join(format!("nvme{number}")))
        .ok()
}

/// `targetH:C:T/H:C:T:L`, as host, channel, target and LUN.
fn scsi_numbers(parts: &[&str]) -> Option<[u64; 4]> {
    let index = parts.iter().position(|part| part.starts_with("target"))?;
    let mut numbers = parts
        .get(index + 1)?
        .split(':')
        .map(|number| number.parse().ok());
    let four = [
        numbers.next()??,
        numbers.next()??,
        numbers.next()??,
        numbers.next()??,
    ];
    numbers.next().is_none().then_some(four)
}

/// `DDDD:BB:SS.F`, numbers in hexadecimal.
fn pci_address(part: &str) -> Option<PciAddress> {
    let (domain, rest) = part.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    if domain.len() < 4 || bus.len() != 2 || slot.len() != 2 || function.len() != 1 {
        return None;
    }
    let byte = |number| u8::from_str_radix(number, 16).ok();
    Some(PciAddress {
        domain: u32::from_str_radix(domain, 16).ok()?,
        bus: byte(bus)?,
        slot: byte(slot)?,
        function: byte(function)?,
    })
}

pub(super) fn numbered(name: &str, kind: &str) -> Option<u64> {
    let number = name.strip_prefix(kind)?;
    // `parse` alone would accept a sign.
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| is_number)
}

fn numbered_hex(name: &str, kind: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix(kind)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::super::{capture, sysblock};
    use super::*;

    fn summary(system: &System, device: (u32, u32)) -> String {
        let path = sysblock::sysfs_path(system, device).unwrap().unwrap();
        let Some(address) = disk_address(system, &path) else {
            return "nothing".into();
        };
        let mut line = format!(
            "{} {}.{}.{}",
            address.bus_type.name(),
            address.bus,
            address.target,
            address.unit
        );
        if let Some(pci) = address.pci {
            line += &format!(
                " {:x}:{:x}:{:x}.{:x}",
                pci.domain, pci.bus, pci.slot, pci.function
            );
        }
        if let Some(ccw) = address.ccw {
            line += &format!(
                " ccw {:x}.{:x}.{:x}.{:x}",
                ccw.cssid, ccw.ssid, ccw.subchno, ccw.devno
            );
        }
        for text in [address.dev, address.serial].into_iter().flatten() {
            line += " ";
            line += &text;
        }
        line
    }

    fn check(description: &str, expected: &[((u32, u32), &str)]) {
        let (_root, system) = capture::build(description);
        for (device, line) in expected {
            assert_eq!(summary(&system, *device), *line, "{device:?}");
        }
    }

    /// The original agent gave the same answers on the same trees, but for multipath NVMe, which it does not recognize.
    #[test]
    fn controllers_of_qemu() {
        check(
            capture::I440FX,
            &[
                ((254, 0), "virtio 0.0.0 0:0:5.0 /dev/vda"),
                ((254, 1), "virtio 0.0.0 0:0:5.0 /dev/vda1 ROOT1"),
                ((8, 0), "scsi 0.0.5 0:0:6.0 /dev/sda"),
                ((8, 16), "sata 0.0.2 0:0:7.0 /dev/sdb"),
                ((8, 32), "sata 0.0.4 0:0:7.0 /dev/sdc"),
                ((8, 48), "ide 1.0.1 0:0:1.1 /dev/sdd QEMU_HARDDISK_QM00004"),
                ((8, 64), "scsi 0.0.2 0:0:a.0 /dev/sde"),
                ((8, 80), "usb 0.0.0 0:0:9.0 /dev/sdf"),
                ((8, 96), "unknown 0.0.0 /dev/sdg"),
                ((259, 1), "nvme 0.0.0 0:0:8.0 /dev/nvme0n1"),
                ((259, 2), "nvme 0.0.0 0:0:8.0 /dev/nvme0n1p1"),
            ],
        );
        check(
            capture::Q35,
            &[
                ((254, 16), "virtio 0.0.0 0:1:0.0 /dev/vdb"),
                (
                    (259, 0),
                    "nvme 0.0.0 0:0:8.0 /dev/nvme0n1 QEMU_NVMe_Ctrl_NV1",
                ),
                ((259, 2), "nvme 0.0.0 0:0:8.0 /dev/nvme0n1p2"),
            ],
        );
    }

    /// As the original agent, but for the PCI function of the arm64 disk, which it leaves out.
    #[test]
    fn disks_without_pci() {
        check(
            capture::NOPCI,
            &[
                ((254, 0), "virtio 0.0.0 /dev/vda"),
                ((8, 0), "scsi 1.4.7 /dev/sda"),
                ((254, 16), "virtio 0.0.0 ccw 0.0.1.a2 /dev/vdb"),
                ((8, 16), "scsi 0.2.1 ccw 0.1.a.1003 /dev/sdb"),
                ((94, 0), "unknown 0.0.0 ccw 0.0.9.200 /dev/dasda"),
                ((254, 32), "virtio 0.0.0 0:0:2.0 /dev/vdc"),
                ((179, 0), "unknown 0.0.0 /dev/mmcblk0"),
            ],
        );
    }

    /// As the original agent, but for the ninth AHCI port, which it miscounts, and NVMe behind VMD.
    #[test]
    fn rare_layouts() {
        check(
            capture::EDGE,
            &[
                ((8, 0), "sata 0.0.8 0:0:1.0 /dev/sda"),
                ((8, 16), "sata 0.0.1 0:0:2.0 /dev/sdb"),
                ((8, 32), "ide 1.0.1 0:0:3.0 /dev/sdc"),
                ((259, 0), "nvme 0.0.0 10000:e0:6.0 /dev/nvme0n1"),
                ((8, 48), "usb 0.0.0 0:0:5.0 /dev/sdd"),
                ((8, 64), "unknown 0.0.0 /dev/sde"),
                ((8, 80), "unknown 0.0.0 0:0:7.0 /dev/sdf"),
                ((8, 96), "unknown 0.0.0 /dev/sdg"),
                ((8, 112), "unknown 0.0.0 0:0:9.0 /dev/sdh"),
            ],
        );
    }

    #[test]
    fn an_unknown_disk_has_no_address() {
        let (_root, system) = capture::build("dir platform/x/block/xda\n");
        let path = |path| disk_address(&system, Path::new(path));
        assert_eq!(path("/sys/devices/platform/x/block/xda"), None);
        assert_eq!(path("/sys/devices/virtual/nvme-subsystem"), None);
        assert_eq!(path("/sys/devices/virtual/nvme-subsystem/s/nvme0n1"), None);
        assert_eq!(path("/"), None);
        assert_eq!(path(""), None);
    }

    #[test]
    fn parts_of_paths() {
        assert!(pci_address("0000:00:1f.2").is_some());
        for odd in [
            "pci0000:00",
            "0000:00:1f",
            "0000:0:1f.2",
            "0:0:0:0",
            "1:0:0:0.1",
            "",
            "::.",
        ] {
            assert_eq!(pci_address(odd), None, "{odd}");
        }
        assert_eq!(
            scsi_numbers(&["target1:0:2", "1:0:2:16640", "block"]),
            Some([1, 0, 2, 16640])
        );
        assert_eq!(scsi_numbers(&["target1:0:2"]), None);
        assert_eq!(scsi_numbers(&["target1:0:2", "1:0:2"]), None);
        assert_eq!(scsi_numbers(&["target1:0:2", "1:0:2:3:4"]), None);
    }
}
