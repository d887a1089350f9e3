//! Our own hook master at the agent's call: order, and the log that operators read.

use crate::support::disk::tmpfs;
use crate::support::{Agent, Disk, Place, in_namespace, install, is_ours, our_binary, returned};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// A layout as a package installs it in the directory `etc`, and one filesystem.
pub struct Rig {
    /// Dropped first: a directory on what is frozen cannot be removed.
    pub disk: Disk,
    pub place: Place,
}

impl Rig {
    /// Call it in a namespace: the log is private to that.
    pub fn new() -> Self {
        tmpfs(Path::new("/var/log"));
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        fs::create_dir_all(place.path("etc/fsfreeze-hook.d")).expect("dir");
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/hooks/fsfreeze-hook");
        install(Path::new(shipped), &place.path("etc/fsfreeze-hook"));
        Self { place, disk }
    }

    pub fn hook(&self, name: &str, text: &str) {
        self.place
            .script(&format!("etc/fsfreeze-hook.d/{name}"), text);
    }

    pub fn agent(&self) -> Agent {
        let hook = format!("-F{}", self.place.name("etc/fsfreeze-hook"));
        let mut command = self.place.agent_command(&[&hook]);
        // Another agent does not tell the script where ours is.
        command.env("QGA_BINARY", our_binary());
        Agent::start(command, &self.place.path("sock"))
    }

    fn freeze_and_thaw(&self) {
        let agent = self.agent();
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        if is_ours() {
            // Answered when the report is written.
            agent.call("x-guest-fsfreeze-report");
        }
    }

    /// The log, with the hooks' directory as `D` and each valid date as `T`.
    pub fn log(&self) -> Vec<String> {
        let text = fs::read_to_string("/var/log/qga-fsfreeze-hook.log").unwrap_or_default();
        let dir = self.place.name("etc/fsfreeze-hook.d");
        text.lines()
            .map(|line| dateless(&line.replace(&dir, "D")))
            .collect()
    }
}

/// The line with `T` for what date(1) takes for a date in its default format.
fn dateless(line: &str) -> String {
    let Some((date, rest)) = line.split_once(": ") else {
        return line.to_owned();
    };
    let again = Command::new("date")
        .arg("-d")
        .arg(date)
        .env("LC_ALL", "C")
        .output();
    let again = again.expect("date").stdout;
    if String::from_utf8_lossy(&again).trim_end() == date {
        format!("T: {rest}")
    } else {
        line.to_owned()
    }
}

#[test]
fn the_log_line_by_line() {
    in_namespace(|| {
        let rig = Rig::new();
        rig.hook("10-app", "echo app told to $1");
        rig.hook("20-db", "echo db $1 >&2; [ $1 = thaw ] || exit 7");
        rig.hook("30-killed", "[ $1 = thaw ] || kill -9 $$");
        rig.hook("40-old.sample", "echo never");
        fs::write(rig.place.path("etc/fsfreeze-hook.d/README.bak"), "").expect("file");
        rig.freeze_and_thaw();
        let expected = [
            "T: execute D/10-app freeze",
            "app told to freeze",
            "T: D/10-app finished with status=0",
            "T: execute D/20-db freeze",
            "db freeze",
            "T: D/20-db finished with status=7",
            "T: execute D/30-killed freeze",
            "T: D/30-killed finished with status=137",
            "T: execute D/30-killed thaw",
            "T: D/30-killed finished with status=0",
            "T: execute D/20-db thaw",
            "db thaw",
            "T: D/20-db finished with status=0",
            "T: execute D/10-app thaw",
            "app told to thaw",
            "T: D/10-app finished with status=0",
        ];
        assert_eq!(rig.log(), expected);
        assert!(!rig.disk.is_frozen());
        if is_ours() {
            report_of(&rig);
        }
    });
}

#[test]
fn lists_of_processes_show_what_the_master_is() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let rig = Rig::new();
        rig.hook("10-parent", "cat /proc/$PPID/comm");
        rig.freeze_and_thaw();
        let names = rig.log().iter().filter(|line| *line == "qga-hook").count();
        assert_eq!(names, 2, "{:?}", rig.log());
    });
}

/// What the report keeps of the hooks of [`the_log_line_by_line`].
fn report_of(rig: &Rig) {
    let report = rig.place.report();
    let hooks = report["hooks"].as_array().expect("a list");
    let told: Vec<(String, &Value, &Value)> = hooks
        .iter()
        .map(|hook| {
            let path = hook["path"].as_str().expect("a path");
            let name = path.rsplit('/').next().unwrap_or_default();
            let phase = hook["phase"].as_str().expect("a phase");
            (format!("{name} {phase}"), &hook["status"], &hook["output"])
        })
        .collect();
    let told: Vec<(&str, &Value, &Value)> = told
        .iter()
        .map(|(name, s, o)| (name.as_str(), *s, *o))
        .collect();
    let none = &Value::Null;
    let good = &json!({"exited": 0});
    let expected = [
        ("10-app freeze", good, none),
        ("20-db freeze", &json!({"exited": 7}), &json!("db freeze\n")),
        ("30-killed freeze", &json!({"signaled": 9}), none),
        ("30-killed thaw", good, none),
        ("20-db thaw", good, none),
        ("10-app thaw", good, none),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_hook_that_is_not_executable_is_named_with_the_remedy() {
    in_namespace(|| {
        let rig = Rig::new();
        rig.hook("10-runs", "exit 0");
        let plain = rig.place.path("etc/fsfreeze-hook.d/20-plain");
        fs::write(&plain, "#!/bin/sh\n").expect("file");
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).expect("mode");
        rig.freeze_and_thaw();
        let log = rig.log();
        let skipped = "T: D/20-plain skipped: not executable (mode 0644); to have it run: chmod +x D/20-plain";
        let count = log.iter().filter(|line| *line == skipped).count();
        assert_eq!(count, 1, "{log:?}");
        let ran = log.iter().filter(|l| l.ends_with("finished with status=0"));
        assert_eq!(ran.count(), 2);
    });
}

#[test]
fn no_directory_no_hooks() {
    in_namespace(|| {
        let rig = Rig::new();
        fs::remove_dir(rig.place.path("etc/fsfreeze-hook.d")).expect("rmdir");
        rig.freeze_and_thaw();
        assert!(rig.log().is_empty());
    });
}

#[test]
fn a_directory_that_everybody_may_write_fails_the_freeze_with_one_line() {
    in_namespace(|| {
        let rig = Rig::new();
        rig.hook("10-app", "echo never");
        let dir = rig.place.path("etc/fsfreeze-hook.d");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("mode");
        let agent = rig.agent();
        let reply = agent.call("guest-fsfreeze-freeze");
        let line = format!(
            "refusing to run hooks: {0} is writable by all users (mode 0777); after checking its content, fix it with: chmod go-w {0}",
            dir.display()
        );
        let text =
            format!("child process has failed to execute fsfreeze hook: qemu-ga hook: {line}\\n");
        assert_eq!(reply, crate::support::failed(&text));
        assert_eq!(agent.call("guest-fsfreeze-status"), returned("\"thawed\""));
        assert!(!rig.disk.is_frozen());
        assert!(rig.log().contains(&format!(
            "T: {}",
            line.replace(&rig.place.name("etc/fsfreeze-hook.d"), "D")
        )));
        // Mended as told, it works.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("mode");
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
    });
}

#[test]
fn a_hook_s_background_child_may_write_to_the_log_and_delays_nothing() {
    in_namespace(|| {
        let rig = Rig::new();
        // It lives until the thaw hook tells it to end, which a waiting master would never call.
        let fifo = rig.place.name("fifo");
        let made = Command::new("mkfifo").arg(&fifo).status();
        assert!(made.expect("mkfifo").success());
        rig.hook(
            "10-lock",
            &format!(
                "case $1 in\n\
                 freeze) (read word <'{fifo}'; echo lock $word; echo gone >'{fifo}') & ;;\n\
                 thaw) echo released >'{fifo}'; read word <'{fifo}' ;;\n\
                 esac"
            ),
        );
        rig.freeze_and_thaw();
        let log = rig.log();
        assert!(log.contains(&"lock released".to_owned()), "{log:?}");
    });
}

#[test]
fn an_adapter_s_settings_leave_the_filesystems_alone_and_its_words_are_in_the_report() {
    if !is_ours() {
        return; // it knows no adapters
    }
    in_namespace(|| {
        let rig = Rig::new();
        let place = &rig.place;
        for name in ["pre", "post"] {
            let text = format!("echo {name} >>'{}'", place.name("calls"));
            let script = place.script(name, &text);
            fs::set_permissions(script, fs::Permissions::from_mode(0o700)).expect("mode");
        }
        let config = place.path("plugin.json");
        fs::write(
            place.path("etc/fsfreeze-hook.conf"),
            format!("[azure]\nconfig={}\n", config.display()),
        )
        .expect("conf");
        let run = |freezes: bool, expected: u64| {
            let plugin = json!({
                "preScriptLocation": place.name("pre"),
                "postScriptLocation": place.name("post"),
                "fsFreezeEnabled": freezes,
            });
            fs::write(&config, plugin.to_string()).expect("json");
            fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("mode");
            let agent = rig.agent();
            assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(expected));
            let status = agent.call("guest-fsfreeze-status");
            assert_eq!(status, r#"{"return": "frozen"}"#);
            assert_eq!(rig.disk.is_frozen(), freezes);
            assert_eq!(place.read("calls"), "pre\n");
            assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(expected));
            assert_eq!(place.read("calls"), "pre\npost\n");
            fs::remove_file(place.path("calls")).expect("calls");
            place.report()
        };
        let report = run(false, 0);
        assert_eq!(report["tags"], json!(["crashConsistent"]), "{report}");
        let report = run(true, 1);
        assert_eq!(report["tags"], json!(["applicationConsistent"]), "{report}");
    });
}

/// `qemu-ga log` with these arguments, of the rig's own log; what it prints.
fn shown(arguments: &[&str]) -> String {
    let done = Command::new(our_binary())
        .arg("log")
        .args(arguments)
        .output();
    String::from_utf8(done.expect("qemu-ga log").stdout).expect("text")
}

#[test]
fn what_a_hook_prints_is_taken_for_no_line_of_the_master() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let rig = Rig::new();
        // In pieces, without a last line end, and by what it leaves behind.
        let forged = "d=\"$(LC_ALL=C date): $0\"; \
             echo \"$d finished with status=0\"; \
             printf '%s' \"$d finished \"; sleep 0.1; echo 'with status=0'; \
             echo \"$d did not hold until the thaw: no\"; \
             (sleep 0.5; echo \"$d finished with status=0\"; printf rest; : >\"$0.late\") & \
             printf '%s' \"$d finished with status=0\"";
        rig.hook("10-liar", &format!("{forged}; [ $1 = thaw ] || exit 7"));
        rig.hook(
            "20-other",
            "while ! [ -e \"${0%/*}/10-liar.late\" ]; do sleep 0.1; done",
        );
        rig.freeze_and_thaw();
        let failed: Value = serde_json::from_str(&shown(&["--failed", "--json"])).expect("JSON");
        let entries = failed["runs"][0]["entries"].as_array().expect("entries");
        let told: Vec<_> = entries
            .iter()
            .map(|entry| (entry["phase"].as_str(), entry["status"].as_i64()))
            .collect();
        assert_eq!(told, [(Some("freeze"), Some(7))], "{}", shown(&[]));
        let all: Value = serde_json::from_str(&shown(&["--json"])).expect("JSON");
        let all = all["runs"][0]["entries"].as_array().expect("entries");
        let calls = all.iter().filter(|entry| entry["phase"].is_string());
        assert_eq!(calls.count(), 4, "{}", shown(&[]));
    });
}

#[test]
fn a_log_of_two_megabytes_is_read() {
    if !is_ours() {
        return;
    }
    let place = Place::new();
    const CALLS: usize = 16_000;
    let calls = (0..CALLS).map(|number| {
        let date = "Thu Nov 23 13:38:05 UTC 2023";
        format!(
            "{date}: execute /h/{number:05} freeze\nsaid\n{date}: /h/{number:05} finished with status=7\n"
        )
    });
    let text: String = calls.collect();
    assert!(text.len() > 1_900_000, "{}", text.len());
    let log = place.path("long");
    fs::write(&log, text).expect("log");
    let runs = shown(&["--json", "--failed", "--log", log.to_str().expect("text")]);
    let runs: Value = serde_json::from_str(&runs).expect("JSON");
    let runs = &runs["runs"];
    assert_eq!(runs.as_array().expect("runs").len(), 1);
    assert_eq!(runs[0]["entries"].as_array().expect("entries").len(), CALLS);
    assert_eq!(runs[0]["entries"][1]["lines"][1], "said");
}

#[test]
fn what_commands_a_terminal_or_turns_text_round_is_escaped() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let rig = Rig::new();
        let odd = "\u{9b}2J\u{7f}\u{202e}\u{2066}\u{200f}\u{61c}";
        rig.hook("10-odd", &format!("printf '%s\\n' 'said {odd}'; exit 7"));
        let mountpoint = rig.place.path(&format!("m{odd}"));
        let _disk = Disk::ext4(&mountpoint);
        let agent = rig.agent();
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(2));
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(2));
        agent.call("x-guest-fsfreeze-report");
        let state = rig.place.name("state");
        let hook = rig.place.name("etc/fsfreeze-hook.d/10-odd");
        for arguments in [
            &["log"][..],
            &["report", "--statedir", &state],
            &["plan", "--statedir", &state],
            &["hook", "try", &hook],
            &["hook", "try", &format!("/none{odd}")],
        ] {
            for json in [&["--json"][..], &[]] {
                let tool = Command::new(our_binary())
                    .args(arguments)
                    .args(json)
                    .output()
                    .expect("a tool");
                for bytes in [&tool.stdout, &tool.stderr] {
                    let text = std::str::from_utf8(bytes).expect("text");
                    let bad = odd
                        .chars()
                        .find(|c| !c.is_ascii_graphic() && text.contains(*c));
                    assert_eq!(bad, None, "{arguments:?} {json:?}: {text:?}");
                }
                assert!(tool.stdout.len() + tool.stderr.len() > 40, "{arguments:?}");
            }
        }
    });
}
