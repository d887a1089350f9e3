//! The snapshot file, each access with a time limit: another process may have frozen its filesystem.

use super::LinuxOps;
use super::step::step;
use crate::freeze::FreezeError;
use crate::freeze::ops::SnapshotOps;
use crate::freeze::report::Report;
use crate::freeze::snapshot::{SNAPSHOT_TIMEOUT, SnapshotFile};
use crate::probe::System;
use crate::probe::mountinfo::{self, DeviceNumber};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

impl LinuxOps {
    fn with_snapshot<T: Send + 'static>(
        &self,
        file: &SnapshotFile,
        call: impl FnOnce(&SnapshotFile) -> io::Result<T> + Send + 'static,
    ) -> Result<T, FreezeError> {
        let called = file.clone();
        self.pool
            .run_one(Some(SNAPSHOT_TIMEOUT), drop, move || call(&called))
            .map_err(|error| FreezeError::Snapshot(file.path().to_owned(), error))
    }
}

impl SnapshotOps for LinuxOps {
    fn snapshot_device(&mut self) -> Option<DeviceNumber> {
        let file = self.snapshot.as_ref()?;
        let device = self.with_snapshot(file, |file| {
            let directory = file.open_directory()?;
            let descriptor = directory.as_raw_fd().to_string();
            let task = Path::new("proc/self");
            Ok(mountinfo::device_of(&System::host(), task, &descriptor))
        });
        match device {
            Ok(device) => device,
            Err(error) => {
                // The directory is missing where no package has made it.
                tracing::debug!("no snapshot file: {error}");
                None
            }
        }
    }

    fn write_snapshot(&mut self, run: &Report) -> Result<(), FreezeError> {
        step("write_snapshot");
        let Some(file) = &self.snapshot else {
            return Ok(());
        };
        let run = run.clone();
        let is_given_up = Arc::new(AtomicBool::new(false));
        let flag = is_given_up.clone();
        let written = self.with_snapshot(file, move |file| file.write_frozen(&run, &flag));
        is_given_up.store(written.is_err(), Ordering::Relaxed);
        self.has_snapshot = written.is_ok();
        written
    }

    fn withdraw_snapshot(&mut self) -> Result<(), FreezeError> {
        step("withdraw_snapshot");
        let Some(file) = &self.snapshot else {
            return Ok(());
        };
        self.has_snapshot |= self.with_snapshot(file, SnapshotFile::withdraw)?;
        Ok(())
    }

    fn finish_snapshot(&mut self, run: &Report) -> Result<(), FreezeError> {
        step("finish_snapshot");
        let Some(file) = self.snapshot.as_ref().filter(|_| self.has_snapshot) else {
            return Ok(());
        };
        let run = run.clone();
        let finished = self.with_snapshot(file, move |file| file.write_finished(&run));
        self.has_snapshot = false;
        finished
    }
}
