//! The legacy scripts and backupScripts.d: their order, and who hears of a failure.

use std::fs;

use qemu_ga::hooks::{HookStatus, ThawReason};

use super::{calls, is_logged, script, set_mode};
use crate::support::Place;

/// A directory of scripts beside the hooks, and the legacy ones if `legacy`.
fn vmware(legacy: bool, more: &str) -> Place {
    let place = Place::new();
    let dir = place.path.join("s.d");
    fs::create_dir(&dir).expect("dir");
    set_mode(&dir, 0o755);
    let root = place.path.display();
    let mut conf = format!("[vmware]\nscripts={root}/s.d\n{more}");
    if legacy {
        script(&place, "pre", 0o755, "");
        script(&place, "post", 0o755, "");
        conf += &format!("pre-freeze-script={root}/pre\npost-thaw-script={root}/post\n");
    }
    place.conf(&conf);
    place
}

#[test]
fn one_after_another_and_back() {
    let place = vmware(true, "");
    script(&place, "s.d/20-b", 0o755, "");
    script(&place, "s.d/10-a", 0o700, "");
    script(&place, "s.d/Z", 0o755, "");
    script(&place, "s.d/README", 0o644, "");
    fs::create_dir(place.path.join("s.d/sub")).expect("dir");
    script(&place, "s.d/sub/no", 0o755, "");
    place.hook("own", "");
    let report = place.freeze();
    assert_eq!(report.failure, None);
    let sources: Vec<_> = report.hooks.iter().map(|h| h.source.as_str()).collect();
    assert_eq!(
        sources,
        ["vmware", "vmware", "vmware", "vmware", "vmware", ""]
    );
    let there = [
        "pre freeze",
        "s.d/10-a freeze",
        "s.d/20-b freeze",
        "s.d/Z freeze",
    ];
    assert_eq!(calls(&place), there);
    assert!(is_logged(&place, "README skipped: "));
    assert_eq!(place.thaw(ThawReason::Ok).failure, None);
    let back = ["s.d/Z thaw", "s.d/20-b thaw", "s.d/10-a thaw", "post thaw"];
    assert_eq!(calls(&place), back);
}

#[test]
fn a_failure_stops_the_freeze_and_only_those_before_it_hear_of_it() {
    let place = vmware(true, "");
    script(&place, "s.d/1", 0o755, "");
    script(&place, "s.d/2", 0o755, "echo broken; exit 3");
    script(&place, "s.d/3", 0o755, "");
    place.hook("own", "echo no");
    let report = place.freeze();
    let failure = report.failure.expect("fails");
    assert!(
        failure.contains("s.d/2 freeze: exit status 3; its last output: broken"),
        "{failure}"
    );
    assert_eq!(
        calls(&place),
        ["pre freeze", "s.d/1 freeze", "s.d/2 freeze"]
    );
    let report = place.thaw(ThawReason::Failed);
    assert_eq!((report.failure, report.hooks.len()), (None, 2));
    assert_eq!(calls(&place), ["s.d/1 freezeFail", "post freezeFail"]);
}

#[test]
fn if_the_filesystems_cannot_be_frozen_all_hear_of_it() {
    let place = vmware(true, "");
    script(&place, "s.d/1", 0o755, "");
    script(&place, "s.d/2", 0o755, "");
    assert_eq!(place.freeze().failure, None);
    calls(&place);
    assert_eq!(place.thaw(ThawReason::Failed).failure, None);
    let told = ["s.d/2 freezeFail", "s.d/1 freezeFail", "post freezeFail"];
    assert_eq!(calls(&place), told);
}

#[test]
fn a_thaw_goes_through_all_and_reports_at_the_end() {
    let place = vmware(false, "");
    script(&place, "s.d/1", 0o755, "");
    script(&place, "s.d/2", 0o755, "[ $1 = freeze ]");
    script(&place, "s.d/3", 0o755, "");
    assert_eq!(place.freeze().failure, None);
    calls(&place);
    let report = place.thaw(ThawReason::Ok);
    assert!(report.failure.expect("2 failed").contains("s.d/2 thaw"));
    assert_eq!(calls(&place), ["s.d/3 thaw", "s.d/2 thaw", "s.d/1 thaw"]);
}

#[test]
fn all_together_have_one_limit() {
    let place = vmware(false, "timeout=2\n");
    script(&place, "s.d/1", 0o755, "[ $1 = thaw ] || sleep 1");
    script(&place, "s.d/2", 0o755, "[ $1 = thaw ] || sleep 1.5");
    script(&place, "s.d/3", 0o755, "");
    let report = place.freeze();
    assert_eq!(report.hooks.len(), 2);
    assert_eq!(report.hooks[1].status, HookStatus::TimedOut);
    assert!(
        report
            .failure
            .expect("fails")
            .contains("not finished in time")
    );
    place.thaw(ThawReason::Failed);
    assert_eq!(
        calls(&place),
        ["s.d/1 freeze", "s.d/2 freeze", "s.d/1 freezeFail"]
    );

    // With failures passed over, what follows is not called: the time is up.
    let place = vmware(false, "timeout=1\non-failure=continue\n");
    script(&place, "s.d/1", 0o755, "[ $1 = thaw ] || sleep 1000");
    script(&place, "s.d/2", 0o755, "");
    let report = place.freeze();
    assert_eq!(report.failure, None);
    assert_eq!(report.hooks[1].status.number(), 124);
    assert!(is_logged(
        &place,
        "s.d/2 is not called: the 1 s for all of vmware had passed"
    ));
    place.thaw(ThawReason::Ok);
    assert_eq!(calls(&place), ["s.d/1 freeze"], "neither is due a thaw");
}

#[test]
fn a_half_alone_does_its_part() {
    let place = Place::new();
    script(&place, "post", 0o755, "");
    place.conf(&format!(
        "[vmware]\npost-thaw-script={}/post\n",
        place.path.display()
    ));
    assert_eq!(place.freeze().hooks, []);
    assert_eq!(place.thaw(ThawReason::Ok).hooks.len(), 1);
    script(&place, "pre", 0o755, "");
    place.conf(&format!(
        "[vmware]\npre-freeze-script={}/pre\n",
        place.path.display()
    ));
    assert_eq!(place.freeze().hooks.len(), 1);
    assert_eq!(place.thaw(ThawReason::Failed).hooks, []);
    assert_eq!(calls(&place), ["post thaw", "pre freeze"]);
}

#[test]
fn what_others_could_write_stops_the_freeze() {
    for mode in [0o757, 0o775] {
        let place = vmware(false, "");
        script(&place, "s.d/1", 0o755, "");
        script(&place, "s.d/2", mode, "");
        let failure = place.freeze().failure.expect("refused");
        assert!(failure.contains("s.d/2"), "{failure}");
        assert!(failure.contains("chmod "), "{failure}");
        place.thaw(ThawReason::Failed);
        assert_eq!(calls(&place), ["s.d/1 freeze", "s.d/1 freezeFail"]);
    }
    let place = vmware(true, "");
    script(&place, "s.d/1", 0o755, "");
    set_mode(&place.path.join("post"), 0o777);
    assert!(place.freeze().failure.is_some());
    assert_eq!(calls(&place), [""; 0], "pre alone could not be ended");
    set_mode(&place.path.join("post"), 0o755);
    set_mode(&place.path.join("s.d"), 0o777);
    let failure = place.freeze().failure.expect("refused");
    assert!(
        failure.contains("s.d' is writable by everybody"),
        "{failure}"
    );
}

#[test]
fn what_is_named_must_be_there() {
    let place = Place::new();
    place.conf("[vmware]\nscripts=/nonexistent/s.d\n");
    let failure = place.freeze().failure.expect("missing");
    assert!(failure.contains("/nonexistent/s.d"), "{failure}");
    place.conf("[vmware]\npre-freeze-script=/nonexistent/pre\n");
    assert!(place.freeze().failure.is_some());
    place.conf("[vmware]\npre-freeze-script=/nonexistent/pre\nenabled=no\n");
    assert_eq!(place.freeze().hooks, []);
}
