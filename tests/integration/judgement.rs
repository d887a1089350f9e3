//! What the tools say of a run: whether it was good enough, what it is doing, and nothing that is not so.

use crate::rig::{Rig, with_rig};
use crate::support::disk::tmpfs;
use crate::support::{StuckWriter, returned, wait_until};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A freeze and its thaw; returns when the run is kept.
fn one_run(rig: &Rig) {
    let agent = rig.frozen();
    assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
    // Answered when the report is written.
    agent.call("x-guest-fsfreeze-report");
}

fn last_run(results: &Value) -> Value {
    let mut results = results["results"].as_array().expect("a list").iter();
    let found = results.find(|result| result["about"] == "last-run");
    found.cloned().unwrap_or_default()
}

#[test]
fn check_judges_the_last_run() {
    with_rig(|rig| {
        let _agent = rig.agent();
        assert_eq!(last_run(&rig.json(1, &["check"])), Value::Null);
        drop(_agent);
        // 20-db fails.
        one_run(rig);
        let result = last_run(&rig.json(1, &["check"]));
        assert_eq!(result["kind"], "finding");
        let what = result["what"].as_str().expect("text");
        assert!(what.starts_with("filesystem, "), "{what}");
        assert_eq!(result["why"], "hook 20-db freeze: status 3");
        let remedy = result["remedy"].as_str().expect("text");
        assert!(remedy.contains("qemu-ga hook try 20-db"), "{remedy}");
        fs::remove_file(rig.place.path("etc/fsfreeze-hook.d/20-db")).expect("remove");
        one_run(rig);
        assert_eq!(last_run(&rig.json(1, &["check"]))["kind"], "ok");
        // The freeze itself fails.
        rig.hook("20-db", "# qga-hook: on-failure = abort\nexit 1");
        let agent = rig.agent();
        let failed = agent.call("guest-fsfreeze-freeze");
        assert!(failed.contains("exit status 1"), "{failed}");
        agent.call("x-guest-fsfreeze-report");
        let result = last_run(&rig.json(1, &["check"]));
        assert_eq!(result["kind"], "finding");
        let (what, why) = (result["what"].to_string(), result["why"].to_string());
        assert!(
            what.starts_with("\"none, ") && why.contains("hook 20-db freeze"),
            "{result}"
        );
    });
}

#[test]
fn a_monitor_learns_whether_the_last_run_was_good_enough() {
    with_rig(|rig| {
        let status = |args: &[&str]| {
            let args = [&["report", "--require"], args].concat();
            rig.tool(&args).status.code().expect("a status")
        };
        assert_eq!(status(&["crash"]), 4);
        one_run(rig);
        assert_eq!(status(&["crash"]), 0);
        assert_eq!(status(&["filesystem", "--max-age", "3600"]), 0);
        assert_eq!(status(&["application", "--max-age=0"]), 3);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(status(&["filesystem", "--max-age", "0.01"]), 5);
        for wrong in [
            &["none"][..],
            &["crash", "--max-age", "soon"],
            &["crash", "1"],
            &["crash", "--list"],
        ] {
            assert_eq!(status(wrong), 2, "{wrong:?}");
        }
        assert_eq!(
            rig.tool(&["report", "--max-age", "9"]).status.code(),
            Some(2)
        );
        let text = rig.says(3, &["report", "--require", "application"]);
        assert!(
            text.starts_with("FAILED  filesystem: the last freeze, "),
            "{text}"
        );
        assert!(text.contains("; application"), "{text}");
        let judged = rig.json(0, &["report", "--require", "filesystem"]);
        assert_eq!(
            (&judged["met"], &judged["level"]),
            (&json!(true), &json!("filesystem"))
        );
        // A run at work does not count yet.
        let agent = rig.frozen();
        assert_eq!(status(&["filesystem", "--max-age", "0.01"]), 5);
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        agent.call("x-guest-fsfreeze-report");
        fs::write(rig.place.path("state/qga.reports.json"), "{").expect("file");
        assert_eq!(status(&["crash"]), 1);
    });
}

/// A hook that waits for a file, and says that it has begun.
fn slow_hook(rig: &Rig, phase: &str) -> String {
    let gate = rig.place.name(&format!("gate-{phase}"));
    rig.hook(
        "20-db",
        &format!(
            "# qga-hook: timeout = 77\n[ $1 = {phase} ] || exit 0\ntouch '{gate}.begun'\nfor i in $(seq 600); do [ ! -e '{gate}' ] || exit 0; sleep 0.05; done"
        ),
    );
    gate
}

fn begins(gate: &str) {
    wait_until("the hook", || Path::new(&format!("{gate}.begun")).exists());
}

#[test]
fn a_hook_at_work_is_shown_while_it_freezes_and_while_it_thaws() {
    with_rig(|rig| {
        let gate = slow_hook(rig, "freeze");
        let agent = rig.agent();
        let mut client = agent.connect();
        client.post(r#"{"execute":"guest-fsfreeze-freeze"}"#);
        begins(&gate);
        // Whatever the agent does.
        agent.signal(Signal::SIGSTOP);
        for tool in ["status", "report"] {
            let shown = rig.json(if tool == "status" { 3 } else { 0 }, &[tool]);
            let work = &shown["at-work"];
            assert_eq!(work["stage"], "freeze-hooks", "{shown}");
            assert!(work["seconds"].is_f64());
            let hook = &work["hooks"][0];
            assert!(hook["path"].as_str().expect("a path").ends_with("/20-db"));
            assert_eq!(
                (&hook["limit"], &hook["phase"]),
                (&json!(77.0), &json!("freeze"))
            );
            assert!(hook["seconds"].as_f64().expect("seconds") < 60.0);
            assert_eq!(work["hooks"].as_array().expect("a list").len(), 1);
        }
        let status = rig.says(3, &["status"]);
        assert!(
            status.starts_with("freezing\n  at work      freeze hooks, for "),
            "{status}"
        );
        assert!(status.contains("               20-db: for "), "{status}");
        assert!(status.contains(", limit 1 min 17 s\n"), "{status}");
        // Nothing is offered that would be refused, and no limit is denied that is still to come.
        assert!(
            status.contains("thaw --now does nothing before"),
            "{status}"
        );
        assert!(
            !status.contains("no limit") && !status.contains("ends it"),
            "{status}"
        );
        let report = rig.json(0, &["report"]);
        assert_eq!(
            (&report["level"], &report["end"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(report["hooks"][0]["status"], json!({"exited": 0}));
        let report = rig.says(0, &["report"]);
        assert!(report.contains("Now     freeze hooks, for "), "{report}");
        assert!(report.contains("  freeze  10-app  status 0"), "{report}");
        let list = rig.says(0, &["report", "--list"]);
        assert!(list.contains("at work") && !list.contains("1970"), "{list}");
        agent.signal(Signal::SIGCONT);
        fs::write(gate, "").expect("open");
        assert_eq!(client.line(), returned(1));
        let report = rig.says(0, &["report"]);
        assert!(
            report
                .lines()
                .next()
                .expect("a line")
                .ends_with(": still frozen"),
            "{report}"
        );
        let thaw = report.lines().find(|line| line.starts_with("  thaw "));
        assert!(thaw.expect("a line").ends_with(" -"), "{report}");
        assert_eq!(rig.json(3, &["status"])["at-work"], Value::Null);

        let gate = slow_hook(rig, "thaw");
        client.post(r#"{"execute":"guest-fsfreeze-thaw"}"#);
        begins(&gate);
        let status = rig.json(3, &["status"]);
        assert_eq!(status["state"], "thawing");
        assert_eq!(status["at-work"]["stage"], "thaw-hooks");
        assert_eq!(status["at-work"]["hooks"][0]["phase"], "thaw");
        let held = |shown: &Value| shown["stages"]["held"].as_f64().expect("seconds");
        let before = rig.json(0, &["report"]);
        std::thread::sleep(Duration::from_millis(50));
        let after = rig.json(0, &["report"]);
        assert_eq!(held(&before), held(&after), "it is held no more");
        let report = rig.says(0, &["report"]);
        assert!(!report.contains("still frozen"), "{report}");
        fs::write(gate, "").expect("open");
        assert_eq!(client.line(), returned(1));
    });
}

#[test]
fn a_filesystem_that_is_being_frozen_is_shown() {
    with_rig(|rig| {
        let agent = rig.agent();
        let writer = StuckWriter::on(&rig.disk);
        let mut client = agent.connect();
        client.post(r#"{"execute":"guest-fsfreeze-freeze"}"#);
        wait_until("FIFREEZE", || agent.is_in_fifreeze());
        for tool in ["status", "report"] {
            let shown = rig.json(if tool == "status" { 3 } else { 0 }, &[tool]);
            let work = &shown["at-work"];
            assert_eq!(work["stage"], "freeze", "{shown}");
            assert_eq!(work["filesystems"], json!([rig.disk.mountpoint()]));
            assert_eq!(work["step-limit"], 300.0);
            assert!(work["seconds"].is_f64());
        }
        let told = rig.says(3, &["status"]);
        assert!(
            told.contains("waiting for /") && told.contains(", limit 5 min 0 s"),
            "{told}"
        );
        assert!(told.contains("thaws in 1"), "{told}");
        drop(writer);
        assert_eq!(client.line(), returned(1));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
    });
}

#[test]
fn a_plan_names_no_hook_that_is_not_called_and_no_limit_that_is_none() {
    with_rig(|rig| {
        let conf = rig.place.read("conf");
        let plan = |own: &str| {
            let conf = format!("{conf}[qemu-ga-rs]\n{own}\n");
            fs::write(rig.place.path("conf"), conf).expect("conf");
            (rig.json(0, &["plan"]), rig.says(0, &["plan"]))
        };
        let (all, text) = plan("fsfreeze-hold-limit=0");
        assert_eq!(all["freeze-hooks"].as_array().expect("a list").len(), 2);
        assert!(
            text.contains("held until the host thaws, without limit"),
            "{text}"
        );
        for idle in ["fsfreeze-mode=off", "fsfreeze-include=/nowhere"] {
            let (shown, _) = plan(idle);
            assert_eq!(shown["freeze-hooks"], json!([]), "{idle}");
            assert_eq!(shown["thaw-hooks"], json!([]), "{idle}");
        }
        let (hooks, _) = plan("fsfreeze-mode=hooks-only");
        assert_eq!(hooks["freeze-hooks"].as_array().expect("a list").len(), 2);
    });
}

#[test]
fn a_log_of_which_only_the_end_is_read_says_so() {
    with_rig(|rig| {
        let log = Path::new("/var/log/qga-fsfreeze-hook.log");
        let line = "Thu Nov 23 13:38:05 UTC 2023: execute /x/10-app freeze\n";
        fs::write(log, line.repeat(400_000)).expect("log");
        let told = rig.tool(&["log", "--run", "1"]);
        assert!(told.status.success());
        let complaint = String::from_utf8(told.stderr).expect("text");
        assert!(complaint.contains("bytes of /var/log/qga"), "{complaint}");
        assert!(complaint.ends_with("are left out\n"), "{complaint}");
    });
}

#[test]
fn an_operators_thaw_is_no_expiry() {
    with_rig(|rig| {
        let agent = rig.frozen();
        rig.says(0, &["thaw", "--now"]);
        let late = agent.call("guest-fsfreeze-thaw");
        assert!(late.contains("somebody ran qemu-ga thaw --now"), "{late}");
        let list = rig.says(0, &["report", "--list"]);
        assert!(
            list.contains("  operator  ") && !list.contains("expiry"),
            "{list}"
        );
        let report = rig.says(0, &["report"]);
        let thaw = report.lines().find(|line| line.starts_with("  thaw "));
        assert!(thaw.expect("a line").contains(" ms "), "{report}");
        assert!(
            report.contains("\nBecause somebody ran qemu-ga thaw --now\n"),
            "{report}"
        );
    });
}

#[test]
fn thaw_now_of_what_others_froze_says_nothing_of_the_agent() {
    with_rig(|rig| {
        let agent = rig.agent();
        rig.disk.freeze();
        let done = rig.json(0, &["thaw", "--now"]);
        assert_eq!(done["thawed"], json!([rig.disk.mountpoint()]));
        assert_eq!(done["notes"], json!([]));
        assert_eq!(agent.call("guest-fsfreeze-status"), returned("\"thawed\""));
        // One that holds a freeze of its own answers frozen until it is told.
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        let done = rig.json(0, &["thaw", "--now", "--force"]);
        assert!(
            done["notes"].to_string().contains("still answers frozen"),
            "{done}"
        );
        assert_eq!(agent.call("guest-fsfreeze-status"), returned("\"frozen\""));
        agent.call("guest-fsfreeze-thaw");
    });
}

#[test]
fn thaw_now_says_how_the_thaw_hooks_ended() {
    with_rig(|rig| {
        rig.hook("20-db", "[ $1 = freeze ]");
        let _agent = rig.frozen();
        let text = rig.says(0, &["thaw", "--now"]);
        assert!(text.contains("1 of 2 thaw hooks failed"), "{text}");
    });
}

#[test]
fn a_freeze_with_a_state_directory_that_cannot_be_written_is_seen() {
    with_rig(|rig| {
        let state = rig.place.path("state");
        tmpfs(&state);
        let gate = slow_hook(rig, "freeze");
        let agent = rig.agent();
        let (none, flags) = (None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
        mount(none, &state, none, flags, none).expect("read-only");
        let mut client = agent.connect();
        client.post(r#"{"execute":"guest-fsfreeze-freeze"}"#);
        begins(&gate);
        let status = rig.json(3, &["status"]);
        assert_eq!(status["state"], "freezing");
        assert_eq!(status["at-work"]["hooks"][0]["limit"], 77.0);
        fs::write(gate, "").expect("open");
        assert_eq!(client.line(), returned(1));
        let status = rig.json(3, &["status"]);
        assert_eq!(
            (&status["state"], &status["marked"]),
            (&json!("frozen"), &json!(false))
        );
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(rig.json(0, &["status"])["state"], "thawed");
    });
}

#[test]
fn of_150_hooks_that_fail_none_is_missing_and_nothing_is_cut_in_silence() {
    with_rig(|rig| {
        for number in 1..=150 {
            // Every byte is six in JSON.
            rig.hook(
                &format!("{number:03}-db"),
                "[ $1 = thaw ] || { for i in 1 2 3 4 5 6 7; do head -c 1000 /dev/zero | tr '\\0' '\\1'; echo; done; exit 3; }",
            );
        }
        one_run(rig);
        let report = rig.json(0, &["report"]);
        let hooks = report["hooks"].as_array().expect("hooks");
        let failed = |hook: &&Value| hook["phase"] == "freeze" && hook["status"]["exited"] == 3;
        // 20-db is one more.
        assert_eq!(hooks.iter().filter(failed).count(), 151);
        assert_eq!(report["level"], "filesystem");
        // Lines of hooks are as long as they are.
        let text = String::from_utf8(rig.tool(&["report"]).stdout).expect("text");
        let shown = |name: &str| text.matches(&format!("  freeze  {name}")).count();
        assert_eq!((shown("001-db"), shown("150-db")), (1, 1));
        let cut = text
            .matches("[more before this: qemu-ga log --hook ")
            .count();
        let left_out = text.matches("[left out of the report, which is long: see qemu-ga log]");
        let left_out = left_out.count();
        assert_eq!(cut + left_out, 151, "{text}");
        assert!(cut > 20 && left_out > 20, "{cut} {left_out}");
        let result = last_run(&rig.json(1, &["check"]));
        let why = result["why"].as_str().expect("text");
        assert!(why.ends_with(", and 148 more"), "{why}");
        let log = rig.says(0, &["log", "--hook", "150-db"]);
        assert!(log.len() > 7000, "all of it is in the log");
    });
}
