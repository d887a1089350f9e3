//! What can go wrong at the start, and what the agent leaves at its end.

use crate::support::{Client, Place, in_namespace, is_ours, returned, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Starts an agent that must end with status 1, and returns all that it said.
fn refused(place: &Place, args: &[&str]) -> String {
    let mut command = place.command();
    let out = command.args(args).output().expect("runs");
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned() + &place.read("log");
    assert_eq!(out.status.code(), Some(1), "{args:?}: {said}");
    said
}

#[test]
fn channels_that_cannot_be_made() {
    let place = Place::new();
    let state = place.name("state");
    let long = format!("/tmp/{}", "x".repeat(104));
    let nodir = place.name("none/sock");
    let missing = place.name("none");
    let cases: [(&[&str], String); 10] = [
        (
            &["-m", "unix-listen"],
            "must specify a path for this channel".into(),
        ),
        (
            &["-m", "vsock-listen"],
            "must specify a path for this channel".into(),
        ),
        (
            &["-m", "nonsense"],
            if is_ours() {
                "unsupported channel method/type: nonsense".into()
            } else {
                "must specify a path for this channel".into()
            },
        ),
        (
            &["-m", "nonsense", "-p", "/x"],
            "unsupported channel method/type: nonsense".into(),
        ),
        (
            &["-p", &missing],
            format!("error opening channel '{missing}': No such file or directory"),
        ),
        (
            &["-m", "isa-serial", "-p", &missing],
            format!("error opening channel '{missing}': No such file or directory"),
        ),
        (
            &["-m", "unix-listen", "-p", &nodir],
            format!("Failed to bind socket to {nodir}: No such file or directory"),
        ),
        (
            &["-m", "unix-listen", "-p", &long],
            format!("UNIX socket path '{long}' is too long"),
        ),
        (
            &["-m", "unix-listen", "-p", &state],
            format!("Failed to unlink socket {state}: "),
        ),
        (
            &["-m", "vsock-listen", "-p", "nonsense"],
            "error parsing address 'nonsense'".into(),
        ),
    ];
    for (args, text) in cases {
        let said = refused(&place, &[args, &["-t", &state]].concat());
        assert!(said.contains(&text), "{args:?}: {said}");
        if text.contains("error opening") {
            let lines = [
                "failed to create guest agent channel",
                "failed to initialize guest agent channel",
                "error initializing guest agent",
            ];
            let at = lines.map(|line| said.find(line).expect(line));
            assert!(at.is_sorted(), "{said}");
        }
    }
}

#[test]
fn token_files_that_are_no_secret() {
    if !is_ours() {
        return; // it has none
    }
    let place = Place::new();
    let (state, token) = (place.name("state"), place.name("token"));
    let option = format!("--vsock-token-file={token}");
    let args = [
        "-m",
        "vsock-listen",
        "-p",
        "4294967295:9",
        "-t",
        &state,
        &option,
    ];
    let said = refused(&place, &args);
    let text = format!("cannot use the token file {token}: {token} cannot be looked at");
    assert!(said.contains(&text), "{said}");
    fs::write(place.path("token"), "0123456789abcdef\n").expect("token");
    let mode = |mode| fs::set_permissions(&token, fs::Permissions::from_mode(mode)).expect("mode");
    mode(0o644);
    let said = refused(&place, &args);
    let text = format!(
        "cannot use the token file {token}: mode 0644 lets others than its owner use it; run \"chmod 600 {token}\""
    );
    assert!(said.contains(&text), "{said}");
    fs::write(place.path("token"), "short\n").expect("token");
    mode(0o600);
    let said = refused(&place, &args);
    assert!(
        said.contains("its first line has 5 characters; write a token"),
        "{said}"
    );
}

#[test]
fn state_directories_that_cannot_be_used() {
    let place = Place::new();
    let socket = place.name("sock");
    let channel = ["-m", "unix-listen", "-p", &socket, "-t"];
    let missing = place.name("none");
    let said = refused(&place, &[&channel[..], &[&missing]].concat());
    let text = format!("unable to create state file at path {missing}/qga.state");
    assert!(said.contains(&text), "{said}");
    fs::write(place.path("file"), "").expect("file");
    if is_ours() {
        // The original takes this for a marker and behaves as frozen.
        let file = place.name("file");
        let said = refused(&place, &[&channel[..], &[&file]].concat());
        let text = format!("unable to access state file at path {file}/");
        assert!(said.contains(&text), "{said}");
    }
    assert!(!place.path("sock").exists());
}

#[test]
fn log_files_that_cannot_be_opened() {
    let place = Place::new();
    let (socket, state) = (place.name("sock"), place.name("state"));
    let log = place.name("none/log");
    let args = ["-m", "unix-listen", "-p", &socket, "-t", &state, "-l", &log];
    let said = refused(&place, &args);
    let text = "unable to open specified log file: No such file or directory";
    assert!(said.contains(text), "{said}");
}

#[test]
fn files_have_the_modes_of_the_original() {
    let place = Place::new();
    let agent = place.agent_under(&["sh", "-c", "umask 0027; exec \"$0\" \"$@\""], &[]);
    assert_eq!(agent.call("guest-ping"), returned("{}"));
    let mode = |name: &str| {
        let data = fs::metadata(place.path(name)).expect(name);
        data.permissions().mode() & 0o7777
    };
    assert_eq!(mode("sock"), 0o750);
    assert_eq!(mode("log"), 0o640);
    assert_eq!(mode("state/qga.state"), 0o640);
    assert_eq!(place.read("state/qga.state"), "[global]\nfd_counter=1000\n");
    let kind = fs::metadata(place.path("sock"))
        .expect("socket")
        .file_type();
    assert!(kind.is_socket());
}

#[test]
fn the_state_file_of_an_earlier_instance_stays() {
    let place = Place::new();
    let text = "[global]\nfd_counter=1042\n";
    fs::write(place.path("state/qga.state"), text).expect("file");
    let agent = place.agent(&[]);
    assert!(agent.stop().success());
    assert_eq!(place.read("state/qga.state"), text);
}

/// A daemon that listens on the socket of a place; ended when dropped.
struct Daemon(Pid);

impl Daemon {
    /// Searches it, as its pid file may be what is in question.
    fn of(place: &Place) -> Self {
        let socket = place.name("sock");
        let mut found = None;
        wait_until("the daemon runs", || {
            let mut processes = fs::read_dir("/proc").expect("proc").flatten();
            found = processes.find_map(|process| {
                let arguments = fs::read(process.path().join("cmdline")).ok()?;
                let mut arguments = arguments.split(|byte| *byte == 0);
                let is_it = arguments.any(|argument| argument == socket.as_bytes());
                process.file_name().to_str()?.parse().ok().filter(|_| is_it)
            });
            found.is_some()
        });
        Self(Pid::from_raw(found.expect("a pid")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGKILL).ok();
    }
}

#[test]
fn a_daemon_its_pid_file_and_a_second_one() {
    let place = Place::new();
    let pidfile = place.name("pid");
    let start = |log: &str| {
        let log = place.name(log);
        let mut command = place.agent_command(&["-d", "-f", &pidfile, "-l", &log]);
        let status = command.status().expect("runs");
        assert!(status.success(), "{status}");
    };
    start("log1");
    let daemon = Daemon::of(&place);
    let line = format!("{}\n", daemon.0);
    wait_until("the pid file", || place.read("pid") == line);
    let mode = fs::metadata(&pidfile)
        .expect("pid file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
    let proc = format!("/proc/{}", daemon.0);
    // The pid file comes first.
    let cwd = format!("{proc}/cwd");
    wait_until("it goes to /", || {
        fs::read_link(&cwd).expect("cwd") == Path::new("/")
    });
    let status = fs::read_to_string(format!("{proc}/status")).expect("status");
    assert!(status.contains("\nUmask:\t0077\n"), "{status}");
    // Ours would find the socket in use, and before that the lock of the state directory.
    let other = place.path("other");
    fs::create_dir(&other).expect("dir");
    let other = place.name("other");
    let (log2, socket) = (place.name("log2"), place.name("sock2"));
    let args = ["-d", "-f", &pidfile, "-t", &other, "-p", &socket];
    let mut second = place.agent_command(&args);
    assert!(second.args(["-l", &log2]).status().expect("runs").success());
    let locked = "Cannot lock pid file: Resource temporarily unavailable";
    wait_until("the second one's error", || {
        place.read("log2").contains(locked)
    });
    assert_eq!(place.read("pid"), line);
    kill(daemon.0, Signal::SIGTERM).expect("signal");
    wait_until("the pid file goes", || !place.path("pid").exists());
}

#[test]
fn a_daemon_that_starts_frozen_writes_its_pid_file_after_the_thaw() {
    in_namespace(|| {
        let place = Place::new();
        fs::write(place.marker(), "").expect("marker");
        let pidfile = place.name("pid");
        let status = place.agent_command(&["-d", "-f", &pidfile]).status();
        assert!(status.expect("runs").success());
        let daemon = Daemon::of(&place);
        let stream = UnixStream::connect(place.path("sock")).expect("connects");
        let mut client = Client::new(stream);
        assert_eq!(client.call("guest-fsfreeze-status"), returned("\"frozen\""));
        assert!(!place.path("pid").exists());
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(0));
        let line = format!("{}\n", daemon.0);
        wait_until("the pid file", || place.read("pid") == line);
        kill(daemon.0, Signal::SIGTERM).expect("signal");
        wait_until("the pid file goes", || !place.path("pid").exists());
    });
}

#[test]
fn pid_files_that_cannot_be_written() {
    let place = Place::new();
    let pidfile = place.name("none/pid");
    let status = place.agent_command(&["-d", "-f", &pidfile]).status();
    // The parent has left before the child knows.
    assert!(status.expect("runs").success());
    let text = format!("Could not create '{pidfile}': No such file or directory");
    wait_until("the error", || place.read("log").contains(&text));
}

#[test]
fn a_daemon_tells_its_caller_that_the_channel_cannot_be_opened() {
    let place = Place::new();
    let (state, missing) = (place.name("state"), place.name("none"));
    let pidfile = place.name("pid");
    let said = refused(
        &place,
        &["-d", "-f", &pidfile, "-t", &state, "-p", &missing],
    );
    assert!(said.contains("error opening channel"), "{said}");
    assert!(!place.path("pid").exists());
}
