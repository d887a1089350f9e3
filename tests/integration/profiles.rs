//! Profiles: which commands each allows, every way to choose one, and what the profile backup gives up.

use crate::support::{
    Disk, Place, disabled, freeze_list, in_namespace, needs_root, returned, wait_for_exit,
};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

const ESSENTIAL: [&str; 5] = [
    "guest-sync",
    "guest-sync-delimited",
    "guest-ping",
    "guest-info",
    "x-guest-authenticate",
];
const FREEZE: [&str; 5] = [
    "guest-fsfreeze-status",
    "guest-fsfreeze-freeze",
    "guest-fsfreeze-freeze-list",
    "guest-fsfreeze-thaw",
    "x-guest-fsfreeze-report",
];
/// They run a program, or lead to one.
const EXEC: [&str; 12] = [
    "guest-exec",
    "guest-exec-status",
    "guest-file-open",
    "guest-file-close",
    "guest-file-read",
    "guest-file-write",
    "guest-file-seek",
    "guest-file-flush",
    "guest-set-user-password",
    "guest-ssh-get-authorized-keys",
    "guest-ssh-add-authorized-keys",
    "guest-ssh-remove-authorized-keys",
];
/// The rest of what changes something.
const CHANGES: [&str; 8] = [
    "guest-shutdown",
    "guest-suspend-disk",
    "guest-suspend-ram",
    "guest-suspend-hybrid",
    "guest-set-time",
    "guest-set-vcpus",
    "guest-set-memory-blocks",
    "guest-fstrim",
];

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// All names, and those that guest-info tells as enabled.
fn commands(reply: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let reply: Value = serde_json::from_str(reply).expect("JSON");
    let list = reply["return"]["supported_commands"].as_array();
    let list = list.expect("a list").iter();
    let name = |command: &Value| command["name"].as_str().expect("a name").to_owned();
    let enabled = list.clone().filter(|command| command["enabled"] == true);
    (
        list.clone().map(name).collect(),
        enabled.map(name).collect(),
    )
}

#[test]
fn each_profile_enables_its_classes_and_refuses_the_rest() {
    let place = Place::new();
    for profile in ["full", "no-exec", "query", "backup"] {
        let agent = place.agent(&["--profile", profile]);
        let (all, enabled) = commands(&agent.call("guest-info"));
        let (exec, changes, freeze) = (set(&EXEC), set(&CHANGES), set(&FREEZE));
        let expected: BTreeSet<String> = match profile {
            "full" => all.clone(),
            "no-exec" => &all - &exec,
            "query" => &(&(&all - &exec) - &changes) - &freeze,
            _ => &set(&ESSENTIAL) | &freeze,
        };
        assert_eq!(enabled, expected, "{profile}");
        for name in all.difference(&enabled) {
            let reply = agent.call(name);
            assert_eq!(reply, disabled(name), "{profile}");
        }
    }
}

#[test]
fn the_strictest_of_profile_and_lists_decides() {
    let place = Place::new();
    let args = [
        "--profile",
        "backup",
        "-a",
        "guest-ping,guest-info,guest-exec,guest-fsfreeze-status",
        "-b",
        "guest-ping",
    ];
    let agent = place.agent(&args);
    let (_, enabled) = commands(&agent.call("guest-info"));
    assert_eq!(enabled, set(&["guest-info", "guest-fsfreeze-status"]));
}

/// The value of the key in the dump, or what is printed instead.
fn dumped(place: &Place, args: &[&str]) -> String {
    let out = place.run(&[args, &["-D"]].concat());
    let text = String::from_utf8(out.stdout).expect("text");
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix("profile="));
    found.unwrap_or(&text).to_owned()
}

#[test]
fn the_command_line_replaces_the_profile_of_the_file() {
    let place = Place::new();
    let file = place.name("conf");
    fs::write(&file, "[qemu-ga-rs]\nprofile = query\n").expect("file");
    assert_eq!(dumped(&place, &[]), "full");
    assert_eq!(dumped(&place, &["--profile=auto"]), "auto");
    assert_eq!(dumped(&place, &["-c", &file]), "query");
    assert_eq!(
        dumped(&place, &["-c", &file, "--profile", "no-exec"]),
        "no-exec"
    );
    let agent = place.agent(&["-c", &file]);
    assert_eq!(
        agent.call("guest-fsfreeze-freeze"),
        disabled("guest-fsfreeze-freeze")
    );
    drop(agent);
    let agent = place.agent(&["-c", &file, "--profile", "full"]);
    assert_eq!(agent.call("guest-fsfreeze-status"), returned("\"thawed\""));
}

#[test]
fn a_profile_that_does_not_exist_stops_the_start_with_the_choices() {
    let place = Place::new();
    let file = place.name("conf");
    fs::write(&file, "[qemu-ga-rs]\nprofile = backups\n").expect("file");
    let choices = "choose full, no-exec, query, backup, auto";
    let socket = place.name("sock");
    let channel = [
        "-m",
        "unix-listen",
        "-p",
        &socket,
        "-t",
        &place.name("state"),
    ];
    for (args, why) in [
        (
            &["-c", &file][..],
            "unknown profile 'backups'; did you mean 'backup'?",
        ),
        (&["--profile", "secure"], "unknown profile 'secure';"),
        (&["--profile", ""], "unknown profile '';"),
    ] {
        let out = place.run(&[&channel[..], args].concat());
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        let said = String::from_utf8(out.stderr).expect("text");
        let about: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("profile"))
            .collect();
        assert_eq!(about.len(), 1, "{said}");
        let line = format!("profile: {why} {choices}");
        assert!(about[0].ends_with(&line), "{said}");
        assert!(
            !place.path("sock").exists(),
            "{args:?}: no channel is opened"
        );
    }
}

#[test]
fn auto_is_backup_in_a_confidential_guest_and_full_elsewhere() {
    if needs_root() {
        return;
    }
    let place = Place::new();
    let cpuinfo = place.name("cpuinfo");
    let start = |flags: &str| {
        fs::write(&cpuinfo, format!("processor\t: 0\nflags\t\t: {flags}\n")).expect("file");
        let script = format!("mount --bind {cpuinfo} /proc/cpuinfo && exec \"$@\"");
        let starter = ["unshare", "-m", "sh", "-c", &script, "sh"];
        let agent = place.agent_under(&starter, &["--profile", "auto"]);
        commands(&agent.call("guest-info")).1
    };
    assert!(start("fpu sev sev_snp").contains("guest-exec"));
    assert_eq!(start("fpu tdx_guest"), &set(&ESSENTIAL) | &set(&FREEZE));
}

/// A field of /proc/PID/status.
fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    found.expect(field).to_owned()
}

#[test]
fn backup_gives_up_what_it_does_not_need_and_hooks_and_guardian_keep_it() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("disk"));
        let said = place.name("said");
        let hook = format!("cat /proc/self/status >'{said}' && mkdir -p '{said}.d'");
        let hook = format!("-F{}", place.script("hook", &hook).display());
        let full = place.agent(&[]);
        // Of those that root has here.
        let bits = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
        let all = status(full.pid(), "CapBnd");
        full.stop();
        let agent = place.agent(&[&hook, "--profile", "backup"]);
        // The socket is there before; it is read afterwards.
        assert_eq!(agent.call("guest-ping"), returned("{}"));
        // CAP_DAC_READ_SEARCH, CAP_KILL, CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_SYS_RESOURCE.
        let kept: u64 = (1 << 2) | (1 << 5) | (1 << 14) | (1 << 21) | (1 << 24);
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let found = bits(&status(agent.pid(), set));
            assert_eq!(found, kept & bits(&all), "{set}");
        }
        assert_eq!(status(agent.pid(), "NoNewPrivs"), "1");
        assert_eq!(status(agent.pid(), "Seccomp"), "2");
        let frozen = agent.connect().ask(&freeze_list(&[disk.mountpoint()]));
        assert_eq!(frozen, returned(1));
        let guardians = agent.guardians();
        assert_eq!(guardians.len(), 1);
        assert_eq!(status(guardians[0].as_raw(), "Seccomp"), "0");
        assert_eq!(status(guardians[0].as_raw(), "CapBnd"), all);
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(place.report()["end"], "thaw");
        let hook = place.read("said");
        assert!(hook.contains("Seccomp:\t0\n"), "{hook}");
        assert!(hook.contains(&format!("CapEff:\t{all}\n")), "{hook}");
        assert!(place.path("said.d").exists());
        agent.stop();
    });
}

/// The child of the agent with that word in its command line.
fn launcher(agent: i32) -> i32 {
    let children = format!("/proc/{agent}/task/{agent}/children");
    let children = fs::read_to_string(children).expect("children");
    let mut pids = children
        .split_whitespace()
        .map(|pid| pid.parse().expect("pid"));
    let is_launcher = |pid: &i32| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        words.is_ok_and(|words| words.contains("launcher"))
    };
    pids.find(is_launcher).expect("a launcher")
}

#[test]
fn without_its_launcher_a_freeze_fails_and_says_what_to_do() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("disk"));
        let hook = place.noting_hook();
        let agent = place.agent(&[&hook, "--profile", "backup"]);
        // Its socket is there before its launcher.
        assert_eq!(agent.call("guest-ping"), returned("{}"));
        let launcher = Pid::from_raw(launcher(agent.pid()));
        kill(launcher, Signal::SIGTERM).expect("signal");
        let list = freeze_list(&[disk.mountpoint()]);
        assert_eq!(
            agent.connect().ask(&list),
            returned(1),
            "SIGTERM ends it with the agent alone"
        );
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        place.report();
        kill(launcher, Signal::SIGKILL).expect("signal");
        wait_for_exit(&[launcher]);
        let reply = agent.connect().ask(&list);
        assert!(reply.contains("qga-launcher does not answer"), "{reply}");
        assert!(reply.contains("restart the agent"), "{reply}");
        assert!(!disk.is_frozen());
        assert_eq!(place.read("calls"), "freeze\nthaw ok\n");
        assert_eq!(agent.call("guest-ping"), returned("{}"));
    });
}

/// Plays the agent of a guardian that names `program` as its hook master, and dies after the freeze hooks. Returns the
/// guardian's exit status.
fn undo_by_guardian(place: &Place, program: &Path, limits: Option<Value>) -> Option<i32> {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let mut command = place.command();
    command.arg("guardian").stdin(OwnedFd::from(theirs));
    if let Some(limits) = limits {
        command.env("QGA_GUARDIAN_LIMITS", limits.to_string());
    }
    let mut guardian = command.spawn().expect("a guardian");
    drop(command);
    let token = EventFd::from_value(1).expect("a token");
    let (freezing, _) = nix::unistd::pipe().expect("a pipe");
    let fds = [token.as_fd().as_raw_fd(), freezing.as_raw_fd()];
    let watch = json!({"watch": {
        "hook": program,
        "statedir": place.path("state"),
        "socket_path": null,
        "run": "1",
        "replaces": null,
    }});
    let lines = format!("\n{watch}\n\"hooks-called\"\n");
    sendmsg::<()>(
        ours.as_raw_fd(),
        &[IoSlice::new(lines.as_bytes())],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )
    .expect("sent");
    drop(ours);
    guardian.wait().expect("its end").code()
}

#[test]
fn a_program_that_a_confined_agent_names_is_not_run_by_its_guardian() {
    in_namespace(|| {
        let place = Place::new();
        let said = place.name("said");
        let program = place.script("other", &format!("echo $1 >>'{said}'"));
        let limits = |hooks: &[&Path]| {
            Some(json!({
                "hooks": hooks,
                "statedir": place.path("state"),
                "snapshot": null,
            }))
        };
        let hook = place.path("hook");
        assert_eq!(
            undo_by_guardian(&place, &program, limits(&[&hook])),
            Some(1)
        );
        assert!(!place.path("said").exists());
        // The configured one is called, and what an agent names that has all rights itself.
        let configured = limits(&[&hook, &program]);
        assert_eq!(undo_by_guardian(&place, &program, configured), Some(0));
        assert_eq!(undo_by_guardian(&place, &program, None), Some(0));
        assert_eq!(place.read("said"), "thaw\nthaw\n");
    });
}
