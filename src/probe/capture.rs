//! Test data: systems in a few lines of text, laid out as /sys and /run/udev.
//!
//! One directive a line, paths below /sys/devices: `disk M:m PATH`, `part M:m PATH` (a block device: directory, uevent,
//! links to it), `driver PATH NAME` (a bus device's driver), `dir PATH`, `link PATH TARGET`, `slave PATH TARGET` (a
//! device on which a virtual one depends), `loop PATH FILE` (the file behind a loop device), `btrfs UUID PATH` (a
//! device of a btrfs), `udev M:m KEY=VALUE`. The tests of the other modules build their systems by this.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::System;

pub const I440FX: &str = include_str!("captures/i440fx.txt");
pub const Q35: &str = include_str!("captures/q35.txt");
pub const LVM: &str = include_str!("captures/lvm.txt");
pub const NOPCI: &str = include_str!("captures/nopci.txt");
pub const EDGE: &str = include_str!("captures/edge.txt");

/// The directory exists as long as the first of the pair.
pub fn build(description: &str) -> (TempDir, System) {
    let root = tempfile::tempdir().unwrap();
    for line in description
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let mut words = line.splitn(3, ' ');
        let [directive, first] = [words.next().unwrap(), words.next().unwrap()];
        apply(root.path(), directive, first, words.next().unwrap_or(""));
    }
    let system = System::at(root.path()).unwrap();
    (root, system)
}

fn apply(root: &Path, directive: &str, first: &str, rest: &str) {
    let sys = root.join("sys");
    let devices = sys.join("devices");
    let base = rest.rsplit('/').next().unwrap();
    let link = |from: String, to: String| link(&sys, &from, &to);
    match directive {
        "dir" => fs::create_dir_all(devices.join(first)).unwrap(),
        "disk" | "part" => add_device(&sys, directive, first, rest),
        "driver" => {
            fs::create_dir_all(sys.join("bus/pci/drivers").join(rest)).unwrap();
            link(
                format!("devices/{first}/driver"),
                format!("bus/pci/drivers/{rest}"),
            );
        }
        "link" => link(format!("devices/{first}"), format!("devices/{rest}")),
        "slave" => link(
            format!("devices/{first}/slaves/{base}"),
            format!("devices/{rest}"),
        ),
        "loop" => {
            let directory = devices.join(first).join("loop");
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("backing_file"), format!("{rest}\n")).unwrap();
        }
        "btrfs" => link(
            format!("fs/btrfs/{first}/devices/{base}"),
            format!("devices/{rest}"),
        ),
        "udev" => {
            let data = root.join("run/udev/data");
            fs::create_dir_all(&data).unwrap();
            let path = data.join(format!("b{first}"));
            let mut file = fs::File::options()
                .create(true)
                .append(true)
                .open(path)
                .unwrap();
            writeln!(file, "E:{rest}").unwrap();
        }
        _ => panic!("unknown directive {directive}"),
    }
}

fn add_device(sys: &Path, kind: &str, number: &str, path: &str) {
    let name = path.rsplit('/').next().unwrap();
    let directory = sys.join("devices").join(path);
    fs::create_dir_all(&directory).unwrap();
    let (major, minor) = number.split_once(':').unwrap();
    let uevent = format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\nDEVTYPE={kind}\n");
    fs::write(directory.join("uevent"), uevent).unwrap();
    let target = format!("devices/{path}");
    link(sys, &format!("dev/block/{number}"), &target);
    link(sys, &format!("class/block/{name}"), &target);
    if kind == "disk" {
        fs::create_dir_all(directory.join("slaves")).unwrap();
        link(sys, &format!("block/{name}"), &target);
    }
}

fn link(base: &Path, from: &str, to: &str) {
    let path = base.join(from);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink("../".repeat(from.matches('/').count()) + to, path).unwrap();
}
