//! The service units: what `systemd-analyze security` says of them, and what they must never set.

#![allow(clippy::expect_used, clippy::panic)] // helpers of tests, outside of #[test] itself

use qemu_ga::config::Config;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

#[allow(dead_code)] // needs_root
#[path = "support/left_out.rs"]
mod left_out;

const DEFAULT: [&str; 2] = ["debian", "rpm"];
/// What the original's units say about the process: nothing that is rated, but RHEL's mask.
const ORIGINAL: [&str; 2] = [
    "[Service]\nExecStart=-/usr/sbin/qemu-ga\nRestart=always\nRestartSec=0\n",
    "[Service]\nUMask=0077\nExecStart=/usr/bin/qemu-ga --method=virtio-serial\nRestart=always\nRestartSec=0\n",
];
const UNIT: &str = "qemu-guest-agent.service";

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).expect(name)
}

/// What `systemd-analyze security` prints about a unit with a drop-in.
fn analyze(unit: &str, drop_in: Option<&str>, options: &[&str]) -> String {
    let root = tempfile::tempdir().expect("dir");
    let units = root.path().join("usr/lib/systemd/system");
    let drop_ins = root.path().join(format!("etc/systemd/system/{UNIT}.d"));
    fs::create_dir_all(&units).expect("dir");
    fs::create_dir_all(&drop_ins).expect("dir");
    fs::write(units.join(UNIT), unit).expect("unit");
    if let Some(text) = drop_in {
        fs::write(drop_ins.join("backup-only.conf"), text).expect("drop-in");
    }
    let analyzed = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--root"])
        .arg(root.path())
        .args(options)
        .arg(UNIT)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .expect("systemd-analyze, of the package systemd");
    let complaint = String::from_utf8_lossy(&analyzed.stderr);
    assert!(!analyzed.stdout.is_empty(), "{complaint}");
    String::from_utf8_lossy(&analyzed.stdout).into_owned()
}

/// The exposure of a unit with a drop-in, in tenths: 0 is safe, 100 is not.
fn exposure(unit: &str, drop_in: Option<&str>) -> u32 {
    let said = analyze(unit, drop_in, &[]);
    let number = said
        .split_once("Overall exposure level for")
        .and_then(|(_, rest)| rest.split_once(": ")?.1.split(' ').next());
    let Some((whole, tenth)) = number.and_then(|number| number.split_once('.')) else {
        panic!("systemd-analyze has no number: {said}");
    };
    whole.parse::<u32>().expect("number") * 10 + tenth.parse::<u32>().expect("number")
}

/// The settings that a unit lacks for the least exposure.
fn lacking(unit: &str) -> BTreeSet<String> {
    let said = analyze(unit, None, &["--json=short"]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&said).expect("JSON");
    let names = rows.iter().filter(|row| !row["exposure"].is_null());
    names.map(|row| row["name"].to_string()).collect()
}

/// The settings of a unit, a continuation of an earlier one included.
fn settings(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_default_units_are_better_than_the_originals() {
    if left_out::needs_program("systemd-analyze") {
        return;
    }
    for (place, original) in DEFAULT.into_iter().zip(ORIGINAL) {
        // Not the sum of both: what one setting weighs depends on systemd's version.
        let ours = lacking(&shipped(&format!("{place}/{UNIT}")));
        let theirs = lacking(original);
        let is_better = ours.is_subset(&theirs) && ours.len() < theirs.len();
        assert!(is_better, "{place}: {:?}", ours.difference(&theirs));
    }
}

#[test]
fn backup_only_is_under_three() {
    if left_out::needs_program("systemd-analyze") {
        return;
    }
    let drop_in = shipped("debian/backup-only.conf");
    for place in DEFAULT {
        let got = exposure(&shipped(&format!("{place}/{UNIT}")), Some(&drop_in));
        println!("backup-only with {place}'s unit: {got} (tenths)");
        assert!(got < 30, "{place}: {got}");
    }
}

/// guest-exec and the hooks run under what the unit says: what would take a command, a file or a
/// tool from them may not stand in it.
#[test]
fn the_default_units_take_nothing_from_guest_exec_and_hooks() {
    for place in DEFAULT {
        let text = shipped(&format!("{place}/{UNIT}"));
        for (key, value) in settings(&text) {
            let is_harmless = match key {
                "SystemCallFilter" => value == "~@obsolete",
                "SystemCallErrorNumber" => value == "ENOSYS",
                "OOMPolicy" => value == "continue",
                // As the original's.
                "UMask" => place == "rpm" && value == "0077",
                "Description" | "Documentation" | "BindsTo" | "After" | "IgnoreOnIsolate" => true,
                // Before the start only: the_units_start_in_a_guest_and_where_the_port_is.
                "ConditionVirtualization" | "ConditionPathExists" => true,
                "Environment" | "EnvironmentFile" | "ExecStart" | "Restart" | "RestartSec" => true,
                "StartLimitIntervalSec" => value == "0",
                "WantedBy" => true,
                // systemd's own default: it ends nothing sooner than without.
                "TimeoutStopSec" => value == "90",
                _ => false,
            };
            assert!(
                is_harmless,
                "{place}/{UNIT} sets {key}={value}: say here why no command and no hook misses anything"
            );
        }
    }
}

#[test]
fn the_units_start_in_a_guest_and_where_the_port_is() {
    for place in DEFAULT {
        let text = shipped(&format!("{place}/{UNIT}"));
        let settings = settings(&text);
        let conditions: Vec<_> = settings
            .iter()
            .filter(|(key, _)| key.starts_with("Condition"))
            .collect();
        // With `|`, one of them is enough (systemd.unit(5)).
        let expected = [
            &("ConditionVirtualization", "|vm"),
            &(
                "ConditionPathExists",
                "|/dev/virtio-ports/org.qemu.guest_agent.0",
            ),
        ];
        assert_eq!(conditions, expected, "{place}");
        assert!(settings.contains(&("Documentation", "man:qemu-ga(8) man:qemu-ga-ref(7)")));
    }
}

#[test]
fn backup_only_sets_the_profile_and_leaves_hooks_what_they_need() {
    let text = shipped("debian/backup-only.conf");
    let settings = settings(&text);
    let start = settings.iter().rfind(|(key, _)| *key == "ExecStart");
    let start = start.expect("ExecStart").1;
    assert_eq!(
        start,
        "-qemu-ga -F${FSFREEZE_HOOK_PATHNAME} --profile=backup"
    );
    // The channel is the one that DeviceAllow names.
    assert_eq!(Config::default().method.name(), "virtio-serial");
    let has = |setting| settings.contains(&setting);
    // Grace periods are expedited here, too.
    assert!(has(("ProtectKernelTunables", "yes")));
    assert!(has(("ReadWritePaths", "-/sys/kernel/rcu_expedited")));
    // State, sockets, hook log.
    assert!(has(("ProtectSystem", "strict")));
    assert!(has(("ReadWritePaths", "/run /var")));
    // ~/.my.cnf.
    assert!(has(("ProtectHome", "read-only")));
    // The agent confines itself, also under a systemd that has these calls in no group.
    let calls = "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self";
    assert!(has(("SystemCallFilter", calls)));
    // Neither the port nor a server on localhost is hidden from the agent and its hooks.
    for (key, _) in settings {
        let apart = [
            "PrivateDevices",
            "PrivateNetwork",
            "PrivateUsers",
            "ProtectProc",
            "ReadOnlyPaths",
            "InaccessiblePaths",
            "TemporaryFileSystem",
        ];
        assert!(!apart.contains(&key), "{key}");
    }
}
