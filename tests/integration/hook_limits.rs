//! What is left of a hook at its time limit, and what it may leave running.

use crate::hook_log::Rig;
use crate::support::{
    Agent, Disk, in_namespace, is_ours, is_running, not_run, returned, wait_until,
};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const GROUPS: &str = "/sys/fs/cgroup";
const SHORT: &str = "[hooks]\ntimeout=1\nkill-after=1\n";
/// Notes its number in the file that is its argument, and stays.
const STAY: &str = "echo $$ >\"$1.new\"; mv \"$1.new\" \"$1\"; exec sleep 777";

/// Once where there are control groups, and once where there are none.
fn with_rig(body: fn(&Rig, bool)) {
    if !is_ours() {
        return; // it has no limit
    }
    for has_groups in [false, true] {
        in_namespace(move || {
            let none: Option<&str> = None;
            let kind = Some("cgroup2");
            if has_groups && mount(none, GROUPS, kind, MsFlags::empty(), none).is_err() {
                return not_run("control groups of version 2 cannot be mounted here");
            }
            let rig = Rig::new();
            rig.place.script("stay", STAY);
            fs::write(rig.place.path("etc/fsfreeze-hook.conf"), SHORT).expect("conf");
            body(&rig, has_groups);
        });
    }
}

fn pid(rig: &Rig, name: &str) -> Pid {
    wait_until(name, || rig.place.path(name).exists());
    Pid::from_raw(rig.place.read(name).trim().parse().expect("a pid"))
}

/// The control groups of hooks whose makers have gone; other tests have theirs at the same time.
fn groups_left() -> Vec<String> {
    let entries = fs::read_dir(GROUPS).expect("a directory").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_left = |name: &String| {
        let mark = name.strip_prefix("qga-hook-");
        let maker = mark.and_then(|mark| mark.split_once('-'));
        maker.is_some_and(|(pid, _)| !Path::new("/proc").join(pid).exists())
    };
    names.filter(is_left).collect()
}

/// Freezes with the hook `script`, in which `$D` is the directory of the place and `$STAY` starts
/// [`STAY`].
fn freeze(rig: &Rig, script: &str) -> Agent {
    let dir = rig.place.name("");
    let head = format!("[ $1 = freeze ] || exit 0\nD='{dir}'\nSTAY=$D/stay\n");
    rig.hook("10-app", &(head + script));
    let agent = rig.agent();
    assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
    assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
    agent
}

fn is_ended(rig: &Rig, names: &[&str]) {
    for name in names {
        assert!(!is_running(&pid(rig, name)), "{name} still runs");
    }
    let is_late = |line: &String| line.contains("did not finish within 1 s and was ended");
    assert!(rig.log().iter().any(is_late), "{:?}", rig.log());
}

#[test]
fn a_session_of_its_own_is_ended_with_the_hook() {
    with_rig(|rig, _| {
        let script = "setsid \"$STAY\" \"$D/one\" &\nsetsid -w env -i \"$STAY\" \"$D/two\"";
        freeze(rig, script);
        is_ended(rig, &["one", "two"]);
    });
}

#[test]
fn what_was_forked_twice_is_ended_with_the_hook() {
    with_rig(|rig, has_groups| {
        let script =
            "(setsid \"$STAY\" \"$D/one\" &)\n(setsid env -i \"$STAY\" \"$D/two\" &)\nsleep 777";
        freeze(rig, script);
        // Without its parents, its environment and a control group nobody can tell whose it is.
        let names = if has_groups {
            &["one", "two"][..]
        } else {
            &["one"]
        };
        is_ended(rig, names);
        assert_eq!(groups_left(), [""; 0]);
        kill(pid(rig, "two"), nix::sys::signal::Signal::SIGKILL).ok();
    });
}

#[test]
fn a_holding_hook_is_ended_with_all_that_it_started() {
    with_rig(|rig, _| {
        let script = "# qga-hook: type = hold\n(setsid \"$STAY\" \"$D/one\" &)\nsetsid -w \"$STAY\" \"$D/two\"";
        freeze(rig, script);
        is_ended(rig, &["one", "two"]);
        assert_eq!(groups_left(), [""; 0]);
    });
}

#[test]
fn what_a_hook_leaves_on_purpose_lives_on() {
    with_rig(|rig, _| {
        let script =
            "setsid \"$STAY\" \"$D/one\" >/dev/null 2>&1 &\nwhile ! [ -e \"$D/one\" ]; do :; done";
        let agent = freeze(rig, script);
        agent.stop();
        let daemon = pid(rig, "one");
        assert!(is_running(&daemon));
        assert_eq!(groups_left(), [""; 0]);
        kill(daemon, nix::sys::signal::Signal::SIGKILL).expect("ended");
    });
}

#[test]
fn what_cannot_be_ended_is_named() {
    with_rig(|rig, _| {
        // Who writes to a frozen filesystem takes no signal.
        let mut other = Disk::ext4(&rig.place.path("other"));
        other.freeze();
        let thaw = other.thaw_first();
        let script = "setsid -w dd if=/dev/zero of=\"$D/other/x\" count=1 2>/dev/null";
        let dir = rig.place.name("");
        rig.hook("10-app", &format!("D='{dir}'\n[ $1 = thaw ] || {script}"));
        let agent = rig.agent();
        let start = Instant::now();
        assert_eq!(
            agent
                .connect()
                .ask(&crate::support::freeze_list(&[rig.disk.mountpoint()])),
            returned(1)
        );
        assert!(start.elapsed() < Duration::from_secs(20));
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        let log = rig.log();
        let is_named =
            |line: &&String| line.contains("could not be ended") && line.contains("(dd)");
        assert!(log.iter().any(|line| is_named(&line)), "{log:?}");
        let report = rig.place.report();
        let output = report["hooks"][0]["output"].as_str().unwrap_or_default();
        assert!(output.contains("(dd)"), "{report}");
        drop(thaw);
        sleep(Duration::from_millis(100));
        other.close();
    });
}

#[test]
fn who_releases_a_holding_hook_second_gets_what_the_first_got() {
    with_rig(|rig, _| {
        let dir = rig.place.name("");
        let script = format!(
            "# qga-hook: type = hold\ncd '{dir}'\necho ready >&3\nread -r reason\necho $reason >>told\nsleep 0.7"
        );
        rig.hook("10-app", &script);
        let agent = rig.agent();
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        let state = rig.place.name("state");
        let thaw = |reason: &str| {
            let mut command = rig.place.command();
            command.args([
                "hook",
                "thaw",
                "--log",
                "/var/log/second.log",
                "--state",
                &state,
            ]);
            command
                .arg("--dir")
                .arg(rig.place.path("etc/fsfreeze-hook.d"));
            command
                .env("QGA_THAW_REASON", reason)
                .spawn()
                .expect("a master")
        };
        let journal = rig.place.path("state/qga.hooks");
        let kept = fs::read(&journal).expect("a journal");
        // The guardian's, and that of the agent that was started meanwhile.
        let masters = [thaw("failed"), thaw("recovered")];
        for mut master in masters {
            assert!(master.wait().expect("its end").success());
        }
        // One that was killed before it could forget the freeze, and one that comes after it.
        fs::write(&journal, kept).expect("a journal");
        assert!(thaw("recovered").wait().expect("its end").success());
        let log = fs::read_to_string("/var/log/second.log").expect("log");
        assert!(
            log.contains("it was released before, by another thaw"),
            "{log}"
        );
        assert_eq!(rig.place.read("told").lines().count(), 1, "{log}");
        assert!(
            !log.contains("did not hold") && !log.contains("cannot be run"),
            "{log}"
        );
        assert!(!Path::new(&rig.place.name("state/qga.hooks.0")).exists());
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
    });
}
