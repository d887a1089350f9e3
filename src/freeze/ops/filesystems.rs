//! Opening, flushing, freezing and thawing filesystems, and what is to be known of them.

use crate::deadline::Timed;
use crate::freeze::plan::{Survey, Target};
use crate::probe::filesystems::Filesystem;
use crate::probe::mountinfo::DeviceNumber;
use crate::probe::write_counters::Written;
use std::io;
use std::time::Duration;

/// Why a chosen filesystem could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// open(2) of the mount point failed.
    Failed(io::Error),
    /// The path leads to another filesystem: a later mount covers this one.
    Covered,
    /// Only a socket, FIFO or device node of it is mounted. FIFREEZE needs a file or directory of the filesystem.
    NoDirectory,
    /// A debug build refuses to freeze anything but its own test images.
    Refused(String),
}

impl OpenError {
    /// Whether no path leads to the filesystem.
    pub fn is_hidden(&self) -> bool {
        matches!(self, Self::Covered | Self::NoDirectory)
    }

    /// Whether the process has no descriptor left (EMFILE).
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

/// How long FIFREEZE may take before what is already frozen is thawed again. This filesystem may have to write to one
/// that is frozen (a loop device, for example), and then waits for it.
pub const REORDER_DELAY: Duration = Duration::from_secs(2);

/// How long to wait for an FIFREEZE that has not returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeWait {
    /// For [`REORDER_DELAY`]; it can be waited for again.
    Delay,
    /// Until the step limit, and no longer than the rest of the hold limit. The call is given up after that.
    Limit(Option<Duration>),
}

/// The filesystems of the mount table.
pub trait FilesystemOps {
    /// Keeps a filesystem open until its thaw.
    type Handle: Send;

    /// Reads the mount table.
    ///
    /// # Errors
    /// It cannot be read.
    fn survey(&mut self) -> io::Result<Survey>;

    /// Reads the mount table once more; `None` if it has not changed.
    ///
    /// # Errors
    /// It cannot be read.
    fn survey_again(&mut self) -> io::Result<Option<Survey>>;

    /// Opens filesystems and checks the device of each. If the first mount point is covered, it tries the others.
    fn open(&mut self, targets: &[Target]) -> Vec<Result<Self::Handle, OpenError>>;

    /// Bytes that the system has still to write back; `None` if unknown.
    fn dirty_bytes(&mut self) -> Option<u64>;

    /// Writes back what is dirty; one result for each. With `commits_first`, journals are committed before the data, so
    /// that writers do not wait for a commit that is queued behind it.
    fn flush(&mut self, handles: &[&Self::Handle], commits_first: bool) -> Vec<io::Result<()>>;

    /// Issues FIFREEZE on one batch in parallel. A result is `None` if the call has not returned within
    /// [`REORDER_DELAY`]; then [`FilesystemOps::wait_for_freeze`] must be called. EBUSY: it is already frozen; EOPNOTSUPP: it
    /// cannot be frozen (fs/super.c freeze_super, fs/ioctl.c ioctl_fsfreeze).
    fn freeze(&mut self, handles: &[&Self::Handle]) -> Vec<Option<Timed>>;

    /// Waits for the FIFREEZE calls that have not returned; results in the order of the batch.
    fn wait_for_freeze(&mut self, wait: FreezeWait) -> Vec<Option<Timed>>;

    /// Issues FITHAW on one after another, in this order. One that hangs does not hold up those after it. EINVAL: it is
    /// not frozen.
    fn thaw(&mut self, handles: &[&Self::Handle]) -> Vec<Timed>;

    /// Whether any of these is frozen. Linux has no query for it, so this tries FIFREEZE: it fails with EBUSY on a
    /// frozen filesystem, and what it freezes is thawed at once.
    fn is_any_frozen(&mut self, handles: &[&Self::Handle]) -> bool;

    /// The write counters of a block device; `None`: it has none. For a device that was asked for before the first
    /// FIFREEZE, this opens no file and allocates nothing.
    fn write_counters(&mut self, _device: DeviceNumber) -> Option<Written> {
        None
    }

    /// After the thaw: filesystems on local disks, writable, that were mounted since the last read of the mount table.
    fn mounted_since(&mut self) -> Vec<Filesystem> {
        Vec::new()
    }

    /// Expedites RCU grace periods, which take most of the time of FIFREEZE, until [`FilesystemOps::restore_rcu`]. Only with a
    /// guardian, which switches it off if the agent dies.
    fn expedite_rcu(&mut self);

    /// Ends what [`FilesystemOps::expedite_rcu`] began.
    ///
    /// # Errors
    /// They stay expedited.
    fn restore_rcu(&mut self) -> io::Result<()>;
}
