//! What happens to a freeze that nobody thaws: the hold limit, and the guardian when the agent is
//! killed or stopped.

use crate::support::{
    Agent, Disk, Place, StuckWriter, in_namespace, is_ours, returned, wait_for_exit, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

const FROZEN: &str = r#"{"return": "frozen"}"#;
const THAWED: &str = r#"{"return": "thawed"}"#;

struct Rig {
    /// Dropped first: a directory on what is frozen cannot be removed.
    disk: Disk,
    place: Place,
}

impl Rig {
    /// An agent whose hook notes what it is told and why.
    fn agent(&self, args: &[&str]) -> Agent {
        let calls = self.place.name("calls");
        let text = format!(
            "echo $1 ${{QGA_THAW_REASON-}} >>'{calls}'; [ $1 = thaw ] || [ ! -e '{}' ] || sleep 1",
            self.place.name("slow")
        );
        let hook = format!("-F{}", self.place.script("hook", &text).display());
        self.place.agent(&[args, &[&hook]].concat())
    }

    fn frozen_agent(&self, args: &[&str]) -> Agent {
        let agent = self.agent(args);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert!(self.disk.is_frozen());
        agent
    }

    fn thaws_by_itself(&self) {
        wait_until("the thaw", || !self.disk.is_frozen());
        wait_until("the marker to go", || !self.place.marker().exists());
    }

    fn calls(&self, expected: &str) {
        wait_until("the hook", || {
            self.place.read("calls").lines().count() == expected.lines().count()
        });
        assert_eq!(self.place.read("calls"), expected);
        fs::write(self.place.path("calls"), "").expect("clear");
    }
}

/// Each on filesystems of its own; the original has no limit and no guardian.
fn with_rig(body: impl FnOnce(&Rig) + Send + 'static) {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        body(&Rig { place, disk });
    });
}

/// The process that stands guard for `agent`.
fn guardian(agent: &Agent) -> Pid {
    *agent.guardians().first().expect("a guardian")
}

fn late(agent: &Agent, why: &str) {
    let reply = agent.call("guest-fsfreeze-thaw");
    assert!(
        reply.contains("the freeze was ended at ") && reply.contains(why),
        "{reply}"
    );
    assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(0));
}

#[test]
fn the_hold_limit_thaws_and_the_late_thaw_hears_of_it_once() {
    with_rig(|rig| {
        let agent = rig.frozen_agent(&["--fsfreeze-hold-limit=2"]);
        rig.thaws_by_itself();
        rig.calls("freeze\nthaw timed-out\n");
        wait_until("the hook to end", || {
            agent.call("guest-fsfreeze-status") == THAWED
        });
        late(&agent, "hold limit");
        // A thaw in time is one.
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        rig.calls("freeze\nthaw ok\n");
    });
}

#[test]
fn lists_of_processes_show_what_the_guardian_is() {
    with_rig(|rig| {
        let agent = rig.frozen_agent(&[]);
        let read = |name| fs::read_to_string(format!("/proc/{}/{name}", guardian(&agent)));
        assert_eq!(read("comm").expect("a name"), "qga-guardian\n");
        assert_eq!(read("cmdline").expect("words"), "qemu-ga\0guardian\0");
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
    });
}

#[test]
fn the_hold_limit_holds_for_an_agent_that_is_stopped() {
    with_rig(|rig| {
        let agent = rig.frozen_agent(&["--fsfreeze-hold-limit=1"]);
        agent.signal(Signal::SIGSTOP);
        rig.thaws_by_itself();
        rig.calls("freeze\nthaw timed-out\n");
        agent.signal(Signal::SIGCONT);
        late(&agent, "hold limit");
        rig.calls("");
    });
}

#[test]
fn the_hold_limit_holds_for_an_agent_that_is_dead() {
    with_rig(|rig| {
        let agent = rig.frozen_agent(&["--fsfreeze-hold-limit=1"]);
        agent.signal(Signal::SIGKILL);
        rig.thaws_by_itself();
        rig.calls("freeze\nthaw timed-out\n");
        drop(agent);
        late(&rig.agent(&[]), "hold limit");
    });
}

#[test]
fn a_successor_hears_that_the_guardian_has_ended_the_freeze() {
    with_rig(|rig| {
        let agent = rig.frozen_agent(&["--fsfreeze-hold-limit=4"]);
        agent.signal(Signal::SIGKILL);
        drop(agent);
        let successor = rig.agent(&[]);
        assert_eq!(successor.call("guest-fsfreeze-status"), FROZEN);
        rig.thaws_by_itself();
        wait_until("the successor to hear of it", || {
            successor.call("guest-fsfreeze-status") == THAWED
        });
        late(&successor, "hold limit");
        rig.calls("freeze\nthaw timed-out\n");
    });
}

#[test]
fn killed_while_the_hook_runs_everything_is_undone() {
    with_rig(|rig| {
        fs::write(rig.place.path("slow"), "").expect("slow");
        let agent = rig.agent(&[]);
        let mut client = agent.connect();
        client.post(r#"{"execute":"guest-fsfreeze-freeze"}"#);
        wait_until("the hook", || !rig.place.read("calls").is_empty());
        agent.signal(Signal::SIGKILL);
        rig.calls("freeze\nthaw failed\n");
        assert!(!rig.disk.is_frozen() && !rig.place.marker().exists());
    });
}

#[test]
fn a_guardian_that_is_told_to_end_thaws() {
    with_rig(|rig| {
        let agent = rig.frozen_agent(&[]);
        kill(guardian(&agent), Signal::SIGTERM).expect("signal");
        rig.thaws_by_itself();
        wait_until("the agent to hear of it", || {
            agent.call("guest-fsfreeze-status") == THAWED
        });
        rig.calls("freeze\nthaw timed-out\n");
        late(&agent, "the service was stopped");
    });
}

#[test]
fn without_its_guardian_the_agent_keeps_the_limit_itself() {
    with_rig(|rig| {
        let agent = rig.frozen_agent(&["--fsfreeze-hold-limit=1"]);
        kill(guardian(&agent), Signal::SIGKILL).expect("signal");
        rig.thaws_by_itself();
        rig.calls("freeze\nthaw timed-out\n");
        late(&agent, "hold limit");
    });
}

/// Given up by the agent, FIFREEZE goes on in the kernel, and succeeds when the writer ends.
fn late_freeze(rig: &Rig, end: impl FnOnce(&Agent)) {
    let agent = rig.agent(&["--fsfreeze-step-limit=1"]);
    let writer = StuckWriter::on(&rig.disk);
    // The second is held up by the first, and leaves a guardian behind as well, unless the kernel refuses it.
    for _ in 0..2 {
        let reply = agent.call("guest-fsfreeze-freeze");
        assert!(reply.contains("failed to freeze "), "{reply}");
        rig.calls("freeze\nthaw failed\n");
        assert!(!rig.place.marker().exists());
        let socket = rig.place.path("qga.guardian");
        assert!(!socket.exists(), "the next one finds it free");
    }
    let guardians = agent.guardians();
    assert!(!guardians.is_empty());
    end(&agent);
    drop(writer);
    wait_for_exit(&guardians);
    assert!(!rig.disk.is_frozen());
    rig.calls("");
}

#[test]
fn a_freeze_that_succeeds_after_its_limit_is_taken_back() {
    with_rig(|rig| late_freeze(rig, |_| ()));
}

#[test]
fn a_freeze_that_succeeds_after_the_agents_death_is_taken_back() {
    with_rig(|rig| late_freeze(rig, |agent| agent.signal(Signal::SIGKILL)));
}

/// The thread that waits for the write keeps the agent from ending, and the guardian from seeing its line closed.
#[test]
fn killed_while_a_filesystem_does_not_answer_the_others_are_thawed() {
    with_rig(|rig| {
        let other = Disk::ext4(&rig.place.path("other"));
        let _thawed = other.thaw_first();
        let agent = rig.agent(&["--fsfreeze-step-limit=1000"]);
        let writer = StuckWriter::on(&rig.disk);
        let mut client = agent.connect();
        client.post(r#"{"execute":"guest-fsfreeze-freeze"}"#);
        // It is there just before the first FIFREEZE.
        wait_until("the marker", || rig.place.marker().exists());
        std::thread::sleep(Duration::from_millis(300));
        let guardians = agent.guardians();
        agent.signal(Signal::SIGKILL);
        let path = other.path("written");
        let write = std::thread::spawn(|| fs::write(path, "once it is thawed"));
        wait_until("the thaw of the other one", || write.is_finished());
        rig.calls("freeze\nthaw failed\n");
        assert!(!rig.place.marker().exists());
        drop(writer);
        wait_for_exit(&guardians);
        assert!(!rig.disk.is_frozen());
    });
}

#[test]
fn a_guest_sync_is_answered_while_a_freeze_is_at_work() {
    with_rig(|rig| {
        fs::write(rig.place.path("slow"), "").expect("slow");
        let agent = rig.agent(&[]);
        let mut client = agent.connect();
        client.post(r#"{"execute":"guest-fsfreeze-freeze","id":"given up"}"#);
        wait_until("the hook", || !rig.place.read("calls").is_empty());
        // What waits behind the freeze is given up with it; what follows the sync is not.
        client.post(r#"{"execute":"guest-ping","id":"given up"}"#);
        assert_eq!(
            client.ask(r#"{"execute":"guest-sync","arguments":{"id":7}}"#),
            returned(7)
        );
        assert!(!rig.disk.is_frozen(), "the sync has waited for the freeze");
        assert_eq!(client.call("guest-fsfreeze-status"), FROZEN);
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
    });
}
