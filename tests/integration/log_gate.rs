//! What is written while filesystems are frozen, and afterwards: log, state, report, audit lines.

use crate::support::disk::{bind, tmpfs};
use crate::support::{Disk, Place, cmd, freeze_list, in_namespace, is_ours, returned};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

#[test]
fn a_log_on_the_frozen_filesystem_stops_nothing_and_loses_nothing() {
    if !is_ours() {
        return; // it loses the lines of the frozen time
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let log = disk.path("qemu-ga.log");
        let agent = place.agent(&["-v", "-l", log.to_str().expect("text")]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        let at_freeze = fs::read_to_string(&log).expect("log");
        for _ in 0..20 {
            assert_eq!(client.call("guest-ping"), returned("{}"));
            assert!(client.ask("@").contains("stray"));
            assert!(client.call("nonsense").contains("CommandNotFound"));
        }
        assert_eq!(fs::read_to_string(&log).expect("log"), at_freeze);
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        // Answered when the kept lines are written.
        client.call("x-guest-fsfreeze-report");
        let text = fs::read_to_string(&log).expect("log");
        assert!(text.starts_with(&at_freeze));
        let pings = text
            .matches(": debug: processing command guest-ping\n")
            .count();
        assert_eq!(pings, 20, "{text}");
        let stamps: Vec<f64> = text.lines().map(stamp).collect();
        assert!(stamps.is_sorted(), "{text}");
    });
}

#[test]
fn what_the_host_sends_is_not_in_the_log() {
    if !is_ours() {
        return; // its verbose log has every byte
    }
    let place = Place::new();
    let agent = place.agent(&["-v"]);
    let secret = r#"{"execute":"guest-ping","arguments":{"secret1":"secret2"},"id":"secret3"}"#;
    assert!(
        agent
            .connect()
            .ask(secret)
            .contains("'secret1' is unexpected")
    );
    assert!(agent.stop().success());
    let log = place.read("log");
    assert!(
        log.contains("processing command guest-ping") && !log.contains("secret"),
        "{log}"
    );
}

/// The time of a log line, which must have the shape of one.
fn stamp(line: &str) -> f64 {
    let mut parts = line.splitn(3, ": ");
    let time = parts.next().unwrap_or_default();
    let level = parts.next().unwrap_or_default();
    let levels = ["error", "critical", "warning", "message", "info", "debug"];
    assert!(levels.contains(&level), "{line}");
    assert_eq!(
        time.split_once('.').map(|(_, micros)| micros.len()),
        Some(6),
        "{line}"
    );
    time.parse().expect("a time")
}

#[test]
fn state_and_marker_on_the_frozen_filesystem() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&["-t", disk.mountpoint()]);
        for _ in 0..2 {
            assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
            assert!(disk.path("qga.state.isfrozen").exists());
            assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
            assert!(!disk.path("qga.state.isfrozen").exists());
        }
    });
}

#[test]
fn the_report_tells_the_whole_run() {
    if !is_ours() {
        return; // it keeps none
    }
    in_namespace(|| {
        let place = Place::new();
        let first = Disk::ext4(&place.path("first"));
        bind(Path::new(first.mountpoint()), &place.path("again"));
        let second = Disk::ext4(&place.path("second"));
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(2));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(2));
        let report = place.report();
        let entries = |list: &str| report[list].as_array().expect("a list").clone();
        let filesystems = entries("filesystems");
        let order: Vec<_> = filesystems.iter().map(|f| &f["mountpoint"]).collect();
        // Last mounted, first frozen.
        assert_eq!(order, [second.mountpoint(), first.mountpoint()]);
        for filesystem in &filesystems {
            assert_eq!(filesystem["outcome"], "thawed");
            assert_eq!(filesystem["fstype"], "ext4");
            assert!(filesystem["freeze-seconds"].is_f64());
        }
        let skipped = entries("skipped");
        let again = skipped
            .iter()
            .find(|f| f["mountpoint"] == place.name("again"));
        let reason = again.expect("the bind mount")["detail"].as_str();
        assert!(reason.expect("a reason").ends_with(first.mountpoint()));
        let stages = report["stages"].as_object().expect("an object");
        for stage in [
            "flush",
            "freeze-hooks",
            "flush-again",
            "freeze",
            "held",
            "thaw",
            "thaw-hooks",
        ] {
            assert!(stages[stage].is_f64(), "{stage}");
        }
        assert!(report["started"].as_f64().expect("a time") > 1.7e9);
        assert!(entries("errors").is_empty() && entries("hooks").is_empty());
        // A failed run is told, too; a thaw of nothing leaves the last story alone.
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(0));
        assert_eq!(place.newest_report(), Some(report));
        assert_eq!(client.ask(&freeze_list(&[])), returned(0));
        assert_eq!(place.report()["filesystems"], serde_json::json!([]));
        crate::support::disk::detach(&place.path("again"));
    });
}

/// Reads what the agent sends to /dev/log until `last` comes.
pub fn audit_lines(log: &UnixDatagram, last: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut buffer = [0; 1024];
        let count = log.recv(&mut buffer).expect("an audit line");
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        // <PRIORITY>Mmm dd hh:mm:ss NAME: TEXT, with NAME[PID] in some libraries
        assert!(text.starts_with("<14>"), "{text}");
        assert!(text[19..].starts_with(" qemu-ga"), "{text}");
        let line = text[19..].split_once(": ").expect("a text").1.to_owned();
        let is_last = line == last;
        lines.push(line);
        if is_last {
            return lines;
        }
    }
}

/// The system log's socket, in a /dev of our own; only in a namespace. The bind mount `null` of the
/// place is to be detached at the end.
pub fn system_log(place: &Place) -> UnixDatagram {
    fs::write(place.path("null"), "").expect("file");
    crate::support::disk::bind_file(Path::new("/dev/null"), &place.path("null"));
    tmpfs(Path::new("/dev"));
    symlink(place.path("null"), "/dev/null").expect("link");
    let log = UnixDatagram::bind("/dev/log").expect("socket");
    log.set_read_timeout(Some(Duration::from_secs(30)))
        .expect("timeout");
    log
}

#[test]
fn the_system_log_has_what_operators_look_for() {
    in_namespace(|| {
        let place = Place::new();
        let _disk = Disk::ext4(&place.path("m"));
        let hook = place.script("hook", "exit 0");
        let log = system_log(&place);
        let agent = place.agent(&[&format!("-F{}", hook.display())]);
        let mut client = agent.connect();
        for command in ["guest-ping", "guest-fsfreeze-freeze", "guest-ping"] {
            client.post(&cmd(command));
            assert!(client.line().contains("return"));
        }
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        let last = "info: executing fsfreeze hook with arg 'thaw'";
        let mut expected = vec![
            "info: guest-ping called",
            "info: guest-fsfreeze called",
            "info: executing fsfreeze hook with arg 'freeze'",
            "info: guest-fsthaw called",
            last,
        ];
        if is_ours() {
            // The one from the frozen time.
            expected.insert(3, "info: guest-ping called");
        }
        assert_eq!(audit_lines(&log, last), expected);
        crate::support::disk::detach(&place.path("null"));
    });
}
