//! The agent's side of the hook: any program given with `-F`.

use crate::support::disk::tmpfs;
use crate::support::{
    Client, Disk, Place, failed, freeze_list, in_namespace, install, is_ours, returned,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const THAWED: &str = r#"{"return": "thawed"}"#;
const FAILED: &str = "child process has failed to execute fsfreeze hook: ";

/// Runs `body` with a client of an agent whose hook notes its argument in `calls` and then does
/// `text`, and one filesystem.
fn with_hook(text: &str, body: impl FnOnce(&Place, &Disk, &mut Client) + Send + 'static) {
    with_hook_and(&[], text, body);
}

fn with_hook_and(
    args: &'static [&str],
    text: &str,
    body: impl FnOnce(&Place, &Disk, &mut Client) + Send + 'static,
) {
    let text = text.to_owned();
    in_namespace(move || {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let calls = place.name("calls");
        let hook = place.script("hook", &format!("echo $1 >>'{calls}'; {text}"));
        let hook = format!("-F{}", hook.display());
        let agent = place.agent(&[args, &[&hook]].concat());
        body(&place, &disk, &mut agent.connect());
    });
}

/// A freeze whose hook fails with `error`: nothing is frozen, and the hook gets its thaw.
fn failing(text: &str, error: &'static str) {
    with_hook(text, move |place, disk, client| {
        let reply = client.ask(&freeze_list(&[disk.mountpoint()]));
        assert_eq!(reply, failed(error));
        assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
        assert!(!disk.is_frozen());
        assert!(!place.marker().exists());
        let calls = if is_ours() {
            "freeze\nthaw\n"
        } else {
            "freeze\n"
        };
        assert_eq!(place.read("calls"), calls);
    });
}

#[test]
fn a_hook_that_fails_with_output() {
    failing(
        "echo out-text; echo err-text >&2; exit 3",
        "child process has failed to execute fsfreeze hook: out-text\\nerr-text\\n",
    );
}

#[test]
fn a_hook_that_fails_silently() {
    failing(
        "exit 3",
        "child process has failed to execute fsfreeze hook: exit status 3",
    );
}

#[test]
fn a_hook_that_is_killed() {
    failing("kill -9 $$", "child process has terminated abnormally");
    failing(
        "echo dying; kill -9 $$",
        "child process has terminated abnormally: dying\\n",
    );
}

#[test]
fn a_hook_that_cannot_be_run() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let plain = place.script("plain", "exit 0");
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).expect("mode");
        let missing = Path::new("/nonexistent/hook");
        let cases = [
            (missing, "No such file or directory"),
            (&plain, "Permission denied"),
        ];
        for (hook, reason) in cases {
            let agent = place.agent(&[&format!("-F{}", hook.display())]);
            let mut client = agent.connect();
            let reply = client.ask(&freeze_list(&[disk.mountpoint()]));
            let shown = hook.display();
            let text = format!("{FAILED}failed to exec '{shown}': {reason}\\n");
            assert_eq!(reply, failed(&text));
            assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
            assert!(!disk.is_frozen());
        }
    });
}

#[test]
fn a_hook_that_fails_at_the_thaw() {
    let text = "[ $1 = freeze ] || { echo tfail; exit 5; }";
    with_hook(text, |place, disk, client| {
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        let reply = client.call("guest-fsfreeze-thaw");
        assert_eq!(reply, failed(&format!("{FAILED}tfail\\n")));
        assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
        assert!(!disk.is_frozen());
        assert!(!place.marker().exists());
    });
}

#[test]
fn the_hook_runs_before_the_freeze_and_after_the_thaw() {
    with_hook("echo $1 >>\"${0%/*}/m/wrote\"", |place, disk, client| {
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(place.read("calls"), "freeze\n");
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(place.read("calls"), "freeze\nthaw\n");
        let wrote = fs::read_to_string(disk.path("wrote")).expect("written");
        assert_eq!(wrote, "freeze\nthaw\n");
    });
}

#[test]
fn no_hook_runs_where_nothing_is_to_be_done() {
    if !is_ours() {
        return; // it runs the freeze hook, and at each thaw the thaw hook
    }
    with_hook("exit 1", |place, _, client| {
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(0));
        assert_eq!(client.ask(&freeze_list(&["/nonexistent"])), returned(0));
        assert_eq!(client.ask(&freeze_list(&[])), returned(0));
        assert_eq!(place.read("calls"), "");
    });
}

#[test]
fn a_freeze_that_froze_nothing_gives_its_hook_the_thaw() {
    let as_original: &[&str] = if is_ours() {
        &["--fsfreeze-ignore-frozen"]
    } else {
        &[]
    };
    with_hook_and(as_original, "exit 0", |place, disk, client| {
        disk.freeze();
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(0));
        disk.thaw().expect("thaw");
        let calls = if is_ours() {
            "freeze\nthaw\n"
        } else {
            "freeze\n"
        };
        assert_eq!(place.read("calls"), calls);
    });
}

#[test]
fn a_hook_s_background_child_delays_nothing() {
    if !is_ours() {
        return; // it waits for the end of the output
    }
    let text = "[ $1 = freeze ] || exit 0; sleep 1000 & echo $! >\"${0%/*}/pid\"";
    with_hook(text, |place, _, client| {
        // Within the client's patience, which is far less than the sleep.
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        let pid = place.read("pid").trim().parse().expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it was left alone");
    });
}

#[test]
fn a_hook_s_output_without_end_is_no_obstacle() {
    let text = "head -c 3000000 /dev/zero | tr '\\0' x";
    with_hook(text, |_, _, client| {
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
    });
}

#[test]
fn a_hook_without_a_slash_is_searched_in_the_path() {
    in_namespace(|| {
        let place = Place::new();
        let _disk = Disk::ext4(&place.path("m"));
        let calls = place.name("calls");
        place.script("searched-hook", &format!("echo $1 >>'{calls}'"));
        let mut command = place.agent_command(&["-Fsearched-hook"]);
        let path = std::env::var("PATH").expect("PATH");
        command.env("PATH", format!("{}:{path}", place.name("")));
        let agent = crate::support::Agent::start(command, &place.path("sock"));
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(place.read("calls"), "freeze\nthaw\n");
    });
}

#[test]
fn dev_null_is_no_hook() {
    if !is_ours() {
        return; // every freeze fails
    }
    in_namespace(|| {
        let place = Place::new();
        let _disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&["-F/dev/null"]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
    });
}

#[test]
fn both_distributions_places_are_looked_at() {
    in_namespace(|| {
        let place = Place::new();
        let _disk = Disk::ext4(&place.path("m"));
        tmpfs(Path::new("/etc"));
        let mut expected = String::new();
        // The second is preferred once it is there.
        for dir in ["qemu-ga", "qemu"] {
            if dir == "qemu-ga" && !is_ours() {
                continue; // it knows one place only
            }
            let line = format!("echo /etc/{dir} $1 >>'{}'", place.name("calls"));
            let hook = place.script("hook", &line);
            fs::create_dir(format!("/etc/{dir}")).expect("dir");
            install(&hook, Path::new(&format!("/etc/{dir}/fsfreeze-hook")));
            let agent = place.agent(&["-F"]);
            assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
            assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
            expected += &format!("/etc/{dir} freeze\n/etc/{dir} thaw\n");
            assert_eq!(place.read("calls"), expected);
        }
    });
}
