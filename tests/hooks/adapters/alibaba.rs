//! Scripts that only the settings name.

use std::fs;

use qemu_ga::hooks::{HookStatus, ThawReason};

use super::{calls, is_logged, only, script, set_mode};
use crate::support::Place;

fn alibaba(pre: &str, post: &str, more: &str) -> Place {
    let place = Place::new();
    script(&place, "pre", 0o700, pre);
    script(&place, "post", 0o700, post);
    let root = place.path.display();
    place.conf(&format!(
        "[alibaba]\npre-script={root}/pre\npost-script={root}/post\n{more}"
    ));
    place
}

#[test]
fn both_without_an_argument() {
    let place = alibaba("[ $# = 0 ]", "[ $# = 0 ]", "");
    let report = place.freeze();
    assert_eq!(only(&report).source, "alibaba");
    assert!(only(&report).is_success() && !report.leaves_filesystems);
    let report = place.thaw(ThawReason::Ok);
    assert!(only(&report).is_success());
    assert_eq!(calls(&place), ["pre", "post"]);
}

#[test]
fn whatever_fails_the_freeze_goes_on() {
    let place = alibaba("exit 1", "exit 2", "");
    let report = place.freeze();
    assert!(report.failure.is_none() && !only(&report).is_success());
    let report = place.thaw(ThawReason::Ok);
    assert!(report.failure.is_none() && !only(&report).is_success());
    assert_eq!(calls(&place), ["pre", "post"]);

    let place = alibaba("sleep 1000", "", "timeout=0.2\n");
    assert_eq!(only(&place.freeze()).status, HookStatus::TimedOut);

    let place = alibaba("", "", "freeze-filesystems=no\n");
    for mode in [0o755, 0o600, 0o702] {
        set_mode(&place.path.join("post"), mode);
        let report = place.freeze();
        assert!(report.failure.is_none() && !only(&report).is_success());
        assert!(!report.leaves_filesystems, "no script runs");
        assert_eq!(place.thaw(ThawReason::Ok).hooks, []);
    }
    fs::remove_file(place.path.join("pre")).expect("removed");
    assert!(!only(&place.freeze()).is_success());
    assert_eq!(calls(&place), [""; 0]);
    assert!(is_logged(&place, "No such file or directory"));
}

#[test]
fn the_filesystems_are_left_alone_if_it_says_so() {
    let place = alibaba("", "", "freeze-filesystems=no\n");
    assert!(place.freeze().leaves_filesystems);
}

#[test]
fn a_failure_may_be_made_to_count() {
    let place = alibaba("exit 1", "", "on-failure=abort\n");
    assert!(place.freeze().failure.is_some());
    place.thaw(ThawReason::Failed);
    assert_eq!(calls(&place), ["pre", "post"]);
}

#[test]
fn nothing_is_run_that_is_not_named() {
    let place = Place::new();
    place.conf("[alibaba]\nenabled=yes\n");
    let report = place.freeze();
    assert!(report.failure.is_none() && !only(&report).is_success());
    assert!(is_logged(&place, "no script is named"));
    place.conf("[alibaba]\nenabled=auto\n");
    assert_eq!(place.freeze().hooks, []);
    let place = alibaba("", "", "enabled=no\n");
    assert_eq!(place.freeze().hooks, []);
}
