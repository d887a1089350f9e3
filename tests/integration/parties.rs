//! Whoever of agent, guardian and successor is killed or stopped: the host gets its answer, the hooks
//! their thaw, and nothing stays frozen.

use crate::killed_agents::rounds;
use crate::support::disk::{detach, tmpfs};
use crate::support::{
    Agent, Disk, Place, StuckWriter, in_namespace, is_ours, returned, wait_for_exit, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const FREEZE: &str = r#"{"execute":"guest-fsfreeze-freeze"}"#;

/// Two filesystems and a hook that writes down what it is told and why.
struct Rig {
    /// Dropped first: a directory on what is frozen cannot be removed.
    disks: [Disk; 2],
    place: Place,
    hook: String,
}

fn with_rig(text: &str, body: impl FnOnce(&Rig) + Send + 'static) {
    if !is_ours() {
        return; // it has no guardian
    }
    let text = text.to_owned();
    in_namespace(move || {
        let place = Place::new();
        let disks = ["a", "b"].map(|name| Disk::ext4(&place.path(name)));
        let calls = place.name("calls");
        let text = text.replace("PLACE", &place.name(""));
        let hook = place.script(
            "hook",
            &format!("echo $1 $QGA_THAW_REASON >>'{calls}'\n{text}"),
        );
        let hook = format!("-F{}", hook.display());
        body(&Rig { place, disks, hook });
    });
}

impl Rig {
    fn agent(&self, args: &[&str]) -> Agent {
        let mut all = vec![self.hook.as_str()];
        all.extend(args);
        self.place.agent(&all)
    }

    fn frozen_agent(&self, args: &[&str]) -> Agent {
        let agent = self.agent(args);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(2));
        agent
    }

    fn frozen(&self) -> [bool; 2] {
        self.disks.each_ref().map(Disk::is_frozen)
    }

    fn calls(&self) -> String {
        self.place.read("calls")
    }

    /// The report's level, and what became of the filesystems.
    fn verdict(&self) -> (String, Vec<String>) {
        let report = self.place.report();
        let filesystems = report["filesystems"].as_array().expect("a list");
        let outcome = |record: &serde_json::Value| record["outcome"].as_str().expect("text").into();
        let level = report["level"].as_str().expect("text").to_owned();
        (level, filesystems.iter().map(outcome).collect())
    }
}

fn guardian(agent: &Agent) -> Pid {
    let guardians = agent.guardians();
    assert_eq!(guardians.len(), 1);
    guardians[0]
}

fn end(guardian: Pid) {
    kill(guardian, Signal::SIGKILL).expect("signal");
    wait_for_exit(&[guardian]);
}

#[test]
fn a_guardian_that_is_stopped_or_killed_holds_up_no_thaw() {
    with_rig("", |rig| {
        let mut told = String::new();
        let agent = rig.agent(&[]);
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(2));
            let guardian = guardian(&agent);
            kill(guardian, signal).expect("signal");
            assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(2), "{signal}");
            assert_eq!(rig.frozen(), [false; 2]);
            told += "freeze\nthaw ok\n";
            assert_eq!(rig.calls(), told);
            // It is ended, so that it cannot act later.
            wait_for_exit(&[guardian]);
            assert_eq!(rig.verdict().0, "filesystem", "{signal}");
        }
        assert_eq!(agent.call("guest-fsfreeze-status"), returned("\"thawed\""));
    });
}

#[test]
fn a_freeze_that_fails_after_its_guardian_was_killed_is_undone() {
    let text =
        "[ $1 = thaw ] || pkill -9 -f '^qemu-ga guardian' -P $PPID\nexit $(cat PLACE/status)";
    with_rig(text, |rig| {
        fs::write(rig.place.path("status"), "1").expect("status");
        let agent = rig.agent(&[]);
        let answer = agent.call("guest-fsfreeze-freeze");
        assert!(answer.contains("exit status 1"), "{answer}");
        assert_eq!(rig.calls(), "freeze\nthaw failed\n");
        assert_eq!(rig.frozen(), [false; 2]);
        // One that is frozen by somebody else.
        fs::write(rig.place.path("status"), "0").expect("status");
        fs::write(rig.place.path("calls"), "").expect("clear");
        rig.disks[0].freeze();
        let answer = agent.call("guest-fsfreeze-freeze");
        rig.disks[0].thaw().expect("thaw");
        assert!(answer.contains("failed to freeze"), "{answer}");
        assert_eq!(rig.calls(), "freeze\nthaw failed\n");
        assert_eq!(rig.frozen(), [false; 2]);
    });
}

#[test]
fn a_guardian_that_dies_while_frozen_is_replaced() {
    with_rig("", |rig| {
        let agent = rig.frozen_agent(&["--fsfreeze-hold-limit=4"]);
        let start = Instant::now();
        for _ in 0..2 {
            let first = guardian(&agent);
            end(first);
            wait_until("another guardian", || {
                agent.guardians().iter().any(|&other| other != first)
            });
        }
        sleep(Duration::from_millis(200));
        // It has the filesystems, the limit, the report and the hook.
        agent.kill();
        assert_eq!(rig.frozen(), [true; 2]);
        wait_until("the limit", || rig.frozen() == [false; 2]);
        let held = start.elapsed().as_secs_f64();
        assert!((3.0..6.0).contains(&held), "{held}");
        wait_until("the hook", || rig.calls() == "freeze\nthaw timed-out\n");
        let (level, outcomes) = rig.verdict();
        assert_eq!(
            (level.as_str(), outcomes),
            ("crash", vec!["thawed".to_owned(); 2])
        );
    });
}

#[test]
fn an_agent_that_dies_right_after_it_has_replaced_its_guardian_leaves_nothing_frozen() {
    with_rig("", |rig| {
        for round in 0..12 {
            let agent = rig.frozen_agent(&["--fsfreeze-hold-limit=2"]);
            let first = guardian(&agent);
            end(first);
            sleep(Duration::from_millis(2 * round));
            agent.kill();
            // Whichever of the two it was that the kill came before: the guardian, or the next agent.
            let successor = rig.agent(&[]);
            wait_until("the limit", || rig.frozen() == [false; 2]);
            let calls = || rig.calls();
            wait_until("the hook", || calls().matches("thaw").count() == 1);
            assert!(
                calls().starts_with("freeze\nthaw "),
                "round {round}: {}",
                calls()
            );
            let thawed = returned("\"thawed\"");
            wait_until("the successor", || {
                successor.call("guest-fsfreeze-status") == thawed && !rig.place.marker().exists()
            });
            fs::write(rig.place.path("calls"), "").expect("clear");
        }
    });
}

#[test]
fn a_successor_thaws_what_was_frozen_and_not_what_is_mounted_there() {
    with_rig("", |rig| {
        rig.frozen_agent(&[]).kill();
        tmpfs(&rig.place.path("a"));
        let successor = rig.agent(&[]);
        assert_eq!(
            successor.call("guest-fsfreeze-status"),
            returned("\"frozen\"")
        );
        assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(2));
        detach(&rig.place.path("a"));
        assert_eq!(rig.frozen(), [false; 2]);
        assert_eq!(rig.calls(), "freeze\nthaw recovered\n");
        assert_eq!(rig.verdict().0, "filesystem");
    });
}

#[test]
fn a_successor_notices_what_others_have_thawed() {
    with_rig("", |rig| {
        rig.frozen_agent(&[]).kill();
        rig.disks[1].thaw().expect("thaw");
        let successor = rig.agent(&[]);
        assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(1));
        let (level, outcomes) = rig.verdict();
        assert_eq!(level, "crash");
        assert!(
            outcomes.contains(&"thawed-by-others".to_owned()),
            "{outcomes:?}"
        );
    });
}

/// A package of the original is installed while everything is frozen, and ours again.
#[test]
fn an_agent_that_thaws_without_the_guardian_ends_the_freeze() {
    with_rig("", |rig| {
        for starts_at_once in [false, true] {
            let agent = rig.frozen_agent(&["--fsfreeze-hold-limit=600"]);
            let guardian = guardian(&agent);
            agent.kill();
            for disk in &rig.disks {
                disk.thaw().expect("thaw");
            }
            // A foreign hook master has no journal: whoever removes the marker has called it.
            let hook = rig.hook.trim_start_matches("-F");
            assert!(
                Command::new(hook)
                    .arg("thaw")
                    .status()
                    .expect("the hook")
                    .success()
            );
            fs::remove_file(rig.place.marker()).expect("the marker");
            if !starts_at_once {
                wait_for_exit(&[guardian]);
            }
            let successor = rig.agent(&[]);
            let thawed = returned("\"thawed\"");
            wait_until("the successor to look", || {
                successor.call("guest-fsfreeze-status") == thawed
            });
            // The host has had its answer.
            assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(0));
            wait_for_exit(&[guardian]);
            assert_eq!(rig.calls(), "freeze\nthaw\n");
            assert_eq!(successor.call("guest-fsfreeze-freeze"), returned(2));
            assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(2));
            fs::write(rig.place.path("calls"), "").expect("clear");
        }
    });
}

#[test]
fn a_successor_calls_the_hook_that_was_called() {
    with_rig("", |rig| {
        rig.frozen_agent(&[]).kill();
        let successor = rig.place.agent(&[]);
        assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(2));
        assert_eq!(rig.calls(), "freeze\nthaw recovered\n");
        // The next freeze is its own.
        assert_eq!(successor.call("guest-fsfreeze-freeze"), returned(2));
        assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(2));
        assert_eq!(rig.calls(), "freeze\nthaw recovered\n");
    });
}

/// Agent and guardian, neither of which can act between their ends.
fn end_both(agent: Agent) {
    agent.signal(Signal::SIGSTOP);
    end(guardian(&agent));
    agent.kill();
}

#[test]
fn without_agent_and_guardian_a_successor_keeps_the_limit() {
    with_rig("", |rig| {
        let start = Instant::now();
        end_both(rig.frozen_agent(&["--fsfreeze-hold-limit=4"]));
        assert_eq!(rig.frozen(), [true; 2]);
        let successor = rig.place.agent(&["--fsfreeze-hold-limit=900"]);
        wait_until("a guardian", || successor.guardians().len() == 1);
        assert_eq!(
            successor.call("guest-fsfreeze-status"),
            returned("\"frozen\"")
        );
        assert_eq!(rig.frozen(), [true; 2]);
        wait_until("the limit", || rig.frozen() == [false; 2]);
        let held = start.elapsed().as_secs_f64();
        assert!((3.0..6.0).contains(&held), "{held}");
        wait_until("the hook", || rig.calls() == "freeze\nthaw timed-out\n");
        let late = successor.call("guest-fsfreeze-thaw");
        assert!(late.contains("within the hold limit"), "{late}");
        assert_eq!(rig.verdict().0, "crash");
    });
}

#[test]
fn a_guardian_that_is_stopped_does_not_keep_a_successor_from_the_freeze() {
    with_rig("", |rig| {
        let agent = rig.frozen_agent(&["--fsfreeze-hold-limit=20"]);
        let guardian = guardian(&agent);
        kill(guardian, Signal::SIGSTOP).expect("signal");
        agent.kill();
        let successor = rig.agent(&[]);
        // Nobody asks it anything.
        wait_for_exit(&[guardian]);
        assert_eq!(rig.frozen(), [true; 2]);
        wait_until("the limit", || rig.frozen() == [false; 2]);
        wait_until("the hook", || rig.calls() == "freeze\nthaw timed-out\n");
        drop(successor);
    });
}

#[test]
fn without_agent_and_guardian_a_successor_thaws() {
    with_rig("", |rig| {
        end_both(rig.frozen_agent(&[]));
        let successor = rig.place.agent(&[]);
        assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(2));
        assert_eq!(rig.frozen(), [false; 2]);
        assert_eq!(rig.calls(), "freeze\nthaw recovered\n");
        // Nobody knows any more what became of the hooks.
        assert_eq!(rig.verdict().0, "filesystem");
    });
}

#[test]
fn without_agent_and_guardian_a_successor_goes_on_with_a_freeze_of_hooks_alone() {
    with_rig("", |rig| {
        let agent = rig.agent(&["--fsfreeze-mode=hooks-only"]);
        let answer = agent.call("guest-fsfreeze-freeze");
        assert_eq!(answer, returned(0));
        end_both(agent);
        let successor = rig.agent(&[]);
        let frozen = returned("\"frozen\"");
        assert_eq!(successor.call("guest-fsfreeze-status"), frozen);
        assert_eq!(rig.frozen(), [false; 2]);
        wait_until("a guardian", || successor.guardians().len() == 1);
        assert_eq!(rig.calls(), "freeze\n");
        assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(0));
        assert_eq!(rig.calls(), "freeze\nthaw recovered\n");
    });
}

#[test]
fn without_agent_and_guardian_a_successor_says_what_is_frozen() {
    with_rig("", |rig| {
        end_both(rig.frozen_agent(&[]));
        for disk in &rig.disks {
            disk.thaw().expect("thaw");
        }
        let successor = rig.agent(&[]);
        let thawed = returned("\"thawed\"");
        wait_until("the successor to look", || {
            successor.call("guest-fsfreeze-status") == thawed
        });
        assert!(!rig.place.marker().exists());
        wait_until("the hook", || rig.calls() == "freeze\nthaw recovered\n");
        let late = successor.call("guest-fsfreeze-thaw");
        assert!(late.contains("were killed"), "{late}");
        assert_eq!(rig.frozen(), [false; 2]);
    });
}

#[test]
fn a_marker_of_another_boot_is_no_freeze() {
    with_rig("", |rig| {
        let text = r#"{"boot":"00000000-0000-0000-0000-000000000000","devices":["7:0"]}"#;
        fs::write(rig.place.marker(), text).expect("marker");
        let agent = rig.agent(&[]);
        assert!(agent.guardians().is_empty());
        let thawed = returned("\"thawed\"");
        wait_until("the agent to look", || {
            agent.call("guest-fsfreeze-status") == thawed
        });
        assert!(!rig.place.marker().exists());
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(2));
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(2));
    });
}

#[test]
fn a_successor_needs_nothing_of_a_state_directory_that_is_frozen() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let state = Disk::ext4(&place.path("state"));
        let hook = place.noting_hook();
        let agent = place.agent(&[&hook]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        agent.kill();
        let start = Instant::now();
        let successor = place.agent(&[&hook]);
        assert_eq!(
            successor.call("guest-fsfreeze-status"),
            returned("\"frozen\"")
        );
        assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(1));
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(!state.is_frozen());
        assert_eq!(place.read("calls"), "freeze\nthaw recovered\n");
        // And without a guardian.
        fs::write(place.path("calls"), "").expect("clear");
        assert_eq!(successor.call("guest-fsfreeze-freeze"), returned(1));
        end_both(successor);
        let start = Instant::now();
        let last = place.agent(&[&hook]);
        assert_eq!(last.call("guest-fsfreeze-thaw"), returned(1));
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(!state.is_frozen());
        assert_eq!(place.read("calls"), "freeze\nthaw recovered\n");
        drop(last);
    });
}

#[test]
fn no_thaw_hook_starts_while_a_freeze_hook_is_at_work() {
    let text = "[ $1 = thaw ] || { trap 'echo ended >>PLACE/calls; exit' TERM; sleep 600 & wait; }";
    with_rig(text, |rig| {
        let agent = rig.agent(&[]);
        agent.connect().post(FREEZE);
        wait_until("the hook", || rig.calls() == "freeze\n");
        agent.kill();
        wait_until("the thaw hook", || rig.calls().contains("thaw"));
        assert_eq!(rig.calls(), "freeze\nended\nthaw failed\n");
        assert_eq!(rig.frozen(), [false; 2]);
    });
}

/// The successor is asked in every state of its predecessor's end.
#[test]
fn a_successor_that_starts_at_once_is_not_stuck() {
    with_rig("", |rig| {
        for round in 0..rounds(60) {
            let agent = rig.agent(&[]);
            let mut client = agent.connect();
            client.post(FREEZE);
            // Over and over from the request to the end of the freeze.
            sleep(Duration::from_micros(u64::from(round % 60) * 400));
            agent.kill();
            let successor = rig.agent(&[]);
            let says = |what: &str| {
                successor.call("guest-fsfreeze-status") == returned(format!("{what:?}"))
            };
            wait_until("status and kernel to agree", || match rig.frozen() {
                [true, true] => says("frozen"),
                [false, false] => says("thawed") && !rig.place.marker().exists(),
                _ => false,
            });
            let answer = successor.call("guest-fsfreeze-thaw");
            assert!(answer.contains("return"), "round {round}: {answer}");
            assert_eq!(rig.frozen(), [false; 2]);
            let calls = rig.calls();
            let mut is_quiet = false;
            for call in calls.lines() {
                let is_freeze = call.starts_with("freeze");
                assert!(is_freeze != is_quiet, "round {round}: {calls}");
                is_quiet = is_freeze;
            }
            assert!(!is_quiet, "round {round}: {calls}");
            fs::write(rig.place.path("calls"), "").expect("clear");
        }
    });
}

/// What is frozen first must not stand still longer than the limit, whatever the agent waits for.
#[test]
fn the_hold_limit_counts_from_the_first_fifreeze() {
    with_rig("", |rig| {
        let agent = rig.agent(&["--fsfreeze-hold-limit=2"]);
        // The one that is frozen last.
        let writer = StuckWriter::on(&rig.disks[0]);
        let mut client = agent.connect();
        client.post(FREEZE);
        wait_until("FIFREEZE", || agent.is_in_fifreeze());
        agent.signal(Signal::SIGSTOP);
        wait_until("the hook", || rig.calls() == "freeze\nthaw timed-out\n");
        // The cheap way to ask, beside a guardian that thaws again and again.
        assert!(rig.disks[1].thaw().is_err() && !rig.place.marker().exists());
        agent.signal(Signal::SIGCONT);
        let answer = client.line();
        assert!(answer.contains("hold limit passed"), "{answer}");
        drop(writer);
        wait_until("the guardian to leave", || agent.guardians().is_empty());
        // FIFREEZE returns in a thread of the agent, which then thaws.
        wait_until("the thread's thaw", || rig.frozen() == [false; 2]);
        assert_eq!(rig.calls(), "freeze\nthaw timed-out\n");
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(2));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(2));
    });
}
