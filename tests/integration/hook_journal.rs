//! Whoever was told to freeze is told to thaw, once, by what was known at the freeze: whatever an
//! operator changes meanwhile, whatever becomes of the master and of its journal.

use crate::hook_log::Rig;
use crate::support::{Agent, in_namespace, is_ours, returned};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// Notes each call that was completed.
const NOTE: &str = "echo ${0##*/} $1 >>\"${0%/*}/../../calls\"";
const BOTH_FROZE: &str = "10-a freeze\n20-b freeze\n";

/// A rig with the hooks 10-a and 20-b.
fn with_hooks(body: impl Fn(&Rig) + Send + 'static) {
    if !is_ours() {
        return;
    }
    in_namespace(move || {
        let rig = Rig::new();
        rig.hook("10-a", NOTE);
        rig.hook("20-b", NOTE);
        body(&rig);
    });
}

impl Rig {
    fn settings(&self, text: &str) {
        fs::write(self.place.path("etc/fsfreeze-hook.conf"), text).expect("conf");
    }

    fn mode(&self, name: &str, mode: u32) {
        let path = self.place.path(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    }

    /// Takes what was called until now.
    fn calls(&self) -> String {
        let calls = self.place.read("calls");
        fs::write(self.place.path("calls"), "").expect("calls");
        calls
    }

    fn frozen(&self) -> Agent {
        let agent = self.agent();
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(self.calls(), BOTH_FROZE);
        agent
    }

    fn owed(&self) -> Value {
        let output = self
            .place
            .run(&["status", "--json", "-t", &self.place.name("state")]);
        let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        status["owed"].clone()
    }

    fn dir(&self) -> String {
        self.place.name("etc/fsfreeze-hook.d")
    }
}

#[test]
fn a_total_timeout_leaves_each_thaw_hook_a_time_of_its_own() {
    with_hooks(|rig| {
        rig.hook("30-slow", &format!("[ $1 = freeze ] || sleep 3\n{NOTE}"));
        for timeout in ["", "timeout=0\n"] {
            rig.settings(&format!("[hooks]\ntotal-timeout=1\n{timeout}"));
            let agent = rig.agent();
            assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
            rig.calls();
            assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
            assert_eq!(rig.calls(), "30-slow thaw\n20-b thaw\n10-a thaw\n");
        }
    });
}

#[test]
fn one_hook_that_everybody_may_write_keeps_only_itself_from_its_thaw() {
    with_hooks(|rig| {
        let agent = rig.frozen();
        assert_eq!(rig.owed(), Value::Null, "not owed while frozen");
        rig.mode("etc/fsfreeze-hook.d/20-b", 0o757);
        let reply = agent.call("guest-fsfreeze-thaw");
        assert_eq!(rig.calls(), "10-a thaw\n");
        assert!(reply.contains("20-b thaw: refusing to run"), "{reply}");
        assert_eq!(agent.call("guest-fsfreeze-status"), returned("\"thawed\""));
        assert_eq!(rig.place.report()["level"], "application");
        let owed = rig.owed();
        let (hook, reason) = (owed[0]["hook"].to_string(), owed[0]["reason"].to_string());
        assert!(
            hook.ends_with("/20-b\"") && reason.contains("refusing to run") && owed[1].is_null(),
            "{owed}"
        );
        // The directory is refused for a freeze, and what is owed stays.
        let reply = agent.call("guest-fsfreeze-freeze");
        assert!(reply.contains("refusing to run hooks"), "{reply}");
        assert_eq!(rig.calls(), "", "no thaw without a freeze");
        assert_eq!(rig.owed()[0], owed[0]);
        // Mended, its thaw comes before its next freeze.
        rig.mode("etc/fsfreeze-hook.d/20-b", 0o755);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(rig.calls(), format!("20-b thaw\n{BOTH_FROZE}"));
        assert_eq!(rig.owed(), Value::Null);
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(rig.calls(), "20-b thaw\n10-a thaw\n");
        assert!(!rig.place.path("state/qga.hooks").exists());
    });
}

#[test]
fn what_an_operator_changes_while_frozen_keeps_nobody_from_his_thaw() {
    with_hooks(|rig| {
        let change: [(&str, &dyn Fn()); 5] = [
            ("disabled", &|| rig.settings("[hook 20-b]\nenabled=no\n")),
            ("another user", &|| {
                rig.settings("[hook 20-b]\nuser=no-such-user\n");
            }),
            ("broken settings", &|| rig.settings("\0\0=[")),
            ("settings that others may write", &|| {
                rig.settings("");
                rig.mode("etc/fsfreeze-hook.conf", 0o666);
            }),
            ("a hook more that others may write", &|| {
                rig.hook("30-new", NOTE);
                rig.mode("etc/fsfreeze-hook.d/30-new", 0o777);
            }),
        ];
        for (what, change) in change {
            let agent = rig.frozen();
            change();
            assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1), "{what}");
            assert_eq!(rig.calls(), "20-b thaw\n10-a thaw\n", "{what}");
            assert_eq!(rig.owed(), Value::Null, "{what}");
            rig.mode("etc/fsfreeze-hook.conf", 0o644);
            rig.settings("");
        }
    });
}

#[test]
fn what_cannot_be_run_is_owed_until_it_can_or_is_dismissed() {
    with_hooks(|rig| {
        let hook = rig.place.path("etc/fsfreeze-hook.d/20-b");
        let away = rig.place.path("etc/20-b");
        let state = rig.place.name("state");
        let by_hand = |word: &str| {
            let dir = rig.dir();
            let args = ["hook", word, "--dir", &dir, "--state", &state];
            let output = rig.place.run(&args);
            assert!(output.status.success(), "{output:?}");
        };
        type Change<'a> = &'a dyn Fn();
        let changes: [(&str, Change<'_>, Change<'_>); 3] = [
            (
                "Permission denied",
                &|| rig.mode("etc/fsfreeze-hook.d/20-b", 0o644),
                &|| rig.mode("etc/fsfreeze-hook.d/20-b", 0o755),
            ),
            (
                "it was there when the run began, and is gone",
                &|| fs::rename(&hook, &away).expect("rename"),
                &|| fs::rename(&away, &hook).expect("rename"),
            ),
            (
                "refusing to run hooks: ",
                &|| rig.mode("etc/fsfreeze-hook.d", 0o777),
                &|| rig.mode("etc/fsfreeze-hook.d", 0o755),
            ),
        ];
        for (text, change, back) in changes {
            let agent = rig.frozen();
            change();
            let reply = agent.call("guest-fsfreeze-thaw");
            assert!(reply.contains("20-b thaw: "), "{text}: {reply}");
            let owed = rig.owed().to_string();
            assert!(
                owed.contains(text) && owed.contains("/20-b\""),
                "{text}: {owed}"
            );
            rig.calls();
            back();
            by_hand("thaw");
            let called = rig.calls();
            assert!(called.starts_with("20-b thaw\n"), "{text}: {called}");
            assert_eq!(rig.owed(), Value::Null, "{text}");
        }

        let agent = rig.frozen();
        rig.mode("etc/fsfreeze-hook.d/20-b", 0o644);
        agent.call("guest-fsfreeze-thaw");
        let status = rig.place.run(&["status", "-t", &state]);
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(status.contains("hook dismiss"), "{status}");
        let dismiss = |name: &str| rig.place.run(&["hook", "dismiss", name, "-t", &state]);
        assert_eq!(dismiss("10-a").status.code(), Some(1), "not owed");
        assert!(dismiss("20-b").status.success());
        assert_eq!(rig.owed(), Value::Null);
        rig.mode("etc/fsfreeze-hook.d/20-b", 0o755);
        rig.calls();
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(rig.calls(), BOTH_FROZE, "it is not told to thaw any more");
        agent.call("guest-fsfreeze-thaw");
    });
}

#[test]
fn a_master_that_is_killed_at_its_thaw_is_called_once_more_for_the_rest() {
    with_hooks(|rig| {
        let killer =
            "[ $1 = freeze ] || [ -e \"$0.bak\" ] || { >\"$0.bak\"; kill -9 $PPID; sleep 1; }";
        rig.hook("15-killer", &format!("{killer}\n{NOTE}"));
        let agent = rig.agent();
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        rig.calls();
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        // The rest, and the one that was not ended once more; each has one thaw that was completed.
        assert_eq!(rig.calls(), "20-b thaw\n15-killer thaw\n10-a thaw\n");
        assert_eq!(rig.owed(), Value::Null);
        let report = rig.place.report();
        assert_eq!(
            report["hooks"].as_array().map(Vec::len),
            Some(6),
            "{report}"
        );
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert_eq!(rig.calls(), "", "the one whose master was killed is ended");
    });
}

#[test]
fn a_master_that_is_killed_at_the_freeze_fails_it_and_what_it_started_is_thawed() {
    with_hooks(|rig| {
        rig.hook(
            "15-killer",
            &format!("[ $1 = thaw ] || kill -9 $PPID\n{NOTE}"),
        );
        let agent = rig.agent();
        let reply = agent.call("guest-fsfreeze-freeze");
        assert!(reply.contains("terminated abnormally"), "{reply}");
        assert!(!rig.disk.is_frozen());
        let calls = rig.calls().replace("15-killer freeze\n", "");
        assert_eq!(calls, "10-a freeze\n15-killer thaw\n10-a thaw\n");
    });
}

#[test]
fn a_journal_that_is_none_costs_one_warning_and_every_hook_has_its_thaw() {
    with_hooks(|rig| {
        let journal = rig.place.path("state/qga.hooks");
        let whole = |path: &Path| fs::read_to_string(path).expect("journal");
        type Damage<'a> = &'a dyn Fn(&Path);
        let damages: [(&str, Damage<'_>); 8] = [
            ("empty", &|path| fs::write(path, "").expect("file")),
            ("cut short", &|path| {
                let text = whole(path);
                fs::write(path, &text[..text.len() * 2 / 3]).expect("file");
            }),
            ("zeros", &|path| fs::write(path, [0; 4096]).expect("file")),
            ("garbage", &|path| {
                fs::write(path, b"\xff{\n[[[\n\x01\n").expect("file");
            }),
            ("another version", &|path| {
                let text = whole(path) + "{\"unheard-of\":{\"name\":\"20-b\"}}\n";
                fs::write(path, text).expect("file");
            }),
            ("a fifo", &|path| {
                fs::remove_file(path).expect("removed");
                let made = Command::new("mkfifo").arg(path).status();
                assert!(made.expect("mkfifo").success());
            }),
            ("a link", &|path| {
                let there = path.with_file_name("there");
                fs::rename(path, &there).expect("moved");
                symlink(there, path).expect("link");
            }),
            ("a directory", &|path| {
                fs::remove_file(path).expect("removed");
                fs::create_dir(path).expect("dir");
            }),
        ];
        for (what, damage) in damages {
            let agent = rig.frozen();
            fs::remove_file("/var/log/qga-fsfreeze-hook.log").expect("a log");
            damage(&journal);
            assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1), "{what}");
            assert_eq!(rig.calls(), "20-b thaw\n10-a thaw\n", "{what}");
            let log = rig.log();
            let warnings = log.iter().filter(|line| line.contains("/qga.hooks"));
            assert_eq!(warnings.count(), 1, "{what}: {log:?}");
            assert!(!journal.exists(), "{what}");
            drop(agent);
            // The next freeze starts with a damaged one, too.
            fs::write(&journal, "").expect("file");
            damage(&journal);
            let agent = rig.frozen();
            assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1), "{what}");
            assert_eq!(rig.calls(), "20-b thaw\n10-a thaw\n", "{what}");
        }
    });
}

#[test]
fn a_hook_whose_freeze_was_not_started_has_no_thaw() {
    with_hooks(|rig| {
        rig.settings(
            "[hooks]\nparallel=yes\nretries=1\nretry-pause=0\n[hook 40-user]\nuser=no-such-user\n",
        );
        let path = rig.place.path("etc/fsfreeze-hook.d/30-none");
        fs::write(&path, "#!/nonexistent\n").expect("hook");
        rig.mode("etc/fsfreeze-hook.d/30-none", 0o755);
        rig.hook("40-user", NOTE);
        let agent = rig.agent();
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        rig.hook("30-none", NOTE);
        rig.settings("[hooks]\n");
        rig.calls();
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        let mut calls: Vec<String> = rig.calls().lines().map(str::to_owned).collect();
        calls.sort_unstable();
        assert_eq!(calls, ["10-a thaw", "20-b thaw"]);
    });
}

#[test]
fn two_masters_at_once_call_each_hook_once() {
    with_hooks(|rig| {
        rig.hook("30-slow", &format!("[ $1 = freeze ] || sleep 1\n{NOTE}"));
        let (dir, state) = (rig.dir(), rig.place.name("state"));
        let start = |word: &str| {
            let mut command = rig.place.command();
            command.args(["hook", word, "--dir", &dir, "--state", &state]);
            command.spawn().expect("starts")
        };
        assert!(start("freeze").wait().expect("wait").success());
        rig.calls();
        // The journal decides, and where there is none the first one to come.
        for _ in 0..2 {
            let mut masters = [start("thaw"), start("thaw")];
            for master in &mut masters {
                assert!(master.wait().expect("wait").success());
            }
            assert_eq!(rig.calls(), "30-slow thaw\n20-b thaw\n10-a thaw\n");
        }
    });
}

#[test]
fn a_journal_of_an_older_version_is_understood() {
    with_hooks(|rig| {
        let agent = rig.frozen();
        let path = |name: &str| format!("{}/{name}", rig.dir());
        let line = |word: &str, name: &str| {
            json!({ word: {"source": "", "name": path(name)} }).to_string() + "\n"
        };
        let run =
            json!({"run": {"id": "1", "mountpoints": "", "devices": "", "hold-limit": 900.0}});
        let text = run.to_string()
            + "\n"
            + &line("started", "10-a")
            + &line("started", "20-b")
            + &line("settled", "20-b");
        fs::write(rig.place.path("state/qga.hooks"), text).expect("journal");
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(rig.calls(), "10-a thaw\n");
    });
}
