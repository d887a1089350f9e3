//! A world of filesystems that fails, or ends the agent, at any step it is told to; and the
//! engine driven through every such step.

mod ops;
mod parties;
mod tests;

use crate::deadline::Timed;
use crate::freeze::engine::{Engine, FreezeError};
use crate::freeze::guardian::state::{Action, Event, GuardianState, Hooks};
use crate::freeze::guardian::{Claim, Entrusted, Inherited, PROTOCOL_VERSION, Request};
use crate::freeze::ops::{FreezeWait, GuardianNews, HeldFilesystem, Legacy, OpenError, Ops};
use crate::freeze::plan::{Details, Survey, Target};
use crate::freeze::policy::{FreezeLimits, FreezeMode, FreezePolicy, Pattern};
use crate::freeze::report::{FilesystemOutcome, Report, RunEnd};
use crate::hooks::invoke::MasterReport;
use crate::hooks::journal::RunInfo;
use crate::hooks::{HookRecord, HookStatus, Phase, ThawReason};
use crate::probe::filesystems::Filesystem;
use crate::state::{Expiry, Marker};
use crate::sys::guardian::SocketPath;
use nix::libc;
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// What happens at the chosen step.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The operation answers this errno.
    Errno(i32),
    /// The agent dies before the operation.
    Death,
    /// The agent dies right after it.
    DeathAfter,
}

#[derive(Debug, Default)]
struct World {
    mountpoints: Vec<&'static str>,
    /// What stands on what, as the plan knows it: above, below.
    under: Vec<(usize, usize)>,
    /// The same, as nobody knows it.
    hidden: Vec<(usize, usize)>,
    /// These are on hardware.
    on_hardware: Vec<usize>,
    /// What FIFREEZE has been asked for and waits, for it writes to what is frozen.
    blocked: Vec<usize>,
    /// What had not answered when it was last looked at, in the order of the batch.
    late: Vec<usize>,
    /// The hooks mount this.
    mounted_by_hooks: Option<&'static str>,
    /// Bytes that are dirty, before each flush in turn; the last stays.
    dirty: Vec<Option<u64>>,
    rcu_expedited: bool,
    frozen: Vec<bool>,
    marker: bool,
    hushed: bool,
    has_hook: bool,
    /// The hook master asks that nothing be frozen.
    leaves_filesystems: bool,
    freeze_hooks: u32,
    thaw_hooks: u32,
    kept: Vec<Report>,
    guardian: Option<GuardianState>,
    entrusted: Vec<usize>,
    /// The run as the guardian was told of it.
    told: Option<Report>,
    /// The guardian's last word.
    ended: Option<Expiry>,
    /// What the next thaw must hear.
    expired: Option<Expiry>,
    steps: Vec<String>,
    fault: Option<(usize, Fault)>,
    /// The agent is asked to stop after so many operations.
    stops_at: Option<usize>,
    /// Operations that answer an errno, once each, by their names.
    refusals: Vec<(String, i32)>,
    /// In which order what is done side by side comes to its end: the number of a permutation.
    turn: usize,
    /// How many may be frozen or thawed at once.
    at_once: usize,
    clock: Duration,
}

impl World {
    /// Something happens to the guardian, if there is one.
    fn guardian_sees(&mut self, event: Event) {
        if let Event::Request(Request::Frozen { report, .. }) = &event {
            self.told = Some((**report).clone());
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
                    reports_early_end: tell,
                    ..
                } => {
                    self.rcu_expedited = false;
                    for &index in &self.entrusted {
                        self.frozen[index] = false;
                    }
                    self.marker = false;
                    self.thaw_hooks += u32::from(hooks == Hooks::Frozen && self.has_hook);
                    self.ended = Some(expiry());
                    self.expired = tell.then(expiry);
                    self.kept.extend(self.told.take().map(|mut report| {
                        report.errors.push(GUARDIANS.into());
                        report.end(RunEnd::Expiry);
                        report
                    }));
                }
                Action::Leave => self.guardian = None,
                // Calls answer at once here, so that none is still out at the end of a run.
                Action::Retire | Action::TakeBack => unreachable!("{action:?}"),
            }
        }
    }
}

/// What only the guardian writes into a report.
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

    /// A pair on hardware, then one that stands on another, then that, then the root.
    fn stacked() -> Self {
        let this = Self::new(&["/", "/data", "/data/loop", "/srv", "/opt"]);
        {
            let mut world = this.0.borrow_mut();
            world.under = vec![(2, 1)];
            world.on_hardware = vec![0, 1, 3, 4];
        }
        this
    }

    /// What is done side by side ends in that order.
    fn in_turn(self, turn: usize) -> Self {
        self.0.borrow_mut().turn = turn;
        self
    }

    /// The hook master asks that nothing be frozen, if `leaves`.
    fn leaving(self, leaves: bool) -> Self {
        self.0.borrow_mut().leaves_filesystems = leaves;
        self
    }

    /// The operations of these names fail.
    fn refusing(self, refusals: Vec<(String, i32)>) -> Self {
        self.0.borrow_mut().refusals = refusals;
        self
    }

    fn failing(self, step: usize, fault: Fault) -> Self {
        self.0.borrow_mut().fault = Some((step, fault));
        self
    }

    /// One operation: `act` happens unless the fault strikes here.
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

    /// One step for each, in the order of the world's turn.
    fn side_by_side(
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

/// The numbers below `count` in one of their orders, of which there are as many as `count` factorial; 0 is the usual one.
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

fn text(e: io::Error) -> String {
    crate::sys::strerror(&e)
}

/// What the plan sees of the world.
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
            under: world.under.iter().filter(of).map(under).collect(),
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
    /// Whether FIFREEZE of it writes to what is frozen.
    fn is_held_up(&self, index: usize) -> bool {
        let bases = self.hidden.iter().filter(|(above, _)| *above == index);
        bases.into_iter().any(|&(_, below)| self.frozen[below])
    }

    /// What was held up goes on where it can.
    fn go_on(&mut self) {
        while let Some(place) = self.blocked.iter().position(|&i| !self.is_held_up(i)) {
            let index = self.blocked.remove(place);
            self.frozen[index] = true;
        }
    }
}
