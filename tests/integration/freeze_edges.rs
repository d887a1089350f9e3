//! What others do to filesystems while the agent freezes them, and what cannot be frozen.

use crate::support::disk::{bind, detach, tmpfs};
use crate::support::{
    Agent, Disk, Place, binary, failed, freeze_list, in_namespace, install, is_ours, returned,
};
use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;

const THAWED: &str = r#"{"return": "thawed"}"#;

#[test]
fn a_mountpoint_that_has_vanished_fails_the_freeze_before_anything_is_frozen() {
    in_namespace(|| {
        let place = Place::new();
        let other = Disk::ext4(&place.path("other"));
        fs::create_dir(place.path("z")).expect("dir");
        let hidden = Disk::ext4_in(&place.path("hidden.img"), &place.path("z/a"));
        let last = Disk::ext4(&place.path("last"));
        tmpfs(&place.path("z"));
        // Ours leaves it out, unless told to be strict.
        let (args, why): (&[&str], _) = match is_ours() {
            true => (
                &["--fsfreeze-strict"],
                "another filesystem is mounted over it",
            ),
            false => (&[], "No such file or directory"),
        };
        let agent = place.agent(args);
        let mut client = agent.connect();
        let text = format!("failed to open {}: {why}", place.name("z/a"));
        assert_eq!(client.call("guest-fsfreeze-freeze"), failed(&text));
        assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
        assert!(!place.marker().exists());
        assert_eq!([&other, &hidden, &last].map(Disk::is_frozen), [false; 3]);
        // The others can still be frozen by name.
        let list = freeze_list(&[other.mountpoint(), last.mountpoint()]);
        assert_eq!(client.ask(&list), returned(2));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(2));
        detach(&place.path("z"));
    });
}

#[test]
fn a_covered_mount_is_left_out_with_a_warning() {
    if !is_ours() {
        return; // it opens, and freezes or passes over, whatever covers it
    }
    in_namespace(|| {
        let place = Place::new();
        let below = Disk::ext4(&place.path("m"));
        let above = Disk::ext4_in(&place.path("above.img"), &place.path("m"));
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!([&below, &above].map(Disk::is_frozen), [false, true]);
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        let warning = format!(
            ": warning: failed to open {}: another filesystem is mounted over it\n",
            place.name("m")
        );
        assert!(
            place.read("log").contains(&warning),
            "{}",
            place.read("log")
        );
        detach(&place.path("m"));
    });
}

#[test]
fn a_filesystem_that_others_froze_is_an_error_or_does_not_count() {
    in_namespace(|| {
        let place = Place::new();
        let ours = Disk::ext4(&place.path("ours"));
        let theirs = Disk::ext4(&place.path("theirs"));
        let as_original: &[&str] = if is_ours() {
            let agent = place.agent(&[]);
            theirs.freeze();
            let text = format!(
                "failed to freeze {}: someone else has frozen it already",
                theirs.mountpoint()
            );
            assert_eq!(agent.call("guest-fsfreeze-freeze"), failed(&text));
            assert!(!ours.is_frozen() && theirs.is_frozen());
            theirs.thaw().expect("thaw");
            &["--fsfreeze-ignore-frozen"]
        } else {
            &[]
        };
        let agent = place.agent(as_original);
        let mut client = agent.connect();
        theirs.freeze();
        assert_eq!(
            client.ask(&freeze_list(&[theirs.mountpoint()])),
            returned(0)
        );
        assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
        assert!(theirs.is_frozen());
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        assert!(ours.is_frozen());
        let count = client.call("guest-fsfreeze-thaw");
        assert!(!ours.is_frozen());
        if is_ours() {
            // A thaw of our freeze leaves theirs alone.
            assert_eq!(count, returned(1));
            assert!(theirs.is_frozen());
            // Asked again, with nothing of ours frozen, it frees what others left.
            assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        } else {
            assert_eq!(count, returned(2));
        }
        assert!(!theirs.is_frozen());
    });
}

#[test]
fn a_filesystem_that_others_thawed_does_not_count() {
    in_namespace(|| {
        let place = Place::new();
        let kept = Disk::ext4(&place.path("kept"));
        let lost = Disk::ext4(&place.path("lost"));
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(2));
        lost.thaw().expect("thaw");
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        assert!(!kept.is_frozen());
        assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
        if is_ours() {
            let report = place.report();
            let outcome = |mountpoint: &str| {
                let all = report["filesystems"].as_array().expect("a list").iter();
                let mut own = all.filter(|f| f["mountpoint"] == mountpoint);
                own.next().expect("listed")["outcome"].clone()
            };
            assert_eq!(outcome(lost.mountpoint()), "thawed-by-others");
            assert_eq!(outcome(kept.mountpoint()), "thawed");
        }
    });
}

#[test]
fn a_filesystem_unmounted_while_frozen_is_thawed_all_the_same() {
    if !is_ours() {
        return; // it looks for mounts, and this one stays frozen
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        detach(&place.path("m"));
        assert!(disk.is_frozen());
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        assert!(!disk.is_frozen());
    });
}

#[test]
fn a_filesystem_mounted_while_frozen_is_no_problem() {
    in_namespace(|| {
        let place = Place::new();
        let first = Disk::ext4(&place.path("first"));
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        let second = Disk::ext4(&place.path("second"));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!([&first, &second].map(Disk::is_frozen), [false; 2]);
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(2));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(2));
    });
}

#[test]
fn a_filesystem_in_a_file_of_another_freezes_before_it() {
    in_namespace(|| {
        let place = Place::new();
        let outer = Disk::ext4(&place.path("outer"));
        let inner = Disk::ext4_in(&outer.path("inner.img"), &place.path("inner"));
        let _guard = outer.thaw_first();
        fs::write(inner.path("dirty"), vec![7; 1 << 20]).expect("write");
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        for _ in 0..3 {
            assert_eq!(client.call("guest-fsfreeze-freeze"), returned(2));
            assert_eq!([&outer, &inner].map(Disk::is_frozen), [true; 2]);
            assert_eq!(client.call("guest-fsfreeze-thaw"), returned(2));
            assert_eq!([&outer, &inner].map(Disk::is_frozen), [false; 2]);
        }
    });
}

#[test]
fn mounts_without_a_device_are_never_frozen() {
    in_namespace(|| {
        let place = Place::new();
        fs::create_dir(place.path("t")).expect("dir");
        tmpfs(&place.path("t"));
        bind(&place.path("t"), &place.path("b"));
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(0));
        let list = freeze_list(&[&place.name("t"), "/", "/proc", "/sys", "/dev"]);
        assert_eq!(client.ask(&list), returned(0));
        assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
        assert!(!place.marker().exists());
        detach(&place.path("b"));
        detach(&place.path("t"));
    });
}

#[test]
fn an_agent_without_privileges_may_not_freeze() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        // nobody:nogroup, who also cannot run what lies in a private directory
        let (uid, gid) = (65534, 65534);
        install(&binary(), &place.path("qemu-ga"));
        for path in [place.path(""), place.path("state")] {
            chown(path, Some(uid), Some(gid)).expect("chown");
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(place.path("qemu-ga"));
        command.env("QGA_CONF", place.path("no.conf"));
        place.add_arguments(&mut command, &[]);
        let agent = Agent::start(command, &place.path("sock"));
        let mut client = agent.connect();
        assert_eq!(client.call("guest-ping"), returned("{}"));
        let text = format!(
            "failed to freeze {}: Operation not permitted",
            disk.mountpoint()
        );
        assert_eq!(
            client.ask(&freeze_list(&[disk.mountpoint()])),
            failed(&text)
        );
        assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
        assert!(!place.marker().exists());
        assert!(!disk.is_frozen());
    });
}

#[test]
fn a_read_only_filesystem_is_no_obstacle() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let remounted = Command::new("mount")
            .args(["-o", "remount,ro", disk.mountpoint()])
            .status();
        assert!(remounted.expect("mount").success());
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
    });
}
