//! The legacy scripts and backupScripts.d: their order, and who hears of a failure.

use std::fs;
use std::process::Command;

use qemu_ga::hooks::{HookStatus, ThawReason};

use super::{calls, is_logged, script, set_mode};
use crate::support::{Place, binary, text};

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
        failure.contains("s.d' is writable by all users"),
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

/// As [`vmware`], with a tools.conf.
fn with_tools_conf(text: &str, more: &str) -> Place {
    let place = vmware(true, "");
    let root = place.path.display();
    let path = place.path.join("tools.conf");
    fs::write(&path, text).expect("tools.conf");
    set_mode(&path, 0o644);
    place.conf(&format!(
        "[vmware]\nscripts={root}/s.d\npre-freeze-script={root}/pre\npost-thaw-script={root}/post\n\
         tools-conf={root}/tools.conf\n{more}"
    ));
    script(
        &place,
        "s.d/1",
        0o755,
        "[ $1 = thaw ] || sleep ${SLEEP-0}; echo \"[$2]\"",
    );
    place
}

/// What an agent with this master would freeze, of its own configuration, and what it warns of.
fn configuration(place: &Place) -> Vec<String> {
    let master = place.path.join("fsfreeze-hook");
    let conf = place.path.join("qemu-ga.conf");
    let text_of = format!("[general]\nfsfreeze-hook={}\n", master.display());
    fs::write(&conf, text_of).expect("conf");
    let run = |args: &[&str]| {
        let out = Command::new(binary()).args(args).arg(&conf).output();
        text(&out.expect("runs").stdout)
    };
    let shown = run(&["--dump-conf", "-c"]) + &run(&["plan", "--json", "-c"]);
    shown.lines().map(str::to_owned).collect()
}

fn says(lines: &[String], what: &str) -> bool {
    lines.iter().any(|line| line.contains(what))
}

#[test]
fn tools_conf_says_what_the_scripts_are_told() {
    let place = with_tools_conf(
        "[vmbackup]\nscriptArg=daily full\n[logging]\nlog=true\n",
        "",
    );
    assert_eq!(place.freeze().failure, None, "{:?}", place.log());
    assert_eq!(place.thaw(ThawReason::Ok).failure, None);
    let all = [
        "pre freeze daily full",
        "s.d/1 freeze daily full",
        "s.d/1 thaw daily full",
        "post thaw daily full",
    ];
    assert_eq!(calls(&place), all);
    assert!(is_logged(&place, "[daily full]"), "one argument");
    place.freeze();
    place.thaw(ThawReason::Failed);
    assert_eq!(
        calls(&place)[2..],
        ["s.d/1 freezeFail daily full", "post freezeFail daily full"]
    );
}

#[test]
fn tools_conf_switches_scripts_and_filesystems_off() {
    let place = with_tools_conf("[vmbackup]\nexecScripts=false\n", "");
    let report = place.freeze();
    assert!(report.hooks.is_empty() && !report.leaves_filesystems);
    let place = with_tools_conf("[vmbackup]\nenableSyncDriver=false\n", "");
    let report = place.freeze();
    assert!(report.leaves_filesystems && report.hooks.len() == 2);
    // Neither counts for who has switched the adapter off.
    let place = with_tools_conf("[vmbackup]\nenableSyncDriver=false\n", "enabled=no\n");
    let report = place.freeze();
    assert!(report.hooks.is_empty() && !report.leaves_filesystems);
}

#[test]
fn tools_conf_limits_all_scripts_together() {
    let place = with_tools_conf("[vmbackup]\ntimeout=1\n", "");
    script(&place, "s.d/1", 0o755, "[ $1 = thaw ] || sleep 1000");
    let report = place.freeze();
    assert_eq!(report.hooks[1].status, HookStatus::TimedOut);
    place.thaw(ThawReason::Failed);
    // What is said here stands above.
    let place = with_tools_conf("[vmbackup]\ntimeout=1\n", "timeout=30\n");
    script(&place, "s.d/1", 0o755, "[ $1 = thaw ] || sleep 1.5");
    assert_eq!(place.freeze().failure, None);
}

#[test]
fn tools_conf_says_what_is_frozen() {
    let text =
        "[vmbackup]\nexcludedFileSystems=/srv/db*, /opt/[a]?,,srv\nignoreFrozenFileSystems=true\n";
    let place = with_tools_conf(text, "");
    let shown = configuration(&place);
    assert!(
        says(&shown, "fsfreeze-exclude=/srv/db*,/opt/\\\\[a\\\\]?"),
        "{shown:?}"
    );
    assert!(says(&shown, "fsfreeze-ignore-frozen=true"), "{shown:?}");
    assert!(
        says(&shown, "'srv'"),
        "a pattern without sense is told: {shown:?}"
    );
    for (text, more) in [
        (text, "enabled=no\n"),
        ("[other]\nexcludedFileSystems=/srv\n", ""),
    ] {
        let shown = configuration(&with_tools_conf(text, more));
        assert!(!says(&shown, "fsfreeze-exclude=/"), "{shown:?}");
        assert!(!says(&shown, "fsfreeze-ignore-frozen=true"), "{shown:?}");
    }
}

#[test]
fn a_tools_conf_that_cannot_be_read_runs_no_script() {
    for broken in [
        "excludedFileSystems: /srv",
        "[vmbackup",
        "execScripts=fal\0se",
    ] {
        let place = with_tools_conf(&format!("[vmbackup]\n{broken}\n"), "");
        let failure = place.freeze().failure.unwrap_or_else(|| panic!("{broken}"));
        assert!(failure.contains("tools.conf (line 2)"), "{failure}");
        assert_eq!(calls(&place), [""; 0]);
        assert!(says(&configuration(&place), "tools.conf (line 2)"));
    }
    let place = with_tools_conf("[vmbackup]\nscriptArg=x\n", "");
    set_mode(&place.path.join("tools.conf"), 0o666);
    let failure = place.freeze().failure.expect("others may write it");
    assert!(failure.contains("chmod go-w"), "{failure}");
    // A value without sense is what VMware's own reader makes of it: the default.
    let place = with_tools_conf("[vmbackup]\nexecScripts=nope\ntimeout=-3\n", "");
    assert_eq!(place.freeze().failure, None);
    assert!(is_logged(&place, "execScripts") && is_logged(&place, "timeout"));
}
