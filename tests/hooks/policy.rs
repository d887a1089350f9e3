//! What the operator's settings change.

use std::fs;
use std::time::{Duration, Instant};

use qemu_ga::hooks::{HookStatus, Phase, ThawReason, Verdict};

use crate::support::{Place, hook, script, text};

#[test]
fn a_failure_changes_nothing_unless_it_is_to_abort() {
    let place = Place::new();
    place.hook("1", "echo \"1 $1 $QGA_THAW_REASON\" >>\"$0.bak\"");
    place.hook("2", "echo first; echo last words; exit 3");
    place.hook("3", "echo called");
    let report = place.freeze();
    assert_eq!(report.failure, None);
    assert_eq!(report.hooks.len(), 3);
    assert_eq!(place.thaw(ThawReason::Ok).hooks.len(), 3);

    place.conf("[hook 2]\non-failure=abort\n");
    let report = place.freeze();
    let failure = report.failure.expect("the freeze must fail");
    let expected = format!(
        "child process has failed to execute fsfreeze hook: hook {}/2 freeze: exit status 3; its \
         last output: first | last words\n",
        place.dir().display()
    );
    assert_eq!(failure, expected);
    let called: Vec<_> = report.hooks.iter().map(|hook| hook.path.clone()).collect();
    assert_eq!(called.len(), 2, "{called:?}");
    // What was started is undone, the one that failed too; what was not is left alone.
    let report = place.thaw(ThawReason::Failed);
    assert!(report.failure.is_some(), "2 fails on thaw, too");
    let called: Vec<_> = report
        .hooks
        .iter()
        .map(|hook| &hook.path[hook.path.len() - 1..])
        .collect();
    assert_eq!(called, ["2", "1"]);
    let calls = fs::read_to_string(place.dir().join("1.bak")).expect("calls");
    assert_eq!(calls, "1 freeze \n1 thaw ok\n1 freeze \n1 thaw failed\n");
    assert!(!place.path.join("qga.hooks").exists(), "the memory is gone");
}

#[test]
fn a_hook_hears_of_the_run() {
    let place = Place::new();
    place.conf("[hook env]\ntimeout=12\n");
    place.hook("env", "env | grep ^QGA_ | sort");
    place.freeze();
    place.thaw(ThawReason::Recovered);
    let told: Vec<String> = place
        .log()
        .into_iter()
        // The first one names the start, the second one is of the test itself.
        .filter(|l| {
            l.starts_with("QGA_")
                && !l.starts_with("QGA_HOOK_START=")
                && !l.starts_with("QGA_BINARY_UNDER_TEST=")
        })
        .collect();
    let both = [
        "QGA_DEADLINE=12",
        "QGA_DEVICES=/dev/vda1 /dev/vdb",
        "QGA_HOLD_LIMIT=900",
        "QGA_MOUNTPOINTS=/ /srv/a\\040b",
    ];
    let freeze = ["QGA_PHASE=freeze", "QGA_RUN_ID=run-1"];
    let thaw = [
        "QGA_PHASE=thaw",
        "QGA_RUN_ID=run-1",
        "QGA_THAW_REASON=recovered",
    ];
    assert_eq!(told, [&both[..], &freeze, &both, &thaw].concat());
}

#[test]
fn a_failure_is_tried_again_by_a_new_start() {
    let place = Place::new();
    place.conf("[hook flaky]\nretries=3\nretry-pause=0.01\n[hook hangs]\nretries=1\nretry-pause=0\ntimeout=0.1\n");
    place.hook(
        "flaky",
        "echo try; [ $(grep -c ^try$ \"$(dirname \"$0\")/../log\") = 3 ]",
    );
    place.hook("hangs", "sleep 1000");
    let report = place.freeze();
    assert_eq!(report.hooks[0].status, HookStatus::Exited(0));
    assert_eq!(report.hooks[0].tries, Some(3));
    assert_eq!(report.hooks[1].status, HookStatus::TimedOut);
    assert_eq!(report.hooks[1].tries, Some(2));
    let starts = place
        .log()
        .iter()
        .filter(|l| l.starts_with("execute "))
        .count();
    assert_eq!(starts, 5);
}

#[test]
fn a_hook_that_hangs_costs_its_limit_and_no_more() {
    for policy in ["continue", "abort"] {
        let place = Place::new();
        place.conf(&format!("[hooks]\non-failure={policy}\ntimeout=0.3\n"));
        place.hook("1", "trap '' TERM; while :; do sleep 1000; done");
        let report = place.freeze();
        assert_eq!(report.hooks[0].status, HookStatus::TimedOut, "{policy}");
        assert_eq!(report.failure.is_some(), policy == "abort");
        let report = place.thaw(ThawReason::Failed);
        assert_eq!(
            report.hooks[0].status,
            HookStatus::TimedOut,
            "it has its thaw"
        );
    }
}

#[test]
fn the_total_limit_keeps_later_hooks_from_being_called() {
    let place = Place::new();
    place.conf("[hooks]\ntotal-timeout=1\n");
    place.hook("1", "[ $1 = thaw ] || sleep 1000");
    place.hook("2", "echo no");
    let report = place.freeze();
    assert_eq!(report.failure, None);
    assert_eq!(report.hooks[0].status, HookStatus::TimedOut);
    assert_eq!(report.hooks[1].status.number(), 124);
    assert!(!report.hooks[1].is_success());
    let called: Vec<_> = place.thaw(ThawReason::Ok).hooks;
    assert_eq!(
        called.len(),
        1,
        "2 was not started, so there is nothing to thaw"
    );
}

#[test]
fn statuses_mean_what_the_operator_says() {
    let place = Place::new();
    place.conf("[hook five]\nsuccess=5\nnot-applicable=0\n");
    place.hook("five", "exit 5");
    place.hook("none", "exit 77");
    let hooks = place.freeze().hooks;
    assert_eq!(hooks[0].verdict, Some(Verdict::Success));
    assert_eq!(hooks[1].verdict, Some(Verdict::NotApplicable));
    assert!(hooks.iter().all(|hook| hook.is_success()));
    assert!(!hooks[1].is_applicable());
    assert!(
        place
            .log()
            .contains(&"none finished with status=77 (not applicable)".to_owned())
    );
}

#[test]
fn stages_and_what_runs_side_by_side() {
    let place = Place::new();
    // Each of the two waits for the other: one after the other they would time out.
    let meet = |own: &str, other: &str| {
        format!(
            "cd \"$(dirname \"$0\")/..\"; touch {own}-$1; while [ ! -e {other}-$1 ]; do sleep 0.01; done"
        )
    };
    place.hook("10-late", "echo late");
    place.hook("20-a", &meet("a", "b"));
    place.hook("30-b", &meet("b", "a"));
    place.conf("[hooks]\ntimeout=20\n[hook 20-a]\nparallel=yes\n[hook 30-b]\nparallel=yes\n[hook 10-late]\nstage=60\n");
    let hooks = place.freeze().hooks;
    let mut names: Vec<_> = hooks
        .iter()
        .map(|h| h.path.rsplit('/').next().unwrap_or(""))
        .collect();
    // Told of in the order of ending.
    names[..2].sort_unstable();
    assert_eq!(names, ["20-a", "30-b", "10-late"]);
    assert!(
        hooks
            .iter()
            .all(|hook| hook.status == HookStatus::Exited(0)),
        "{hooks:?}"
    );
    let hooks = place.thaw(ThawReason::Ok).hooks;
    assert!(hooks[0].path.ends_with("10-late"));
    assert!(
        hooks
            .iter()
            .all(|hook| hook.status == HookStatus::Exited(0)),
        "{hooks:?}"
    );
}

#[test]
fn a_hook_runs_as_the_user_it_is_set_to() {
    // Only root can be another user.
    if crate::left_out::needs_root() {
        return;
    }
    let place = Place::new();
    place.conf("[hook 1]\nuser=nobody\n[hook 2]\nuser=no-such-user\n");
    place.hook("1", "id -un; id -Gn; echo $HOME $LOGNAME");
    place.hook("2", "");
    // Somebody else must be able to get there.
    use std::os::unix::fs::PermissionsExt;
    let above = place.path.parent().expect("above");
    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).expect("mode");
    let hooks = place.freeze().hooks;
    let log = place.log();
    assert_eq!(log[1..3], ["nobody", "nogroup"], "{log:?}");
    assert!(log[3].ends_with(" nobody"));
    assert_eq!(hooks[1].status.number(), 126);
    assert!(
        log.iter()
            .any(|l| l.contains("unknown user 'no-such-user'")),
        "{log:?}"
    );
}

#[test]
fn settings_that_others_could_write_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.hook("1", "echo no");
    place.conf("[hooks]\n");
    let conf = place.path.join("fsfreeze-hook.conf");
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o666)).expect("mode");
    let failure = place.freeze().failure.expect("refused");
    assert!(failure.contains("chmod go-w '"), "{failure}");
    assert!(failure.contains("fsfreeze-hook.conf"), "{failure}");
}

#[test]
fn mistakes_in_the_settings_are_told_and_change_nothing_else() {
    let place = Place::new();
    place.hook("1", "");
    place.conf("[hooks]\nretries=many\n[hook 9]\ntimeout=3\n[asure]\nenabled=yes\n");
    let report = place.freeze();
    assert_eq!(report.failure, None);
    let log = place.log();
    let told = |what: &str| log.iter().any(|line| line.contains(what));
    assert!(
        told("(line 2): retries=many in [hooks] is not a whole number"),
        "{log:?}"
    );
    assert!(told("[asure] means nothing here"), "{log:?}");
    assert!(
        told("[hook 9] has settings for a hook that is not in "),
        "{log:?}"
    );
    assert_eq!(report.hooks.len(), 1);
}

#[test]
fn a_hook_that_goes_away_between_freeze_and_thaw_is_named() {
    let place = Place::new();
    place.hook("1", "");
    place.hook("2", "[ $1 = thaw ] || rm \"$(dirname \"$0\")/3\"");
    place.hook("3", "");
    let hooks = place.freeze().hooks;
    assert_eq!(hooks[2].status.number(), 127, "deleted during the run");
    place.hook("4", "");
    fs::remove_file(place.dir().join("1")).expect("removed");
    let hooks = place.thaw(ThawReason::Ok).hooks;
    let ends: Vec<_> = hooks
        .iter()
        .map(|h| (&h.path[h.path.len() - 1..], h.status.number()))
        .collect();
    assert_eq!(ends, [("2", 0), ("1", 127)], "3 was never started");
    let log = place.log();
    assert!(
        log.iter()
            .any(|l| l.starts_with("4 is not called with thaw")),
        "{log:?}"
    );
}

#[test]
fn a_thaw_without_a_freeze_calls_every_hook() {
    let place = Place::new();
    place.hook("1", "echo $1");
    place.hook("2", "echo $1");
    assert_eq!(place.thaw(ThawReason::Ok).hooks.len(), 2);
    let dir = place.dir();
    let out = hook(&["thaw", "--log=-", "--dir", dir.to_str().expect("text")]);
    assert_eq!(
        text(&out.stdout).lines().filter(|l| *l == "thaw").count(),
        2
    );
}

#[test]
fn output_beyond_the_limit_is_left_out_with_a_note() {
    let place = Place::new();
    place.conf("[hooks]\noutput-limit=1000\n");
    place.hook("1", "head -c 104857600 /dev/zero | tr '\\0' x; exit 1");
    let begun = Instant::now();
    let hooks = place.freeze().hooks;
    assert_eq!(hooks[0].output.len(), 2048);
    let log = place.log();
    assert_eq!(log[1].len(), 1000);
    assert_eq!(
        log[2],
        "[104856600 more bytes of output are left out; output-limit is 1000]"
    );
    assert!(begun.elapsed() < Duration::from_secs(600));
}

#[test]
fn strange_hooks_do_no_harm() {
    let place = Place::new();
    place.hook("1-closes", "exec >&- 2>&-; exit 4");
    place.hook("2-reads", "read line; echo \"got [$line]\"");
    place.hook(
        "3-leaves",
        "sleep 300 & echo $! >\"$(dirname \"$0\")/../pid\"",
    );
    fs::write(place.dir().join("4-crlf"), "#!/bin/sh\r\nexit 0\r\n").expect("file");
    fs::write(place.dir().join("5-bare"), "exit 6\n").expect("file");
    for name in ["4-crlf", "5-bare"] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(place.dir().join(name), fs::Permissions::from_mode(0o755))
            .expect("mode");
    }
    std::os::unix::net::UnixListener::bind(place.dir().join("6-socket")).expect("socket");
    let hooks = place.freeze().hooks;
    let ends: Vec<_> = hooks.iter().map(|h| h.status.number()).collect();
    assert_eq!(ends, [4, 0, 0, 127, 6], "{hooks:?}");
    assert_eq!(hooks[0].phase, Phase::Freeze);
    assert!(place.log().contains(&"got []".to_owned()));
    let pid = place.lines("pid")[0].parse().expect("a pid");
    qemu_ga::sys::process::kill(pid, nix::libc::SIGKILL).expect("still there");
}

#[test]
fn hooks_that_are_to_run_side_by_side_run_one_after_another_where_no_thread_can_be_had() {
    let place = Place::new();
    place.conf("[hooks]\nparallel=yes\n");
    for name in ["10-a", "20-b", "30-c"] {
        place.hook(name, "exit 0");
    }
    let front = place.path.join("qemu-ga");
    let started = fs::read_to_string(&front).expect("the front");
    // No address space has room for such a stack.
    let most = "RUST_MIN_STACK=1152921504606846976 exec";
    script(
        &front,
        &started.replace("exec", most).replace("#!/bin/sh\n", ""),
    );
    for report in [place.freeze(), place.thaw(ThawReason::Ok)] {
        assert_eq!(report.failure, None);
        let all = report.hooks.iter().map(|hook| hook.status.clone());
        assert_eq!(all.collect::<Vec<_>>(), vec![HookStatus::Exited(0); 3]);
    }
}
