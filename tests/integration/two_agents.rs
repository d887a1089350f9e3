//! Two agents on one state directory: the second one would take the first one's guardian.

use crate::support::{
    Agent, Disk, Place, StuckWriter, in_namespace, is_ours, returned, wait_until,
};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A second agent that is still there after that was not refused.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a second agent with a socket and a log of its own; its exit status, unless it stays.
fn second(place: &Place, args: &[&str]) -> Option<i32> {
    let (socket, log) = (place.name("sock2"), place.name("log2"));
    let args = [args, &["-p", &socket, "-l", &log]].concat();
    let mut agent = Agent::adopt(place.agent_command(&args).spawn().expect("runs"));
    let start = Instant::now();
    while agent.child.try_wait().expect("wait").is_none() && start.elapsed() < REFUSAL_TIMEOUT {
        sleep(Duration::from_millis(5));
    }
    agent.child.try_wait().expect("wait")?.code()
}

/// Asserts that the second agent was refused because of `first`, in a line that names it.
fn assert_refused(place: &Place, first: &Agent, args: &[&str]) {
    fs::remove_file(place.path("log2")).ok();
    let status = second(place, args);
    let said = place.read("stderr") + &place.read("log2");
    assert_eq!(status, Some(1), "{said}");
    let text = format!(
        "the state directory {} is in use by another agent, process {}; stop that agent or choose another directory with --statedir",
        place.name("state"),
        first.pid()
    );
    assert_eq!(said.matches(&text).count(), 1, "{said}");
    assert!(!place.path("sock2").exists());
}

fn hooked(place: &Place, args: &[&str]) -> Agent {
    place.agent(&[args, &[&place.noting_hook()]].concat())
}

#[test]
fn the_second_agent_refuses_and_leaves_the_first_its_guardian() {
    if !is_ours() {
        return; // it has no lock
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let agent = hooked(&place, &[]);
        assert_refused(&place, &agent, &[]);
        // A daemon says it to its caller.
        let pid = place.name("pid");
        assert_refused(&place, &agent, &["-d", "-f", &pid]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_refused(&place, &agent, &[]);
        assert_eq!(agent.guardians().len(), 1);
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert!(!disk.is_frozen());
        assert_eq!(place.read("calls"), "freeze\nthaw ok\n");
        let lock = fs::metadata(place.path("state/qga.lock")).expect("lock");
        assert_eq!(lock.permissions().mode() & 0o7777, 0o600);
        // It goes with its holder, however that ends.
        agent.kill();
        let agent = hooked(&place, &[]);
        assert_eq!(agent.call("guest-ping"), returned("{}"));
        assert!(agent.stop().success());
        hooked(&place, &[]);
    });
}

#[test]
fn the_lock_needs_nothing_of_a_frozen_filesystem_and_goes_with_a_killed_agent() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let state = disk.path("state");
        fs::create_dir(&state).expect("dir");
        fs::remove_dir(place.path("state")).expect("dir");
        std::os::unix::fs::symlink(&state, place.path("state")).expect("link");
        let agent = hooked(&place, &[]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_refused(&place, &agent, &[]);
        // The guardian, which lives on, has not inherited it.
        agent.kill();
        let agent = hooked(&place, &[]);
        assert_refused(&place, &agent, &[]);
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert!(!disk.is_frozen());
    });
}

#[test]
fn an_agent_that_was_killed_and_cannot_end_does_not_keep_its_successor_out() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let first = hooked(&place, &[]);
        let writer = StuckWriter::on(&disk);
        let mut client = first.connect();
        client.post(r#"{"execute":"guest-fsfreeze-freeze"}"#);
        wait_until("FIFREEZE", || first.is_in_fifreeze());
        first.signal(Signal::SIGKILL);
        let stat = format!("/proc/{}/stat", first.pid());
        wait_until("the end of its main thread", || {
            fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "))
        });
        let holder = format!(" {} ", first.pid());
        let locks = fs::read_to_string("/proc/locks").expect("locks");
        assert!(locks.contains(&holder), "it holds the lock: {locks}");
        let agent = hooked(&place, &[]);
        assert_eq!(agent.call("guest-ping"), returned("{}"));
        drop(writer);
        drop(first);
    });
}
