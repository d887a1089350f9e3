//! A write that does not end, so that a FIFREEZE does not either.

use super::{Disk, wait_until};
use nix::mount::{MntFlags, umount2};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Holds up FIFREEZE, and no flush, until it is dropped.
pub struct StuckWriter(Child);

impl StuckWriter {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Starts to write to a file of `disk`, and returns when the write is under way.
    pub fn on(disk: &Disk) -> StuckWriter {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/integration/support/stuck_writer.py"
        );
        let mut python = Command::new("python3");
        let writer = python.arg(script).arg(disk.path("stuck")).spawn();
        let mut writer = StuckWriter(writer.expect("python3"));
        let write = format!("{} ", nix::libc::SYS_write);
        let syscall = format!("/proc/{}/syscall", writer.0.id());
        wait_until("the write", || {
            assert_eq!(writer.0.try_wait().expect("a status"), None);
            fs::read_to_string(&syscall).is_ok_and(|call| call.starts_with(&write))
        });
        writer
    }
}

impl Drop for StuckWriter {
    fn drop(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("reaped");
    }
}

/// As [`StuckWriter`], by means that an ordinary user has: a FUSE server of his own.
pub struct FuseWriter {
    server: Child,
    mountpoint: PathBuf,
    /// Process id of the writer.
    pub pid: u32,
}

impl FuseWriter {
    /// Starts to write to a file of `disk`, with FUSE mounted at `mountpoint`, and returns when the write is under way.
    pub fn on(disk: &Disk, mountpoint: &Path) -> FuseWriter {
        fs::create_dir(mountpoint).expect("dir");
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/integration/support/fuse_writer.py"
        );
        let mut python = Command::new("python3");
        python.arg(script).arg(disk.path("stuck")).arg(mountpoint);
        let mut server = python.stdout(Stdio::piped()).spawn().expect("python3");
        let mut line = String::new();
        let stdout = server.stdout.take().expect("stdout");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let mountpoint = mountpoint.to_owned();
        let pid = line.trim().parse().expect("a process id");
        FuseWriter {
            server,
            mountpoint,
            pid,
        }
    }

    /// Whether its write has not ended.
    pub fn is_writing(&self) -> bool {
        let syscall = fs::read_to_string(format!("/proc/{}/syscall", self.pid));
        syscall.is_ok_and(|call| call.starts_with(&format!("{} ", nix::libc::SYS_write)))
    }
}

impl Drop for FuseWriter {
    fn drop(&mut self) {
        self.server.kill().expect("killed");
        self.server.wait().expect("reaped");
        umount2(&self.mountpoint, MntFlags::MNT_DETACH).expect("umount");
    }
}
