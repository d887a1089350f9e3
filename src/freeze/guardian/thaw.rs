//! The filesystems that the guardian holds open, and their FITHAW. Every descriptor comes from the agent: the guardian
//! opens no path, which could block on a frozen filesystem. Each FITHAW runs with a time limit, so that one filesystem
//! that hangs does not keep the others frozen.

use super::{Entrusted, Thawed};
use crate::deadline::{Pace, Pool};
use crate::freeze::root::{Root, calls};
use crate::sys::{fsfreeze, strerror};
use nix::libc;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

const FITHAW_TIMEOUT: Option<Duration> = Some(Duration::from_secs(10));

/// In freeze order.
#[derive(Default)]
pub struct Filesystems(Vec<Held>);

struct Held {
    entrusted: Entrusted,
    root: Arc<Root>,
    /// FIFREEZE has not returned.
    is_late: bool,
}

impl Filesystems {
    /// Entries without a descriptor are dropped.
    pub fn new(entrusted: &[Entrusted], roots: Vec<OwnedFd>) -> Self {
        let held = |(entrusted, root): (&Entrusted, _)| Held {
            entrusted: entrusted.clone(),
            root: Arc::new(File::from(root).into()),
            is_late: false,
        };
        Self(entrusted.iter().zip(roots).map(held).collect())
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn list(&self) -> Vec<Entrusted> {
        self.0.iter().map(|held| held.entrusted.clone()).collect()
    }

    pub fn roots(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|held| held.root.as_fd())
    }

    /// What the agent has not frozen comes first, and so is thawed last.
    pub fn reorder(&mut self, order: &[usize]) {
        self.0
            .sort_by_key(|held| order.iter().position(|&n| n == held.entrusted.number));
    }

    pub fn mark_late(&mut self, number: usize) {
        for held in &mut self.0 {
            held.is_late |= held.entrusted.number == number;
        }
    }

    pub fn retain_late(&mut self) {
        self.0.retain(|held| held.is_late);
    }

    /// In reverse freeze order. EINVAL is no failure: the filesystem is not frozen.
    pub fn thaw(&mut self) -> Thawed {
        let mut thawed = Thawed::default();
        let mut overdue = Vec::new();
        let roots = self.0.iter().rev().map(|held| &held.root);
        let calls = calls(roots, |root| fsfreeze::thaw(root.as_ref()));
        let done = Pool::default().run(Pace::OneByOne, FITHAW_TIMEOUT, drop, calls);
        for (held, timed) in self.0.iter().rev().zip(done) {
            if timed.is_overdue() {
                overdue.push(held.entrusted.number);
            }
            let mountpoint = &held.entrusted.mountpoint;
            match timed.result {
                Ok(()) => thawed.filesystems.push(mountpoint.clone()),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => {
                    let why = strerror(&error);
                    thawed
                        .failures
                        .push(format!("cannot thaw {mountpoint}: {why}"));
                }
            }
        }
        // An overdue FITHAW is still in the kernel and thaws when it gets there. The descriptor is dropped here, so
        // that a later round does not wait for the timeout once more.
        self.0
            .retain(|held| !overdue.contains(&held.entrusted.number));
        thawed
    }
}
