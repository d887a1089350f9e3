//! pre_freeze and post_thaw: their permissions, and what keeps them from running.

use std::fs;

use qemu_ga::hooks::ThawReason;

use super::{calls, is_logged, only, script, set_mode};
use crate::support::Place;

fn nutanix(pre: &str, more: &str) -> Place {
    let place = Place::new();
    script(&place, "pre_freeze", 0o700, pre);
    script(&place, "post_thaw", 0o700, "[ $# = 0 ]");
    let root = place.path.display();
    place.conf(&format!(
        "[nutanix]\npre-freeze={root}/pre_freeze\npost-thaw={root}/post_thaw\n{more}"
    ));
    place
}

#[test]
fn both_without_an_argument() {
    let place = nutanix("[ $# = 0 ]", "");
    let report = place.freeze();
    assert_eq!(only(&report).source, "nutanix");
    assert!(only(&report).is_success(), "{:?}", place.log());
    assert!(only(&place.thaw(ThawReason::Ok)).is_success());
    assert_eq!(calls(&place), ["pre_freeze", "post_thaw"]);
}

#[test]
fn a_failure_lets_the_freeze_go_on_and_is_told() {
    let place = nutanix("exit 1", "");
    let report = place.freeze();
    assert!(report.failure.is_none() && !only(&report).is_success());
    assert!(only(&place.thaw(ThawReason::Ok)).is_success());
    let place = nutanix("exit 1", "on-failure=abort\n");
    assert!(place.freeze().failure.is_some());
}

#[test]
fn neither_runs_unless_both_are_as_they_should_be() {
    let place = nutanix("", "");
    let post = place.path.join("post_thaw");
    for mode in [0o755, 0o600] {
        set_mode(&post, mode);
        assert!(!only(&place.freeze()).is_success(), "{mode:o}");
        assert_eq!(place.thaw(ThawReason::Ok).hooks, []);
    }
    set_mode(&post, 0o700);
    let text = fs::read_to_string(&post).expect("script");
    fs::write(&post, text.replace('\n', "\r\n")).expect("script");
    assert!(!only(&place.freeze()).is_success());
    assert!(is_logged(&place, "control character"), "{:?}", place.log());
    fs::remove_file(&post).expect("removed");
    assert!(!only(&place.freeze()).is_success());
    assert_eq!(calls(&place), [""; 0]);
    let place = nutanix("", "enabled=no\n");
    assert_eq!(place.freeze().hooks, []);
}
