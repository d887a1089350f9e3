//! The agent's side: calls the hook master, ours or a foreign one. The freeze engine and the guardian call this.
//!
//! Only the master's exit status decides whether the call succeeded; the error texts on the wire are those of QEMU's
//! agent. Records of single hooks add to the report and never change the result. They arrive in a memory file
//! (memfd_create(2)): on a pipe, a master that writes nothing would block the agent, and one that writes much itself.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::journal::RunInfo;
use super::trust;
use super::{
    ALIVE_ENV, BINARY_ENV, DEVICES_ENV, HOLD_LIMIT_ENV, HookRecord, HookStatus, LEAVE_FILESYSTEMS,
    MOUNTPOINTS_ENV, ONLY_RUN_ENV, Phase, REASON_ENV, RECORDS_ENV, RECORDS_HEAD, RUN_ENV,
    STATE_ENV, ThawReason,
};
use crate::child::{Child, ChildStatus, PreExecWrite};

pub(super) const MAX_RECORDS_BYTES: u64 = 1024 * 1024;
const MAX_MASTER_CALLS: u32 = 3;
/// How long a signal (SIGSTOP, SIGTSTP) may stop a master before it is killed: it would delay the thaw without limit.
pub(crate) const STOPPED_MASTER_TIMEOUT: Duration = Duration::from_secs(60);
/// As in the error texts on the wire.
const ACTION: &str = "execute fsfreeze hook";

/// Limits of a call of the master, and what the master gets. The default has no limit and passes nothing.
#[derive(Debug, Default)]
pub struct Invocation {
    /// Time for all hooks together. When it expires the master and everything that it started are killed.
    pub deadline: Option<Duration>,
    /// Time between SIGTERM and SIGKILL; None: [`crate::child::DEFAULT_KILL_GRACE`].
    pub grace: Option<Duration>,
    /// Cancels the call when it becomes readable.
    pub cancel: Option<OwnedFd>,
    /// The reason of a thaw, for hooks.
    pub reason: Option<ThawReason>,
    /// The facts of the freeze, for hooks.
    pub run: Option<RunInfo>,
    /// The agent's state directory, where our own master keeps its journal.
    pub state: Option<PathBuf>,
    /// Thaws only hooks of the run with this id. A master that does not know the run of its hooks thaws them all.
    pub only_run: Option<String>,
    /// Stays open in the master, and in its hooks only if the master is foreign.
    pub alive: Option<OwnedFd>,
    /// Written by the child before execve(2).
    pub announcements: Vec<PreExecWrite>,
}

/// The result of one call of the master.
#[derive(Clone, Debug)]
pub struct MasterReport {
    /// The error text for the wire; None if the exit status is 0.
    pub failure: Option<String>,
    /// The results of the hooks in the order in which they ran; empty with a foreign master.
    pub hooks: Vec<HookRecord>,
    /// Of the call, all tries together.
    pub elapsed: Duration,
    /// The master asks for no filesystem to be frozen in this run.
    pub leaves_filesystems: bool,
    /// The master is ours, so `hooks` is complete.
    pub is_ours: bool,
}

/// Calls the master at `program` for `phase` without a time limit. Blocks until it ends.
pub fn call(program: &Path, phase: Phase) -> MasterReport {
    invoke(program, phase, Invocation::default())
}

/// As [`call`], with limits.
///
/// If our own master is killed or stopped by a signal at the thaw, it is called again, up to `MAX_MASTER_CALLS` times:
/// its journal names the hooks that are not yet thawed. A foreign master has no journal, so a second call could thaw a
/// hook twice.
pub fn invoke(program: &Path, phase: Phase, mut invocation: Invocation) -> MasterReport {
    let started = Instant::now();
    let records = records_file();
    let mut text = Vec::new();
    let mut tries = 0;
    let failure = loop {
        if let Err(refusal) = trust::check_program(program) {
            break Some(refusal.to_string());
        }
        tries += 1;
        let left = invocation
            .deadline
            .map(|all| all.saturating_sub(started.elapsed()));
        let outcome = child(program, phase, &mut invocation, records.as_ref())
            .timeout(left)
            .stopped_limit(STOPPED_MASTER_TIMEOUT)
            .run();
        if let Some(records) = &records {
            text = read_records(records);
        }
        match outcome {
            Ok(outcome)
                if matches!(
                    outcome.status,
                    ChildStatus::Signaled(_) | ChildStatus::Stopped
                ) && phase == Phase::Thaw
                    && tries < MAX_MASTER_CALLS
                    && is_ours(&text) =>
            {
                tracing::warn!(
                    "the hook master was killed or stopped at the thaw; it is called once more"
                );
            }
            Ok(outcome) => break outcome.failure(ACTION),
            Err(error) => break Some(error.text(ACTION)),
        }
    };
    let mut hooks = records_in(&text);
    if text.len() as u64 == MAX_RECORDS_BYTES {
        // Hooks without a result must not look like hooks that succeeded.
        let why = format!(
            "what became of further hooks is left out: it takes more than {MAX_RECORDS_BYTES} bytes"
        );
        let name = program.display().to_string();
        hooks.push(HookRecord::new(name, phase, HookStatus::cannot_run(why)));
    }
    MasterReport {
        failure,
        hooks,
        elapsed: started.elapsed(),
        leaves_filesystems: text
            .split(|&b| b == b'\n')
            .any(|l| l == LEAVE_FILESYSTEMS.as_bytes()),
        is_ours: is_ours(&text),
    }
}

fn is_ours(records: &[u8]) -> bool {
    records.starts_with(RECORDS_HEAD.as_bytes())
}

fn child(
    program: &Path,
    phase: Phase,
    invocation: &mut Invocation,
    records: Option<&File>,
) -> Child {
    // The guardian expects this message once, so a second call does not repeat it.
    let mut child = Child::new(program)
        .arg(phase.as_str())
        .announce(std::mem::take(&mut invocation.announcements));
    if let Some(grace) = invocation.grace {
        child = child.kill_grace(grace);
    }
    let cancel = invocation
        .cancel
        .as_ref()
        .and_then(|fd| fd.try_clone().ok());
    if let Some(cancel) = cancel {
        child = child.cancel_on(cancel);
    }
    child = match invocation.reason {
        Some(reason) => child.env(REASON_ENV, reason.as_str()),
        None => child.env_remove(REASON_ENV),
    };
    child = match &invocation.only_run {
        Some(run) => child.env(ONLY_RUN_ENV, run),
        None => child.env_remove(ONLY_RUN_ENV),
    };
    if let Some(state) = &invocation.state {
        child = child.env(STATE_ENV, state);
    }
    if let Some(run) = &invocation.run {
        child = with_run_info(child, run);
    }
    if let Some(binary) = own_binary() {
        child = child.env(BINARY_ENV, binary);
    }
    // The guardian watches this descriptor during a freeze only, and a freeze is called once.
    if let Some(alive) = invocation.alive.take() {
        child = child.pass_fd(alive, ALIVE_ENV);
    }
    if let Some(passed) = records.and_then(|own| own.try_clone().ok()) {
        child = child.pass_fd(passed.into(), RECORDS_ENV);
    }
    child
}

/// Longest value of a variable. execve(2) accepts strings of at most 128 KiB (MAX_ARG_STRLEN).
const MAX_VARIABLE_BYTES: usize = 100 * 1024;

fn with_run_info(child: Child, run: &RunInfo) -> Child {
    let pairs = [
        (RUN_ENV, run.id.clone()),
        (MOUNTPOINTS_ENV, run.mountpoints.clone()),
        (DEVICES_ENV, run.devices.clone()),
        (HOLD_LIMIT_ENV, run.hold_limit.to_string()),
    ];
    pairs.into_iter().fold(child, |child, (name, value)| {
        if value.len() > MAX_VARIABLE_BYTES {
            tracing::warn!(
                "hooks are not told {name}: it is too long ({} bytes)",
                value.len()
            );
            return child.env_remove(name);
        }
        child.env(name, value)
    })
}

/// None: memory files do not exist before Linux 3.17.
fn records_file() -> Option<File> {
    memfd_create(c"qga-hook-records", MFdFlags::MFD_CLOEXEC)
        .ok()
        .map(File::from)
}

fn read_records(file: &File) -> Vec<u8> {
    let length = file
        .metadata()
        .map_or(0, |data| data.size())
        .min(MAX_RECORDS_BYTES);
    let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
    if file.read_exact_at(&mut text, 0).is_err() {
        return Vec::new();
    }
    text
}

fn records_in(text: &[u8]) -> Vec<HookRecord> {
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

/// What a hook master has in its environment, whoever starts it.
pub(crate) fn fixed_environment(statedir: &Path) -> Vec<(OsString, OsString)> {
    let binary = own_binary().map(|binary| (BINARY_ENV.into(), binary.into()));
    let state = (STATE_ENV.into(), statedir.into());
    binary.into_iter().chain([state]).collect()
}

/// From where this program can be executed: its path, or /proc/PID/exe if an upgrade has replaced the file or the path
/// is outside the agent's root directory.
fn own_binary() -> Option<PathBuf> {
    let path = std::env::current_exe().ok();
    let own = std::fs::metadata("/proc/self/exe").ok()?;
    let same = path.filter(|path| {
        std::fs::metadata(path)
            .is_ok_and(|there| there.dev() == own.dev() && there.ino() == own.ino())
    });
    Some(same.unwrap_or_else(|| format!("/proc/{}/exe", std::process::id()).into()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    fn foreign(script: &str) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("master");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
        (dir, path)
    }

    fn call_foreign(script: &str) -> MasterReport {
        let (_dir, path) = foreign(script);
        call(&path, Phase::Freeze)
    }

    #[test]
    fn a_foreign_master_decides_by_its_status() {
        let report = call_foreign("[ $# = 1 ] && [ $1 = freeze ]");
        assert_eq!((report.failure, report.hooks), (None, vec![]));
        let report = call_foreign("echo no; exit 1");
        let text = "child process has failed to execute fsfreeze hook: no\n";
        assert_eq!(report.failure.as_deref(), Some(text));
        let report = call(Path::new("/nonexistent/hook"), Phase::Thaw);
        let text = "child process has failed to execute fsfreeze hook: failed to exec \
                '/nonexistent/hook': No such file or directory\n";
        assert_eq!(report.failure.as_deref(), Some(text));
        let report = call_foreign("[ -x \"$QGA_BINARY\" ] || { echo none; exit 1; }");
        assert_eq!(report.failure, None);
    }

    #[test]
    fn records_survive_noise_and_a_torn_line() {
        let record = r#"{"path":"/h","phase":"thaw","status":{"exited":4},"elapsed":0.25}"#;
        let script = format!(
            "exec 3>>/dev/fd/${RECORDS_ENV}; echo noise >&3; echo '{record}' >&3; \
         printf '{{\"path\":\"/to' >&3; exit 9"
        );
        let report = call_foreign(&script);
        let text = "child process has failed to execute fsfreeze hook: exit status 9";
        assert_eq!(report.failure.as_deref(), Some(text));
        let mut expected = HookRecord::new("/h".into(), Phase::Thaw, HookStatus::Exited(4));
        expected.elapsed = 0.25;
        assert_eq!(report.hooks, [expected]);
    }

    #[test]
    fn records_that_are_too_long_are_no_success() {
        let record = r#"{"path":"/h","phase":"freeze","status":{"exited":0},"elapsed":0.25}"#;
        let script = format!("yes '{record}' | head -c 1100000 >>/dev/fd/${RECORDS_ENV}");
        let report = call_foreign(&script);
        assert!(report.hooks.len() > 10_000 && report.failure.is_none());
        assert!(!report.hooks.iter().all(HookRecord::is_success));
    }

    #[test]
    fn limits_end_a_master_that_hangs() {
        let (_dir, path) = foreign("sleep 1000");
        let invocation = Invocation {
            deadline: Some(Duration::from_millis(50)),
            ..Invocation::default()
        };
        let failure = invoke(&path, Phase::Freeze, invocation)
            .failure
            .expect("a failure");
        assert!(failure.contains("not finished in time"), "{failure}");
    }
}
