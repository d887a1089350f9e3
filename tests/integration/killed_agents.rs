//! An agent that is killed at any moment of a freeze.

use crate::hook_log::Rig;
use crate::soak::Dice;
use crate::support::disk::bind_file;
use crate::support::{Disk, Place, in_namespace, is_ours, returned, wait_for_exit, wait_until};
use nix::sys::signal::{Signal, kill};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const FREEZE: &str = r#"{"execute":"guest-fsfreeze-freeze"}"#;
const KILLS: u32 = 200;
/// When the guardian has thawed, unless it holds a freeze that the agent had finished.
const UNDO_TIMEOUT: Duration = Duration::from_secs(2);

/// How many rounds a test makes that kills an agent in each: `QGA_AGENT_KILLS`, or `usual`.
pub fn rounds(usual: u32) -> u32 {
    std::env::var("QGA_AGENT_KILLS").map_or(usual, |text| {
        text.parse().expect("QGA_AGENT_KILLS is a number")
    })
}

/// Whether a process that an agent of `place` has started is left, by its environment.
fn is_in_use(place: &Place) -> bool {
    let name = place.name("no.conf");
    let name = name.as_bytes();
    fs::read_dir("/proc").expect("proc").flatten().any(|entry| {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.windows(name.len()).any(|text| text == name)
    })
}

/// Each hook that was told to freeze has been told to thaw.
fn is_paired(calls: &str) -> bool {
    let mut is_quiet = false;
    for call in calls.lines() {
        if call == "freeze" && is_quiet {
            return false;
        }
        is_quiet = call == "freeze";
    }
    !is_quiet
}

#[test]
fn killed_at_any_moment_nothing_stays_frozen_or_expedited() {
    if !is_ours() {
        return; // nobody thaws
    }
    in_namespace(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seed = u64::from(now.expect("a clock").subsec_nanos());
        // Shown if the test fails.
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let place = Place::new();
        let disks = ["a", "b"].map(|name| Disk::ext4(&place.path(name)));
        for name in ["rcu_expedited", "rcu_normal"] {
            fs::write(place.path(name), "0\n").expect("setting");
            bind_file(&place.path(name), &Path::new("/sys/kernel").join(name));
        }
        let calls = place.name("calls");
        let hook = place.script("hook", &format!("echo $1 >>'{calls}'"));
        let hook = format!("-F{}", hook.display());
        let whole = {
            let agent = place.agent(&[&hook]);
            let start = Instant::now();
            assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(2));
            let took = start.elapsed();
            assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(2));
            u64::try_from(took.as_micros()).expect("short")
        };
        let (mut finished, mut expedited) = (0, 0);
        let kills = rounds(KILLS);
        for round in 0..kills {
            wait_until("the last round's processes", || !is_in_use(&place));
            fs::write(&calls, "").expect("clear");
            let agent = place.agent(&[&hook]);
            let mut client = agent.connect();
            client.post(FREEZE);
            let delay = Duration::from_micros(dice.below(whole + whole / 4));
            sleep(delay);
            agent.kill();
            expedited += u32::from(place.read("rcu_expedited") == "1\n");
            let mut answer = Vec::new();
            client.stream.read_to_end(&mut answer).ok();
            let killed = Instant::now();
            // Unless the freeze was whole the guardian undoes it.
            while answer.is_empty() && is_in_use(&place) && killed.elapsed() < UNDO_TIMEOUT {
                sleep(Duration::from_millis(5));
            }
            let what = format!("round {round}, killed after {delay:?}");
            if is_in_use(&place) {
                finished += 1;
                let successor = place.agent(&[&hook]);
                assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(2), "{what}");
                let status = successor.call("guest-fsfreeze-status");
                assert_eq!(status, returned("\"thawed\""), "{what}");
            }
            assert!(!place.marker().exists(), "{what}");
            // The cheap way to ask: FITHAW of what is not frozen fails.
            assert_eq!(
                disks.each_ref().map(|disk| disk.thaw().is_ok()),
                [false; 2],
                "{what}"
            );
            assert_eq!(place.read("rcu_expedited"), "0\n", "{what}");
            let told = place.read("calls");
            assert!(is_paired(&told), "{what}: {told}");
        }
        println!("{finished} of {kills} after the freeze, {expedited} while expedited");
    });
}

/// Two hooks of our own master, the first at work for a while. Agent and guardian are killed meanwhile; a successor comes
/// at once.
#[test]
fn killed_with_its_guardian_while_hooks_freeze_they_are_thawed() {
    if !is_ours() {
        return; // it has no journal
    }
    in_namespace(|| {
        let rig = Rig::new();
        let calls = rig.place.name("calls");
        let note = format!("echo ${{0##*/}} $1 >>'{calls}'");
        rig.hook("10-slow", &format!("{note}; [ $1 = thaw ] || sleep 1"));
        rig.hook("20-late", &note);
        let agent = rig.agent();
        agent.connect().post(FREEZE);
        wait_until("the hook", || rig.place.read("calls") == "10-slow freeze\n");
        agent.signal(Signal::SIGSTOP);
        let guardians = agent.guardians();
        for &guardian in &guardians {
            kill(guardian, Signal::SIGKILL).expect("signal");
        }
        wait_for_exit(&guardians);
        agent.kill();
        let successor = rig.agent();
        wait_until("the thaw", || rig.place.read("calls").ends_with("thaw\n"));
        // No hook was started for an agent that had ended.
        assert_eq!(rig.place.read("calls"), "10-slow freeze\n10-slow thaw\n");
        assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(0));
        assert!(!rig.place.path("state/qga.hooks").exists());
        assert_eq!(successor.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(1));
    });
}
