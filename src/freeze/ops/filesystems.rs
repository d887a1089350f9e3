//! Opening, flushing, freezing and thawing filesystems, and what is to be known of them.

use crate::deadline::Timed;
use crate::freeze::plan::{Survey, Target};
use crate::probe::filesystems::Filesystem;
use crate::probe::mountinfo::DeviceNumber;
use crate::probe::write_counters::Written;
use std::io;
use std::time::Duration;

#[derive(Debug)]
pub enum OpenError {
    Failed(io::Error),
    /// A later mount covers this one.
    Covered,
    /// Only a socket, FIFO or device node of it is mounted. FIFREEZE needs a file or directory of the filesystem.
    NoDirectory,
    /// By [`crate::freeze::guard`].
    Refused(String),
}

impl OpenError {
    /// No path leads to the filesystem.
    pub fn is_hidden(&self) -> bool {
        matches!(self, Self::Covered | Self::NoDirectory)
    }

    pub fn is_too_many(&self) -> bool {
        matches!(self, Self::Failed(error) if error.raw_os_error() == Some(nix::libc::EMFILE))
    }
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => f.write_str(&crate::sys::strerror(error)),
            Self::NoDirectory => f.write_str("only a socket, FIFO or device node of it is mounted"),
            Self::Covered => f.write_str("another filesystem is mounted over it"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

/// For FIFREEZE, until what is already frozen is thawed again. This filesystem may have to write to one that is frozen
/// (a loop device, for example), and then waits for it.
pub const REORDER_DELAY: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeWait {
    /// For [`REORDER_DELAY`]; it can be waited for again.
    Delay,
    /// Until the step limit, and no longer than the rest of the hold limit. The call is given up after that.
    Limit(Option<Duration>),
}

pub trait FilesystemOps {
    /// Keeps a filesystem open until its thaw.
    type Handle: Send;

    fn survey(&mut self) -> io::Result<Survey>;

    /// `None`: the mount table has not changed.
    fn survey_again(&mut self) -> io::Result<Option<Survey>>;

    /// Checks the device of each. If the first mount point is covered, it tries the others.
    fn open(&mut self, targets: &[Target]) -> Vec<Result<Self::Handle, OpenError>>;

    fn dirty_bytes(&mut self) -> Option<u64>;

    /// With `commits_first`, journals are committed before the data: writers do not wait for a commit behind it.
    fn flush(&mut self, handles: &[&Self::Handle], commits_first: bool) -> Vec<io::Result<()>>;

    /// One batch in parallel. `None`: not returned within [`REORDER_DELAY`]; [`FilesystemOps::wait_for_freeze`] must
    /// follow. EBUSY: already frozen; EOPNOTSUPP: cannot be frozen (fs/super.c freeze_super, fs/ioctl.c
    /// ioctl_fsfreeze).
    fn freeze(&mut self, handles: &[&Self::Handle]) -> Vec<Option<Timed>>;

    /// For those that have not returned; results in the order of the batch.
    fn wait_for_freeze(&mut self, wait: FreezeWait) -> Vec<Option<Timed>>;

    /// One after another, in this order; one that hangs does not hold up those after it. EINVAL: it is not frozen.
    fn thaw(&mut self, handles: &[&Self::Handle]) -> Vec<Timed>;

    /// Linux has no query for it, so this tries FIFREEZE: EBUSY on a frozen filesystem; any other is thawed at once.
    fn is_any_frozen(&mut self, handles: &[&Self::Handle]) -> bool;

    /// `None`: it has none. Opens and allocates nothing if the device was asked for before the first FIFREEZE.
    fn write_counters(&mut self, _device: DeviceNumber) -> Option<Written> {
        None
    }

    /// After the thaw: writable filesystems on local disks, mounted since the last read of the mount table.
    fn mounted_since(&mut self) -> Vec<Filesystem> {
        Vec::new()
    }

    /// RCU grace periods take most of FIFREEZE's time. Only with a guardian, which switches it off if the agent dies.
    fn expedite_rcu(&mut self);

    /// Fails if RCU grace periods stay expedited.
    fn restore_rcu(&mut self) -> io::Result<()>;
}
