//! RCU grace periods are expedited while FIFREEZE runs, and at no other time.
//!
//! The kernel's settings are covered by regular files, each test in a mount namespace of its own: tests
//! beside it neither see nor change them.

use crate::support::disk::{bind_file, tmpfs};
use crate::support::{
    Agent, Client, Disk, Place, StuckWriter, failed, in_namespace, is_ours, returned,
    wait_for_exit, wait_until,
};
use nix::sys::signal::{Signal, kill};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const FREEZE: &str = r#"{"execute":"guest-fsfreeze-freeze"}"#;

const EXPEDITED: &str = "/sys/kernel/rcu_expedited";

/// What the agent logs where it leaves the setting alone.
const NOT_EXPEDITED: &str = "RCU grace periods are not expedited: ";

struct Rig {
    /// Dropped first: a directory on what is frozen cannot be removed.
    disk: Disk,
    place: Place,
}

impl Rig {
    /// A filesystem and the two settings, with these values.
    fn new(expedited: &str, normal: &str) -> Rig {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        for (name, value) in [("rcu_expedited", expedited), ("rcu_normal", normal)] {
            fs::write(place.path(name), format!("{value}\n")).expect("setting");
            bind_file(&place.path(name), &Path::new("/sys/kernel").join(name));
        }
        Rig { disk, place }
    }

    fn expedited(&self) -> String {
        self.place.read("rcu_expedited")
    }

    /// The argument for a hook that appends its own argument and the setting to `calls`, then does `text`.
    fn hook(&self, text: &str) -> String {
        let line = format!(
            "echo $1 $(cat {EXPEDITED}) >>'{}'; {text}",
            self.place.name("calls")
        );
        format!("-F{}", self.place.script("hook", &line).display())
    }

    /// Freezes and thaws; the setting inside FIFREEZE, while frozen and after the thaw.
    fn settings(&self, agent: &Agent) -> [String; 3] {
        let (mut client, writer) = self.enter_fifreeze(agent);
        let freezing = self.expedited();
        drop(writer);
        assert_eq!(client.line(), returned(1));
        let frozen = self.expedited();
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        [freezing, frozen, self.expedited()]
    }

    /// Starts a freeze that does not end as long as the writer lives.
    fn enter_fifreeze(&self, agent: &Agent) -> (Client, StuckWriter) {
        let writer = StuckWriter::on(&self.disk);
        let mut client = agent.connect();
        client.post(FREEZE);
        wait_until("FIFREEZE", || agent.is_in_fifreeze());
        (client, writer)
    }

    /// How often the agent, which ends here, has logged why it left the setting alone.
    fn count_reasons(&self, agent: Agent) -> usize {
        assert!(agent.stop().success());
        let said = self.place.read("log") + &self.place.read("stderr");
        let lines = said.lines().filter(|line| line.contains(NOT_EXPEDITED));
        let debug = format!(": debug: {NOT_EXPEDITED}");
        lines
            .inspect(|line| assert!(line.contains(&debug), "{line}"))
            .count()
    }
}

/// The original leaves the setting alone.
fn with_rig(
    expedited: &'static str,
    normal: &'static str,
    body: impl FnOnce(Rig) + Send + 'static,
) {
    if is_ours() {
        in_namespace(move || body(Rig::new(expedited, normal)));
    }
}

#[test]
fn grace_periods_are_expedited_during_fifreeze_alone() {
    with_rig("0", "0", |rig| {
        let agent = rig.place.agent(&["-v", &rig.hook("")]);
        assert_eq!(rig.settings(&agent), ["1\n", "0\n", "0\n"]);
        assert_eq!(rig.place.read("calls"), "freeze 0\nthaw 0\n");
        assert_eq!(rig.count_reasons(agent), 0);
    });
}

#[test]
fn the_guardian_restores_grace_periods_if_the_agent_is_killed_in_fifreeze() {
    with_rig("0", "0", |rig| {
        let agent = rig.place.agent(&[]);
        let (client, writer) = rig.enter_fifreeze(&agent);
        assert_eq!(rig.expedited(), "1\n");
        let guardians = agent.guardians();
        let killed = Instant::now();
        agent.signal(Signal::SIGKILL);
        // FIFREEZE still runs, and keeps the process from ending.
        wait_until("the guardian", || rig.expedited() == "0\n");
        let took = killed.elapsed();
        // It looks after the agent once a second.
        assert!(took < Duration::from_secs(10), "{took:?}");
        drop((client, writer));
        wait_for_exit(&guardians);
        assert!(!rig.disk.is_frozen());
        assert_eq!(rig.expedited(), "0\n");
    });
}

#[test]
fn expedited_grace_periods_of_others_stay_expedited() {
    with_rig("1", "0", |rig| {
        let agent = rig.place.agent(&["-v"]);
        assert_eq!(rig.settings(&agent), ["1\n"; 3]);
        assert_eq!(rig.count_reasons(agent), 1);
        // The guardian leaves them alone, too.
        let agent = rig.place.agent(&[]);
        let (client, writer) = rig.enter_fifreeze(&agent);
        let guardians = agent.guardians();
        agent.signal(Signal::SIGKILL);
        drop((client, writer));
        wait_for_exit(&guardians);
        assert!(!rig.disk.is_frozen());
        assert_eq!(rig.expedited(), "1\n");
    });
}

#[test]
fn grace_periods_stay_normal_where_rcu_normal_is_set() {
    with_rig("0", "1", |rig| {
        let agent = rig.place.agent(&["-v"]);
        assert_eq!(rig.settings(&agent), ["0\n"; 3]);
        assert_eq!(rig.count_reasons(agent), 1);
    });
}

#[test]
fn grace_periods_stay_normal_if_the_configuration_says_so() {
    with_rig("0", "0", |rig| {
        let agent = rig.place.agent(&["--fsfreeze-normal-rcu"]);
        assert_eq!(rig.settings(&agent), ["0\n"; 3]);
    });
}

/// If the agent died nobody would restore them without one.
#[test]
fn grace_periods_are_expedited_only_with_another_guardian_if_the_first_is_killed() {
    with_rig("0", "0", |rig| {
        let (called, go) = (rig.place.name("called"), rig.place.name("go"));
        let text =
            format!("echo >'{called}'; [ $1 = thaw ] || until [ -e '{go}' ]; do sleep 0.02; done");
        let agent = rig.place.agent(&[&rig.hook(&text)]);
        let writer = StuckWriter::on(&rig.disk);
        let mut client = agent.connect();
        client.post(FREEZE);
        wait_until("the hook", || Path::new(&called).exists());
        for guardian in agent.guardians() {
            kill(guardian, Signal::SIGKILL).expect("signal");
        }
        fs::write(go, "").expect("go");
        wait_until("FIFREEZE", || agent.is_in_fifreeze());
        assert_eq!(rig.expedited(), "1\n");
        assert_eq!(agent.guardians().len(), 1);
        drop(writer);
        assert_eq!(client.line(), returned(1));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(rig.expedited(), "0\n");
    });
}

/// A freeze and a thaw where the setting cannot be changed: with `-v` one line says why.
fn unavailable(rig: &Rig, why: &str) {
    for (args, expected) in [(&["-v"] as &[&str], 1), (&[], 0)] {
        fs::write(rig.place.path("log"), "").expect("clear");
        let agent = rig.place.agent(args);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert!(rig.disk.is_frozen());
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert!(!rig.disk.is_frozen());
        assert_eq!(rig.count_reasons(agent), expected, "{args:?}");
        let log = rig.place.read("log");
        assert_eq!(
            log.matches(&format!("{EXPEDITED}: {why}")).count(),
            expected,
            "{log}"
        );
    }
}

#[test]
fn a_kernel_without_the_setting_is_no_obstacle() {
    with_rig("0", "0", |rig| {
        tmpfs(Path::new("/sys/kernel"));
        unavailable(&rig, "No such file or directory");
    });
}

#[test]
fn a_setting_that_is_read_only_is_no_obstacle() {
    with_rig("0", "0", |rig| {
        let remounted = Command::new("mount")
            .args(["-o", "remount,bind,ro", EXPEDITED])
            .status();
        assert!(remounted.expect("mount").success());
        unavailable(&rig, "Read-only file system");
        assert_eq!(rig.expedited(), "0\n");
    });
}

#[test]
fn grace_periods_are_normal_after_a_freeze_that_failed() {
    with_rig("0", "0", |rig| {
        // Mounted last, it freezes first.
        let other = Disk::ext4(&rig.place.path("other"));
        let agent = rig.place.agent(&[]);
        rig.disk.freeze();
        let text = format!(
            "failed to freeze {}: someone else has frozen it already",
            rig.disk.mountpoint()
        );
        assert_eq!(agent.call("guest-fsfreeze-freeze"), failed(&text));
        assert_eq!(rig.expedited(), "0\n");
        rig.disk.thaw().expect("thaw");
        assert!(!other.is_frozen());
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(2));
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(2));
        assert_eq!(rig.expedited(), "0\n");
    });
}
