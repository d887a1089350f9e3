//! Hooks that mount and unmount filesystems: a freeze acts on what is mounted when they have ended.

use crate::support::{Disk, Place, freeze_list, in_namespace, is_ours, returned};
use nix::mount::{MsFlags, mount};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

struct Rig {
    kept: Disk,
    /// What the hook unmounts or mounts.
    changing: Disk,
    place: Place,
}

impl Rig {
    /// The argument for a hook that appends its own argument to `calls` and does `text` at a freeze.
    fn hook(&self, text: &str) -> String {
        let line = format!(
            "echo $1 >>'{}'; [ $1 = thaw ] || {text}",
            self.place.name("calls")
        );
        format!("-F{}", self.place.script("hook", &line).display())
    }

    fn unmounting_hook(&self) -> String {
        self.hook(&format!("umount '{}'", self.changing.mountpoint()))
    }

    fn told(&self, text: &str) -> bool {
        self.place.read("log").contains(text)
    }
}

/// Mount points and outcomes of a report, in the order of freezing.
fn outcomes(report: &Value) -> Vec<(&str, &str)> {
    let filesystems = report["filesystems"].as_array().expect("a list");
    filesystems
        .iter()
        .map(|filesystem| {
            let [mountpoint, outcome] =
                ["mountpoint", "outcome"].map(|name| filesystem[name].as_str().expect("text"));
            (mountpoint, outcome)
        })
        .collect()
}

/// The original reads the mount table before the hooks, and not again.
fn with_rig(body: impl FnOnce(Rig) + Send + 'static) {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let kept = Disk::ext4(&place.path("kept"));
        let mut changing = Disk::ext4(&place.path("changing"));
        changing.close();
        body(Rig {
            kept,
            changing,
            place,
        });
    });
}

#[test]
fn a_hook_may_unmount_a_filesystem() {
    with_rig(|rig| {
        let agent = rig.place.agent(&["-v", &rig.unmounting_hook()]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert!(!rig.changing.is_mounted());
        assert!(rig.kept.is_frozen());
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert!(!rig.kept.is_frozen());
        assert_eq!(rig.place.read("calls"), "freeze\nthaw\n");
        let report = rig.place.report();
        assert_eq!(outcomes(&report), [(rig.kept.mountpoint(), "thawed")]);
        let text = format!(
            "{} is no longer mounted: it is not frozen\n",
            rig.changing.mountpoint()
        );
        assert!(rig.told(&text), "{}", rig.place.read("log"));
    });
}

#[test]
fn a_filesystem_that_a_hook_mounts_is_frozen_too() {
    with_rig(|mut rig| {
        let second = Disk::ext4(&rig.place.path("second"));
        rig.changing.unmount();
        let text = format!(
            "mount {} '{}'",
            rig.changing.device(),
            rig.changing.mountpoint()
        );
        let agent = rig.place.agent(&["-v", &rig.hook(&text)]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(3));
        assert_eq!(
            [&rig.kept, &second, &rig.changing].map(Disk::is_frozen),
            [true; 3]
        );
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(3));
        assert_eq!(
            [&rig.kept, &second, &rig.changing].map(Disk::is_frozen),
            [false; 3]
        );
        assert_eq!(rig.place.read("calls"), "freeze\nthaw\n");
        let report = rig.place.report();
        // Mounted last, it freezes first.
        let expected =
            [&rig.changing, &second, &rig.kept].map(|disk| (disk.mountpoint(), "thawed"));
        assert_eq!(outcomes(&report), expected);
        let text = format!(
            "{} was mounted meanwhile: it is frozen too\n",
            rig.changing.mountpoint()
        );
        assert!(rig.told(&text), "{}", rig.place.read("log"));
    });
}

#[test]
fn a_listed_filesystem_that_a_hook_unmounts_does_not_count() {
    with_rig(|rig| {
        let agent = rig.place.agent(&[&rig.unmounting_hook()]);
        let mut client = agent.connect();
        let list = freeze_list(&[rig.kept.mountpoint(), rig.changing.mountpoint()]);
        assert_eq!(client.ask(&list), returned(1));
        assert!(!rig.changing.is_mounted());
        assert!(rig.kept.is_frozen());
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(rig.place.read("calls"), "freeze\nthaw\n");
        let report = rig.place.report();
        // The hook master is not ours.
        assert_eq!(report["level"], "filesystem", "{report}");
        let named = &report["requested-not-frozen"];
        assert_eq!(named[0]["mountpoint"], rig.changing.mountpoint());
    });
}

#[test]
fn hooks_are_told_to_thaw_if_they_unmount_all_that_was_to_be_frozen() {
    with_rig(|rig| {
        let agent = rig.place.agent(&[&rig.unmounting_hook()]);
        let mut client = agent.connect();
        let list = freeze_list(&[rig.changing.mountpoint()]);
        assert_eq!(client.ask(&list), returned(0));
        assert!(!rig.changing.is_mounted());
        assert_eq!(client.call("guest-fsfreeze-status"), returned("\"thawed\""));
        assert!(!rig.kept.is_frozen() && !rig.place.marker().exists());
        assert_eq!(rig.place.read("calls"), "freeze\nthaw\n");
    });
}

#[test]
fn a_mountpoint_that_is_no_text_reaches_hooks_byte_for_byte() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("first"));
        let odd = place
            .path("")
            .join(OsStr::from_bytes(b"odd \xff\xc3\xa9\x80"));
        fs::create_dir(&odd).expect("directory");
        let rename = |from: &Path, to: &Path| {
            let none: Option<&str> = None;
            mount(Some(from), to, none, MsFlags::MS_MOVE, none).expect("moved");
        };
        let first = place.path("first");
        rename(&first, &odd);
        let line = format!("printf \"$QGA_MOUNTPOINTS\" >'{}'.$1", place.name("told"));
        let hook = format!("-F{}", place.script("hook", &line).display());
        let agent = place.agent(&[&hook]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        rename(&odd, &first);
        drop(disk);
        for phase in ["freeze", "thaw"] {
            let told = fs::read(place.path(&format!("told.{phase}"))).expect("told");
            assert_eq!(OsStr::from_bytes(&told), odd.as_os_str());
        }
    });
}
