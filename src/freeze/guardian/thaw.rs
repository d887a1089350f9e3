//! The filesystems in the guardian's hands.

use super::Entrusted;
use crate::deadline::{Pace, Pool};
use crate::freeze::root::Root;
use crate::sys::{fsfreeze, strerror};
use nix::libc;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// How long one FITHAW may take before the next filesystem is thawed without it.
const FITHAW_TIMEOUT: Option<Duration> = Some(Duration::from_secs(10));

/// Filesystems in the order of freezing.
#[derive(Default)]
pub struct Filesystems(Vec<Held>);

struct Held {
    entrusted: Entrusted,
    root: Arc<Root>,
    /// FIFREEZE has not answered.
    is_late: bool,
}

/// What became of FITHAW of all of them.
#[derive(Default)]
pub struct Thawed {
    /// Mountpoints, in the order of thawing.
    pub filesystems: Vec<String>,
    /// One line for each that could not be thawed.
    pub failures: Vec<String>,
}

impl Filesystems {
    /// Pairs what was announced with the descriptors that arrived.
    pub fn new(entrusted: &[Entrusted], roots: Vec<OwnedFd>) -> Self {
        let held = |(entrusted, root): (&Entrusted, _)| Held {
            entrusted: entrusted.clone(),
            root: Arc::new(File::from(root).into()),
            is_late: false,
        };
        Self(entrusted.iter().zip(roots).map(held).collect())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Their names and numbers.
    pub fn list(&self) -> Vec<Entrusted> {
        self.0.iter().map(|held| held.entrusted.clone()).collect()
    }

    /// Their roots.
    pub fn roots(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|held| held.root.as_fd())
    }

    /// Takes on the order in which the agent has frozen; what it has not frozen comes first.
    pub fn reorder(&mut self, order: &[usize]) {
        self.0
            .sort_by_key(|held| order.iter().position(|&n| n == held.entrusted.number));
    }

    /// FIFREEZE of the one with this number has not answered.
    pub fn mark_late(&mut self, number: usize) {
        for held in &mut self.0 {
            held.is_late |= held.entrusted.number == number;
        }
    }

    /// Lets all others go.
    pub fn retain_late(&mut self) {
        self.0.retain(|held| held.is_late);
    }

    /// FITHAW of everything, in the reverse of the freeze order.
    pub fn thaw(&mut self) -> Thawed {
        let mut thawed = Thawed::default();
        let mut silent = Vec::new();
        let thaw = |held: &Held| {
            let root = held.root.clone();
            move || fsfreeze::thaw(root.as_ref())
        };
        let calls = self.0.iter().rev().map(thaw);
        let done = Pool::default().run(Pace::OneByOne, FITHAW_TIMEOUT, drop, calls);
        for (held, timed) in self.0.iter().rev().zip(done) {
            if timed.is_overdue() {
                silent.push(held.entrusted.number);
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
        // The call is still out and thaws when it is its turn.
        self.0
            .retain(|held| !silent.contains(&held.entrusted.number));
        thawed
    }
}
