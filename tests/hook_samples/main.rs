//! The sample hooks for what Debian does not carry, run by the built master against stand-ins:
//! small scripts that keep the documented statuses and output of the vendors' commands.
//! The samples for MariaDB, PostgreSQL and Redis meet the real servers in the VM tier; here it is
//! what goes wrong with a session.

#![allow(clippy::expect_used)] // helpers of tests, outside of #[test] itself

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

mod containers;
mod holding;
mod intersystems;
mod mongodb;
mod systemd_unit;

const BINARY: &str = env!("CARGO_BIN_EXE_qemu-ga");
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
        for dir in ["hooks", "bin", "run", "stub", "state"] {
            fs::create_dir(root.path().join(dir)).expect("dir");
        }
        let text = fs::read_to_string(format!("{SAMPLES}/{name}.sample")).expect("sample");
        let text = text.replace("/run/", &format!("{}/run/", root.path().display()));
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
        let out = Command::new(BINARY)
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
            "# On: copy this file",
            "Promises",
            "# Status: 0 done; 77 ",
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
        "iris",
        "mariadb",
        "mongodb",
        "postgresql",
        "redis",
        "systemd-unit",
    ];
    assert_eq!(names, all);
}

#[test]
fn no_application_is_not_applicable() {
    for name in ["mariadb", "postgresql", "redis"] {
        let mut bench = Bench::new(name, |text| text);
        bench.stand_in("pidof", "exit 1");
        let (status, lines) = bench.call("freeze", &[]);
        assert_eq!(status, 77, "{name}: {lines:?}");
        assert!(said(&lines).contains("is running"), "{name}: {lines:?}");
    }
}
