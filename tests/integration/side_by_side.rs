//! Many filesystems, one after another, one of them on another.

use crate::support::{Disk, Place, failed, in_namespace, is_ours, returned, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

const FREEZE: &str = r#"{"execute":"guest-fsfreeze-freeze"}"#;

/// So many filesystems, and one in a file of the first; that one is the last of the list.
fn filesystems(place: &Place, count: usize) -> Vec<Disk> {
    let mut all: Vec<Disk> = (0..count)
        .map(|number| Disk::ext4(&place.path(&format!("m{number}"))))
        .collect();
    let inner = Disk::ext4_in(&all[0].path("inner.img"), &place.path("inner"));
    all.push(inner);
    all
}

fn frozen(all: &[Disk]) -> usize {
    all.iter().filter(|disk| disk.is_frozen()).count()
}

#[test]
fn many_filesystems_freeze_in_order() {
    in_namespace(|| {
        let place = Place::new();
        let all = filesystems(&place, 36);
        let _guard = all[0].thaw_first();
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        for round in 0..3 {
            for disk in &all {
                fs::write(disk.path("dirty"), vec![round; 100_000]).expect("write");
            }
            assert_eq!(client.call("guest-fsfreeze-freeze"), returned(37));
            assert_eq!(frozen(&all), 37);
            assert_eq!(client.call("guest-fsfreeze-thaw"), returned(37));
            assert_eq!(frozen(&all), 0);
        }
        if is_ours() {
            let report = place.report();
            let records = report["filesystems"].as_array().expect("a list");
            let place_of = |disk: &Disk| {
                let own = |f: &serde_json::Value| f["mountpoint"] == disk.mountpoint();
                records.iter().position(own).expect("listed")
            };
            assert_eq!(
                place_of(&all[0]),
                36,
                "what holds the other's file comes last"
            );
            assert!(records.iter().all(|f| f["outcome"] == "thawed"));
            let took = |f: &serde_json::Value| f["freeze-seconds"].as_f64().expect("a number");
            assert!(records.iter().all(|f| took(f) > 0.0), "{records:?}");
        }
    });
}

/// What comes after a failure is not tried.
#[test]
fn what_fails_ends_the_freeze_and_the_rest_is_thawed() {
    in_namespace(|| {
        if !is_ours() {
            return;
        }
        let place = Place::new();
        let all = filesystems(&place, 8);
        let agent = place.agent(&[]);
        for theirs in [&all[3], &all[5]] {
            theirs.freeze();
        }
        let text = |disk: &Disk| {
            format!(
                "failed to freeze {}: someone else has frozen it already",
                disk.mountpoint()
            )
        };
        let answer = agent.call("guest-fsfreeze-freeze");
        for theirs in [&all[5], &all[3]] {
            theirs.thaw().expect("still frozen by its owner");
        }
        assert_eq!(answer, failed(&text(&all[5])));
        assert_eq!(frozen(&all), 0);
        let report = place.report();
        let errors: Vec<&str> = report["errors"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|error| error.as_str())
            .collect();
        assert_eq!(errors, [text(&all[5])]);
        let records = report["filesystems"].as_array().expect("a list");
        assert_eq!(records[8]["mountpoint"], all[0].mountpoint());
        assert_eq!(records[8]["outcome"], "untouched");
    });
}

/// However far it has come, the guardian thaws what was frozen, and the hook is told once.
#[test]
fn killed_between_the_first_fifreeze_and_the_last_nothing_stays_frozen() {
    in_namespace(|| {
        if !is_ours() {
            return;
        }
        let place = Place::new();
        let all = filesystems(&place, 10);
        let _guard = all[0].thaw_first();
        let calls = place.name("calls");
        let hook = place.script("hook", &format!("echo $1 >>'{calls}'"));
        let hook = format!("-F{}", hook.display());
        for delay in (0..200).step_by(20) {
            fs::write(&calls, "").expect("clear");
            let agent = place.agent(&["--fsfreeze-hold-limit=1", &hook]);
            let mut client = agent.connect();
            client.post(FREEZE);
            // It is there just before the first FIFREEZE.
            wait_until("the marker", || place.marker().exists());
            sleep(Duration::from_millis(delay));
            agent.signal(Signal::SIGKILL);
            drop(agent);
            // The guardian goes when it has done all, at the hold limit at the latest.
            let socket = place.path("state/qga.guardian");
            wait_until("the guardian to leave", || !socket.exists());
            assert_eq!(frozen(&all), 0, "killed after {delay} ms");
            let told = place.read("calls");
            assert_eq!(told, "freeze\nthaw\n", "killed after {delay} ms");
            assert!(!place.marker().exists());
            // Whether the freeze was whole its successor knows; the thaw makes room for the next.
            let successor = place.agent(&[&hook]);
            successor.call("guest-fsfreeze-thaw");
            assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(0));
        }
    });
}
