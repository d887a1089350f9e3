//! The snapshot file, by which a copy of a frozen disk says what it is.

use crate::freeze::FreezeError;
use crate::freeze::report::Report;
use crate::probe::mountinfo::DeviceNumber;

/// The file of [`crate::freeze::snapshot`]. No failure here fails a run.
pub trait SnapshotOps {
    /// The filesystem on which the file would be; `None`: no file is to be written.
    fn snapshot_device(&mut self) -> Option<DeviceNumber>;

    /// Writes the file, which says `frozen`. The flush that follows brings it to the disk.
    ///
    /// # Errors
    /// It could not be written within a time limit, or not at all.
    fn write_snapshot(&mut self, run: &Report) -> Result<(), FreezeError>;

    /// A file that this boot of the machine has written no longer says `frozen`.
    ///
    /// # Errors
    /// It may still say so.
    fn withdraw_snapshot(&mut self) -> Result<(), FreezeError>;

    /// Replaces what was withdrawn by the finished run, and brings that to the disk. Does nothing if the run wrote none.
    ///
    /// # Errors
    /// As [`SnapshotOps::write_snapshot`].
    fn finish_snapshot(&mut self, run: &Report) -> Result<(), FreezeError>;
}
