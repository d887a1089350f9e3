//! The agent's side: calling the hook master, whichever it is.
//!
//! The master's exit status decides (protocol reference 4.9.4, 4.13). Records of single hooks come
//! over a memory file, so that neither a master that never writes nor one that writes much can
//! block; they are extra knowledge and never change the outcome.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{BINARY_ENV, HookRecord, Phase, RECORDS_ENV};
use crate::child::Child;

/// Most bytes of records that are read.
const RECORDS_CAP: u64 = 256 * 1024;
/// What the wire's texts say that failed.
const ACTION: &str = "execute fsfreeze hook";

/// What bounds a call of the master; by default nothing does.
#[derive(Debug, Default)]
pub struct Limits {
    /// Time for all hooks together, after which the master and all that it started are ended.
    pub deadline: Option<Duration>,
    /// Time between SIGTERM and SIGKILL then; None: [`crate::child::DEFAULT_GRACE`].
    pub grace: Option<Duration>,
    /// Ends the call when it becomes readable.
    pub cancel: Option<OwnedFd>,
}

/// What came of one call of the master.
#[derive(Clone, Debug)]
pub struct MasterReport {
    /// The wire's error text, or None if the master exited with 0.
    pub failure: Option<String>,
    /// What the master told of each hook, in the order run; empty with a foreign master.
    pub hooks: Vec<HookRecord>,
    /// How long the call took.
    pub elapsed: Duration,
}

/// Calls the master at `program` for `phase`, without a limit. Blocks until it ends.
pub fn call(program: &Path, phase: Phase) -> MasterReport {
    call_within(program, phase, Limits::default())
}

/// As [`call`], within `limits`.
pub fn call_within(program: &Path, phase: Phase, limits: Limits) -> MasterReport {
    let started = Instant::now();
    let mut child = Child::new(program)
        .arg(phase.as_str())
        .deadline(limits.deadline);
    if let Some(grace) = limits.grace {
        child = child.grace(grace);
    }
    if let Some(cancel) = limits.cancel {
        child = child.cancel_on(cancel);
    }
    if let Some(binary) = own_binary() {
        child = child.env(BINARY_ENV, binary);
    }
    let records = records_file();
    if let Some(passed) = records.as_ref().and_then(|ours| ours.try_clone().ok()) {
        child = child.pass_fd(passed.into(), RECORDS_ENV);
    }
    let failure = match child.run() {
        Ok(outcome) => outcome.failure(ACTION),
        Err(error) => Some(error.text(ACTION)),
    };
    let hooks = records.map(|ours| read_records(&ours)).unwrap_or_default();
    MasterReport {
        failure,
        hooks,
        elapsed: started.elapsed(),
    }
}

/// None where the kernel has no memory files (before 3.17): then there are no records.
fn records_file() -> Option<File> {
    memfd_create(c"qga-hook-records", MFdFlags::MFD_CLOEXEC)
        .ok()
        .map(File::from)
}

/// Every line that is a record; a torn last line and foreign text are passed over.
fn read_records(file: &File) -> Vec<HookRecord> {
    let length = file
        .metadata()
        .map_or(0, |data| data.size())
        .min(RECORDS_CAP);
    let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
    if file.read_exact_at(&mut text, 0).is_err() {
        return Vec::new();
    }
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

/// Where this very program can be executed from: its path, or, if that was replaced by an upgrade
/// or lies outside our root, /proc's own door to it.
fn own_binary() -> Option<PathBuf> {
    let path = std::env::current_exe().ok();
    let own = std::fs::metadata("/proc/self/exe").ok()?;
    let same = path.filter(|path| {
        std::fs::metadata(path)
            .is_ok_and(|there| there.dev() == own.dev() && there.ino() == own.ino())
    });
    Some(same.unwrap_or_else(|| format!("/proc/{}/exe", std::process::id()).into()))
}
