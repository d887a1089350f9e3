//! Plans for systems with stacked devices.

use super::*;

/// ext4 on a loop device on ext4 on a logical volume; the loop mount is the older one.
const LOOP_ON_LVM: Guest<'_> = Guest {
    description: "\
disk 254:0 pci/vda
part 254:1 pci/vda/vda1
part 254:2 pci/vda/vda2
disk 253:0 virtual/block/dm-0
disk 253:1 virtual/block/dm-1
disk 7:0 virtual/block/loop0
slave virtual/block/dm-0 pci/vda/vda2
slave virtual/block/dm-1 pci/vda/vda2
loop virtual/block/loop0 /srv/disk.img
udev 253:0 DM_NAME=vg-root
udev 253:1 DM_NAME=vg-srv
",
    files: &["/srv/disk.img"],
    swaps: "",
    mounts: "\
28 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw
29 28 7:0 / /mnt/loop rw - ext4 /dev/loop0 rw
30 28 253:1 / /srv rw - ext4 /dev/mapper/vg-srv rw
31 28 254:1 / /boot rw - ext4 /dev/vda1 rw
",
    nodes: &[],
    loops: &[],
};

#[test]
fn a_loop_mount_goes_before_what_holds_its_file() {
    let plan = planned(&LOOP_ON_LVM.survey());
    assert_eq!(
        batches(&plan),
        [["/boot"], ["/mnt/loop"], ["/srv"], ["/"]],
        "only the loop mount leaves its place"
    );
    assert_eq!(
        plan.targets[1].depends_on,
        ["loop0", "file /srv/disk.img on /srv (ext4)"]
    );
    assert_eq!(plan.targets[2].depends_on, ["dm-1 (vg-srv)", "vda2", "vda"]);
    assert_eq!(plan.targets[2].device, "/dev/mapper/vg-srv");
    assert!(plan.notes.is_empty());
}

#[test]
fn what_is_written_to_a_frozen_filesystem_is_told() {
    let policy = FreezePolicy {
        exclude: patterns(&["dev:/dev/loop*"]),
        ..FreezePolicy::default()
    };
    let plan = make(&LOOP_ON_LVM.survey(), &policy, None).unwrap();
    assert_eq!(batches(&plan), [vec!["/boot", "/srv"], vec!["/"]]);
    assert_eq!(
        plan.notes,
        [
            "/mnt/loop is not frozen but depends on /srv, which is: its writes block anyway, \
          and it is in no clean state"
        ]
    );
}

/// A local program may serve the device from a file on any filesystem that was mounted before.
#[test]
fn what_stands_on_nobody_knows_what_keeps_the_order_of_mounting() {
    fn guest<'a>(description: &'a str, mounts: &'a str) -> Guest<'a> {
        Guest {
            description,
            mounts,
            ..Guest::default()
        }
    }
    let disks = "disk 8:0 x/sda\ndisk 8:16 x/sdb\ndisk 43:0 virtual/block/nbd0\n\
                 disk 7:0 virtual/block/loop0\nloop virtual/block/loop0 /gone.img\n";
    let table = "28 1 8:0 / / rw - ext4 /dev/sda rw\n29 28 8:16 / /a rw - ext4 /dev/sdb rw\n\
                 30 28 43:0 / /served rw - ext4 /dev/nbd0 rw\n31 28 8:32 / /late rw - ext4 /dev/sdc rw\n";
    let plan = planned(&guest(&format!("{disks}disk 8:32 x/sdc\n"), table).survey());
    assert_eq!(names(&plan), ["/late", "/served", "/a", "/"]);
    // A device that sysfs does not know.
    let plan = planned(&guest(disks, table).survey());
    assert_eq!(names(&plan), ["/late", "/served", "/a", "/"]);
    // A loop device whose file is not to be found.
    let table = "28 1 8:0 / /a rw - ext4 /dev/sda rw\n29 1 7:0 / /b rw - ext4 /dev/loop0 rw\n\
                 30 1 8:16 / /c rw - ext4 /dev/sdb rw\n";
    let plan = planned(&guest(disks, table).survey());
    assert_eq!(names(&plan), ["/c", "/b", "/a"]);
}

#[test]
fn order_holds_across_what_is_not_chosen() {
    // c on b on a, mounted in the wrong order, without b.
    let guest = Guest {
        description: "disk 8:0 x/sda\ndisk 8:1 x/sdb\ndisk 7:0 virtual/block/loop0\n\
                      disk 7:1 virtual/block/loop1\nloop virtual/block/loop0 /a/img\n\
                      loop virtual/block/loop1 /b/img\n",
        files: &["/a/img", "/b/img"],
        mounts: "28 1 8:0 / / rw - ext4 /dev/sda rw\n29 28 7:1 / /c rw - ext4 /dev/loop1 rw\n\
                 30 28 7:0 / /b rw - ext4 /dev/loop0 rw\n31 28 8:1 / /a rw - ext4 /dev/sdb rw\n",
        ..Guest::default()
    };
    let policy = FreezePolicy {
        exclude: patterns(&["/b"]),
        ..FreezePolicy::default()
    };
    let plan = make(&guest.survey(), &policy, None).unwrap();
    assert_eq!(names(&plan), ["/c", "/a", "/"]);
}

#[test]
fn raid_and_encryption_show_their_disks() {
    let guest = Guest {
        description: capture::LVM,
        mounts: "28 1 254:1 / / rw - ext4 /dev/vda1 rw\n29 28 9:127 / /raid rw - xfs /dev/md127 rw\n\
                 30 28 253:2 / /secret rw - ext4 /dev/mapper/secret rw\n",
        ..Guest::default()
    };
    let plan = planned(&guest.survey());
    assert_eq!(names(&plan), ["/secret", "/raid", "/"]);
    assert_eq!(
        plan.targets[0].depends_on,
        ["dm-2 (secret)", "dm-1", "vda2", "vda"]
    );
    assert_eq!(plan.targets[1].depends_on, ["md127", "vda1", "vda", "vdb"]);
}

#[test]
fn raid_of_loop_devices_goes_before_what_holds_the_files() {
    let guest = Guest {
        description: "disk 8:0 x/sda\ndisk 8:16 x/sdb\ndisk 9:0 virtual/block/md0\n\
                      disk 7:0 virtual/block/loop0\ndisk 7:1 virtual/block/loop1\n\
                      slave virtual/block/md0 virtual/block/loop0\n\
                      slave virtual/block/md0 virtual/block/loop1\n\
                      loop virtual/block/loop0 /half.img\nloop virtual/block/loop1 /srv/half.img\n",
        files: &["/half.img", "/srv/half.img"],
        mounts: "28 1 9:0 / /raid rw - ext4 /dev/md0 rw\n29 1 8:0 / / rw - ext4 /dev/sda rw\n\
                 30 1 8:16 / /srv rw - ext4 /dev/sdb rw\n",
        ..Guest::default()
    };
    let plan = planned(&guest.survey());
    assert_eq!(names(&plan), ["/raid", "/srv", "/"]);
    assert_eq!(
        plan.targets[0].depends_on,
        [
            "md0",
            "loop0",
            "file /half.img on / (ext4)",
            "loop1",
            "file /srv/half.img on /srv (ext4)"
        ]
    );
}

/// One btrfs of two devices and several subvolumes, one of them mounted by the other device; a
/// loop device on it.
const BTRFS: Guest<'_> = Guest {
    description: "\
disk 254:0 pci/vda
disk 254:16 pci/vdb
disk 254:32 pci/vdc
disk 7:0 virtual/block/loop0
btrfs 1111 pci/vdb
btrfs 1111 pci/vdc
loop virtual/block/loop0 /pool/home/disk.img
",
    files: &["/pool/home/disk.img"],
    swaps: "",
    mounts: "\
28 1 254:0 / / rw - ext4 /dev/vda rw
29 28 7:0 / /mnt/loop rw - ext4 /dev/loop0 rw
30 28 0:40 /@ /pool rw - btrfs /dev/vdc rw
31 30 0:40 /@home /pool/home rw - btrfs /dev/vdb rw
32 28 0:40 / /mnt/top rw - btrfs /dev/vdb rw
",
    nodes: &[
        ("/dev/vdb", (254, 16)),
        ("/dev/vdc", (254, 32)),
        ("/dev/loop0", (7, 0)),
    ],
    loops: &[],
};

#[test]
fn a_btrfs_of_two_devices_is_one_filesystem() {
    let survey = BTRFS.survey();
    let plan = planned(&survey);
    assert_eq!(names(&plan), ["/mnt/loop", "/pool", "/"]);
    let pool = &plan.targets[1];
    assert_eq!(pool.filesystem.device(), (254, 32));
    assert_eq!(pool.depends_on, ["vdb", "vdc"]);
    assert_eq!(
        pool.alternatives,
        [b"/mnt/top".to_vec(), b"/pool/home".to_vec()]
    );
    assert_eq!(
        skipped(&plan),
        [
            "/mnt/top: the same filesystem as /pool",
            "/pool/home: the same filesystem as /pool"
        ]
    );
    let policy = FreezePolicy {
        exclude: patterns(&["dev:vdb"]),
        ..FreezePolicy::default()
    };
    let plan = make(&survey, &policy, None).unwrap();
    assert_eq!(names(&plan), ["/mnt/loop", "/"]);
}

/// A loop device whose file is at `path`, beside mounts of every kind.
fn loop_at(path: &str, files: &[&str], loops: &[(&str, DeviceNumber)]) -> Plan {
    let description = format!(
        "disk 8:0 x/sda\ndisk 8:16 x/sdb\ndisk 7:0 virtual/block/loop0\nloop virtual/block/loop0 {path}\n"
    );
    let guest = Guest {
        description: &description,
        files,
        mounts: "\
28 1 8:0 / / rw - ext4 /dev/sda rw
29 28 7:0 / /mnt/loop rw - ext4 /dev/loop0 rw
30 28 8:16 / /data rw - ext4 /dev/sdb rw
31 28 0:31 / /tmp rw - tmpfs tmpfs rw
32 28 0:32 / /merged rw - overlay overlay rw,lowerdir=/lower,upperdir=/data/upper,workdir=/data/w
",
        loops,
        ..Guest::default()
    };
    planned(&guest.survey())
}

#[test]
fn a_file_in_memory_holds_nothing_back() {
    let plan = loop_at("/tmp/x.img", &["/tmp/x.img"], &[]);
    assert_eq!(names(&plan), ["/data", "/mnt/loop", "/"]);
    assert_eq!(
        plan.targets[1].depends_on,
        ["loop0", "file /tmp/x.img on /tmp (tmpfs)"]
    );
}

#[test]
fn a_file_on_an_overlay_stands_on_its_layers() {
    let plan = loop_at("/merged/x.img", &["/merged/x.img"], &[]);
    assert_eq!(names(&plan), ["/mnt/loop", "/data", "/"]);
    assert_eq!(
        plan.targets[0].depends_on,
        ["loop0", "file /merged/x.img on /merged (overlay)"]
    );
}

/// If the file is on a filesystem that is frozen before it, FIFREEZE blocks and the engine reorders.
#[test]
fn a_file_out_of_sight_changes_no_order() {
    for path in [
        "/data/gone.img (deleted)",
        "/data/of/another/namespace",
        "/mnt/loop/x.img",
    ] {
        let plan = loop_at(path, &[], &[]);
        assert_eq!(names(&plan), ["/data", "/mnt/loop", "/"], "{path}");
        assert_eq!(
            plan.targets[1].depends_on[1],
            format!("file {path}, which is not to be found from here")
        );
    }
}

#[test]
fn a_file_named_in_another_namespace_is_found_by_its_device() {
    // By its path the file would be on the root filesystem, which is last anyway.
    let plan = loop_at("/x.img", &[], &[("loop0", (8, 16))]);
    assert_eq!(names(&plan), ["/mnt/loop", "/data", "/"]);
    assert_eq!(
        plan.targets[0].depends_on,
        ["loop0", "file /x.img on /data (ext4)"]
    );
    let plan = loop_at("/data/x.img (deleted)", &[], &[("loop0", (0, 31))]);
    assert_eq!(names(&plan), ["/data", "/mnt/loop", "/"]);
    assert_eq!(
        plan.targets[1].depends_on[1],
        "file /data/x.img (deleted) on /tmp (tmpfs)"
    );
}

#[test]
fn a_root_on_a_file_goes_before_what_holds_it() {
    let guest = Guest {
        description: "disk 8:0 x/sda\ndisk 8:16 x/sdb\ndisk 7:0 virtual/block/loop0\n\
                      loop virtual/block/loop0 /host/root.img\n",
        files: &["/host/root.img"],
        mounts: "28 1 7:0 / / rw - ext4 /dev/loop0 rw\n29 28 8:0 / /host rw - ext4 /dev/sda rw\n\
                 30 28 8:16 / /data rw - ext4 /dev/sdb rw\n",
        ..Guest::default()
    };
    assert_eq!(names(&planned(&guest.survey())), ["/data", "/", "/host"]);
}

#[test]
fn a_cycle_is_refused_by_name() {
    let guest = Guest {
        description: "disk 8:0 x/sda\ndisk 7:0 virtual/block/loop0\ndisk 7:1 virtual/block/loop1\n\
                      loop virtual/block/loop0 /b/img\nloop virtual/block/loop1 /a/img\n",
        files: &["/a/img", "/b/img"],
        mounts: "28 1 8:0 / / rw - ext4 /dev/sda rw\n29 28 7:0 / /a rw - ext4 /dev/loop0 rw\n\
                 30 28 7:1 / /b rw - ext4 /dev/loop1 rw\n",
        ..Guest::default()
    };
    let survey = guest.survey();
    let cycle = make(&survey, &FreezePolicy::default(), None).unwrap_err();
    assert_eq!(
        cycle.to_string(),
        "filesystems depend on one another in a cycle: /a on loop0, file /b/img on /b (ext4); /b \
         on loop1, file /a/img on /a (ext4). Freezing one of them would never end. Take them \
         apart, or leave all of them out: fsfreeze-exclude=/a,/b"
    );
    // One member is enough for a hang.
    let only = |name: &[u8]| make(&survey, &FreezePolicy::default(), Some(&[name.to_vec()]));
    assert_eq!(only(b"/a").unwrap_err(), cycle);
    assert_eq!(names(&only(b"/").unwrap()), ["/"]);
    let policy = FreezePolicy {
        exclude: patterns(&["/a", "/b"]),
        ..FreezePolicy::default()
    };
    assert_eq!(names(&make(&survey, &policy, None).unwrap()), ["/"]);
    // For a thaw the order does not matter.
    assert_eq!(everything(&survey).len(), 3);
}

#[test]
fn swap_space_on_a_filesystem_is_told() {
    let guest = Guest {
        description: LOOP_ON_LVM.description,
        files: &["/srv/disk.img", "/swapfile", "/mnt/loop/swap"],
        swaps: "Filename Type Size Used Priority\n/swapfile file 1 0 -2\n\
                /mnt/loop/swap file 1 0 -3\n/dev/loop0 partition 1 0 -4\n/dev/vda1 partition 1 0 1\n",
        mounts: LOOP_ON_LVM.mounts,
        nodes: &[("/dev/loop0", (7, 0)), ("/dev/vda1", (254, 1))],
        loops: &[],
    };
    let survey = guest.survey();
    let found: Vec<(&str, DeviceNumber, bool)> = survey
        .swaps
        .iter()
        .map(|swap| (swap.name.as_str(), swap.on, swap.through))
        .collect();
    assert_eq!(
        found,
        [
            ("/swapfile", (253, 0), false),
            ("/mnt/loop/swap", (7, 0), false),
            ("/mnt/loop/swap", (253, 1), true),
            ("/dev/loop0", (253, 1), true),
        ]
    );
    let notes = planned(&survey).notes;
    assert_eq!(notes.len(), 4);
    assert!(notes[0].starts_with("swap file /swapfile is on /: "));
    assert!(notes[2].starts_with("swap space /mnt/loop/swap is kept in a file on /srv: "));
    let policy = FreezePolicy {
        exclude: patterns(&["/srv", "/mnt/loop"]),
        ..FreezePolicy::default()
    };
    assert_eq!(make(&survey, &policy, None).unwrap().notes.len(), 1);
}

#[test]
fn mounts_of_containers_are_alternatives_within_bounds() {
    let mut mounts = String::from("28 1 8:0 / / rw - ext4 /dev/sda rw\n");
    for id in 0..5000 {
        mounts += &format!("{id} 28 8:0 /v /var/lib/c/{id} rw - ext4 /dev/sda rw\n");
        mounts += &format!("{id} 28 0:{id} / /c/{id} rw - overlay o rw,lowerdir=/l,upperdir=/u\n");
    }
    mounts += "9999 28 8:0 / /late rw - ext4 /dev/sda rw\n9999 28 8:0 / / rw - ext4 /dev/sda rw\n";
    let guest = Guest {
        description: "disk 8:0 x/sda\n",
        mounts: &mounts,
        ..Guest::default()
    };
    let plan = planned(&guest.survey());
    assert_eq!(names(&plan), ["/"]);
    assert_eq!(plan.skipped.len(), 10_002);
    let alternatives = &plan.targets[0].alternatives;
    assert_eq!(alternatives.len(), 16);
    assert_eq!(alternatives[0], b"/late");
}

#[test]
fn what_sysfs_does_not_tell_is_a_note_and_the_mount_order_holds() {
    let mut guest = LOOP_ON_LVM;
    guest.description = "";
    let plan = planned(&guest.survey());
    assert_eq!(names(&plan), ["/boot", "/srv", "/mnt/loop", "/"]);
    assert!(plan.targets[0].depends_on.is_empty() && plan.notes.is_empty());

    let (root, system) = capture::build(LOOP_ON_LVM.description);
    let slaves = root.path().join("sys/devices/virtual/block/dm-1/slaves");
    std::fs::remove_dir_all(&slaves).unwrap();
    std::fs::write(&slaves, "").unwrap();
    let plan = planned(&LOOP_ON_LVM.take(&system));
    assert_eq!(plan.targets.len(), 4);
    assert_eq!(plan.notes.len(), 1);
    assert!(
        plan.notes[0].starts_with("dependencies of /srv are uncertain: opendir("),
        "{}",
        plan.notes[0]
    );
}
