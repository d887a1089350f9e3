//! A hooks' directory of its own, with settings, log and state beside it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use qemu_ga::hooks::invoke::{Invocation, MasterReport, invoke};
use qemu_ga::hooks::journal::RunInfo;
use qemu_ga::hooks::{Phase, ThawReason};
use tempfile::TempDir;

#[path = "../support/binary.rs"]
mod binary;
pub use binary::binary;

pub fn script(path: &Path, text: &str) {
    executable(path, &format!("#!/bin/sh\n{text}\n"));
}

pub fn executable(path: &Path, text: &str) {
    fs::write(path, text).expect("script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A layout as a distribution installs it, with the shipped master script.
pub fn layout() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().expect("dir");
    let place = root.path().join("etc qemu");
    fs::create_dir_all(place.join("fsfreeze-hook.d")).expect("dir");
    for dir in [place.clone(), place.join("fsfreeze-hook.d")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("mode");
    }
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/hooks/fsfreeze-hook");
    fs::copy(shipped, place.join("fsfreeze-hook")).expect("copy");
    (root, place)
}

/// The shipped script as the agent calls it. The agent here is the test, whose own binary is not
/// qemu-ga: a wrapper tells the script where that is, and keeps log and state beside it.
pub fn wrapped(place: &Path) -> PathBuf {
    let wrapper = place.join("wrapper");
    let log = place.join("log");
    let front = place.join("qemu-ga");
    script(
        &front,
        &format!(
            "exec '{}' \"$@\" --state '{}' --log '{}'",
            binary().display(),
            place.display(),
            log.display()
        ),
    );
    let master = place.join("fsfreeze-hook");
    let call = format!(
        "QGA_BINARY='{}' exec '{}' \"$@\"",
        front.display(),
        master.display()
    );
    script(&wrapper, &call);
    wrapper
}

/// A place for hooks, and the agent's way to call them.
pub struct Place {
    _root: TempDir,
    pub path: PathBuf,
    master: PathBuf,
}

impl Place {
    pub fn new() -> Place {
        let (root, path) = layout();
        let master = wrapped(&path);
        Place {
            _root: root,
            path,
            master,
        }
    }

    pub fn dir(&self) -> PathBuf {
        self.path.join("fsfreeze-hook.d")
    }

    pub fn hook(&self, name: &str, text: &str) {
        script(&self.dir().join(name), text);
    }

    pub fn conf(&self, text: &str) {
        fs::write(self.path.join("fsfreeze-hook.conf"), text).expect("conf");
    }

    pub fn call(&self, phase: Phase, reason: Option<ThawReason>) -> MasterReport {
        let limits = Invocation {
            reason,
            run: (phase == Phase::Freeze).then(|| RunInfo {
                id: "run-1".into(),
                mountpoints: "/ /srv/a\\040b".into(),
                devices: "/dev/vda1 /dev/vdb".into(),
                hold_limit: 900.0,
            }),
            ..Invocation::default()
        };
        invoke(&self.master, phase, limits)
    }

    pub fn freeze(&self) -> MasterReport {
        self.call(Phase::Freeze, None)
    }

    pub fn thaw(&self, reason: ThawReason) -> MasterReport {
        self.call(Phase::Thaw, Some(reason))
    }

    /// What a file beside the hooks holds, as lines.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let bytes = fs::read(self.path.join(name)).unwrap_or_default();
        text(&bytes).lines().map(str::to_owned).collect()
    }

    /// The log's lines without date and directory.
    pub fn log(&self) -> Vec<String> {
        let dir = format!("{}/", self.dir().display());
        let undated = |line: &String| match line.split_once(": ") {
            Some((date, rest)) if date.split_whitespace().count() == 6 => rest.replace(&dir, ""),
            _ => line.clone(),
        };
        self.lines("log").iter().map(undated).collect()
    }
}

/// `qemu-ga hook` by hand, with its state beside the directory that is named last.
pub fn hook(args: &[&str]) -> Output {
    let state = args.last().and_then(|dir| Path::new(dir).parent());
    Command::new(binary())
        .arg("hook")
        .args(args)
        .env("QGA_HOOK_STATE", state.unwrap_or(Path::new("/nonexistent")))
        .output()
        .expect("runs")
}
