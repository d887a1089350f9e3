//! A simulated system for the engine, whose operations fail, or end the agent, at any chosen step.
//!
//! [`Simulator`] asserts the rules that hold at every step: nothing is logged and no hook runs while something is
//! frozen. `tests` drives the engine through every fault at every step; `parties` simulates agent, guardian, hook
//! master and host together.

mod ops;
mod parties;
mod tests;

use crate::deadline::Timed;
use crate::freeze::FreezeError;
use crate::freeze::engine::Engine;
use crate::freeze::guardian::state::{Action, Event, GuardianState, Hooks};
use crate::freeze::guardian::{Claim, Entrusted, Inherited, PROTOCOL_VERSION, Request};
use crate::freeze::ops::{
    FilesystemOps, FreezeWait, GuardianNews, GuardianOps, HeldFilesystem, HookOps, Legacy,
    OpenError, SnapshotOps, StateOps, SystemOps,
};
use crate::freeze::plan::{Details, Survey, Target};
use crate::freeze::policy::{FreezeLimits, FreezeMode, FreezePolicy, Pattern};
use crate::freeze::report::{FilesystemOutcome, Report, RunEnd};
use crate::freeze::snapshot::SnapshotState;
use crate::hooks::invoke::MasterReport;
use crate::hooks::journal::RunInfo;
use crate::hooks::{HookRecord, HookStatus, Phase, ThawReason};
use crate::probe::filesystems::Filesystem;
use crate::state::{Expiry, Marker, StateError};
use crate::sys::guardian::SocketPath;
use nix::libc;
use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Errno(i32),
    /// Before the operation.
    Death,
    /// Right after the operation.
    DeathAfter,
}

#[derive(Debug, Default)]
struct World {
    mountpoints: Vec<&'static str>,
    /// What the plan knows: above, below.
    under: Vec<(usize, usize)>,
    hidden_dependencies: Vec<(usize, usize)>,
    on_hardware: Vec<usize>,
    /// Their FIFREEZE waits, because it writes to a frozen one.
    blocked: Vec<usize>,
    /// Their FIFREEZE had not returned at the last wait; in the order of the batch.
    late: Vec<usize>,
    mounted_by_hooks: Option<&'static str>,
    /// Dirty bytes before each flush in turn; the last value stays.
    dirty: Vec<Option<u64>>,
    rcu_expedited: bool,
    frozen: Vec<bool>,
    marker: bool,
    /// What the snapshot file says; `None`: there is none.
    snapshot: Option<SnapshotState>,
    in_frozen_section: bool,
    has_hook: bool,
    /// The hook master asks that no filesystem be frozen.
    leaves_filesystems: bool,
    freeze_hooks: u32,
    thaw_hooks: u32,
    kept: Vec<Report>,
    guardian: Option<GuardianState>,
    entrusted: Vec<usize>,
    /// In the guardian's hands.
    reported: Option<Report>,
    /// Until the agent reads it.
    ended: Option<Expiry>,
    expired: Option<Expiry>,
    /// Its file cannot be removed.
    keeps_expired: bool,
    steps: Vec<String>,
    fault: Option<(usize, Fault)>,
    /// After so many operations.
    stops_at: Option<usize>,
    /// Names of operations that fail, once each.
    refusals: Vec<(String, i32)>,
    /// Number of the permutation in which parallel operations end.
    turn: usize,
    /// As given to `enter_frozen_section`.
    at_once: usize,
    clock: Duration,
}

impl World {
    fn apply_guardian_event(&mut self, event: Event) {
        if let Event::Request(Request::Frozen { report, .. }) = &event {
            self.reported = Some((**report).clone());
        }
        let actions = self
            .guardian
            .as_mut()
            .map(|g| g.apply(event, None))
            .unwrap_or_default();
        for action in actions {
            match action {
                Action::Yield | Action::Await | Action::HandOver => {}
                Action::Undo {
                    hooks,
                    reports_early_end,
                    ..
                } => {
                    self.rcu_expedited = false;
                    for &index in &self.entrusted {
                        self.frozen[index] = false;
                    }
                    self.marker = false;
                    if self.snapshot == Some(SnapshotState::Frozen) {
                        self.snapshot = Some(SnapshotState::Finished);
                    }
                    self.thaw_hooks += u32::from(hooks == Hooks::Frozen && self.has_hook);
                    self.ended = Some(expiry());
                    self.expired = reports_early_end.then(expiry);
                    self.kept.extend(self.reported.take().map(|mut report| {
                        report.errors.push(GUARDIANS.into());
                        report.end(RunEnd::Expiry);
                        report
                    }));
                }
                Action::Leave => self.guardian = None,
                // Every call returns at once here, so none is pending at the end of a run.
                Action::Retire | Action::TakeBack => unreachable!("{action:?}"),
            }
        }
    }
}

/// An error that only the guardian writes into a report.
const GUARDIANS: &str = "kept by the guardian";

fn expiry() -> Expiry {
    Expiry {
        when: 0.0,
        held: 900.0,
        reason: "of the test".into(),
        count: 3,
    }
}

struct Died;

#[derive(Clone, Default)]
struct Simulator(Rc<RefCell<World>>);

impl Simulator {
    fn new(mountpoints: &[&'static str]) -> Self {
        let this = Self::default();
        {
            let mut world = this.0.borrow_mut();
            world.mountpoints = mountpoints.to_vec();
            world.frozen = vec![false; mountpoints.len()];
            world.has_hook = true;
        }
        this
    }

    /// Two filesystems on hardware, then one that depends on another, then that, then the root.
    fn stacked() -> Self {
        let this = Self::new(&["/", "/data", "/data/loop", "/srv", "/opt"]);
        {
            let mut world = this.0.borrow_mut();
            world.under = vec![(2, 1)];
            world.on_hardware = vec![0, 1, 3, 4];
        }
        this
    }

    fn in_turn(self, turn: usize) -> Self {
        self.0.borrow_mut().turn = turn;
        self
    }

    fn with_hooks_only(self, hooks_only: bool) -> Self {
        self.0.borrow_mut().leaves_filesystems = hooks_only;
        self
    }

    fn refusing(self, refusals: Vec<(String, i32)>) -> Self {
        self.0.borrow_mut().refusals = refusals;
        self
    }

    fn failing(self, step: usize, fault: Fault) -> Self {
        self.0.borrow_mut().fault = Some((step, fault));
        self
    }

    /// `act` happens unless the fault is for this step.
    fn step<R>(&self, name: String, act: impl FnOnce(&mut World) -> R) -> io::Result<R> {
        let mut world = self.0.borrow_mut();
        world.clock += Duration::from_millis(1);
        let number = world.steps.len();
        let refusal = world.refusals.iter().position(|(at, _)| *at == name);
        let refusal = refusal.map(|index| Fault::Errno(world.refusals.remove(index).1));
        world.steps.push(name);
        let fault = world
            .fault
            .and_then(|(at, fault)| (at == number).then_some(fault))
            .or(refusal);
        match fault {
            Some(Fault::Errno(code)) => Err(io::Error::from_raw_os_error(code)),
            Some(Fault::Death) => {
                drop(world);
                resume_unwind(Box::new(Died))
            }
            Some(Fault::DeathAfter) => {
                act(&mut world);
                drop(world);
                resume_unwind(Box::new(Died))
            }
            None => Ok(act(&mut world)),
        }
    }

    /// In the order of the world's permutation.
    fn in_parallel(
        &self,
        what: &str,
        handles: &[&usize],
        act: fn(&mut World, usize) -> io::Result<()>,
    ) -> Vec<io::Result<()>> {
        let turn = self.0.borrow().turn;
        let mut done: Vec<Option<io::Result<()>>> = handles.iter().map(|_| None).collect();
        for place in permutation(handles.len(), turn) {
            let index = *handles[place];
            let name = self.0.borrow().mountpoints[index];
            let result = self.step(format!("{what} {name}"), |world| act(world, index));
            done[place] = Some(result.and_then(|inner| inner));
        }
        done.into_iter().flatten().collect()
    }

    fn steps(&self) -> Vec<String> {
        self.0.borrow().steps.clone()
    }
}

/// Of `count` factorial; 0 is the sorted one.
fn permutation(count: usize, number: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..count).collect();
    let mut number = number;
    let mut order = Vec::with_capacity(count);
    while !left.is_empty() {
        let pick = number % left.len();
        number /= left.len();
        order.push(left.remove(pick));
    }
    order
}

fn timed(result: io::Result<()>) -> Timed {
    let took = Duration::from_millis(1);
    Timed { result, took }
}

fn state_error(error: io::Error) -> StateError {
    StateError {
        text: crate::sys::strerror(&error),
    }
}

fn survey_of(world: &mut World) -> Survey {
    let filesystem = |(index, name): (usize, &&str)| Filesystem {
        mountpoint: name.as_bytes().to_vec(),
        fstype: "ext4".into(),
        major: 8,
        minor: index as u32,
        mount_id: index as u64,
    };
    let filesystems: Vec<Filesystem> = world
        .mountpoints
        .iter()
        .enumerate()
        .map(filesystem)
        .collect();
    let details = |filesystem: &Filesystem| {
        let of = |&&(above, _): &&(usize, usize)| above == filesystem.minor as usize;
        let under = |&(_, below): &(usize, usize)| (8, below as u32);
        let details = Details {
            depends_on_devices: world.under.iter().filter(of).map(under).collect(),
            is_on_hardware: world.on_hardware.contains(&(filesystem.minor as usize)),
            ..Details::default()
        };
        (filesystem.device(), details)
    };
    Survey {
        details: filesystems.iter().map(details).collect(),
        filesystems,
        ..Survey::default()
    }
}

impl World {
    fn waits_for_frozen(&self, index: usize) -> bool {
        let bases = self
            .hidden_dependencies
            .iter()
            .filter(|(above, _)| *above == index);
        bases.into_iter().any(|&(_, below)| self.frozen[below])
    }

    fn resume_blocked(&mut self) {
        while let Some(place) = self.blocked.iter().position(|&i| !self.waits_for_frozen(i)) {
            let index = self.blocked.remove(place);
            self.frozen[index] = true;
        }
    }
}
