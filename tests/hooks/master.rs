//! One call of the master: its arguments, its log, its end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use qemu_ga::hooks::invoke::{Invocation, call, invoke};
use qemu_ga::hooks::{HookStatus, Phase};

use crate::support::{Place, binary, hook, layout, script, text, wrapped};

/// The names and statuses of the lines that end in a status.
fn finished(log: &str) -> Vec<String> {
    let ends = log
        .lines()
        .filter_map(|line| line.rsplit_once('/')?.1.split_once(" finished with "));
    ends.map(|(name, status)| format!("{name} {status}"))
        .collect()
}

#[test]
fn by_hand_with_the_log_on_the_terminal() {
    let (_root, place) = layout();
    let dir = place.join("fsfreeze-hook.d");
    script(&dir.join("10-a"), "echo to out; echo to err >&2; exit 3");
    script(
        &dir.join("20-b"),
        "echo $1; exec grep SigBlk /proc/self/status",
    );
    let dir = dir.to_str().expect("text");
    let out = hook(&["thaw", "--log=-", "--dir", dir]);
    assert_eq!(
        (out.status.code(), text(&out.stderr).as_str()),
        (Some(0), "")
    );
    let said = text(&out.stdout);
    assert_eq!(finished(&said), ["20-b status=0", "10-a status=3"]);
    let inside: Vec<&str> = said.lines().filter(|line| !line.contains(dir)).collect();
    assert_eq!(
        inside,
        ["thaw", "SigBlk:\t0000000000000000", "to out", "to err"]
    );
}

#[test]
fn mistakes_are_told() {
    let cases: [(&[&str], &str); 7] = [
        (&[], "missing argument: freeze|thaw"),
        (&["frieze"], "unexpected argument 'frieze'"),
        (&["freeze", "thaw"], "unexpected argument 'thaw'"),
        (&["freeze", "--dir"], "option '--dir' needs a value"),
        (&["freeze", "--log="], "option '--log' needs a value"),
        (&["freeze", "--dirs=/x"], "unknown option '--dirs'"),
        (&["--help=x"], "option '--help' takes no value"),
    ];
    for (args, expected) in cases {
        let out = hook(args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        let first = said.lines().next().unwrap_or_default();
        assert_eq!(first, format!("qemu-ga hook: {expected}"));
        assert!(said.contains("Usage: qemu-ga hook freeze|thaw "), "{said}");
    }
    let out = hook(&["--help"]);
    assert_eq!(out.status.code(), Some(0));
    assert!(text(&out.stdout).starts_with("Usage: "));
}

#[test]
fn a_refusal_is_the_masters_failure() {
    let (_root, place) = layout();
    let dir = place.join("fsfreeze-hook.d");
    script(&dir.join("h"), "echo no");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("mode");
    let out = hook(&[
        "freeze",
        "--log=/dev/null",
        "--dir",
        dir.to_str().expect("text"),
    ]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.ends_with(&format!("chmod go-w '{}'\n", dir.display())),
        "{said}"
    );
}

#[test]
fn the_agent_hears_of_every_hook_through_the_script() {
    let (_root, place) = layout();
    let dir = place.join("fsfreeze-hook.d");
    script(&dir.join("1"), "exit 0");
    script(
        &dir.join("2"),
        "echo broken; [ -z \"${QGA_HOOK_RECORDS_FD-}\" ] && exit 7",
    );
    let report = call(&wrapped(&place), Phase::Freeze);
    assert_eq!(report.failure, None);
    let told: Vec<(HookStatus, String)> = report
        .hooks
        .iter()
        .map(|hook| (hook.status.clone(), hook.output.clone()))
        .collect();
    let seven = (HookStatus::Exited(7), "broken\n".to_owned());
    assert_eq!(told, [(HookStatus::Exited(0), String::new()), seven]);
    let log = fs::read_to_string(place.join("log")).expect("log");
    assert_eq!(finished(&log), ["1 status=0", "2 status=7"]);
}

#[test]
fn the_script_takes_the_directory_beside_the_name_it_was_called_by() {
    let (root, place) = layout();
    let agent = place.join("echo-agent");
    script(&agent, "printf '%s|' \"$@\"");
    let other = root.path().join("other");
    fs::create_dir(&other).expect("dir");
    symlink(place.join("fsfreeze-hook"), other.join("fsfreeze-hook")).expect("link");
    let run = |program: &str, dir: &Path| {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{program} thaw")])
            .current_dir(dir);
        let out = command
            .env("QGA_BINARY", &agent)
            .env("CDPATH", "/")
            .output()
            .expect("runs");
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        text(&out.stdout)
    };
    let expected = |dir: &Path| format!("hook|thaw|--dir|{}/fsfreeze-hook.d|", dir.display());
    assert_eq!(run("./fsfreeze-hook", &place), expected(&place));
    assert_eq!(run("sh fsfreeze-hook", &place), expected(&place));
    assert_eq!(run("./fsfreeze-hook", &other), expected(&other));
    assert_eq!(run("PATH=.:$PATH; fsfreeze-hook", &other), expected(&other));
}

#[test]
fn the_script_says_what_is_missing() {
    let (_root, place) = layout();
    let master = place.join("fsfreeze-hook");
    // By `sh`: another test's fork may hold the copy open for writing, and then it is busy.
    let run = |args: &[&str]| {
        Command::new("sh")
            .arg(&master)
            .args(args)
            .output()
            .expect("runs")
    };
    let out = run(&[]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("freeze|thaw"));
    let places = ["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"];
    if places.iter().any(|path| fs::exists(path).expect("stat")) {
        return; // an installed agent would be found
    }
    let out = run(&["freeze"]);
    assert_eq!(out.status.code(), Some(127));
    assert!(
        text(&out.stderr).contains("no qemu-ga found in"),
        "{}",
        text(&out.stderr)
    );
}

#[test]
fn a_signal_ends_the_running_hook_and_the_run() {
    let (_root, place) = layout();
    let dir = place.join("fsfreeze-hook.d");
    script(&dir.join("1"), "echo hook $$; exec sleep 1000");
    script(&dir.join("2"), "echo no");
    let mut master = Command::new(binary())
        .args(["hook", "freeze", "--log=-", "--dir"])
        .arg(&dir)
        .env("QGA_HOOK_STATE", &place)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let out = BufReader::new(master.stdout.take().expect("stdout"));
    let mut lines = out.lines().map_while(Result::ok);
    let pid = lines
        .find_map(|line| line.strip_prefix("hook ").map(str::to_owned))
        .expect("a pid");
    let raw = i32::try_from(master.id()).expect("pid");
    qemu_ga::sys::process::kill(raw, nix::libc::SIGTERM).expect("sent");
    let rest: Vec<String> = lines.collect();
    let ends = [
        "/1 was ended because the run was stopped",
        "/1 finished with status=143",
        ": stopped by a signal; the hooks that follow are not called",
    ];
    assert_eq!(rest.len(), ends.len(), "{rest:?}");
    for (line, end) in rest.iter().zip(ends) {
        assert!(line.ends_with(end), "{rest:?}");
    }
    assert_eq!(master.wait().expect("ended").code(), Some(1));
    assert!(
        !fs::exists(format!("/proc/{pid}")).expect("proc"),
        "the hook is gone"
    );
}

#[test]
fn the_agents_limit_leaves_nothing_behind() {
    let (_root, place) = layout();
    let dir = place.join("fsfreeze-hook.d");
    let pids = place.join("pids");
    // One hook leaves a holder behind, the next ignores SIGTERM and hangs; the fifo tells when it
    // has got there.
    script(
        &dir.join("1"),
        &format!("sleep 1000 & echo $! >>'{}'", pids.display()),
    );
    let there = place.join("there");
    assert!(
        Command::new("mkfifo")
            .arg(&there)
            .status()
            .expect("mkfifo")
            .success()
    );
    let hang = format!(
        "trap '' TERM; echo $$ >>'{}'; echo >'{}'; while :; do sleep 1000; done",
        pids.display(),
        there.display()
    );
    script(&dir.join("2"), &hang);
    let (cancel, trigger) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe");
    let limits = Invocation {
        cancel: Some(cancel),
        ..Invocation::default()
    };
    let waiter = std::thread::spawn(move || {
        let told = fs::read(there);
        drop(trigger);
        told
    });
    let report = invoke(&wrapped(&place), Phase::Freeze, limits);
    assert_eq!(waiter.join().expect("joined").expect("told"), b"\n");
    let failure = report.failure.expect("a failure");
    assert!(failure.contains(": cancelled after "), "{failure}");
    let statuses: Vec<&HookStatus> = report.hooks.iter().map(|hook| &hook.status).collect();
    assert_eq!(statuses, [&HookStatus::Exited(0), &HookStatus::Cancelled]);
    let pids = fs::read_to_string(pids).expect("pids");
    assert_eq!(pids.lines().count(), 2);
    for pid in pids.lines() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    }
}

#[test]
fn a_lock_holder_left_behind_can_still_write() {
    let place = Place::new();
    let go = place.path.join("go");
    let script = format!(
        "(while [ ! -e '{0}' ]; do sleep 0.01; done; echo late; touch '{0}.done') &",
        go.display()
    );
    place.hook("h", &script);
    place.freeze();
    let expected = ["execute h freeze", "h finished with status=0"];
    assert_eq!(place.log(), expected);
    fs::write(&go, "").expect("go");
    // Ends with the test runner's own limit if the holder was killed.
    while place.log().len() < 3 || !place.path.join("go.done").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(place.log()[2], "late");
}
