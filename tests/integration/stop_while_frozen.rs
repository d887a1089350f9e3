//! SIGTERM and SIGINT during a freeze: the host gets its answers first, and a system that goes down does
//! not wait for them.

use crate::support::disk::{bind_file, tmpfs};
use crate::support::{Agent, Client, Disk, Place, in_namespace, is_ours, returned, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

const FROZEN: &str = r#"{"return": "frozen"}"#;
const THAWED: &str = r#"{"return": "thawed"}"#;
const FREEZE: &str = r#"{"execute":"guest-fsfreeze-freeze"}"#;
const THAW: &str = r#"{"execute":"guest-fsfreeze-thaw"}"#;
/// What the error of a freeze that was given up says.
const ASKED_TO_STOP: &str = "the agent was asked to stop";
const GOING_DOWN: &str = "because the system is going down";
/// How long an agent stays for the thaw of a freeze that it has ended because the system goes down.
const LATE_THAW_GRACE: Duration = Duration::from_secs(10);

struct Rig {
    /// Dropped first: a directory on what is frozen cannot be removed.
    disk: Disk,
    place: Place,
}

impl Rig {
    /// An agent whose hook notes what it is told and why, and sleeps in the phase of that name if there is
    /// a file `slow-PHASE`.
    fn agent(&self, args: &[&str]) -> Agent {
        let text = format!(
            "echo $1 ${{QGA_THAW_REASON-}} >>'{}'; [ ! -e '{}'$1 ] || sleep $(cat '{1}'$1)",
            self.place.name("calls"),
            self.place.name("slow-")
        );
        let hook = format!("-F{}", self.place.script("hook", &text).display());
        self.place.agent(&[args, &[&hook]].concat())
    }

    fn frozen(&self, args: &[&str]) -> (Agent, Client) {
        let agent = self.agent(args);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        assert!(self.disk.is_frozen());
        (agent, client)
    }

    /// The hook of this phase takes so many seconds.
    fn slow(&self, phase: &str, seconds: u32) {
        let file = self.place.path(&format!("slow-{phase}"));
        fs::write(file, seconds.to_string()).expect("slow");
    }

    fn await_hook(&self, phase: &str) {
        wait_until("the hook", || self.place.read("calls").contains(phase));
    }

    fn is_over(&self, calls: &str) {
        assert!(!self.disk.is_frozen() && !self.place.marker().exists());
        assert_eq!(self.place.read("calls"), calls);
    }
}

/// The original drops these signals while frozen.
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

/// A process 1 that answers what state the system is in; `None`: it takes questions and never answers.
/// Returns how often it was asked.
fn system_state(state: Option<&'static str>) -> Arc<AtomicUsize> {
    let dir = Path::new("/run/systemd");
    fs::create_dir_all(dir).expect("dir");
    tmpfs(dir);
    let listener = UnixListener::bind(dir.join("private")).expect("socket");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for line in listener.incoming() {
            let line = line.expect("a connection");
            answer_state(&line, state);
            count.fetch_add(1, Ordering::Relaxed);
            open.push(line);
        }
    });
    asked
}

/// Speaks as systemd does at its private socket: what is sent together with the login stays unread, and
/// signals come before the answer.
fn answer_state(mut line: &UnixStream, state: Option<&str>) {
    let mut login = [0; 64];
    let length = line.read(&mut login).expect("a login");
    assert_eq!(&login[..length], b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n");
    let Some(state) = state else { return };
    line.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n")
        .expect("heard");
    let mut question = [0; 256];
    let length = line.read(&mut question).expect("a question");
    assert!(question[..length].ends_with(b"SystemState\0"));
    let message = |kind, body: &[u8]| {
        let mut message = vec![b'l', kind, 1, 1];
        for number in [body.len(), 1, 5] {
            message.extend(u32::try_from(number).expect("short").to_le_bytes());
        }
        message.extend(b"field\0\0\0");
        message.extend(body);
        message
    };
    let signal = message(4, b"\x08\0\0\0stopping\0");
    let length = u32::try_from(state.len()).expect("short").to_le_bytes();
    let answer = message(
        2,
        &[b"\x01s\0\0", &length[..], state.as_bytes(), b"\0"].concat(),
    );
    let (first, second) = answer.split_at(20);
    line.write_all(&[&signal, first].concat()).expect("heard");
    sleep(Duration::from_millis(50));
    line.write_all(second).expect("heard");
}

#[test]
fn told_to_stop_while_frozen_it_answers_until_the_thaw_and_leaves() {
    with_rig(|rig| {
        for (signal, limit) in [
            (Signal::SIGTERM, "--fsfreeze-hold-limit=900"),
            (Signal::SIGINT, "--fsfreeze-hold-limit=0"),
        ] {
            let (mut agent, mut client) = rig.frozen(&[limit]);
            for _ in 0..3 {
                agent.signal(signal);
                sleep(Duration::from_millis(100));
                assert_eq!(client.call("guest-fsfreeze-status"), FROZEN);
            }
            // Nor does it need the connection that froze.
            drop(client);
            let mut client = agent.connect();
            assert!(rig.disk.is_frozen());
            assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
            assert!(agent.wait().success());
            rig.is_over("freeze\nthaw ok\n");
            assert_eq!(rig.place.report()["end"], "thaw");
            fs::remove_file(rig.place.path("calls")).expect("rm");
        }
    });
}

#[test]
fn told_to_stop_while_frozen_it_leaves_at_the_hold_limit() {
    with_rig(|rig| {
        let (mut agent, mut client) = rig.frozen(&["--fsfreeze-hold-limit=2"]);
        agent.signal(Signal::SIGTERM);
        sleep(Duration::from_secs(1));
        assert_eq!(client.call("guest-fsfreeze-status"), FROZEN);
        assert!(agent.wait().success());
        rig.is_over("freeze\nthaw timed-out\n");
        let late = rig.agent(&[]).call("guest-fsfreeze-thaw");
        assert!(late.contains("hold limit"), "{late}");
    });
}

#[test]
fn told_to_stop_during_a_freeze_hook_it_undoes_the_freeze_and_answers_the_error() {
    with_rig(|rig| {
        rig.slow("freeze", 25);
        let mut agent = rig.agent(&[]);
        let mut client = agent.connect();
        client.post(FREEZE);
        rig.await_hook("freeze");
        let start = Instant::now();
        agent.signal(Signal::SIGTERM);
        let reply = client.line();
        assert!(reply.contains(ASKED_TO_STOP), "{reply}");
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "the hook was awaited"
        );
        assert!(agent.wait().success());
        rig.is_over("freeze\nthaw failed\n");
        let report = rig.place.report();
        assert_eq!(report["end"], "failure");
        assert!(report.to_string().contains(ASKED_TO_STOP), "{report}");
    });
}

#[test]
fn told_to_stop_during_the_thaw_it_finishes_and_answers() {
    with_rig(|rig| {
        let (mut agent, mut client) = rig.frozen(&[]);
        rig.slow("thaw", 1);
        client.post(THAW);
        rig.await_hook("thaw");
        agent.signal(Signal::SIGTERM);
        assert_eq!(client.line(), returned(1));
        assert!(agent.wait().success());
        rig.is_over("freeze\nthaw ok\n");
    });
}

#[test]
fn when_the_system_goes_down_it_thaws_at_once_and_the_late_thaw_hears_of_it() {
    with_rig(|rig| {
        system_state(Some("stopping"));
        let (mut agent, mut client) = rig.frozen(&[]);
        let start = Instant::now();
        agent.signal(Signal::SIGTERM);
        wait_until("the thaw", || !rig.disk.is_frozen());
        assert!(start.elapsed() < Duration::from_secs(3));
        wait_until("the hook", || {
            client.call("guest-fsfreeze-status") == THAWED
        });
        let reply = client.ask(FREEZE);
        assert!(reply.contains(ASKED_TO_STOP), "{reply}");
        // No new freeze began, so the thaw is still the one of the first.
        let reply = client.ask(THAW);
        assert!(
            reply.contains("the freeze was ended at ") && reply.contains(GOING_DOWN),
            "{reply}"
        );
        assert!(agent.wait().success());
        assert!(start.elapsed() < LATE_THAW_GRACE);
        rig.is_over("freeze\nthaw timed-out\n");
        let report = rig.place.report();
        assert!(report.to_string().contains(GOING_DOWN), "{report}");
        assert_eq!(report["end"], "expiry");
        assert!(rig.place.read("log").contains(GOING_DOWN));
    });
}

#[test]
fn when_the_system_goes_down_and_no_thaw_comes_it_leaves_soon() {
    with_rig(|rig| {
        system_state(Some("stopping"));
        let (mut agent, _client) = rig.frozen(&[]);
        agent.signal(Signal::SIGTERM);
        wait_until("the thaw", || !rig.disk.is_frozen());
        sleep(Duration::from_secs(1));
        assert_eq!(agent.child.try_wait().expect("a status"), None);
        assert!(agent.wait().success());
        rig.is_over("freeze\nthaw timed-out\n");
    });
}

#[test]
fn a_service_that_is_stopped_on_a_running_system_stays_frozen() {
    for state in [Some("running"), Some("degraded"), None] {
        with_rig(move |rig| {
            let asked = system_state(state);
            let (mut agent, mut client) = rig.frozen(&[]);
            agent.signal(Signal::SIGTERM);
            wait_until("more than one question", || {
                asked.load(Ordering::Relaxed) > 1
            });
            assert!(rig.disk.is_frozen());
            assert_eq!(client.call("guest-fsfreeze-status"), FROZEN);
            assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
            assert!(agent.wait().success());
            rig.is_over("freeze\nthaw ok\n");
        });
    }
}

#[test]
fn without_systemd_the_runlevel_tells_that_the_system_goes_down() {
    with_rig(|rig| {
        let record = |runlevel: u8| {
            let wide = cfg!(any(target_arch = "aarch64", target_arch = "riscv64"));
            let mut record = vec![0; if wide { 400 } else { 384 }];
            // RUN_LVL; the level before is the second byte of its pid.
            record[..2].copy_from_slice(&1_i16.to_ne_bytes());
            let pid = i32::from(runlevel) + 256 * i32::from(b'N');
            record[4..8].copy_from_slice(&pid.to_ne_bytes());
            record
        };
        let utmp = Path::new("/var/run/utmp");
        fs::create_dir_all("/var/run").expect("dir");
        if !utmp.exists() {
            fs::write(utmp, "").expect("utmp");
        }
        fs::write(rig.place.path("utmp"), record(b'2')).expect("utmp");
        bind_file(&rig.place.path("utmp"), utmp);
        let (mut agent, mut client) = rig.frozen(&[]);
        agent.signal(Signal::SIGTERM);
        sleep(Duration::from_millis(1500));
        assert!(rig.disk.is_frozen());
        fs::write(utmp, record(b'6')).expect("utmp");
        wait_until("the thaw", || !rig.disk.is_frozen());
        let reply = client.ask(THAW);
        assert!(reply.contains(GOING_DOWN), "{reply}");
        assert!(agent.wait().success());
        rig.is_over("freeze\nthaw timed-out\n");
    });
}
