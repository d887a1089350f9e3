//! The sample hooks: for what Debian does not carry, run by the built master against stand-ins:
//! small scripts that keep the documented statuses and output of the vendors' commands.
//! The samples for MariaDB, PostgreSQL and Redis meet the real servers in the VM tier; here it is
//! what goes wrong with a session, and what a sample finds and cannot hold.

#![allow(clippy::expect_used)] // helpers of tests, outside of #[test] itself

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use binary::binary;
use tempfile::TempDir;

mod containers;
mod db2;
mod hana;
mod holding;
mod intersystems;
mod mongodb;
mod oracle;
mod redis;
mod systemd_unit;

#[path = "../support/binary.rs"]
mod binary;

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/hooks/fsfreeze-hook.d");

/// One sample, enabled in a directory of its own, with stand-ins that come first in PATH.
struct Bench {
    root: TempDir,
    name: &'static str,
    /// Bytes of the log that were read already.
    seen: usize,
}

impl Bench {
    /// Enables `name`, its state kept under the bench instead of /run, after `edit`.
    fn new(name: &'static str, edit: impl Fn(String) -> String) -> Bench {
        let root = tempfile::tempdir().expect("dir");
        for dir in ["hooks", "bin", "run", "proc", "stub", "state"] {
            fs::create_dir(root.path().join(dir)).expect("dir");
        }
        let text = fs::read_to_string(format!("{SAMPLES}/{name}.sample")).expect("sample");
        let place = root.path().display();
        let text = text.replace("/run/", &format!("{place}/run/"));
        let text = text.replace("/proc/", &format!("{place}/proc/"));
        let own = root.path().join("proc/self/ns");
        fs::create_dir_all(&own).expect("dir");
        symlink("mnt:[1]", own.join("mnt")).expect("namespace");
        let bench = Bench {
            root,
            name,
            seen: 0,
        };
        bench.put(&format!("hooks/{name}"), &edit(text));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    }

    /// A command of the vendor's; it finds its own files in `$STUB`.
    fn stand_in(&self, name: &str, script: &str) {
        let stub = self.path("stub");
        let text = format!("#!/bin/sh\nSTUB='{}'\n{script}\n", stub.display());
        self.put(&format!("bin/{name}"), &text);
    }

    fn fact(&self, name: &str, text: &str) {
        fs::write(self.path("stub").join(name), text).expect("written");
    }

    fn told(&self, name: &str) -> String {
        fs::read_to_string(self.path("stub").join(name)).unwrap_or_default()
    }

    /// A freeze and its thaw, with success. One more thaw, without a freeze, does nothing.
    fn freeze_and_thaw(&mut self) -> (Vec<String>, Vec<String>) {
        let (status, frozen) = self.call("freeze", &[]);
        assert_eq!(status, 0, "{frozen:?}");
        let (status, thawed) = self.call("thaw", &[("QGA_THAW_REASON", "ok")]);
        assert_eq!((status, self.state()), (0, 0), "{thawed:?}");
        let calls = self.calls();
        assert_eq!(self.call("thaw", &[]).0, 0);
        assert_eq!(self.calls(), calls, "a thaw without a freeze");
        (frozen, thawed)
    }

    /// The lines that stand-ins have added to `$STUB/calls`.
    fn calls(&self) -> Vec<String> {
        self.told("calls").lines().map(str::to_owned).collect()
    }

    /// A process as the samples see it in /proc, with `root` as its root directory and `command`
    /// as its command line; it listens on the unix socket `/sockets/PID.sock`.
    fn process(&self, pid: u32, root: &str, command: &str) {
        let dir = self.path(&format!("proc/{pid}"));
        for part in ["fd", "net", "ns"] {
            fs::create_dir_all(dir.join(part)).expect("dir");
        }
        symlink(root, dir.join("root")).expect("root");
        // Until `contain`, that of the samples.
        symlink("mnt:[1]", dir.join("ns/mnt")).expect("namespace");
        symlink(format!("socket:[{pid}000]"), dir.join("fd/5")).expect("socket");
        let name = command.split([' ', '/']).next().expect("a word");
        fs::write(dir.join("comm"), format!("{name}\n")).expect("comm");
        fs::write(dir.join("cmdline"), command.replace(' ', "\0")).expect("cmdline");
        fs::write(dir.join("status"), format!("Name:\t{name}\nPPid:\t1\n")).expect("status");
        let sockets = format!(
            "Num       RefCount Protocol Flags    Type St Inode Path\n\
             0000000000000000: 00000002 00000000 00010000 0001 01 {pid}000 /sockets/{pid}.sock\n\
             0000000000000000: 00000003 00000000 00000000 0001 03 {pid}000 /sockets/client.sock\n"
        );
        fs::write(dir.join("net/unix"), sockets).expect("sockets");
    }

    /// Gives a process a mount namespace of its own.
    fn contain(&self, pid: u32) {
        let namespace = self.path(&format!("proc/{pid}/ns/mnt"));
        fs::remove_file(&namespace).expect("removed");
        symlink("mnt:[2]", namespace).expect("namespace");
    }

    /// Sets a setting of the sample that was enabled.
    fn set(&self, old: &str, new: &str) {
        let path = self.path(&format!("hooks/{}", self.name));
        let text = fs::read_to_string(&path).expect("hook");
        assert!(text.contains(&format!("\n{old}\n")), "no setting {old}");
        fs::write(
            path,
            text.replace(&format!("\n{old}\n"), &format!("\n{new}\n")),
        )
        .expect("set");
    }

    fn forget(&self, name: &str) {
        fs::remove_file(self.path("stub").join(name)).expect("removed");
    }

    fn state(&self) -> usize {
        fs::read_dir(self.path("run")).expect("dir").count()
    }

    /// Runs the master; returns the lines that it added to the log, dates and directory left out.
    fn run(&mut self, phase: &str, environment: &[(&str, &str)]) -> Vec<String> {
        let path = std::env::var("PATH").expect("PATH");
        let log = self.path("log");
        let out = Command::new(binary())
            .args(["hook", phase, "--dir"])
            .arg(self.path("hooks"))
            .arg("--log")
            .arg(&log)
            .arg("--state")
            .arg(self.path("state"))
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("LC_ALL", "C")
            .envs(environment.iter().copied())
            .output()
            .expect("runs");
        assert!(out.status.success(), "{out:?}");
        let text = fs::read_to_string(log).expect("log");
        let dir = format!("{}/", self.path("hooks").display());
        let lines = text[self.seen..].lines();
        let lines = lines.map(|line| undated(line).replace(&dir, "")).collect();
        self.seen = text.len();
        lines
    }

    /// Runs the master; returns the hook's status and its output.
    fn call(&mut self, phase: &str, environment: &[(&str, &str)]) -> (i32, Vec<String>) {
        let lines = self.run(phase, environment);
        let first = format!("execute {} {phase}", self.name);
        assert_eq!(lines.first(), Some(&first), "{lines:?}");
        let last = format!("{} finished with status=", self.name);
        let end = lines
            .iter()
            .position(|line| line.starts_with(&last))
            .expect("a status");
        let status = lines[end][last.len()..].split(' ').next();
        let status = status.expect("a word").parse().expect("a number");
        (status, lines[1..end].to_vec())
    }
}

/// A line without the date before it.
fn undated(line: &str) -> String {
    match line.split_once(": ") {
        Some((date, rest)) if date.len() >= 28 && date.as_bytes()[13] == b':' => rest.to_owned(),
        _ => line.to_owned(),
    }
}

fn is_there(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .is_ok_and(|out| out.status.success())
}

/// Lines joined, to search in.
fn said(lines: &[String]) -> String {
    lines.join("\n")
}

/// Every sample says in its head what it does, and works by being enabled: its settings have
/// defaults, it is executable, and where its application is missing it is not applicable.
#[test]
fn every_sample_is_ready_to_be_enabled() {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(SAMPLES).expect("dir") {
        let path = entry.expect("entry").path();
        let Some(name) = path.to_str().and_then(|path| path.strip_suffix(".sample")) else {
            continue;
        };
        let mode = fs::metadata(&path).expect("stat").permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{name} is executable");
        let text = fs::read_to_string(&path).expect("text");
        for part in [
            "#!/bin/sh\n# qga-hook: ",
            "# To enable: copy this file",
            "Guarantees",
            "# Exit status: 0 success; 77 ",
        ] {
            assert!(text.contains(part), "{name} lacks {part:?}");
        }
        names.push(
            Path::new(name)
                .file_name()
                .expect("name")
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    let all = [
        "containers",
        "db2",
        "hana",
        "iris",
        "mariadb",
        "mongodb",
        "oracle",
        "postgresql",
        "redis",
        "systemd-unit",
    ];
    assert_eq!(names, all);
}

#[test]
fn no_application_is_not_applicable() {
    for name in ["mariadb", "postgresql", "redis", "oracle", "hana", "db2"] {
        let mut bench = Bench::new(name, |text| text);
        bench.stand_in("pidof", "exit 1");
        bench.stand_in("pgrep", "exit 1");
        let (status, lines) = bench.call("freeze", &[]);
        assert_eq!(status, 77, "{name}: {lines:?}");
        let said = said(&lines);
        assert!(
            said.contains("is running") || said.contains("no active"),
            "{name}: {said}"
        );
    }
}
