//! Limits of open files (RLIMIT_NOFILE): every filesystem of a freeze is held open.

use crate::exec::{end, shell, text};
use crate::support::{Agent, Disk, Place, in_namespace, is_ours, returned, wait_until};
use nix::sys::signal::Signal;
use serde_json::json;
use std::collections::BTreeSet;

/// Filesystems; more than [`LIMIT`].
const COUNT: usize = 40;
/// What the agent needs for itself fits in.
const LIMIT: usize = 32;

/// The original does not change its limits.
fn with_filesystems(body: impl FnOnce(&Place, &[Disk]) + Send + 'static) {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let disks: Vec<Disk> = (0..COUNT)
            .map(|number| Disk::ext4_of(&place.path(&format!("m{number}")), 8))
            .collect();
        body(&place, &disks);
    });
}

/// An agent started with [`LIMIT`], as `ulimit` sets it with these options.
fn limited_agent(place: &Place, options: &str, args: &[&str]) -> Agent {
    let script = format!("ulimit {options} {LIMIT}; exec \"$0\" \"$@\"");
    place.agent_under(&["sh", "-c", &script], args)
}

fn count_frozen(disks: &[Disk]) -> usize {
    disks.iter().filter(|disk| disk.is_frozen()).count()
}

#[test]
fn more_filesystems_than_the_soft_limit_freeze_and_children_keep_the_limit() {
    with_filesystems(|place, disks| {
        let text_of_hook = format!("ulimit -Sn >>'{}'", place.name("limits"));
        let hook = format!("-F{}", place.script("hook", &text_of_hook).display());
        let agent = limited_agent(place, "-Sn", &[&hook]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(COUNT));
        assert_eq!(count_frozen(disks), COUNT);
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(COUNT));
        assert_eq!(count_frozen(disks), 0);
        assert_eq!(place.read("limits"), format!("{LIMIT}\n{LIMIT}\n"));
        let pid = shell(&mut client, "ulimit -Sn", &json!(true));
        let said = text(&end(&mut client, pid), "out-data");
        assert_eq!(said, Some(format!("{LIMIT}\n")));
    });
}

#[test]
fn the_guardian_thaws_more_filesystems_than_the_soft_limit() {
    with_filesystems(|place, disks| {
        let agent = limited_agent(place, "-Sn", &["--fsfreeze-hold-limit=5"]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(COUNT));
        agent.signal(Signal::SIGKILL);
        assert_eq!(count_frozen(disks), COUNT);
        wait_until("the guardian to end", || {
            !place.path("state/qga.guardian").exists()
        });
        assert_eq!(count_frozen(disks), 0);
        assert!(!place.marker().exists());
    });
}

#[test]
fn more_filesystems_than_the_hard_limit_fail_the_freeze_with_their_names() {
    with_filesystems(|place, disks| {
        let calls = place.name("calls");
        let hook = place.script("hook", &format!("echo $1 >>'{calls}'"));
        let hook = format!("-F{}", hook.display());
        let agent = limited_agent(place, "-n", &[&hook]);
        let mut client = agent.connect();
        let reply = client.call("guest-fsfreeze-freeze");
        let names = reply
            .strip_prefix(r#"{"error": {"class": "GenericError", "desc": "failed to open "#)
            .and_then(|rest| {
                rest.strip_suffix(r#": too many open files; raise LimitNOFILE= of the service"}}"#)
            })
            .unwrap_or_else(|| panic!("{reply}"));
        assert_eq!(count_frozen(disks), 0);
        assert!(!place.marker().exists());
        assert_eq!(place.read("calls"), "", "nothing was to be undone");
        // Exactly those that the report calls failed.
        let named: BTreeSet<&str> = names.split(", ").collect();
        assert!(named.len() >= COUNT - LIMIT, "{names}");
        let report = place.report();
        let records = report["filesystems"].as_array().expect("a list");
        let failed = records.iter().filter(|f| f["outcome"] == "failed");
        let failed: BTreeSet<&str> = failed
            .filter_map(|record| record["mountpoint"].as_str())
            .collect();
        assert_eq!(named, failed);
        let log = place.read("log");
        assert_eq!(log.matches("too many open files").count(), 1, "{log}");
        // Nothing is left open: fewer of them still freeze.
        let few: Vec<&str> = disks[..4].iter().map(Disk::mountpoint).collect();
        let list = crate::support::freeze_list(&few);
        assert_eq!(client.ask(&list), returned(4));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(4));
    });
}
