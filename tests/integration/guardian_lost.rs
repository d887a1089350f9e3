//! A guardian that dies before anything is frozen.

use crate::support::{Disk, Place, in_namespace, is_ours, returned, wait_for_exit, wait_until};
use nix::sys::signal::{Signal, kill};
use std::fs;

#[test]
fn a_guardian_that_dies_while_hooks_run_does_not_stop_the_freeze() {
    if !is_ours() {
        return; // it has none
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let text = format!(
            "echo $1 >>'{}'; [ $1 = thaw ] || until [ -e '{}' ]; do sleep 0.02; done",
            place.name("calls"),
            place.name("go")
        );
        let hook = format!("-F{}", place.script("hook", &text).display());
        let agent = place.agent(&[&hook]);
        let mut client = agent.connect();
        client.post(r#"{"execute":"guest-fsfreeze-freeze"}"#);
        wait_until("the hook", || !place.read("calls").is_empty());
        let guardians = agent.guardians();
        assert_eq!(guardians.len(), 1);
        kill(guardians[0], Signal::SIGKILL).expect("signal");
        wait_for_exit(&guardians);
        fs::write(place.path("go"), "").expect("go");
        assert_eq!(client.line(), returned(1));
        assert!(disk.is_frozen());
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        assert!(!disk.is_frozen() && !place.marker().exists());
        assert_eq!(place.read("calls"), "freeze\nthaw\n");
        let warning = ": warning: no guardian, so filesystems stay frozen if the agent dies: ";
        let log = place.read("log");
        assert_eq!(log.matches(warning).count(), 1, "{log}");
        // The next freeze has one again.
        fs::write(place.path("calls"), "").expect("clear");
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(agent.guardians().len(), 1);
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(place.read("calls"), "freeze\nthaw\n");
        assert_eq!(place.read("log").matches(warning).count(), 1);
    });
}
