//! The snapshot file in a copy of a disk, a machine that was started from a copy, and its restore hooks.
//!
//! Another boot is played by another boot id in the file; tests/vm has real copies.

use crate::support::{
    Agent, Client, Disk, Place, binary, failed, freeze_list, in_namespace, returned, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NAME: &str = "snapshot.json";
const FREEZE: &str = "guest-fsfreeze-freeze";
const THAW: &str = "guest-fsfreeze-thaw";

/// Two filesystems, the first of which has the snapshot file, and a directory of restore hooks.
struct Rig {
    place: Place,
    disk: Disk,
    other: Disk,
}

fn with_rig(body: impl FnOnce(&Rig) + Send + 'static) {
    in_namespace(move || {
        let place = Place::new();
        fs::create_dir(place.path("restore-hook.d")).expect("dir");
        // An identity that this machine may lack; the namespace discards it.
        fs::write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n").expect("id");
        body(&Rig {
            disk: Disk::ext4(&place.path("m")),
            other: Disk::ext4(&place.path("n")),
            place,
        });
    });
}

impl Rig {
    fn file(&self) -> PathBuf {
        self.disk.path(NAME)
    }

    fn read(&self) -> Option<Value> {
        let text = fs::read(self.file()).ok()?;
        Some(serde_json::from_slice(&text).expect("whole"))
    }

    fn state(&self) -> Option<String> {
        Some(self.read()?["state"].as_str().expect("a word").to_owned())
    }

    fn agent(&self, args: &[&str]) -> Agent {
        let (file, hooks) = (self.disk.path(NAME), self.place.name("restore-hook.d"));
        let own = [
            "--snapshot-file",
            file.to_str().expect("text"),
            "--restore-hooks",
            &hooks,
        ];
        self.place.agent(&[&own[..], args].concat())
    }

    /// A hook that waits for a line; returns the FIFO that the line is written to.
    fn waiting_hook(&self, name: &str) -> String {
        let fifo = self.place.name("fifo");
        let made = Command::new("mkfifo").arg(&fifo).status();
        assert!(made.expect("mkfifo").success());
        self.hook(name, &format!("read line <'{fifo}'"));
        fifo
    }

    fn hook(&self, name: &str, text: &str) -> PathBuf {
        let calls = self.place.name("calls");
        let text = format!("echo {name} $1 >>'{calls}'\n{text}");
        self.place.script(&format!("restore-hook.d/{name}"), &text)
    }

    fn tool(&self, args: &[&str]) -> Output {
        let mut command = self.place.command();
        command.args(args).output().expect("runs")
    }

    fn log_has(&self, text: &str) {
        let log = self.place.read("log");
        assert_eq!(log.matches(text).count(), 1, "{text}: {log}");
    }

    /// The file as a copy that was taken while frozen has it, in another boot.
    fn restore(&self, change: impl FnOnce(&mut Value)) {
        let agent = self.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call(FREEZE), returned(2));
        let mut snapshot = self.read().expect("a file");
        assert_eq!(client.call(THAW), returned(2));
        self.place.report();
        agent.stop();
        snapshot["boot-id"] = "another".into();
        change(&mut snapshot);
        self.write(&snapshot);
        fs::remove_file(self.place.path("log")).ok();
    }

    fn write(&self, snapshot: &Value) {
        fs::write(self.file(), snapshot.to_string()).expect("write");
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.file(), mode).expect("mode");
    }

    /// Returns when an agent with `-v` has read the request: a guest-sync that comes in the same read is no sign that
    /// the client gave up waiting.
    fn post_alone(&self, client: &mut Client, request: &str) {
        let reads = || self.place.read("log").matches("read data, count").count();
        let before = reads();
        client.post(request);
        wait_until("the read", || reads() > before);
    }

    fn restored(&self, agent: &Agent) -> Value {
        let reply = agent.connect().call("x-guest-fsfreeze-report");
        let reply: Value = serde_json::from_str(&reply).expect("JSON");
        reply["return"]["restored"].clone()
    }
}

fn a_copy(snapshot: &mut Value) {
    snapshot["machine"]["product-uuid"] = "of another machine".into();
    snapshot["machine"]["machine-id"] = "of another machine".into();
}

#[test]
fn a_copy_taken_while_frozen_says_so_and_the_disk_says_how_the_run_ended() {
    with_rig(|rig| {
        let agent = rig.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call(FREEZE), returned(2));
        let copy = rig.place.path("copy.img");
        fs::copy(rig.place.path("m.img"), &copy).expect("copy");
        let live = rig.tool(&["inspect", rig.disk.mountpoint(), "--json"]);
        assert_eq!(live.status.code(), Some(0), "{live:?}");
        assert_eq!(client.call(THAW), returned(2));
        let id = rig.place.report()["id"].clone();
        let copy = copy.to_str().expect("text");
        let before = fs::read(copy).expect("copy");
        let inspected = rig.tool(&["inspect", copy, "--json"]);
        assert_eq!(inspected.status.code(), Some(0), "{inspected:?}");
        assert!(fs::read(copy).expect("copy") == before, "it is not changed");
        let value: Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
        assert_eq!(value["run"]["id"], id);
        assert_eq!(value["run"]["level"], "filesystem");
        assert_eq!(
            (&value["frozen"], &value["needs-recovery"]),
            (&json!(true), &json!(false))
        );
        let text = rig.tool(&["inspect", copy]);
        let text = String::from_utf8(text.stdout).expect("text");
        assert!(text.starts_with("Copy    taken while frozen\n"), "{text}");
        wait_until("the finished run", || {
            rig.state().as_deref() == Some("finished")
        });
        let snapshot = rig.read().expect("a file");
        assert_eq!(snapshot["run"]["id"], id);
        assert_eq!(snapshot["run"]["end"], "thaw");
        let mode = fs::metadata(rig.file()).expect("file").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let live = rig.tool(&["inspect", rig.disk.mountpoint()]);
        assert_eq!(live.status.code(), Some(3), "{live:?}");
        assert_eq!(
            rig.tool(&["inspect", rig.other.mountpoint()]).status.code(),
            Some(4)
        );
    });
}

#[test]
fn the_root_filesystem_of_an_image_is_found_among_its_partitions() {
    with_rig(|rig| {
        let agent = rig.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call(FREEZE), returned(2));
        let first = fs::read(rig.place.path("n.img")).expect("image");
        let second = fs::read(rig.place.path("m.img")).expect("image");
        assert_eq!(client.call(THAW), returned(2));
        let mut disk = vec![0; 1 << 20];
        for (index, content) in [&first, &second].into_iter().enumerate() {
            let entry = 446 + 16 * index;
            disk[entry + 4] = 0x83;
            let (start, count) = (disk.len() as u32 / 512, content.len() as u32 / 512);
            disk[entry + 8..entry + 12].copy_from_slice(&start.to_le_bytes());
            disk[entry + 12..entry + 16].copy_from_slice(&count.to_le_bytes());
            disk.extend(content);
        }
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        fs::write(rig.place.path("disk.img"), disk).expect("image");
        let found = rig.tool(&["inspect", &rig.place.name("disk.img")]);
        assert_eq!(found.status.code(), Some(0), "{found:?}");
    });
}

#[test]
fn a_freeze_that_fails_or_does_not_freeze_it_leaves_no_file_that_says_frozen() {
    with_rig(|rig| {
        let agent = rig.agent(&[]);
        let mut client = agent.connect();
        let only_other = freeze_list(&[rig.other.mountpoint()]);
        assert_eq!(client.ask(&only_other), returned(1));
        assert_eq!(rig.state(), None, "it is not frozen");
        assert_eq!(client.call(THAW), returned(1));
        rig.place.report();
        assert_eq!(rig.state(), None);
        rig.other.freeze();
        let reply = client.call(FREEZE);
        assert!(
            reply.contains("someone else has frozen it already"),
            "{reply}"
        );
        assert_eq!(rig.place.report()["end"], "failure");
        wait_until("the failed run", || {
            rig.state().as_deref() == Some("finished")
        });
        assert_eq!(rig.read().expect("a file")["run"]["end"], "failure");
        rig.other.thaw().expect("thaw");
    });
}

#[test]
fn a_file_that_cannot_be_written_is_a_warning_and_no_failure() {
    with_rig(|rig| {
        let fill = Command::new("dd")
            .args(["if=/dev/zero", "bs=4096"])
            .arg(format!("of={}", rig.disk.path("full").display()))
            .output();
        assert!(!fill.expect("dd").status.success());
        let agent = rig.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call(FREEZE), returned(2));
        assert_eq!(client.call(THAW), returned(2));
        let errors = rig.place.report()["errors"].to_string();
        assert!(
            errors.contains("snapshot.json: No space left on device"),
            "{errors}"
        );
        assert_eq!(rig.state(), None);
    });
}

#[test]
fn switched_off_or_without_its_directory_there_is_no_file_and_no_warning() {
    with_rig(|rig| {
        for file in ["off", &rig.place.name("m/none/snapshot.json")] {
            let agent = rig.agent(&["--snapshot-file", file]);
            let mut client = agent.connect();
            assert_eq!(client.call(FREEZE), returned(2));
            assert_eq!(client.call(THAW), returned(2));
            assert_eq!(rig.place.report()["errors"], json!([]));
            agent.stop();
        }
        assert_eq!(rig.state(), None);
    });
}

#[test]
fn whoever_ends_the_freeze_of_a_killed_agent_withdraws_the_file() {
    with_rig(|rig| {
        // The guardian, at the hold limit.
        let agent = rig.agent(&["--fsfreeze-hold-limit", "1"]);
        assert_eq!(agent.call(FREEZE), returned(2));
        assert_eq!(rig.state().as_deref(), Some("frozen"));
        agent.kill();
        wait_until("the guardian's thaw", || {
            rig.state().as_deref() == Some("finished")
        });
        assert_eq!(rig.read().expect("a file")["run"]["end"], "expiry");
        rig.place.report();
        // The next agent, without a guardian.
        let agent = rig.agent(&[]);
        assert_eq!(agent.call(FREEZE), returned(2));
        let guardians = agent.guardians();
        agent.kill();
        for guardian in guardians {
            kill(guardian, Signal::SIGKILL).expect("kill");
        }
        assert_eq!(rig.state().as_deref(), Some("frozen"));
        let agent = rig.agent(&[]);
        assert_eq!(rig.restored(&agent), Value::Null, "it is this boot's");
        assert_eq!(agent.call(THAW), returned(2));
        rig.place.report();
        wait_until("the finished run", || {
            rig.state().as_deref() == Some("finished")
        });
        agent.stop();
        // Killed together with its guardian before the first FIFREEZE.
        let mut snapshot = rig.read().expect("a file");
        snapshot["state"] = "frozen".into();
        rig.write(&snapshot);
        rig.agent(&[]).stop();
        assert_eq!(rig.state(), None);
    });
}

#[test]
fn in_a_copy_restore_hooks_run_once_before_the_first_command() {
    with_rig(|rig| {
        rig.restore(a_copy);
        let vars = rig.place.name("vars");
        rig.hook(
            "20-second",
            &format!("env | grep ^QGA_ | sort >'{vars}'; exit 3"),
        );
        let fifo = rig.waiting_hook("10-first");
        rig.hook("30-sample.sample", "");
        let agent = rig.agent(&["-v"]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-ping"), r#"{"return": {}}"#);
        assert!(client.call("guest-info").starts_with(r#"{"return": {"#));
        // Answered at once; the command before it runs, without an answer, when the hooks have ended.
        let open = r#"{"execute":"guest-file-open","arguments":{"path":"/dev/null"}}"#;
        rig.post_alone(&mut client, open);
        client.post(r#"{"execute":"guest-sync","arguments":{"id":7}}"#);
        assert_eq!(client.line(), returned(7));
        client.post(r#"{"execute":"guest-fsfreeze-status"}"#);
        wait_until("the first hook", || {
            rig.place.read("calls") == "10-first restored\n"
        });
        let status = || {
            let shown = rig.tool(&["status", "--json", "-c", &rig.conf()]);
            let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
            shown["restore-hook"].clone()
        };
        assert_eq!(status(), rig.place.name("restore-hook.d/10-first"));
        fs::write(&fifo, "go\n").expect("go");
        assert_eq!(client.line(), returned("\"thawed\""));
        assert_eq!(status(), Value::Null);
        assert_eq!(
            rig.place.read("calls"),
            "10-first restored\n20-second restored\n"
        );
        drop(client);
        let restored = rig.restored(&agent);
        assert_eq!(restored["origin"], "copy");
        assert_eq!(restored["complete"], true);
        assert_eq!(restored["run"]["level"], "filesystem");
        let reasons = restored["run"]["level-reasons"].to_string();
        assert!(reasons.contains("cannot be seen in the copy"), "{reasons}");
        let hooks = restored["hooks"].as_array().expect("a list");
        let succeeded: Vec<&Value> = hooks.iter().map(|hook| &hook["succeeded"]).collect();
        assert_eq!(succeeded, [&json!(true), &json!(false)]);
        let id = restored["run"]["id"].as_str().expect("an id");
        let vars = rig.place.read("vars");
        for line in [
            "QGA_PHASE=restored",
            "QGA_RESTORE_LEVEL=filesystem",
            "QGA_RESTORE_ORIGIN=copy",
            &format!("QGA_RUN_ID={id}"),
        ] {
            assert!(vars.lines().any(|known| known == line), "{line}: {vars}");
        }
        assert!(
            !vars.contains("QGA_HOLD_LIMIT") && !vars.contains("QGA_BINARY"),
            "{vars}"
        );
        rig.log_has("this machine was started from a copy");
        rig.log_has("20-second: exit status 3");
        let shown = rig.tool(&["report", "--restored", "--json", "-c", &rig.conf()]);
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        assert_eq!(shown["hooks"], restored["hooks"]);
        agent.stop();
        // Nothing runs twice, also after a freeze; and the reports still show the start from a copy.
        let agent = rig.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call(FREEZE), returned(2));
        assert_eq!(client.call(THAW), returned(2));
        drop(client);
        rig.place.report();
        assert_eq!(rig.restored(&agent), restored);
        agent.stop();
        let agent = rig.agent(&[]);
        assert_eq!(rig.restored(&agent), restored);
        assert_eq!(rig.place.read("calls").lines().count(), 2);
        rig.log_has("this machine was started from a copy");
    });
}

impl Rig {
    fn conf(&self) -> String {
        let text = format!("[qemu-ga-rs]\nsnapshot-file={}\n", self.file().display());
        fs::write(self.place.path("conf"), text).expect("conf");
        self.place.name("conf")
    }
}

#[test]
fn where_nothing_tells_the_machines_apart_it_is_said_and_hooks_learn_it() {
    with_rig(|rig| {
        rig.restore(|_| ());
        let origin = rig.place.name("origin");
        rig.hook("10-only", &format!("echo $QGA_RESTORE_ORIGIN >'{origin}'"));
        let agent = rig.agent(&[]);
        assert_eq!(rig.restored(&agent)["origin"], "unknown");
        assert_eq!(rig.place.read("origin"), "unknown\n");
        rig.log_has("this machine died in the freeze");
    });
}

#[test]
fn hooks_that_hang_or_cannot_run_are_one_line_each() {
    with_rig(|rig| {
        rig.restore(a_copy);
        rig.hook("10-hangs", "# qga-hook: timeout = 0.2\nsleep 1000");
        rig.hook("20-holds", "# qga-hook: type = hold\nexit 0");
        rig.hook("30-off", "# qga-hook: enabled = no\nexit 0");
        rig.hook("40-good", "exit 0");
        let agent = rig.agent(&[]);
        let restored = rig.restored(&agent);
        let hooks = restored["hooks"].as_array().expect("a list");
        let ends: Vec<&Value> = hooks.iter().map(|hook| &hook["status"]).collect();
        assert_eq!(ends[0], "timed-out");
        assert!(
            ends[1]["not-run"]["reason"]
                .to_string()
                .contains("type = hold")
        );
        assert_eq!((ends[2], ends.len()), (&json!({"exited": 0}), 3));
        rig.log_has("10-hangs: not finished in time");
        rig.log_has("20-holds: type = hold has no meaning");
        assert_eq!(restored["complete"], true);
    });
}

#[test]
fn hooks_that_others_could_change_are_refused_and_run_when_that_is_mended() {
    with_rig(|rig| {
        rig.restore(a_copy);
        let hook = rig.hook("10-open", "");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o777)).expect("mode");
        let agent = rig.agent(&[]);
        let restored = rig.restored(&agent);
        assert_eq!(
            (&restored["complete"], &restored["hooks"]),
            (&json!(false), &json!([]))
        );
        rig.log_has("restore hooks were not run: refusing to run hooks");
        assert_eq!(rig.place.read("calls"), "");
        assert_eq!(agent.call(FREEZE), returned(2));
        assert_eq!(agent.call(THAW), returned(2));
        agent.stop();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("mode");
        let agent = rig.agent(&[]);
        assert_eq!(rig.restored(&agent)["complete"], true);
        assert_eq!(rig.place.read("calls"), "10-open restored\n");
    });
}

/// The agent, the process that runs the hooks, or both are killed while a hook runs.
#[test]
fn a_hook_that_had_begun_is_not_run_again_whatever_was_killed() {
    for killed in ["agent", "master", "both"] {
        with_rig(move |rig| {
            rig.restore(a_copy);
            let fifo = rig.waiting_hook("10-first");
            rig.hook("20-second", "");
            let agent = rig.agent(&[]);
            wait_until("the first hook", || {
                rig.place.read("calls") == "10-first restored\n"
            });
            let master = master_of(agent.pid());
            let stays = killed == "master";
            if killed != "agent" {
                kill(master, Signal::SIGKILL).expect("kill");
            }
            if stays {
                assert_eq!(rig.restored(&agent)["complete"], false);
                agent.stop();
            } else {
                agent.kill();
            }
            if killed == "agent" {
                fs::write(&fifo, "go\n").expect("go");
            }
            let agent = rig.agent(&[]);
            let restored = rig.restored(&agent);
            assert_eq!(restored["complete"], true, "{killed}");
            assert_eq!(
                rig.place.read("calls"),
                "10-first restored\n20-second restored\n"
            );
            let first = match killed {
                "agent" => json!({"exited": 0}),
                _ => json!("cancelled"),
            };
            assert_eq!(restored["hooks"][0]["status"], first, "{killed}");
            if killed != "agent" {
                // It outlived whoever started it.
                fs::write(&fifo, "go\n").expect("go");
            }
        });
    }
}

/// The child of the agent that runs the hooks.
fn master_of(agent: i32) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{agent}/task")).expect("tasks");
    let children = tasks.map(|task| {
        let path = task.expect("task").path().join("children");
        fs::read_to_string(path).unwrap_or_default()
    });
    let children: String = children.collect();
    // A confined agent has its launcher, too.
    let is_master = |pid: &&str| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name == "qga-hook\n")
    };
    let child = children.split_whitespace().find(is_master);
    let child = child.expect("a child");
    Pid::from_raw(child.parse().expect("a number"))
}

#[test]
fn a_stop_ends_the_hooks_and_the_next_start_runs_the_rest() {
    with_rig(|rig| {
        rig.restore(a_copy);
        rig.hook("10-first", "exec sleep 1000");
        rig.hook("20-second", "");
        let mut agent = rig.agent(&["-v"]);
        let mut client = agent.connect();
        wait_until("the first hook", || {
            rig.place.read("calls") == "10-first restored\n"
        });
        rig.post_alone(&mut client, r#"{"execute":"guest-fsfreeze-status"}"#);
        client.post(r#"{"execute":"guest-sync","arguments":{"id":7}}"#);
        assert_eq!(client.line(), returned(7));
        client.post(r#"{"execute":"guest-fsfreeze-status"}"#);
        agent.signal(Signal::SIGTERM);
        assert_eq!(
            client.line(),
            failed("the agent was asked to stop before the restore hooks had ended")
        );
        agent.wait();
        let agent = rig.agent(&[]);
        let restored = rig.restored(&agent);
        assert_eq!(restored["hooks"][0]["status"], "cancelled");
        assert_eq!(restored["complete"], true);
        assert_eq!(
            rig.place.read("calls"),
            "10-first restored\n20-second restored\n"
        );
    });
}

#[test]
fn a_file_that_is_not_ours_is_one_line_and_runs_no_hook() {
    with_rig(|rig| {
        rig.restore(a_copy);
        rig.hook("10-never", "");
        let whole = fs::read(rig.file()).expect("a file");
        type Change = fn(&Path, &[u8]);
        let changes: [(&str, Change); 5] = [
            ("damaged", |path, whole| {
                fs::write(path, &whole[..whole.len() / 2]).expect("torn")
            }),
            ("damaged", |path, _| {
                fs::write(path, "{\"kind\":\"foreign\"}").expect("foreign")
            }),
            ("other users may write", |path, _| {
                fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("mode");
            }),
            ("owned by user 7", |path, _| {
                chown(path, Some(7), None).expect("chown");
            }),
            ("symbolic link", |path, _| {
                let target = path.with_file_name("target");
                fs::rename(path, &target).expect("rename");
                symlink(target, path).expect("link");
            }),
        ];
        for (text, change) in changes {
            fs::remove_file(rig.file()).expect("remove");
            fs::write(rig.file(), &whole).expect("write");
            fs::set_permissions(rig.file(), fs::Permissions::from_mode(0o600)).expect("mode");
            change(&rig.file(), &whole);
            let agent = rig.agent(&[]);
            assert_eq!(rig.restored(&agent), Value::Null);
            rig.log_has(text);
            agent.stop();
            fs::remove_file(rig.place.path("log")).expect("log");
            let inspected = rig.tool(&["inspect", rig.disk.mountpoint()]);
            assert_eq!(inspected.status.code(), Some(1), "{inspected:?}");
            let shown = String::from_utf8(inspected.stderr).expect("text");
            assert!(
                shown.contains(text) && shown.lines().count() == 1,
                "{shown}"
            );
        }
        assert_eq!(rig.place.read("calls"), "");
    });
}

#[test]
fn what_cannot_be_recorded_is_not_run() {
    with_rig(|rig| {
        rig.restore(a_copy);
        rig.hook("10-never", "");
        let remount = |how: &str| {
            let command = ["-o", how, rig.disk.mountpoint()];
            let done = Command::new("mount").args(command).output().expect("mount");
            assert!(done.status.success(), "{done:?}");
        };
        remount("remount,ro");
        let agent = rig.agent(&[]);
        let restored = rig.restored(&agent);
        assert_eq!(
            (&restored["origin"], &restored["complete"]),
            (&json!("copy"), &json!(false))
        );
        rig.log_has("restore hooks are not run: cannot write");
        assert_eq!(rig.place.read("calls"), "");
        agent.stop();
        remount("remount,rw");
        let agent = rig.agent(&[]);
        assert_eq!(rig.restored(&agent)["complete"], true);
        assert_eq!(rig.place.read("calls"), "10-never restored\n");
    });
}

#[test]
fn another_format_of_an_image_is_named() {
    let place = Place::new();
    fs::write(place.path("a.qcow2"), b"QFI\xfb\0\0\0\x03").expect("image");
    let refused = Command::new(binary())
        .arg("inspect")
        .arg(place.path("a.qcow2"))
        .output();
    let refused = refused.expect("runs");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("qcow2"));
}
