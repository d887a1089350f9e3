//! Test data: systems written down in a few lines and laid out as /sys and /run/udev.
//!
//! One directive a line, paths below /sys/devices:
//! `disk M:m PATH`, `part M:m PATH` (a block device: directory, uevent, links to it),
//! `driver PATH NAME` (a bus device's driver), `dir PATH`, `link PATH TARGET`,
//! `slave PATH TARGET` (what a virtual device stands on), `loop PATH FILE` (the file behind a loop
//! device), `btrfs UUID PATH` (a device of a btrfs), `udev M:m KEY=VALUE`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::System;

/// Every kind of controller at once on QEMU's old machine.
pub const I440FX: &str = include_str!("captures/i440fx.txt");
/// PCI Express and NVMe without multipath.
pub const Q35: &str = include_str!("captures/q35.txt");
/// Volumes, encryption and RAID.
pub const LVM: &str = include_str!("captures/lvm.txt");
/// Disks that are not, or not plainly, on PCI.
pub const NOPCI: &str = include_str!("captures/nopci.txt");
/// Rare layouts.
pub const EDGE: &str = include_str!("captures/edge.txt");

/// Lays the description out in a directory that lives as long as the first of the pair.
pub fn build(description: &str) -> (TempDir, System) {
    let root = tempfile::tempdir().unwrap();
    let sys = root.path().join("sys");
    let devices = sys.join("devices");
    for line in description
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let [directive, first, rest] = *line.splitn(3, ' ').collect::<Vec<_>>() else {
            assert!(line.starts_with("dir "), "{line}");
            fs::create_dir_all(devices.join(&line[4..])).unwrap();
            continue;
        };
        let base = rest.rsplit('/').next().unwrap();
        match directive {
            "disk" | "part" => {
                let path = devices.join(rest);
                fs::create_dir_all(&path).unwrap();
                let (major, minor) = first.split_once(':').unwrap();
                fs::write(
                    path.join("uevent"),
                    format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={base}\nDEVTYPE={directive}\n"),
                )
                .unwrap();
                link(
                    &sys,
                    &format!("dev/block/{first}"),
                    &format!("devices/{rest}"),
                );
                link(
                    &sys,
                    &format!("class/block/{base}"),
                    &format!("devices/{rest}"),
                );
                if directive == "disk" {
                    fs::create_dir_all(path.join("slaves")).unwrap();
                    link(&sys, &format!("block/{base}"), &format!("devices/{rest}"));
                }
            }
            "driver" => {
                fs::create_dir_all(sys.join("bus/pci/drivers").join(rest)).unwrap();
                link(
                    &sys,
                    &format!("devices/{first}/driver"),
                    &format!("bus/pci/drivers/{rest}"),
                );
            }
            "link" => link(
                &sys,
                &format!("devices/{first}"),
                &format!("devices/{rest}"),
            ),
            "slave" => {
                link(
                    &sys,
                    &format!("devices/{first}/slaves/{base}"),
                    &format!("devices/{rest}"),
                );
            }
            "loop" => {
                let directory = devices.join(first).join("loop");
                fs::create_dir_all(&directory).unwrap();
                fs::write(directory.join("backing_file"), format!("{rest}\n")).unwrap();
            }
            "btrfs" => link(
                &sys,
                &format!("fs/btrfs/{first}/devices/{base}"),
                &format!("devices/{rest}"),
            ),
            "udev" => {
                let data = root.path().join("run/udev/data");
                fs::create_dir_all(&data).unwrap();
                let mut file = fs::File::options()
                    .create(true)
                    .append(true)
                    .open(data.join(format!("b{first}")))
                    .unwrap();
                writeln!(file, "E:{rest}").unwrap();
            }
            _ => panic!("{line}"),
        }
    }
    let system = System::at(root.path()).unwrap();
    (root, system)
}

/// A relative symbolic link below `base`, as sysfs makes them.
fn link(base: &Path, from: &str, to: &str) {
    let path = base.join(from);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink("../".repeat(from.matches('/').count()) + to, path).unwrap();
}
