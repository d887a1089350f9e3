//! NAME_freeze.sh and NAME_unfreeze.sh: what they are told and read, and who is unfrozen.

use std::fs;

use qemu_ga::hooks::ThawReason;

use super::{calls, is_logged, script, set_mode};
use crate::support::Place;

/// As the vendor's example ends: by the function that writes the result.
const RESULT: &str = "AGENT_ROOT_PATH=$1\nPID=$2\n. \"${AGENT_ROOT_PATH}/bin/agent_func.sh\"\n\
    result() { Log \"[INFO]:result is $1.\"; echo $1 >${RESULT_FILE}; chmod 666 ${RESULT_FILE}; exit $1; }\n";

fn huawei(more: &str) -> Place {
    let place = Place::new();
    for dir in ["bin", "bin/thirdparty", "bin/thirdparty/ebk_user"] {
        let dir = place.path.join(dir);
        fs::create_dir(&dir).expect("dir");
        set_mode(&dir, 0o755);
    }
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/hooks/huawei/agent_func.sh");
    let functions = place.path.join("bin/agent_func.sh");
    fs::copy(shipped, &functions).expect("copied");
    set_mode(&functions, 0o644);
    let dir = place.path.join("bin/thirdparty/ebk_user");
    place.conf(&format!("[huawei]\nscripts={}\n{more}", dir.display()));
    place
}

fn application(place: &Place, name: &str, freeze: &str) {
    for (end, body) in [("freeze", freeze), ("unfreeze", "result 0")] {
        let name = format!("bin/thirdparty/ebk_user/{name}_{end}.sh");
        script(place, &name, 0o755, &format!("{RESULT}{body}"));
    }
}

/// The applications called, with what.
fn called(place: &Place) -> Vec<String> {
    let root = place.path.display().to_string();
    let one = |line: String| {
        let line = line
            .replace("bin/thirdparty/ebk_user/", "")
            .replace(&root, "ROOT");
        let (line, pid) = line.rsplit_once(' ').expect("a process id");
        assert!(pid.parse::<u32>().is_ok(), "{pid}");
        line.to_owned()
    };
    calls(place).into_iter().map(one).collect()
}

#[test]
fn every_application_in_turn_and_back() {
    let place = huawei("");
    application(&place, "oracle", "result 0");
    application(&place, "mysql", "result 0");
    let report = place.freeze();
    assert_eq!(report.failure, None, "{:?}", place.log());
    assert!(
        report
            .hooks
            .iter()
            .all(|h| h.source == "huawei" && h.is_success())
    );
    assert!(is_logged(&place, "[INFO]:result is 0."));
    assert_eq!(place.thaw(ThawReason::Ok).failure, None);
    let all = [
        "mysql_freeze.sh ROOT",
        "oracle_freeze.sh ROOT",
        "oracle_unfreeze.sh ROOT",
        "mysql_unfreeze.sh ROOT",
    ];
    assert_eq!(called(&place), all);
}

#[test]
fn one_failure_fails_all_and_the_frozen_are_unfrozen() {
    let place = huawei("");
    application(&place, "a", "result 0");
    application(&place, "b", "result 1");
    application(&place, "c", "result 0");
    assert!(place.freeze().failure.is_some());
    place.thaw(ThawReason::Failed);
    let told = [
        "a_freeze.sh ROOT",
        "b_freeze.sh ROOT",
        "b_unfreeze.sh ROOT",
        "a_unfreeze.sh ROOT",
    ];
    assert_eq!(called(&place), told);
}

#[test]
fn what_is_missing_or_others_could_write_runs_nothing() {
    let place = huawei("");
    assert!(
        place
            .freeze()
            .failure
            .expect("no script")
            .contains("has no NAME_freeze.sh")
    );
    application(&place, "a", "result 0");
    let script = |end: &str| {
        place
            .path
            .join(format!("bin/thirdparty/ebk_user/a_{end}.sh"))
    };
    set_mode(&script("unfreeze"), 0o777);
    assert!(place.freeze().failure.is_some());
    fs::remove_file(script("unfreeze")).expect("removed");
    assert!(place.freeze().failure.is_some());
    fs::remove_file(place.path.join("bin/agent_func.sh")).expect("removed");
    let failure = place.freeze().failure.expect("what they read is missing");
    assert!(failure.contains("agent_func.sh"), "{failure}");
    assert_eq!(calls(&place), [""; 0]);
    place.conf("[huawei]\nenabled=yes\n");
    assert!(
        place
            .freeze()
            .failure
            .expect("none named")
            .contains("add scripts=DIR")
    );
    place.conf("[huawei]\n");
    assert_eq!(place.freeze().hooks, []);
}
