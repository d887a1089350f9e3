//! pre.sh and post.sh: what they are told, and the names of their ends.

use std::fs;

use qemu_ga::hooks::ThawReason;

use super::{calls, error, is_logged, only, script, set_mode};
use crate::support::Place;

fn google(pre: &str, post: &str, more: &str) -> Place {
    let place = Place::new();
    script(&place, "pre.sh", 0o755, pre);
    script(&place, "post.sh", 0o755, post);
    let root = place.path.display();
    place.conf(&format!(
        "[google]\npre={root}/pre.sh\npost={root}/post.sh\n{more}"
    ));
    place
}

#[test]
fn both_hear_of_the_disks() {
    let place = google("[ $# = 1 ]", "[ $# = 1 ]", "");
    let report = place.freeze();
    assert!(only(&report).is_success() && error(&report).is_none());
    assert!(is_logged(&place, "/pre.sh: NO_ERROR"));
    // The thaw comes without the run: what the freeze was told counts.
    let report = place.thaw(ThawReason::Recovered);
    assert!(only(&report).is_success());
    let disks = "/dev/vda1,/dev/vdb";
    let told = [format!("pre.sh {disks}"), format!("post.sh {disks}")];
    assert_eq!(calls(&place), told);
}

#[test]
fn a_failure_fails_the_freeze_and_has_its_name() {
    let place = google("exit 4", "", "");
    let report = place.freeze();
    assert_eq!(error(&report), Some("UNHANDLED_SCRIPT_ERROR"));
    let failure = report.failure.expect("there as here");
    assert!(
        failure.contains("UNHANDLED_SCRIPT_ERROR: hook "),
        "{failure}"
    );
    assert!(only(&place.thaw(ThawReason::Failed)).is_success());
    assert_eq!(calls(&place).len(), 2);

    let place = google(
        "sleep 1000",
        "sleep 1000",
        "timeout=0.2\non-failure=continue\n",
    );
    let report = place.freeze();
    assert_eq!(error(&report), Some("SCRIPT_TIMED_OUT"));
    assert_eq!(report.failure, None);
    let report = place.thaw(ThawReason::Ok);
    assert_eq!(error(&report), Some("SCRIPT_TIMED_OUT"));
}

#[test]
fn neither_runs_unless_both_are_as_they_should_be() {
    let place = google("", "", "");
    let post = place.path.join("post.sh");
    for mode in [0o777, 0o644, 0o775] {
        set_mode(&post, mode);
        assert_eq!(error(&place.freeze()), Some("INVALID_CONFIG"), "{mode:o}");
        assert_eq!(place.thaw(ThawReason::Failed).hooks, []);
    }
    fs::remove_file(post).expect("removed");
    let report = place.freeze();
    assert_eq!(error(&report), Some("SCRIPT_NOT_FOUND"));
    assert!(report.failure.is_some());
    assert_eq!(calls(&place), [""; 0]);
    let place = google("", "", "enabled=no\n");
    assert_eq!(place.freeze().hooks, []);
}

#[test]
fn without_an_interpreter_it_is_not_found() {
    let place = google("", "", "");
    fs::write(place.path.join("pre.sh"), "#!/nonexistent/sh\n").expect("script");
    assert_eq!(error(&place.freeze()), Some("SCRIPT_NOT_FOUND"));
}
