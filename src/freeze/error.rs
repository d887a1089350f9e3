//! What a freeze or thaw can fail with, and its texts. Hosts and operators search for them.

use super::ops::OpenError;
use super::plan::Cycle;
use crate::state::{Expiry, StateError};
use crate::sys::strerror;
use nix::libc;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Filesystems are named by their mount points.
#[derive(Debug)]
pub enum FreezeError {
    AlreadyFrozen,
    UndoPending,
    Stopping,
    /// With the error that the freeze had met by then.
    HoldLimit(Option<Box<FreezeError>>),
    Expired(Expiry),
    MountTable(io::Error),
    Cycle(Cycle),
    Open(String, OpenError),
    TooManyFiles(Vec<String>),
    Flush(String, io::Error),
    Freeze(String, io::Error),
    FreezeBlocked(Vec<String>),
    Thaw(String, io::Error),
    Several(Vec<FreezeError>),
    Hooks(String),
    NoGuardian(io::Error),
    Rcu(io::Error),
    State(StateError),
    Report(PathBuf, io::Error),
    Snapshot(PathBuf, io::Error),
    ThreadDied,
}

impl fmt::Display for FreezeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyFrozen => f.write_str("filesystems are already frozen"),
            Self::UndoPending => f.write_str(
                "the freeze of an agent that was killed is still being undone; try again later",
            ),
            Self::Stopping => f.write_str("the freeze was given up: the agent was asked to stop"),
            Self::HoldLimit(cause) => {
                f.write_str(
                    "the hold limit passed before everything was frozen; raise fsfreeze-hold-limit",
                )?;
                cause
                    .as_ref()
                    .map_or(Ok(()), |cause| write!(f, ": {cause}"))
            }
            Self::Expired(expiry) => expiry.fmt(f),
            Self::MountTable(error) => {
                write!(f, "failed to read the mount table: {}", strerror(error))
            }
            Self::Cycle(cycle) => cycle.fmt(f),
            Self::Open(name, error) => write!(f, "failed to open {name}: {error}"),
            Self::TooManyFiles(names) => write!(
                f,
                "failed to open {}: too many open files; raise LimitNOFILE= of the service",
                names.join(", ")
            ),
            Self::Flush(name, error) => write!(f, "failed to flush {name}: {}", strerror(error)),
            Self::Freeze(name, error) => write!(f, "failed to freeze {name}: {}", refusal(error)),
            Self::FreezeBlocked(names) => write!(
                f,
                "failed to freeze {}: it waits for other filesystems, whatever is frozen first",
                names.join(", ")
            ),
            Self::Thaw(name, error) => write!(f, "failed to thaw {name}: {}", strerror(error)),
            Self::Several(errors) => {
                let texts: Vec<String> = errors.iter().map(Self::to_string).collect();
                f.write_str(&texts.join("; "))
            }
            Self::Hooks(text) => f.write_str(text),
            Self::NoGuardian(error) => write!(
                f,
                "no guardian, so filesystems stay frozen if the agent dies: {}",
                strerror(error)
            ),
            Self::Rcu(error) => write!(
                f,
                "cannot switch expedited RCU grace periods off: {}; write 0 to /sys/kernel/rcu_expedited",
                strerror(error)
            ),
            Self::State(error) => error.fmt(f),
            Self::Report(path, error) => write!(
                f,
                "the report is not kept in {}: {}",
                path.display(),
                strerror(error)
            ),
            Self::Snapshot(path, error) => f.write_str(&snapshot_text(path, error)),
            Self::ThreadDied => f.write_str("the freeze thread died"),
        }
    }
}

impl std::error::Error for FreezeError {}

impl From<StateError> for FreezeError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

fn snapshot_text(path: &Path, error: &io::Error) -> String {
    let (path, why) = (path.display(), strerror(error));
    format!("cannot write {path}: {why}; a copy of the disk may not say what it is")
}

fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "this type of filesystem cannot be frozen".into(),
        Some(libc::EBUSY) => "someone else has frozen it already".into(),
        _ => strerror(error),
    }
}
