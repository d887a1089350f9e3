//! The consistency level says neither more nor less than what happened: docs/consistency.md.

use crate::rig::{Rig, with_rig};
use crate::support::disk::{bind_file, detach, tmpfs};
use crate::support::fuse_disk::FuseDisk;
use crate::support::{Agent, Disk, Place, freeze_list, not_run, returned};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, stat};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

/// The rig with hooks that all succeed.
fn with_quiet_rig(body: impl FnOnce(&Rig) + Send + 'static) {
    with_rig(|rig| {
        fs::remove_file(rig.place.path("etc/fsfreeze-hook.d/20-db")).expect("remove");
        body(rig);
    });
}

/// Freezes, runs `meanwhile`, thaws; the report.
fn frozen(agent: &Agent, place: &Place, count: u64, meanwhile: impl FnOnce()) -> Value {
    let mut client = agent.connect();
    assert_eq!(client.call("guest-fsfreeze-freeze"), returned(count));
    meanwhile();
    client.call("guest-fsfreeze-thaw");
    place.report()
}

fn run(rig: &Rig, count: u64) -> Value {
    frozen(&rig.agent(), &rig.place, count, || {})
}

/// The level, and what lowers it.
fn level(report: &Value) -> (&str, Vec<&str>) {
    let reasons = report["level-reasons"].as_array();
    let reasons = reasons.into_iter().flatten().filter_map(Value::as_str);
    (
        report["level"].as_str().expect("a level"),
        reasons.collect(),
    )
}

fn record<'a>(report: &'a Value, mountpoint: &str) -> &'a Value {
    let mut all = report["filesystems"].as_array().expect("a list").iter();
    all.find(|f| f["mountpoint"] == mountpoint).expect("listed")
}

/// A result of `check` whose texts have `part`.
fn checked(rig: &Rig, kind: &str, part: &str) -> bool {
    let results = rig.json(1, &["check"]);
    let mut results = results["results"].as_array().expect("a list").iter();
    let text = |r: &Value| format!("{}: {}", r["what"], r["why"]).replace('"', "");
    results.any(|r| r["kind"] == kind && text(r).contains(part))
}

#[test]
fn an_error_of_write_back_is_crash() {
    with_quiet_rig(|rig| {
        assert_eq!(level(&run(rig, 1)), ("application", vec![]));
        let full = rig.place.path("full");
        fs::create_dir(&full).expect("dir");
        let (kind, size) = (Some("tmpfs"), Some("size=8m"));
        mount(Some("none"), &full, kind, MsFlags::empty(), size).expect("tmpfs");
        let lost = Disk::ext4_without_journal(&full.join("img"), &rig.place.path("lost"));
        fs::write(lost.path("data"), vec![7; 20 << 20]).expect("into the page cache");
        let report = run(rig, 2);
        let (level, reasons) = level(&report);
        assert_eq!(level, "crash");
        assert!(reasons[0].contains(&format!("failed to flush {}: ", lost.mountpoint())));
        drop(lost);
        detach(&full);
    });
}

#[test]
fn a_hook_that_is_not_executable_is_no_success() {
    with_quiet_rig(|rig| {
        rig.hook("30-queue", "exit 0");
        let queue = rig.place.path("etc/fsfreeze-hook.d/30-queue");
        fs::set_permissions(&queue, fs::Permissions::from_mode(0o644)).expect("mode");
        assert!(checked(rig, "finding", "at most the level filesystem"));
        let report = run(rig, 1);
        let expected = ("filesystem", vec!["not called: hook 30-queue"]);
        assert_eq!(level(&report), expected);
        assert_eq!(report["applications"], "skipped");
        // Switched off on purpose, it does not count.
        fs::set_permissions(&queue, fs::Permissions::from_mode(0o755)).expect("mode");
        rig.hook("30-queue", "# qga-hook: enabled = no\nexit 1");
        assert_eq!(level(&run(rig, 1)), ("application", vec![]));
    });
}

#[test]
fn a_foreign_master_proves_nothing_about_its_hooks() {
    with_quiet_rig(|rig| {
        // As QEMU's own: it ignores the status of its hooks.
        let master = "for h in \"$0\".d/*; do \"$h\" \"$1\"; done; exit 0";
        rig.hook("20-db", "exit 7");
        rig.place.script("etc/fsfreeze-hook", master);
        let report = run(rig, 1);
        let (level, reasons) = level(&report);
        assert_eq!(
            (level, &report["applications"]),
            ("filesystem", &json!("unknown"))
        );
        assert!(reasons[0].starts_with("the hook master is not ours"));
        let part = "settings of fsfreeze-hook.conf and of the hooks do not apply";
        assert!(checked(rig, "finding", part));
        let plan = rig.json(0, &["plan"]);
        assert!(plan["notes"].to_string().contains(part), "{plan}");
        let dir = rig.place.name("etc/fsfreeze-hook.d");
        let list = rig.place.run(&["hook", "list", "--dir", &dir]);
        let list = String::from_utf8(list.stdout).expect("text");
        assert!(
            list.split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .contains(part),
            "{list}"
        );
    });
}

#[test]
fn names_of_the_host_that_are_no_mountpoint_are_told() {
    with_quiet_rig(|rig| {
        let agent = rig.agent();
        let mut client = agent.connect();
        let slash = format!("{}/", rig.disk.mountpoint());
        let other = Disk::ext4(&rig.place.path("other"));
        assert_eq!(client.ask(&freeze_list(&[&slash])), returned(0));
        client.call("x-guest-fsfreeze-report");
        let report = rig.place.report();
        assert_eq!(report["requested-not-frozen"][0]["mountpoint"], slash);
        assert_eq!(level(&report).0, "crash");
        // One that is there, and one that is not.
        let names = [other.mountpoint(), &slash];
        assert_eq!(client.ask(&freeze_list(&names)), returned(1));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        let report = rig.place.report();
        let (found, reasons) = level(&report);
        assert_eq!(found, "crash");
        let expected = format!("{slash}: the request names it, but nothing is mounted there");
        assert_eq!(reasons, [expected]);
        // The level speaks of what was named.
        let names = [other.mountpoint()];
        assert_eq!(client.ask(&freeze_list(&names)), returned(1));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        let report = rig.place.report();
        assert_eq!(level(&report), ("application", vec![]));
        assert_eq!(report["requested-not-frozen"], Value::Null);
    });
}

#[test]
fn a_filesystem_hidden_below_a_covered_mount_does_not_fail_the_freeze() {
    with_quiet_rig(|rig| {
        let below = Disk::ext4_in(&rig.place.path("below.img"), &rig.place.path("z"));
        let hidden = Disk::ext4_in(&rig.place.path("hidden.img"), &rig.place.path("z/a"));
        tmpfs(&rig.place.path("z"));
        assert!(checked(
            rig,
            "finding",
            &format!("{} cannot be frozen", hidden.mountpoint())
        ));
        let report = run(rig, 1);
        let (found, reasons) = level(&report);
        assert_eq!((found, reasons.len()), ("crash", 2), "{report}");
        for disk in [&hidden, &below] {
            let record = record(&report, disk.mountpoint());
            assert_eq!(record["outcome"], "skipped");
            assert!(!disk.is_frozen());
        }
        detach(&rig.place.path("z"));
    });
}

#[test]
fn a_socket_as_the_only_mount_of_a_filesystem_does_not_fail_the_freeze() {
    with_quiet_rig(|rig| {
        let mut disk = Disk::ext4(&rig.place.path("other"));
        drop(UnixListener::bind(disk.path("socket")).expect("socket"));
        let target = rig.place.path("socket");
        fs::write(&target, "").expect("file");
        bind_file(&disk.path("socket"), &target);
        disk.unmount();
        let name = target.to_str().expect("text");
        assert!(checked(
            rig,
            "finding",
            "only a socket, FIFO or device node of it is mounted"
        ));
        let report = run(rig, 1);
        assert_eq!(record(&report, name)["outcome"], "skipped");
        assert_eq!(level(&report).0, "crash");
        detach(&target);
    });
}

/// A filesystem as vfat, with the flags of its mount.
fn with_fuse_disk(flags: MsFlags, body: impl FnOnce(&Rig, &FuseDisk) + Send + 'static) {
    with_quiet_rig(
        move |rig| match FuseDisk::new(&rig.place.path("efi"), flags) {
            Some(disk) => body(rig, &disk),
            None => not_run("filesystems that cannot be frozen: no FUSE here"),
        },
    );
}

#[test]
fn what_cannot_be_frozen_is_held_if_its_device_is_not_written_to() {
    with_fuse_disk(MsFlags::empty(), |rig, efi| {
        let name = efi.mountpoint();
        let plan = rig.json(0, &["plan"]);
        assert_eq!(record(&plan, name)["held"], "unchanged", "{plan}");
        assert_eq!(record(&plan, rig.disk.mountpoint())["held"], "frozen");
        assert!(checked(
            rig,
            "note",
            &format!("{name} (fuseblk) cannot be frozen")
        ));
        let agent = rig.agent();
        let report = frozen(&agent, &rig.place, 1, || {});
        assert_eq!(level(&report), ("application", vec![]), "{report}");
        assert_eq!(record(&report, name)["held"], "unchanged");
        assert_eq!(report["errors"], json!([]));
        let report = frozen(&agent, &rig.place, 1, || efi.write());
        let (found, reasons) = level(&report);
        assert_eq!((found, reasons.len()), ("crash", 1));
        assert!(
            reasons[0].starts_with(&format!("{name}: it cannot be frozen")),
            "{reasons:?}"
        );
        assert_eq!(record(&report, name)["held"], Value::Null);
        // While frozen, as things stand; and by a successor.
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        agent.kill();
        let agent = rig.agent();
        efi.write();
        agent.call("guest-fsfreeze-thaw");
        let report = rig.place.report();
        assert_eq!(
            (level(&report).0, &report["end"]),
            ("crash", &json!("recovery"))
        );
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        agent.kill();
        let agent = rig.agent();
        agent.call("guest-fsfreeze-thaw");
        let report = rig.place.report();
        assert_eq!(level(&report).0, "application", "{report}");
    });
}

#[test]
fn what_is_read_only_is_held() {
    with_fuse_disk(MsFlags::MS_RDONLY, |rig, image| {
        let name = image.mountpoint();
        let plan = rig.json(0, &["plan"]);
        assert_eq!(record(&plan, name)["held"], "read-only", "{plan}");
        let report = run(rig, 1);
        assert_eq!(level(&report), ("application", vec![]), "{report}");
        assert_eq!(record(&report, name)["held"], "read-only");
        // Also where a freeze is strict.
        let hook = format!("-F{}", rig.place.name("etc/fsfreeze-hook"));
        let agent = rig.place.agent(&[&hook, "--fsfreeze-strict"]);
        assert_eq!(
            level(&frozen(&agent, &rig.place, 1, || {})).0,
            "application"
        );
    });
}

#[test]
fn a_filesystem_that_others_thaw_is_crash_even_if_it_may_fail() {
    with_quiet_rig(|rig| {
        let other = Disk::ext4(&rig.place.path("other"));
        let hook = format!("-F{}", rig.place.name("etc/fsfreeze-hook"));
        let optional = format!("--fsfreeze-optional={}", other.mountpoint());
        let agent = rig.place.agent(&[&hook, &optional]);
        let thaw = || other.thaw().expect("thaw");
        let report = frozen(&agent, &rig.place, 2, thaw);
        let expected = format!("{}: thawed by another process", other.mountpoint());
        assert_eq!(level(&report), ("crash", vec![&expected[..]]));
        // A successor notices it, too.
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(2));
        agent.kill();
        thaw();
        let agent = rig.place.agent(&[&hook, &optional]);
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        let report = rig.place.report();
        assert_eq!(level(&report), ("crash", vec![&expected[..]]));
    });
}

/// Whether the level is crash, and one of the reasons has all `parts`.
fn is_crash_for(report: &Value, parts: &[&str]) -> bool {
    let (level, reasons) = level(report);
    level == "crash"
        && reasons
            .iter()
            .any(|why| parts.iter().all(|part| why.contains(part)))
}

/// The sandbox hides what is mounted outside, and inside by other tests.
fn show_superblocks() {
    umount2("/sys/fs/ext4", MntFlags::MNT_DETACH).expect("the sandbox hides it");
}

#[test]
fn a_filesystem_unmounted_while_it_is_in_use_counts() {
    with_quiet_rig(|rig| {
        // Kept open.
        let other = Disk::ext4(&rig.place.path("other"));
        detach(&rig.place.path("other"));
        show_superblocks();
        let why = [other.device(), "was unmounted while it was in use"];
        assert!(checked(rig, "finding", &why.join(" ")));
        assert!(is_crash_for(&run(rig, 1), &why));
        // What the host named does not include it.
        let agent = rig.agent();
        assert_eq!(
            agent.connect().ask(&freeze_list(&[rig.disk.mountpoint()])),
            returned(1)
        );
        agent.call("guest-fsfreeze-thaw");
        assert_eq!(level(&rig.place.report()), ("application", vec![]));
    });
}

#[test]
fn a_filesystem_of_another_mount_namespace_counts() {
    with_quiet_rig(|rig| {
        let mut other = Disk::ext4(&rig.place.path("other"));
        other.unmount();
        let inside = format!(
            "mount {} {} && echo && read x",
            other.device(),
            other.mountpoint()
        );
        let mut unshare = Command::new("unshare");
        unshare.args(["-m", "sh", "-c", &inside]);
        let unshare = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut holder = unshare.expect("unshare");
        let mut line = [0];
        let told = holder.stdout.as_mut().expect("stdout");
        std::io::Read::read_exact(told, &mut line).expect("mounted");
        show_superblocks();
        let at = format!("at {} for process", other.mountpoint());
        assert!(checked(rig, "finding", &at));
        assert!(is_crash_for(&run(rig, 1), &[other.device(), &at]));
        drop(holder.stdin.take());
        holder.wait().expect("ended");
    });
}

#[test]
fn a_btrfs_whose_device_node_is_gone_counts() {
    if !crate::support::disk::has("mkfs.btrfs") {
        return not_run("a btrfs whose device node is gone: no mkfs.btrfs here");
    }
    with_quiet_rig(|rig| {
        let mut other = Disk::btrfs(&rig.place.path("other"));
        other.unmount();
        let number = stat(other.device()).expect("device").st_rdev;
        let node = rig.place.path("node");
        let mode = Mode::from_bits_truncate(0o600);
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        mknod(&node, SFlag::S_IFBLK, mode, makedev(major, minor)).expect("node");
        let target = rig.place.path("other");
        let (kind, none) = (Some("btrfs"), None::<&str>);
        mount(Some(&node), &target, kind, MsFlags::empty(), none).expect("mount");
        fs::remove_file(&node).expect("remove");
        let why = ["is not a block device", other.mountpoint()];
        assert!(checked(rig, "finding", why[0]));
        assert!(is_crash_for(&run(rig, 1), &why));
        // The operator may leave it out.
        let hook = format!("-F{}", rig.place.name("etc/fsfreeze-hook"));
        let agent = rig.place.agent(&[&hook, "--fsfreeze-exclude=type:btrfs"]);
        assert_eq!(
            level(&frozen(&agent, &rig.place, 1, || {})).0,
            "application"
        );
        detach(&target);
    });
}

#[test]
fn a_filesystem_mounted_while_others_are_frozen_counts() {
    with_quiet_rig(|rig| {
        let mut other = Disk::ext4(&rig.place.path("other"));
        other.unmount();
        let agent = rig.agent();
        let target = rig.place.path("other");
        let again = || {
            let (device, kind, none) = (Some(other.device()), Some("ext4"), None::<&str>);
            mount(device, &target, kind, MsFlags::empty(), none).expect("mount");
        };
        let report = frozen(&agent, &rig.place, 1, again);
        let why = "it was mounted while the others were frozen";
        assert!(
            is_crash_for(&report, &[other.mountpoint(), why]),
            "{report}"
        );
        assert_eq!(
            level(&frozen(&agent, &rig.place, 2, || {})).0,
            "application"
        );
    });
}
