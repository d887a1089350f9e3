//! The operator's tools, on real freezes.

use crate::rig::with_rig;
use crate::support::{Agent, Place, binary, in_namespace, install, is_ours, returned, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

#[test]
fn plan_says_what_would_be_done_and_touches_nothing() {
    with_rig(|rig| {
        let text = rig.says(0, &["plan"]);
        let (hooks, thaw) = text.split_once("3. Thaw").expect("three parts");
        assert!(hooks.contains("  1  10-app\n  2  20-db\n"), "{text}");
        assert!(thaw.contains("  1  20-db\n  2  10-app\n"), "{text}");
        assert!(text.contains(rig.disk.mountpoint()), "{text}");
        let plan = rig.json(0, &["plan"]);
        assert_eq!(plan["filesystems"][0]["mountpoint"], rig.disk.mountpoint());
        assert_eq!(plan["filesystems"][0]["fstype"], "ext4");
        assert_eq!(plan["hold-limit"], 900.0);
        let reasons = plan["skipped"].as_array().expect("a list");
        assert!(
            reasons
                .iter()
                .any(|skipped| skipped["mountpoint"] == "/proc")
        );
        // What is not named stays out, with its reason; what is not there is noted.
        let other = rig.json(0, &["plan", "/nowhere"]);
        assert_eq!(other["filesystems"], json!([]));
        let notes = other["notes"].to_string();
        assert!(
            notes.contains("/nowhere") && notes.contains("nothing is mounted"),
            "{notes}"
        );
        // What a freeze would refuse is a refusal here.
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(rig.place.path("etc/fsfreeze-hook.d/20-db"), open).expect("mode");
        assert!(
            rig.says(1, &["plan"])
                .contains("FAILS  refusing to run hooks")
        );
        assert!(!rig.place.path("calls").exists() && !rig.place.marker().exists());
        let state = fs::read_dir(rig.place.path("state")).expect("dir").count();
        assert_eq!((state, rig.disk.is_frozen()), (0, false));
        assert!(!Path::new("/var/log/qga-fsfreeze-hook.log").exists());
    });
}

#[test]
fn plan_goes_by_the_running_agent_and_the_policy() {
    with_rig(|rig| {
        let exclude = format!("--fsfreeze-exclude={}", rig.disk.mountpoint());
        let _agent = rig.place.agent(&[&exclude]);
        let mut command = Command::new(binary());
        command.env_remove("QGA_CONF").args(["plan", "--json"]);
        let output = command.output().expect("runs");
        let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(plan["filesystems"], json!([]));
        let origin = plan["configuration"].as_str().expect("text");
        assert!(
            origin.starts_with("of the running agent, process "),
            "{origin}"
        );
        assert!(
            plan["skipped"]
                .to_string()
                .contains("fsfreeze-exclude has ")
        );
    });
}

/// Metrics and the status of a monitor follow the last run that has ended, through a freeze in progress.
#[test]
fn report_serves_monitors() {
    with_rig(|rig| {
        let metrics = ["report", "--format", "prometheus"];
        let check = ["report", "--check", "--require", "application"];
        assert!(rig.says(0, &metrics).ends_with("qemu_ga_runs_kept 0\n"));
        assert!(rig.says(3, &check).starts_with("QEMU-GA UNKNOWN - "));
        let agent = rig.frozen();
        let frozen = rig.says(0, &metrics);
        assert!(frozen.contains("\nqemu_ga_frozen 1\n"), "{frozen}");
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        agent.call("x-guest-fsfreeze-report");
        let thawed = rig.says(0, &metrics);
        for line in [
            "qemu_ga_frozen 0",
            "qemu_ga_runs_kept 1",
            "qemu_ga_last_run_level 2",
            "qemu_ga_last_run_hooks_failed 1",
        ] {
            assert!(thawed.contains(&format!("\n{line}\n")), "{line}: {thawed}");
        }
        let failed = rig.place.path("etc/fsfreeze-hook.d/20-db");
        let sample = format!(
            "qemu_ga_last_run_hook_failed{{hook=\"{}\",phase=\"freeze\"}} 1\n",
            failed.display()
        );
        assert!(thawed.contains(&sample), "{sample}: {thawed}");
        let line = rig.says(1, &check);
        assert!(line.starts_with("QEMU-GA WARNING - filesystem: "), "{line}");
        assert!(line.contains("; application is required | age="), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(
            rig.says(0, &["report", "--check"])
                .starts_with("QEMU-GA OK - ")
        );
        let late = rig.says(2, &["report", "--check", "--max-age", "0"]);
        assert!(late.starts_with("QEMU-GA CRITICAL - "), "{late}");
    });
}

#[test]
fn report_and_log_tell_the_runs() {
    with_rig(|rig| {
        assert_eq!(rig.tool(&["report"]).status.code(), Some(1));
        assert_eq!(rig.tool(&["log"]).status.code(), Some(1));
        let agent = rig.frozen();
        let at_work = rig.says(0, &["report"]);
        assert!(at_work.contains("still frozen"), "{at_work}");
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        fs::remove_file(rig.place.path("etc/fsfreeze-hook.d/20-db")).expect("remove");
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        // Answered when the report is written.
        agent.call("x-guest-fsfreeze-report");

        let last = rig.says(0, &["report"]);
        assert!(last.contains("Level   application: "), "{last}");
        let before = rig.says(0, &["report", "2"]);
        for piece in [
            "Level   filesystem: ",
            "  freeze  20-db   status 3",
            "      | no server\n",
            " thawed  ",
            "  held",
        ] {
            assert!(before.contains(piece), "no {piece:?} in:\n{before}");
        }
        let bars = before.lines().filter(|line| line.contains('#')).count();
        assert!(bars >= 5, "{before}");
        assert_eq!(rig.tool(&["report", "3"]).status.code(), Some(1));
        assert_eq!(rig.tool(&["report", "0"]).status.code(), Some(2));
        let list = rig.says(0, &["report", "--list"]);
        assert_eq!(list.lines().count(), 3, "{list}");
        assert_eq!(rig.json(0, &["report"])["level"], "application");
        let kept = rig.json(0, &["report", "--list"]);
        assert_eq!(kept["runs"].as_array().expect("a list").len(), 2);

        let failed = rig.says(0, &["log", "--failed"]);
        let lines: Vec<&str> = failed.lines().collect();
        assert!(lines.len() == 3 && lines[2].ends_with("20-db finished with status=3"));
        assert_eq!(lines[1], "no server");
        let app = rig.says(0, &["log", "--hook", "10-app", "--run", "2"]);
        assert_eq!(app.matches("application told to").count(), 2, "{app}");
        assert_eq!(
            rig.tool(&["log", "--failed", "--run", "1"]).status.code(),
            Some(1)
        );
        let runs = &rig.json(0, &["log"])["runs"];
        assert_eq!(runs[1]["entries"][0]["status"], 0);
        assert_eq!(
            (&runs[0]["number"], &runs[1]["number"]),
            (&json!(2), &json!(1))
        );
    });
}

#[test]
fn status_asks_the_guardian_and_disturbs_nobody() {
    with_rig(|rig| {
        assert_eq!(rig.json(0, &["status"])["state"], "thawed");
        let agent = rig.frozen();
        // The channel is in use, and the agent does not even run.
        let mut busy = agent.connect();
        assert_eq!(busy.call("guest-ping"), returned("{}"));
        agent.signal(Signal::SIGSTOP);
        let status = rig.json(3, &["status"]);
        assert_eq!(status["state"], "frozen");
        assert_eq!(status["filesystems"], json!([rig.disk.mountpoint()]));
        assert_eq!(status["agents"], json!([agent.pid()]));
        let left = status["left"].as_f64().expect("a limit");
        assert!(left > 0.0 && left <= 900.0, "{left}");
        let text = rig.says(3, &["status"]);
        assert!(
            text.starts_with("frozen  for ") && text.contains("thaws in "),
            "{text}"
        );
        agent.signal(Signal::SIGCONT);
        // The guardian still takes the agent for its agent: the thaw is the agent's.
        assert_eq!(busy.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(rig.json(0, &["status"])["state"], "thawed");
        assert_eq!(rig.place.report()["end"], "thaw");
    });
}

#[test]
fn a_question_before_the_agent_dies_changes_nothing_for_its_successor() {
    with_rig(|rig| {
        let agent = rig.frozen();
        assert_eq!(rig.json(3, &["status"])["state"], "frozen");
        agent.kill();
        assert_eq!(rig.json(3, &["status"])["agents"], json!([]));
        let successor = rig.agent();
        assert_eq!(rig.json(3, &["status"])["agents"], json!([successor.pid()]));
        assert_eq!(successor.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(rig.place.report()["end"], "recovery");
    });
}

#[test]
fn thaw_without_now_does_nothing() {
    with_rig(|rig| {
        let agent = rig.frozen();
        let text = rig.says(0, &["thaw"]);
        assert!(text.contains("would ask the guardian") && text.ends_with("Nothing was done.\n"));
        assert!(rig.disk.is_frozen());
        assert_eq!(rig.tool(&["thaw", "--force"]).status.code(), Some(2));
        assert!(rig.disk.is_frozen());
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
    });
}

#[test]
fn thaw_now_has_the_guardian_thaw_and_the_host_hear_of_it() {
    with_rig(|rig| {
        let agent = rig.frozen();
        agent.signal(Signal::SIGSTOP);
        let done = rig.json(0, &["thaw", "--now"]);
        assert_eq!(done["thawed"], json!([rig.disk.mountpoint()]));
        assert!(done["by-guardian"].is_i64());
        assert!(!rig.disk.is_frozen() && !rig.place.marker().exists());
        agent.signal(Signal::SIGCONT);
        let late = agent.call("guest-fsfreeze-thaw");
        assert!(
            late.contains("because somebody ran qemu-ga thaw --now"),
            "{late}"
        );
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(0));
        let report = rig.place.report();
        assert_eq!(
            (&report["end"], &report["level"]),
            (&json!("expiry"), &json!("crash"))
        );
        // Each hook was told once, and the report has it.
        let hooks = report["hooks"].as_array().expect("hooks");
        let phases: Vec<&Value> = hooks.iter().map(|hook| &hook["phase"]).collect();
        assert_eq!(phases, ["freeze", "freeze", "thaw", "thaw"]);
    });
}

#[test]
fn thaw_now_walks_where_nobody_is_left_to_ask() {
    with_rig(|rig| {
        let agent = rig.frozen();
        let guardian = rig.json(3, &["status"])["guardian"]
            .as_i64()
            .expect("a pid");
        let guardian = Pid::from_raw(i32::try_from(guardian).expect("a pid"));
        // The agent first: what is left would otherwise undo the freeze or go on alone.
        agent.signal(Signal::SIGSTOP);
        kill(guardian, Signal::SIGKILL).expect("signal");
        agent.kill();
        wait_until("the guardian to be gone", || {
            rig.json(3, &["status"])["guardian"] == Value::Null
        });
        let status = rig.json(3, &["status"]);
        assert_eq!(
            (&status["guardian"], &status["agents"]),
            (&Value::Null, &json!([]))
        );
        let check = rig.json(1, &["check"]);
        let marker = check["results"].as_array().expect("a list").iter();
        let marker = marker.clone().find(|result| result["about"] == "marker");
        let marker = marker.expect("a word on the marker");
        assert_eq!(marker["kind"], "finding");
        assert!(
            marker["remedy"]
                .as_str()
                .expect("text")
                .contains("thaw --now")
        );
        let text = rig.says(0, &["thaw", "--now"]);
        assert!(text.starts_with("ok  thawed 1 filesystem: "), "{text}");
        assert!(text.contains("no thaw hook was called"), "{text}");
        assert!(!rig.disk.is_frozen() && !rig.place.marker().exists());
        let late = rig.agent().call("guest-fsfreeze-thaw");
        assert!(late.contains("somebody ran qemu-ga thaw --now"), "{late}");
    });
}

#[test]
fn thaw_now_where_everything_it_needs_is_frozen() {
    with_rig(|rig| {
        // As with a frozen root: its binary, configuration, state and standard directories.
        install(&binary(), &rig.disk.path("qemu-ga"));
        fs::create_dir(rig.disk.path("state")).expect("dir");
        let conf = format!("[general]\nstatedir={}/state\n", rig.disk.mountpoint());
        fs::write(rig.disk.path("conf"), conf).expect("conf");
        let state = rig.disk.path("state");
        for guarded in [true, false] {
            let agent = rig.place.agent(&["-t", state.to_str().expect("text")]);
            assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
            let tool = |args: &[&str]| {
                let mut command = Command::new(rig.disk.path("qemu-ga"));
                command.current_dir(rig.disk.mountpoint()).args(args);
                command.arg("-c").arg(rig.disk.path("conf"));
                command.output().expect("runs")
            };
            let status: Value =
                serde_json::from_slice(&tool(&["status", "--json"]).stdout).expect("JSON");
            assert_eq!(status["state"], "frozen");
            if !guarded {
                agent.signal(Signal::SIGSTOP);
                let pid = i32::try_from(status["guardian"].as_i64().expect("a pid"));
                kill(Pid::from_raw(pid.expect("a pid")), Signal::SIGKILL).expect("signal");
                agent.kill();
            }
            assert!(rig.disk.is_frozen());
            let done = tool(&["thaw", "--now"]);
            assert!(done.status.success(), "{done:?}");
            assert!(!rig.disk.is_frozen());
            assert!(!rig.disk.path("state/qga.state.isfrozen").exists());
        }
    });
}

#[test]
fn thaw_now_with_force_asks_nobody_and_frees_what_strangers_froze() {
    with_rig(|rig| {
        rig.disk.freeze();
        let done = rig.json(0, &["thaw", "--now", "--force"]);
        assert_eq!(done["thawed"], json!([rig.disk.mountpoint()]));
        assert!(!rig.disk.is_frozen());
        assert!(
            rig.says(0, &["thaw", "--now"])
                .contains("nothing was thawed")
        );
        // Nobody froze by an agent, so no thaw is late.
        assert_eq!(rig.agent().call("guest-fsfreeze-thaw"), returned(0));
    });
}

#[test]
fn thaw_now_while_the_hooks_still_run_is_refused() {
    with_rig(|rig| {
        let gate = rig.place.name("gate");
        rig.hook(
            "10-app",
            &format!("for i in $(seq 600); do [ ! -e '{gate}' ] || exit 0; sleep 0.05; done"),
        );
        let agent = rig.agent();
        let mut client = agent.connect();
        client.post(r#"{"execute":"guest-fsfreeze-freeze"}"#);
        wait_until("the hook", || {
            Path::new("/var/log/qga-fsfreeze-hook.log").exists()
        });
        assert_eq!(rig.json(3, &["status"])["state"], "freezing");
        let done = rig.json(1, &["thaw", "--now"]);
        assert!(
            done["failures"][0]
                .as_str()
                .expect("text")
                .contains("still freezing")
        );
        fs::write(gate, "").expect("open");
        assert_eq!(client.line(), returned(1));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
    });
}

#[test]
fn check_finds_what_would_go_wrong_and_says_what_to_do() {
    with_rig(|rig| {
        let find = |results: &Value, about: &str| {
            let results = results["results"].as_array().expect("a list").clone();
            let kind = |result: &Value| result["kind"] == "finding" && result["about"] == about;
            let found = results.into_iter().find(kind);
            found.map(|result| format!("{} {}", result["why"], result["remedy"]))
        };
        let _agent = rig.agent();
        let results = rig.json(1, &["check"]);
        // No device is given to this machine for the test; all else is well.
        assert!(find(&results, "channel").is_some_and(|advice| advice.contains("virtio")));
        let hooks = rig.place.path("etc/fsfreeze-hook.d");
        for about in [
            "hooks",
            "hook-master",
            "hook-log",
            "state",
            "marker",
            "agent",
        ] {
            assert_eq!(find(&results, about), None, "{results:#}");
        }
        fs::write(hooks.join("README"), "").expect("file");
        let advice = find(&rig.json(1, &["check"]), "hooks");
        assert!(advice.is_some_and(|advice| advice.contains("chmod +x")));
        fs::set_permissions(&hooks, fs::Permissions::from_mode(0o777)).expect("mode");
        let advice = find(&rig.json(1, &["check"]), "hooks");
        assert!(advice.is_some_and(|advice| advice.contains("chmod go-w")));
        let made = Command::new("mkfifo")
            .arg("/var/log/qga-fsfreeze-hook.log")
            .status();
        assert!(made.expect("mkfifo").success());
        assert!(find(&rig.json(1, &["check"]), "hook-log").is_some());
        let on_disk = rig
            .place
            .run(&["check", "--json", "-t", rig.disk.mountpoint()]);
        let on_disk: Value = serde_json::from_slice(&on_disk.stdout).expect("JSON");
        assert!(find(&on_disk, "state").is_some_and(|advice| advice.contains("/run")));
        fs::write(rig.place.path("conf"), "[general]\nnonsense\n").expect("conf");
        assert!(find(&rig.json(1, &["check"]), "configuration").is_some());
        assert!(rig.says(1, &["check"]).contains("FINDING  configuration  "));
    });
}

#[test]
fn every_tool_has_a_help_and_knows_its_mistakes() {
    if !is_ours() {
        return;
    }
    let place = Place::new();
    for tool in [
        "plan", "check", "report", "log", "status", "thaw", "selftest",
    ] {
        let help = place.run(&[tool, "--help"]);
        let text = String::from_utf8(help.stdout).expect("text");
        assert!(help.status.success() && help.stderr.is_empty());
        assert!(
            text.starts_with(&format!("Usage: qemu-ga {tool}")),
            "{text}"
        );
        assert!(
            text.contains("\nExit status:\n") && text.contains("--json"),
            "{text}"
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        let wrong = place.run(&[tool, "--nonsense"]);
        assert_eq!(
            (wrong.status.code(), wrong.stdout.len()),
            (Some(2), 0),
            "{tool}"
        );
        let complaint = String::from_utf8(wrong.stderr).expect("text");
        let expected = format!("qemu-ga {tool}: unknown option '--nonsense'\nUsage: ");
        assert!(complaint.starts_with(&expected), "{complaint}");
    }
}

#[test]
fn an_agent_whose_own_files_are_all_frozen_thaws_and_loses_no_line() {
    with_rig(|rig| {
        // Binary, log, state directory and its parent, and the hook master's.
        let home = rig.disk.path("home");
        fs::create_dir_all(home.join("state")).expect("dir");
        install(&binary(), &home.join("qemu-ga"));
        let log = home.join("log");
        let mut command = Command::new(home.join("qemu-ga"));
        rig.place.add_arguments(&mut command, &["-v", "-t"]);
        command.arg(home.join("state")).arg("-l").arg(&log);
        command
            .current_dir(&home)
            .env("QGA_CONF", home.join("no.conf"));
        let agent = Agent::start(command, &rig.place.path("sock"));
        let mut client = agent.connect();
        for _ in 0..3 {
            assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
            assert!(rig.disk.is_frozen());
            let before = fs::read_to_string(&log).expect("log");
            for _ in 0..5 {
                assert_eq!(client.call("guest-ping"), returned("{}"));
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            assert_eq!(fs::read_to_string(&log).expect("log"), before);
            assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
            // Written after the answer.
            wait_until("the kept lines", || {
                let text = fs::read_to_string(&log).expect("log");
                text[before.len()..].matches("guest-ping").count() >= 5
            });
            let text = fs::read_to_string(&log).expect("log");
            let kept = text.strip_prefix(&before).expect("appended");
            let pings: Vec<f64> = kept
                .lines()
                .filter(|line| line.ends_with("processing command guest-ping"))
                .map(stamp)
                .collect();
            assert_eq!(pings.len(), 5, "{kept}");
            // In order, and with their own times, not that of the thaw.
            assert!(
                pings.windows(2).all(|pair| pair[1] - pair[0] >= 0.002),
                "{kept}"
            );
            assert!(kept.lines().map(stamp).is_sorted(), "{kept}");
            assert!(home.join("state/qga.reports.json").exists());
            assert!(!home.join("state/qga.state.isfrozen").exists());
        }
        assert!(agent.stop().success());
    });
}

/// The time of a log line.
fn stamp(line: &str) -> f64 {
    let time = line.split(": ").next().unwrap_or_default();
    time.parse().expect("a time")
}

#[test]
fn colour_is_for_terminals_alone() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let command = format!(
            "'{}' status -t '{}'",
            binary().display(),
            place.name("state")
        );
        let on_terminal = |no_colour: &str| {
            let mut script = Command::new("script");
            script.args(["-qec", &command, "/dev/null"]);
            script.env("TERM", "xterm").env("NO_COLOR", no_colour);
            let output = script.stdin(std::process::Stdio::null()).output();
            String::from_utf8(output.expect("script").stdout).expect("text")
        };
        if !crate::support::disk::has("script") {
            return crate::support::not_run("script(1) is not installed");
        }
        assert!(
            on_terminal("").contains("\x1b[32mthawed"),
            "{}",
            on_terminal("")
        );
        assert!(on_terminal("1").starts_with("thawed"));
    });
}
