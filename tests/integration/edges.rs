//! Starts with a mistyped word, names of commands that do not exist, and shortages while clients connect.

use crate::support::left_out::needs_program;
use crate::support::{Place, binary, cmd, is_ours, returned, wait_until};
use nix::sys::resource::{Resource, getrlimit};
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::Duration;

/// Runs the binary to its end; its status and all that it printed.
fn run(place: &Place, args: &[&str]) -> (Option<i32>, String) {
    // An agent that starts although it should not never ends by itself.
    let binary = binary();
    let command = place.command();
    let mut limited = std::process::Command::new("timeout");
    limited
        .arg("10")
        .arg(binary)
        .args(args)
        .stdin(Stdio::null());
    limited.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let out = limited.output().expect("runs");
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned() + &place.read("log");
    (out.status.code(), text)
}

#[test]
fn a_mistyped_tool_starts_no_agent() {
    if !is_ours() {
        return; // the original ignores operands
    }
    let place = Place::new();
    for (word, hint) in [
        ("stauts", "did you mean 'status'?"),
        ("chek", "did you mean 'check'?"),
        ("frobnicate", "qemu-ga --help"),
    ] {
        let (status, text) = run(&place, &[word]);
        assert_eq!(status, Some(2), "{word}: {text}");
        let expected = format!("qemu-ga: unknown command '{word}'");
        assert!(text.contains(&expected) && text.contains(hint), "{text}");
    }
    // A word behind an option may be what the original ignores: `-F PATH`.
    let agent = place.agent(&["-F", "stauts"]);
    assert_eq!(agent.call("guest-ping"), returned("{}"));
}

#[test]
fn an_unknown_method_is_what_is_wrong() {
    let place = Place::new();
    let (status, text) = run(&place, &["-m", "foo"]);
    assert_eq!(status, Some(1));
    if is_ours() {
        assert!(
            text.contains("unsupported channel method/type: foo"),
            "{text}"
        );
    }
}

#[test]
fn names_of_commands_that_do_not_exist() {
    if !is_ours() {
        return; // the original ignores them
    }
    let place = Place::new();
    let file = place.path("conf");
    fs::write(&file, "[general]\nblock-rpcs=guest-exec,guest-pnig\n").expect("conf");
    let conf = place.name("conf");
    for args in [
        &["-b", "guest-pnig"][..],
        &["--block-rpcs=guest-exec,guest-pnig"],
        &["-c", &conf],
    ] {
        let mut command = place.command();
        place.add_arguments(&mut command, args);
        let out = command.output().expect("runs");
        let text = String::from_utf8_lossy(&out.stderr).into_owned() + &place.read("log");
        assert_eq!(out.status.code(), Some(1), "{args:?}: {text}");
        assert!(
            text.contains("block-rpcs: unknown command 'guest-pnig'; did you mean 'guest-ping'?"),
            "{text}"
        );
    }
    let checked = place.run(&["check", "--json", "-c", &conf]);
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    for piece in [
        r#""about": "commands""#,
        r#""what": "block-rpcs""#,
        r#""why": "unknown command 'guest-pnig'""#,
    ] {
        assert!(text.contains(piece), "no {piece} in {text}");
    }
    // A list of what is allowed can only be too short; that is safe, and said.
    let agent = place.agent(&[
        "-a",
        "guest-ping, guest-info,guest-pnig",
        "-b",
        " guest-exec ,guest-get-devices",
    ]);
    assert_eq!(agent.call("guest-ping"), returned("{}"));
    assert!(agent.call("guest-info").contains("\"version\""));
    assert!(agent.call("guest-get-time").contains("disabled"));
    let log = place.read("log");
    assert!(
        log.contains("allow-rpcs: unknown command 'guest-pnig'"),
        "{log}"
    );
    assert!(!log.contains("guest-get-devices"), "{log}");
    drop(agent);
    let agent = place.agent(&["-b", " guest-get-time , guest-exec"]);
    assert!(agent.call("guest-get-time").contains("disabled"));
}

#[test]
fn a_living_agent_keeps_its_socket() {
    let place = Place::new();
    let agent = place.agent(&[]);
    assert_eq!(agent.call("guest-ping"), returned("{}"));
    if !is_ours() {
        return; // the original removes the socket
    }
    let other = Place::new();
    let (socket, state) = (place.name("sock"), other.name("state"));
    let (status, text) = run(&other, &["-m", "unix-listen", "-p", &socket, "-t", &state]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("in use by another process"), "{text}");
    assert_eq!(agent.call("guest-ping"), returned("{}"));
    // One that nobody listens on is replaced, whatever kind it was.
    let stale = other.path("stale");
    drop(UnixListener::bind(&stale).expect("socket"));
    assert!(stale.exists());
    let stale = other.name("stale");
    let mut command = other.command();
    command.args(["-m", "unix-listen", "-p", &stale, "-t", &state]);
    let again = crate::support::Agent::start(command, &other.path("stale"));
    assert_eq!(again.call("guest-ping"), returned("{}"));
}

#[test]
fn a_shortage_of_descriptors_passes() {
    let place = Place::new();
    // What the agent opens at its start fits; the next descriptor does not.
    let agent = place.agent(&[]);
    assert_eq!(agent.call("guest-ping"), returned("{}"));
    // The first client's descriptor is free again.
    agent.comes_to_rest();
    let is_free =
        |number: &u64| !fs::exists(format!("/proc/{}/fd/{number}", agent.pid())).expect("fd");
    let open = (0..).find(is_free).expect("a number");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    let limit = |soft: &str| {
        let pid = agent.pid().to_string();
        let limit = format!("--nofile={soft}:{hard}");
        let done = std::process::Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .status();
        assert!(done.expect("prlimit").success());
    };
    limit(&open.to_string());
    let mut client = agent.connect();
    client.post(&cmd("guest-ping"));
    wait_until("a warning", || {
        place.read("log").contains("error accepting connection")
    });
    let ticks = || {
        let text = fs::read_to_string(format!("/proc/{}/stat", agent.pid())).expect("stat");
        let fields: Vec<&str> = text
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
    };
    let before = ticks();
    std::thread::sleep(Duration::from_millis(700));
    assert!(ticks() - before < 10, "it spins");
    limit(&hard.to_string());
    assert_eq!(client.line(), returned("{}"));
    if is_ours() {
        let lines = place
            .read("log")
            .matches("error accepting connection")
            .count();
        assert_eq!(lines, 1, "one line for each shortage");
    }
}

#[test]
fn signals_that_the_starter_blocked_or_ignored() {
    if needs_program("python3") {
        return;
    }
    for prelude in [
        "import os,signal,sys; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); os.execv(sys.argv[1], sys.argv[1:])",
        "import os,signal,sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])",
    ] {
        let place = Place::new();
        let agent = place.agent_under(&["python3", "-c", prelude], &[]);
        let started = agent.call(r#"guest-exec","arguments":{"path":"/bin/true"},"id":"x"#);
        let pid: i32 = started
            .split("\"pid\": ")
            .nth(1)
            .and_then(|rest| rest.split(['}', ',']).next()?.parse().ok())
            .expect("a pid");
        wait_until("the end of the child", || {
            fs::metadata(format!("/proc/{pid}")).is_err()
        });
        let question = format!(r#"guest-exec-status","arguments":{{"pid":{pid}}},"id":"y"#);
        let status = agent.call(&question);
        assert!(status.contains("\"exitcode\": 0"), "{status}");
        // SIGTERM arrives, too.
        assert!(agent.stop().success());
    }
}

#[test]
fn a_system_log_that_is_a_stream_gets_the_audit_lines() {
    use crate::support::disk::bind_file;
    use crate::support::in_namespace;
    in_namespace(|| {
        let place = Place::new();
        let dev = place.path("log-socket");
        let listener = UnixListener::bind(&dev).expect("stream");
        if !std::path::Path::new("/dev/log").exists() {
            fs::write("/dev/log", "").expect("place for the socket");
        }
        bind_file(&dev, std::path::Path::new("/dev/log"));
        let agent = place.agent(&[]);
        let reader = std::thread::spawn(move || {
            use std::io::Read;
            let (mut stream, _) = listener.accept().expect("agent");
            let mut text = Vec::new();
            let mut buffer = [0; 512];
            while !text.ends_with(b"\0") {
                let length = stream.read(&mut buffer).expect("read");
                assert!(length > 0, "closed");
                text.extend_from_slice(&buffer[..length]);
            }
            String::from_utf8(text).expect("text")
        });
        assert_eq!(agent.call("guest-ping"), returned("{}"));
        let text = reader.join().expect("reader");
        assert!(text.contains("qemu-ga: info: guest-ping called"), "{text}");
    });
}

#[test]
fn warnings_to_the_journal_carry_their_priority() {
    if !is_ours() {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    let path = place.path("stderr");
    let file = fs::File::create(&path).expect("file");
    let data = file.metadata().expect("metadata");
    let stream = format!("{}:{}", data.dev(), data.ino());
    let mut command = place.command();
    command.args([
        "-m",
        "unix-listen",
        "-p",
        &place.name("none/sock"),
        "-t",
        &place.name("state"),
    ]);
    command
        .env("JOURNAL_STREAM", &stream)
        .stderr(Stdio::from(file));
    assert_eq!(command.status().expect("runs").code(), Some(1));
    let text = place.read("stderr");
    assert!(
        !text.is_empty() && text.lines().all(|line| line.starts_with("<3>")),
        "{text}"
    );
    // Elsewhere the lines are the original's.
    let file = fs::File::create(&path).expect("file");
    command
        .env("JOURNAL_STREAM", "1:1")
        .stderr(Stdio::from(file));
    assert_eq!(command.status().expect("runs").code(), Some(1));
    assert!(!place.read("stderr").contains("<3>"));
}

#[test]
fn a_zone_found_only_in_tzdir() {
    let place = Place::new();
    let dir = place.path("zones/Here");
    fs::create_dir_all(&dir).expect("dir");
    // One type: five hours east, named XYZ. Version 2 (RFC 8536), as zone files are today: the block is there twice, and
    // a footer follows; musl reads no version 1.
    let mut block = b"TZif2".to_vec();
    block.extend([0; 15]);
    for count in [0u32, 0, 0, 0, 1, 4] {
        block.extend(count.to_be_bytes());
    }
    block.extend(18_000u32.to_be_bytes());
    block.extend([0, 0]);
    block.extend(b"XYZ\0");
    let mut zone = block.repeat(2);
    zone.extend(b"\nXYZ-5\n");
    fs::write(dir.join("Only"), zone).expect("zone");
    let variable = format!("TZDIR={}", place.name("zones"));
    let agent = place.agent_under(&["env", &variable, "TZ=Here/Only"], &[]);
    let answer = agent.call("guest-get-timezone");
    assert!(
        answer.contains("XYZ") && answer.contains("18000"),
        "{answer}"
    );
}
