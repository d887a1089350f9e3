//! The agent's end and its successor, while filesystems are frozen and otherwise.

use crate::serial::{self, line_to, unlink};
use crate::support::{Agent, Disk, Place, disabled, in_namespace, is_ours, returned, wait_until};
use nix::sys::signal::Signal;
use std::fs;

const FROZEN: &str = r#"{"return": "frozen"}"#;
const THAWED: &str = r#"{"return": "thawed"}"#;

/// An agent with a hook that notes its calls.
fn hooked(place: &Place, args: &[&str]) -> Agent {
    let calls = place.name("calls");
    let hook = place.script("hook", &format!("echo $1 >>'{calls}'"));
    let hook = format!("-F{}", hook.display());
    place.agent(&[args, &[&hook]].concat())
}

#[test]
fn killed_while_frozen_its_successor_thaws() {
    in_namespace(|| {
        let place = Place::new();
        let disks = ["a", "b"].map(|name| Disk::ext4(&place.path(name)));
        let agent = hooked(&place, &[]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(2));
        agent.kill();
        assert!(place.marker().exists());
        assert_eq!(disks.each_ref().map(Disk::is_frozen), [true; 2]);

        let agent = hooked(&place, &[]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-status"), FROZEN);
        assert_eq!(client.call("guest-ping"), returned("{}"));
        for command in [
            "guest-fsfreeze-freeze",
            "guest-get-time",
            "guest-get-fsinfo",
        ] {
            assert_eq!(client.call(command), disabled(command));
        }
        let told = place.read("stderr");
        assert!(told.contains("frozen") && told.contains(&place.marker().display().to_string()));
        assert_eq!(disks.each_ref().map(Disk::is_frozen), [true; 2]);
        assert_eq!(place.read("calls"), "freeze\n");
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(2));
        assert_eq!(disks.each_ref().map(Disk::is_frozen), [false; 2]);
        assert!(!place.marker().exists());
        assert_eq!(place.read("calls"), "freeze\nthaw\n");
        assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(2));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(2));
        drop(client);
        assert!(agent.stop().success());
    });
}

#[test]
fn the_successor_opens_its_log_on_the_frozen_filesystem_after_the_thaw() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&[]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        agent.kill();
        let log = disk.path("log");
        let agent = place.agent(&["-v", "-l", log.to_str().expect("text")]);
        assert_eq!(agent.call("guest-ping"), returned("{}"));
        assert!(!log.exists());
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(agent.call("guest-ping"), returned("{}"));
        wait_until("the log", || {
            fs::metadata(&log).is_ok_and(|log| log.len() > 0)
        });
    });
}

#[test]
fn a_marker_with_nothing_frozen_is_cleared_by_the_thaw() {
    in_namespace(|| {
        let place = Place::new();
        let _disk = Disk::ext4(&place.path("m"));
        fs::write(place.marker(), "").expect("marker");
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-status"), FROZEN);
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(0));
        assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
        assert!(!place.marker().exists());
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
    });
}

#[test]
fn a_marker_that_is_removed_by_hand_counts_at_the_next_start() {
    let place = Place::new();
    fs::write(place.marker(), "").expect("marker");
    let agent = place.agent(&[]);
    // With an answer the agent has read the marker.
    assert_eq!(agent.call("guest-fsfreeze-status"), FROZEN);
    fs::remove_file(place.marker()).expect("rm");
    assert_eq!(agent.call("guest-fsfreeze-status"), FROZEN);
    agent.kill();
    let agent = place.agent(&[]);
    assert_eq!(agent.call("guest-fsfreeze-status"), THAWED);
    assert!(agent.stop().success());
}

#[test]
fn sigterm_while_frozen_waits_for_the_thaw() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            // Without a limit nobody else would thaw.
            let forever: &[&str] = if is_ours() {
                &["--fsfreeze-hold-limit=0"]
            } else {
                &[]
            };
            let mut agent = hooked(&place, forever);
            let mut client = agent.connect();
            assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
            agent.signal(signal);
            for _ in 0..10 {
                assert_eq!(client.call("guest-fsfreeze-status"), FROZEN);
            }
            assert!(disk.is_frozen());
            assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
            assert!(!disk.is_frozen());
            if is_ours() {
                assert!(agent.wait().success());
            } else {
                assert_eq!(client.call("guest-ping"), returned("{}"));
            }
        }
        assert_eq!(place.read("calls"), "freeze\nthaw\n".repeat(2));
        assert!(!place.marker().exists());
    });
}

#[test]
fn sigterm_and_sigint_end_the_agent_with_status_0() {
    let place = Place::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut agent = place.agent(&[]);
        assert_eq!(agent.call("guest-ping"), returned("{}"));
        agent.signal(signal);
        assert_eq!(agent.wait().code(), Some(0));
    }
}

#[test]
fn sighup_ends_it_by_the_signal() {
    use std::os::unix::process::ExitStatusExt;
    let place = Place::new();
    // Whoever runs the tests may ignore it, as nohup does.
    let mut agent = place.agent_under(&["env", "--default-signal=HUP"], &[]);
    agent.signal(Signal::SIGHUP);
    assert_eq!(agent.wait().signal(), Some(Signal::SIGHUP as i32));
}

#[test]
fn a_hundred_restarts() {
    let place = Place::new();
    for _ in 0..100 {
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-ping"), returned("{}"));
        assert!(
            client
                .call("guest-info")
                .starts_with(r#"{"return": {"version": "#)
        );
        drop(client);
        assert!(agent.stop().success());
    }
    let said = place.read("log") + &place.read("stderr");
    let bad = ["error", "failed", "critical", "frozen"];
    assert!(!bad.iter().any(|word| said.contains(word)), "{said}");
}

#[test]
fn a_lost_channel_thaws_since_nobody_could_ask_for_it_any_more() {
    if !is_ours() {
        return; // it stays, deaf and frozen
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let mut host = line_to(&place);
        let mut agent = serial::agent(&place, "isa-serial", &[]);
        assert_eq!(host.call("guest-fsfreeze-freeze"), returned(1));
        assert!(disk.is_frozen());
        unlink(&place);
        drop(host);
        assert!(agent.wait().success());
        assert!(!disk.is_frozen());
        assert!(!place.marker().exists());
    });
}
