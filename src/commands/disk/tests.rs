//! Disks of captured systems, and what the wire says of them.

use super::*;
use crate::commands::reply_line;
use crate::probe::capture;
use std::fs;

/// Every disk has a size but those of `empty`.
fn system(description: &str, empty: &[&str]) -> (tempfile::TempDir, System) {
    let (root, system) = capture::build(description);
    for entry in fs::read_dir(root.path().join("sys/block")).unwrap() {
        let entry = entry.unwrap();
        let is_empty = empty.iter().any(|name| entry.file_name() == **name);
        let size = if is_empty { "0\n" } else { "2048\n" };
        fs::write(entry.path().join("size"), size).unwrap();
    }
    (root, system)
}

fn line(disk: &DiskInfo) -> String {
    let mut line = disk.name.clone();
    for (mark, set) in [
        (" partition", disk.partition),
        (" address", disk.address.is_some()),
        (" smart", disk.smart.is_some()),
    ] {
        line += if set { mark } else { "" };
    }
    if let Some(alias) = &disk.alias {
        line += &format!(" alias {alias}");
    }
    match &disk.dependencies {
        Some(names) => {
            let mut names = names.clone();
            names.sort();
            line + &format!(" on [{}]", names.join(" "))
        }
        None => line,
    }
}

#[test]
fn volumes_and_what_they_stand_on() {
    let (_root, system) = system(capture::LVM, &["vdb"]);
    let disks = get_disks(&system).unwrap();
    let mut lines: Vec<_> = disks.iter().map(line).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "/dev/dm-0 alias vg-root on [/dev/vda2]",
            "/dev/dm-1 on [/dev/vda2]",
            "/dev/dm-2 alias secret on [/dev/dm-1]",
            "/dev/md127 on [/dev/vda1 /dev/vdb]",
            "/dev/vda address on []",
            "/dev/vda1 partition on [/dev/vda]",
            "/dev/vda2 partition on [/dev/vda]",
        ]
    );
    let place = |name| disks.iter().position(|disk| disk.name == name).unwrap();
    let mut three = [place("/dev/vda1"), place("/dev/vda2")];
    three.sort_unstable();
    assert_eq!(
        place("/dev/vda"),
        three[1] + 1,
        "a disk follows its partitions"
    );
    assert_eq!(three[0] + 1, three[1]);
}

#[test]
fn partitions_of_disks_whose_name_ends_in_a_digit() {
    let (_root, system) = system(capture::Q35, &[]);
    let disks = get_disks(&system).unwrap();
    let partitions = disks.iter().filter(|disk| disk.partition).map(line);
    let mut partitions: Vec<_> = partitions.collect();
    partitions.sort();
    assert_eq!(
        partitions.last().unwrap(),
        "/dev/nvme0n1p2 partition on [/dev/nvme0n1]"
    );
    // Recognised as NVMe, but there is no such device here to be asked.
    let nvme = disks
        .iter()
        .find(|disk| disk.name == "/dev/nvme0n1")
        .unwrap();
    assert_eq!(line(nvme), "/dev/nvme0n1 address on []");
}

#[test]
fn members_as_on_the_wire() {
    let (root, one) = system(
        "driver pci0000:00/0000:00:05.0 virtio-pci\n\
         disk 254:0 pci0000:00/0000:00:05.0/virtio0/block/vda\n",
        &[],
    );
    assert_eq!(
        reply_line(get_disks(&one).unwrap()),
        "{\"return\": [{\"name\": \"/dev/vda\", \"dependencies\": [], \"partition\": false, \
         \"address\": {\"bus-type\": \"virtio\", \"bus\": 0, \"unit\": 0, \
         \"pci-controller\": {\"bus\": 0, \"slot\": 5, \"domain\": 0, \"function\": 0}, \
         \"dev\": \"/dev/vda\", \"target\": 0}}]}\n"
    );
    let device = root
        .path()
        .join("sys/devices/pci0000:00/0000:00:05.0/virtio0/block/vda");
    fs::remove_dir_all(device.join("slaves")).unwrap();
    assert_eq!(get_disks(&one).unwrap()[0].dependencies, None);
    // Without a device node it is left out.
    fs::write(device.join("uevent"), "MAJOR=254\nMINOR=0\n").unwrap();
    assert_eq!(reply_line(get_disks(&one).unwrap()), "{\"return\": []}\n");
    fs::remove_dir_all(root.path().join("sys/block")).unwrap();
    assert_eq!(
        get_disks(&one).unwrap_err().desc,
        "Can't open directory \"/sys/block\": No such file or directory"
    );
}

#[test]
fn health_on_the_wire() {
    let mut page = [0_u8; 512];
    page[1] = 0x43;
    page[2] = 0x01;
    page[32] = 9;
    page[40] = 1;
    let smart = NvmeSmart::from(nvme::parse(&page).unwrap());
    let line = reply_line(smart);
    assert!(
        line.starts_with(
            "{\"return\": {\"available-spare\": 0, \"host-write-commands-hi\": 0, \
             \"temperature\": 323, \"power-on-hours-lo\": 0, "
        ),
        "{line}"
    );
    assert!(
        line.contains("\"data-units-read-hi\": 1, \"data-units-read-lo\": 9, "),
        "{line}"
    );
    assert!(
        line.ends_with(
            "\"type\": \"nvme\", \"critical-warning\": 0, \"percentage-used\": 0, \
             \"number-of-error-log-entries-lo\": 0}}\n"
        ),
        "{line}"
    );
}

#[test]
fn diskstats_on_the_wire() {
    let root = tempfile::tempdir().unwrap();
    let system = System::at(root.path()).unwrap();
    assert_eq!(
        get_diskstats(&system).unwrap_err().desc,
        "open(\"/proc/diskstats\"): No such file or directory"
    );
    fs::create_dir(root.path().join("proc")).unwrap();
    let table =
        "   7       1 loop1 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n   8 1 sda1 1 2 3 4\n";
    fs::write(root.path().join("proc/diskstats"), table).unwrap();
    assert_eq!(
        reply_line(get_diskstats(&system).unwrap()),
        "{\"return\": [{\"name\": \"loop1\", \"stats\": {\"discard-sectors\": 14, \
         \"write-ios\": 5, \"discard-ios\": 12, \"discard-ticks\": 15, \"weight-ticks\": 11, \
         \"read-ios\": 1, \"flush-ios\": 16, \"write-sectors\": 7, \"write-merges\": 6, \
         \"write-ticks\": 8, \"ios-pgr\": 9, \"read-sectors\": 3, \"read-merges\": 2, \
         \"total-ticks\": 10, \"discard-merges\": 13, \"flush-ticks\": 17, \"read-ticks\": 4}, \
         \"minor\": 1, \"major\": 7}, {\"name\": \"sda1\", \"stats\": {\"write-ios\": 3, \
         \"read-ios\": 1, \"write-sectors\": 4, \"read-sectors\": 2}, \"minor\": 1, \
         \"major\": 8}]}\n"
    );
}
