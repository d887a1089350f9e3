//! The engine's real hands.

use super::guard;
use super::ops::{OpenError, Ops};
use super::plan::Survey;
use super::report::Report;
use crate::hooks::{Phase, master};
use crate::probe::System;
use crate::probe::filesystems::Filesystem;
use crate::probe::mountinfo::{self, Mount};
use crate::state::StateDir;
use crate::sys::{fsfreeze, memory, strerror};
use nix::libc;
use nix::sys::stat::makedev;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A thread that only flushes needs little stack.
const FLUSH_STACK: usize = 64 * 1024;

/// The gate in front of everything that logs.
pub trait Gate: Send {
    /// From now on lines are kept in memory.
    fn shut(&self);
    /// Lines are written again, the kept ones first.
    fn open(&self);
}

/// Acts on the running system.
pub struct RealOps {
    state: StateDir,
    hook: Option<PathBuf>,
    gate: Box<dyn Gate>,
    mounts: Vec<Mount>,
    epoch: Instant,
}

impl RealOps {
    /// `hook`: the hook master, if one is configured.
    pub fn new(state: StateDir, hook: Option<PathBuf>, gate: Box<dyn Gate>) -> Self {
        Self {
            state,
            hook,
            gate,
            mounts: Vec::new(),
            epoch: Instant::now(),
        }
    }
}

impl Ops for RealOps {
    type Handle = File;

    fn survey(&mut self) -> io::Result<Survey> {
        self.mounts = mountinfo::read(Path::new("/"))?;
        Ok(Survey::take(&System::host(), &self.mounts))
    }

    fn open(&mut self, filesystem: &Filesystem) -> Result<File, OpenError> {
        if let Some(why) = guard::refusal(&self.mounts, filesystem) {
            return Err(OpenError::Refused(why));
        }
        let root = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(OsStr::from_bytes(&filesystem.mountpoint))
            .map_err(OpenError::Failed)?;
        let device = root.metadata().map_err(OpenError::Failed)?.dev();
        // A btrfs subvolume has an anonymous device number of its own, so only the others show
        // by theirs that the path led elsewhere.
        let meant = makedev(filesystem.major.into(), filesystem.minor.into());
        if filesystem.fstype != "btrfs" && device != meant {
            return Err(OpenError::Covered);
        }
        Ok(root)
    }

    fn flush(&mut self, handles: &[&File]) -> Vec<io::Result<()>> {
        let Some((last, others)) = handles.split_last() else {
            return Vec::new();
        };
        std::thread::scope(|scope| {
            let started: Vec<_> = others
                .iter()
                .map(|file| {
                    std::thread::Builder::new()
                        .name("flush".into())
                        .stack_size(FLUSH_STACK)
                        .spawn_scoped(scope, move || fsfreeze::flush(file))
                })
                .collect();
            let last = fsfreeze::flush(last);
            started
                .into_iter()
                .map(|thread| match thread?.join() {
                    Ok(result) => result,
                    Err(_) => Err(io::Error::other("the flush thread died")),
                })
                .chain([last])
                .collect()
        })
    }

    fn freeze(&mut self, handle: &File) -> io::Result<()> {
        fsfreeze::freeze(handle)
    }

    fn thaw(&mut self, handle: &File) -> io::Result<()> {
        fsfreeze::thaw(handle)
    }

    fn call_hooks(&mut self, phase: Phase) -> Option<master::MasterReport> {
        let hook = self.hook.as_deref()?;
        tracing::info!(target: crate::AUDIT, "executing fsfreeze hook with arg '{}'", phase.as_str());
        Some(master::call(hook, phase))
    }

    fn mark_frozen(&mut self) -> Result<(), String> {
        self.state.mark_frozen().map_err(|e| e.text)
    }

    fn mark_thawed(&mut self) -> Result<(), String> {
        self.state.mark_thawed().map_err(|e| e.text)
    }

    fn hush(&mut self) {
        self.gate.shut();
        if let Err(e) = memory::lock_all() {
            tracing::debug!("memory stays unlocked while frozen: {}", strerror(&e));
        }
    }

    fn speak(&mut self) {
        if let Err(e) = memory::unlock_all() {
            tracing::debug!("memory stays locked: {}", strerror(&e));
        }
        self.gate.open();
    }

    fn now(&mut self) -> Duration {
        self.epoch.elapsed()
    }

    fn wall_clock(&mut self) -> SystemTime {
        SystemTime::now()
    }

    fn keep(&mut self, report: &Report) -> Result<(), String> {
        let json = serde_json::to_vec_pretty(report).map_err(|e| e.to_string())?;
        self.state.write_report(&json).map_err(|e| {
            format!(
                "the report {} is not kept: {}",
                self.state.report().display(),
                strerror(&e)
            )
        })
    }
}
