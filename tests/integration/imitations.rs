//! What processes of other users can make root's tools believe: nothing.

use crate::support::{
    Agent, Disk, Place, binary, in_namespace, is_ours, is_running, returned, wait_for_exit,
    wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, chown, mkfifo};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

/// Somebody who is not root.
const USER: u32 = 65534;

/// Starts `command` as that user, by the name of an agent.
fn imitation(mut command: Command) -> Agent {
    command
        .uid(USER)
        .gid(USER)
        .arg0("qemu-ga")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    Agent::adopt(command.spawn().expect("starts"))
}

/// A tool that looks for the running agent by itself, and must not take long.
fn tool(args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.env_remove("QGA_CONF").args(args);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    wait_until(args[0], || child.try_wait().expect("wait").is_some());
    child.wait_with_output().expect("output")
}

fn status() -> Value {
    serde_json::from_slice(&tool(&["status", "--json"]).stdout).expect("JSON")
}

/// What a guardian says that has thawed for a person.
const THAWED: &str = r#"{"thawed":{"filesystems":["/data"],"failures":[]}}"#;
/// And to a new agent.
const ENDED: &str =
    r#"{"ended":{"when":1.0,"held":1.0,"reason":"the hold limit passed","count":1}}"#;

/// A guardian of that user's in `dir`, who says that all is well.
fn false_guardian(dir: &str, answer: &str) -> Agent {
    let script = "
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1] + '/qga.guardian')
s.listen()
print('ready', flush=True)
while True:
    line, _ = s.accept()
    try: line.recv(4096)
    except OSError: continue
    try: line.send(sys.argv[2].encode() + b'\\n')
    except OSError: pass
";
    let mut command = Command::new("python3");
    command.args(["-c", script, dir, answer]);
    let mut guardian = imitation(command);
    let mut ready = [0; 5];
    let stdout = guardian.child.stdout.as_mut().expect("stdout");
    stdout.read_exact(&mut ready).expect("ready");
    guardian
}

#[test]
fn processes_of_other_users_are_no_agents() {
    if !is_ours() {
        return; // it has no tools
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let theirs = place.path("theirs");
        fs::create_dir(&theirs).expect("dir");
        chown(&theirs, Some(USER.into()), Some(USER.into())).expect("chown");
        let fifo = theirs.join("fifo");
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).expect("fifo");
        chown(&fifo, Some(USER.into()), Some(USER.into())).expect("chown");
        // One has a FIFO as its configuration, the other a state directory of its own.
        let mut counts = Command::new("wc");
        counts.arg("-c").arg(&fifo);
        let mut own = Command::new(binary());
        own.args(["-m", "unix-listen", "-p"])
            .arg(theirs.join("sock"));
        own.arg("-t").arg(&theirs);
        let _imitations = [imitation(counts), imitation(own)];
        wait_until("its socket", || theirs.join("sock").exists());
        let agent = place.agent(&[]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        let found = status();
        assert_eq!(found["state"], "frozen", "{found}");
        assert_eq!(found["agents"], serde_json::json!([agent.pid()]), "{found}");
        let checked = tool(&["check"]);
        let text = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(text.contains(&format!("process {}", agent.pid())), "{text}");
        let thawed = tool(&["thaw", "--now"]);
        let text = String::from_utf8_lossy(&thawed.stdout).into_owned();
        assert!(
            text.contains("by the guardian") && !disk.is_frozen(),
            "{text}"
        );
    });
}

#[test]
fn a_guardian_of_another_user_is_not_asked() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let state = place.name("state");
        let open = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(&state, open).expect("mode");
        let _guardian = false_guardian(&state, THAWED);
        disk.freeze();
        let conf = place.name("conf");
        fs::write(&conf, "").expect("conf");
        let said = tool(&["status", "-c", &conf, "-t", &state]);
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(text.contains("belongs to user 65534"), "{text}");
        let said = tool(&["thaw", "--now", "-c", &conf, "-t", &state]);
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(!text.contains("by the guardian"), "{text}");
        assert!(text.contains("belongs to user 65534"), "{text}");
        assert!(!disk.is_frozen(), "{text}");
    });
}

#[test]
fn a_guardian_of_another_user_passes_nothing_to_an_agent_that_starts() {
    if !is_ours() {
        return; // it has none
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&[]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        let guardians = agent.guardians();
        agent.kill();
        kill(guardians[0], Signal::SIGKILL).expect("signal");
        wait_for_exit(&guardians);
        let state = place.name("state");
        fs::remove_file(place.path("state/qga.guardian")).expect("the dead one's socket");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o1777)).expect("mode");
        let imitation = false_guardian(&state, ENDED);
        let agent = place.agent(&[]);
        let status = agent.call("guest-fsfreeze-status");
        assert_eq!(status, r#"{"return": "frozen"}"#);
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert!(!disk.is_frozen());
        // Answered when the kept lines are written.
        agent.call("x-guest-fsfreeze-report");
        let log = place.read("log");
        let warning = "qga.guardian is not asked: its socket belongs to user 65534, not to root";
        assert!(log.contains(warning), "{log}");
        // Whom it does not believe it does not end.
        assert!(is_running(&Pid::from_raw(imitation.pid())));
    });
}

#[test]
fn a_configuration_that_others_may_write_tells_the_tools_nothing() {
    if !is_ours() {
        return;
    }
    // The tool must not see the agents of tests beside this one.
    in_namespace(|| {
        let place = Place::new();
        let conf = place.name("conf");
        let text = format!("[general]\nstatedir={}\n", place.name("state"));
        fs::write(&conf, text).expect("conf");
        for (mode, counts) in [(0o644, true), (0o666, false)] {
            fs::set_permissions(&conf, fs::Permissions::from_mode(mode)).expect("mode");
            let agent = place.agent(&["-c", &conf]);
            let output = tool(&["plan", "--json"]);
            let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let origin = plan["configuration"].as_str().expect("text");
            let ours = format!("of the running agent, process {}", agent.pid());
            assert_eq!(origin == ours, counts, "{mode:o}: {origin}");
            assert!(agent.stop().success());
        }
    });
}
