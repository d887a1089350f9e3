//! Plans for recorded systems, and for any stacking.

mod property;
mod systems;

use super::*;
use crate::probe::{System, capture, mountinfo};

/// The survey of a system: `description` as [`capture::build`] takes it, files that exist, the table of swaps, the
/// mount table, and block devices of the guest by path.
#[derive(Default)]
struct Guest<'a> {
    description: &'a str,
    files: &'a [&'a str],
    swaps: &'a str,
    mounts: &'a str,
    nodes: &'a [(&'a str, DeviceNumber)],
    /// The filesystems of the files behind loop devices.
    loops: &'a [(&'a str, DeviceNumber)],
}

impl Guest<'_> {
    fn survey(&self) -> Survey {
        let (root, system) = capture::build(self.description);
        for file in self.files {
            let path = root.path().join(&file[1..]);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::fs::create_dir_all(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join("proc/swaps"), self.swaps).unwrap();
        self.take(&system)
    }

    fn take(&self, system: &System) -> Survey {
        let mounts = mountinfo::parse(self.mounts.as_bytes());
        let look = |list: &[(&str, DeviceNumber)], name: &[u8]| {
            let entry = |(other, _): &&(&str, _)| other.as_bytes() == name;
            list.iter().find(entry).map(|(_, number)| *number)
        };
        Survey::read_with(system, &mounts, &|path| look(self.nodes, path), &|name| {
            look(self.loops, name.as_bytes())
        })
    }
}

fn names(plan: &Plan) -> Vec<String> {
    plan.targets
        .iter()
        .map(|target| shown(&target.filesystem.mountpoint))
        .collect()
}

fn batches(plan: &Plan) -> Vec<Vec<String>> {
    plan.targets
        .chunk_by(|a, b| a.batch == b.batch)
        .map(|batch| {
            batch
                .iter()
                .map(|t| shown(&t.filesystem.mountpoint))
                .collect()
        })
        .collect()
}

#[test]
fn neighbors_on_hardware_freeze_side_by_side_and_the_root_alone() {
    let pci = "pci0000:00/0000:00:0";
    let description = format!(
        "disk 8:0 {pci}1.0/virtio1/block/vda\ndisk 8:16 {pci}2.0/virtio2/block/vdb\n\
         disk 8:32 {pci}3.0/virtio3/block/vdc\ndisk 43:0 virtual/block/nbd0\n\
         disk 8:48 {pci}4.0/virtio4/block/vdd\ndisk 8:64 {pci}5.0/virtio5/block/vde\n"
    );
    let guest = Guest {
        description: &description,
        mounts: "28 1 8:0 / / rw - ext4 /dev/vda rw\n29 28 8:16 / /b rw - ext4 /dev/vdb rw\n\
                 30 28 8:32 / /c rw - ext4 /dev/vdc rw\n31 28 43:0 / /n rw - ext4 /dev/nbd0 rw\n\
                 32 28 8:48 / /d rw - ext4 /dev/vdd rw\n\
                 33 28 8:64 / /e rw - xfs /dev/vde rw,logdev=/dev/nbd1\n",
        ..Guest::default()
    };
    let plan = planned(&guest.survey());
    assert_eq!(
        batches(&plan),
        [
            vec!["/e"],
            vec!["/d"],
            vec!["/n"],
            vec!["/c", "/b"],
            vec!["/"]
        ]
    );
}

fn planned(survey: &Survey) -> Plan {
    make(survey, &FreezePolicy::default(), None).unwrap()
}

fn skipped(plan: &Plan) -> Vec<String> {
    plan.skipped
        .iter()
        .map(|s| format!("{}: {}", shown(&s.mountpoint), s.reason))
        .collect()
}

fn patterns(list: &[&str]) -> Vec<Pattern> {
    list.iter().map(|p| Pattern::parse(p).unwrap()).collect()
}

const PLAIN: Guest<'_> = Guest {
    description: "disk 8:0 x/sda\npart 8:1 x/sda/sda1\ndisk 8:16 x/sdb\ndisk 8:32 x/sdc\n",
    files: &[],
    swaps: "",
    mounts: "\
28 1 8:1 / / rw - ext4 /dev/sda1 rw
29 28 0:5 / /run rw - tmpfs tmpfs rw
30 28 8:16 / /data rw - xfs /dev/sdb rw
31 30 8:32 / /data/inner rw - ext4 /dev/sdc rw
32 28 8:16 /home /home rw - xfs /dev/sdb rw
33 28 0:33 / /merged rw - overlay overlay rw,lowerdir=/l,upperdir=/data/u,workdir=/data/w
",
    nodes: &[],
    loops: &[],
};

#[test]
fn last_mounted_goes_first_and_the_root_last() {
    let plan = planned(&PLAIN.survey());
    assert_eq!(batches(&plan), [["/data/inner"], ["/data"], ["/"]]);
    assert_eq!(plan.notes, Vec::<String>::new());
    assert_eq!(
        skipped(&plan),
        [
            "/run: a pseudo filesystem, nothing of it is on a disk",
            "/home: the same filesystem as /data",
            "/merged: made of directories of other filesystems: / (frozen), /data (frozen)",
        ]
    );
    let data = &plan.targets[1];
    assert_eq!(data.alternatives, [b"/home".to_vec()]);
    assert_eq!(data.device, "/dev/sdb");
    assert_eq!(data.depends_on, ["sdb"]);
    assert_eq!(plan.targets[2].depends_on, ["sda1", "sda"]);
    let mut guest = PLAIN;
    guest.mounts = "28 1 8:16 / /boot rw - ext4 /dev/sdb rw\n29 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                    30 29 8:32 / /data rw - ext4 /dev/sdc rw\n";
    assert_eq!(names(&planned(&guest.survey())), ["/data", "/boot", "/"]);
}

#[test]
fn a_list_chooses_by_the_exact_name() {
    let survey = PLAIN.survey();
    let plan = |only: &[&str]| {
        let only: Vec<Vec<u8>> = only.iter().map(|name| name.as_bytes().to_vec()).collect();
        make(&survey, &FreezePolicy::default(), Some(&only)).unwrap()
    };
    let chosen = plan(&["/data", "/", "/data", "/zzz", "/data/", "/home", "/run"]);
    assert_eq!(names(&chosen), ["/data", "/"]);
    assert_eq!(
        skipped(&chosen)[0],
        "/data/inner: the request does not name it"
    );
    assert_eq!(
        chosen.notes,
        [
            "the request names /zzz, which is left out: nothing is mounted there",
            "the request names /data/, which is left out: nothing is mounted there",
            "the request names /home, which is left out: the same filesystem as /data",
            "the request names /run, which is left out: a pseudo filesystem, nothing of it is on \
             a disk",
        ]
    );
    let nothing = plan(&[]);
    assert_eq!((nothing.targets.len(), nothing.skipped.len()), (0, 6));
}

#[test]
fn the_policy_includes_and_excludes() {
    let survey = PLAIN.survey();
    let plan = |include: &[&str], exclude: &[&str]| {
        let policy = FreezePolicy {
            include: patterns(include),
            exclude: patterns(exclude),
            ..FreezePolicy::default()
        };
        make(&survey, &policy, None).unwrap()
    };
    assert_eq!(names(&plan(&[], &["/data/*"])), ["/data", "/"]);
    assert_eq!(names(&plan(&[], &["type:ext*"])), ["/data"]);
    assert_eq!(names(&plan(&[], &["dev:sd[bc]"])), ["/"]);
    assert_eq!(names(&plan(&["type:ext4"], &[])), ["/data/inner", "/"]);
    let both = plan(&["/data*"], &["dev:/dev/sdb"]);
    assert_eq!(names(&both), ["/data/inner"]);
    assert_eq!(
        skipped(&both)[..2],
        [
            "/: no pattern of fsfreeze-include means it",
            "/data: fsfreeze-exclude has dev:/dev/sdb",
        ]
    );
    let only = [b"/data".to_vec(), b"/".to_vec()];
    let policy = FreezePolicy {
        exclude: patterns(&["/data"]),
        ..FreezePolicy::default()
    };
    let plan = make(&survey, &policy, Some(&only)).unwrap();
    assert_eq!(names(&plan), ["/"]);
    assert_eq!(
        plan.notes,
        ["the request names /data, which is left out: fsfreeze-exclude has /data"]
    );
}

#[test]
fn patterns_without_effect_are_told() {
    let policy = FreezePolicy {
        include: patterns(&["*", "/run"]),
        exclude: patterns(&["/home", "/dtaa/*", "type:tmpfs"]),
        optional: patterns(&["/data/*", "dev:sdz"]),
        ..FreezePolicy::default()
    };
    let plan = make(&PLAIN.survey(), &policy, None).unwrap();
    assert_eq!(names(&plan), ["/data/inner", "/data", "/"]);
    assert_eq!(
        plan.notes,
        [
            "fsfreeze-include has /run without effect: /run is not frozen: a pseudo filesystem, \
             nothing of it is on a disk",
            "fsfreeze-exclude has /home without effect: /home is the same filesystem as /data, \
             and a filesystem is known by its first mount point",
            "fsfreeze-exclude has /dtaa/* without effect: no mounted filesystem matches it",
            "fsfreeze-optional has dev:sdz without effect: no mounted filesystem matches it",
        ]
    );
    let optional: Vec<bool> = plan.targets.iter().map(|target| target.optional).collect();
    assert_eq!(optional, [true, false, false]);
}

#[test]
fn other_modes_freeze_nothing() {
    for (freeze, reason) in [
        (FreezeMode::Off, "/: fsfreeze-mode is off"),
        (FreezeMode::HooksOnly, "/: fsfreeze-mode is hooks-only"),
    ] {
        let policy = FreezePolicy {
            freeze,
            exclude: patterns(&["/nowhere"]),
            ..FreezePolicy::default()
        };
        let plan = make(&PLAIN.survey(), &policy, None).unwrap();
        assert!(plan.targets.is_empty() && plan.notes.is_empty());
        assert_eq!(skipped(&plan)[0], reason);
        assert_eq!(plan.skipped.len(), 6);
    }
}
