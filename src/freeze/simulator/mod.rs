//! A world of filesystems that fails, or ends the agent, at any step it is told to; and the
//! engine driven through every such step.

mod tests;

use crate::freeze::engine::{Engine, FreezeError};
use crate::freeze::guardian::machine::{Action, Event, Machine};
use crate::freeze::guardian::{Claim, Order};
use crate::freeze::ops::{OpenError, Ops, Timed};
use crate::freeze::plan::{Details, Survey, Target, Under};
use crate::freeze::policy::{Limits, Mode, Pattern, Policy};
use crate::freeze::report::{End, Outcome, Report};
use crate::hooks::master::MasterReport;
use crate::hooks::memory::Run;
use crate::hooks::{Phase, ThawReason};
use crate::probe::filesystems::Filesystem;
use crate::state::Expiry;
use nix::libc;
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
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
    /// What stands on what: above, below.
    under: Vec<(usize, usize)>,
    frozen: Vec<bool>,
    marker: bool,
    hushed: bool,
    has_hook: bool,
    /// The hook master asks that nothing be frozen.
    leaves_filesystems: bool,
    freeze_hooks: u32,
    thaw_hooks: u32,
    kept: Vec<Report>,
    guardian: Option<Machine>,
    entrusted: Vec<usize>,
    /// The run as the guardian was told of it.
    told: Option<Report>,
    /// The guardian's last word.
    ended: Option<Expiry>,
    /// What the next thaw must hear.
    expired: Option<Expiry>,
    steps: Vec<String>,
    fault: Option<(usize, Fault)>,
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
        if let Event::Order(Order::Frozen { report, .. }) = &event {
            self.told = Some((**report).clone());
        }
        let actions = self
            .guardian
            .as_mut()
            .map(|g| g.on(event))
            .unwrap_or_default();
        for action in actions {
            match action {
                Action::Yield => {}
                Action::Undo { hooks, tell, .. } => {
                    for &index in &self.entrusted {
                        self.frozen[index] = false;
                    }
                    self.marker = false;
                    self.thaw_hooks += u32::from(hooks && self.has_hook);
                    self.ended = Some(expiry());
                    self.expired = tell.then(expiry);
                    self.kept.extend(self.told.take().map(|mut report| {
                        report.errors.push(GUARDIANS.into());
                        report.end(End::Expiry);
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

    /// Two levels: what stands on another, and beside it one that does not; then the two others.
    fn stacked() -> Self {
        let this = Self::new(&["/", "/data", "/data/loop", "/srv"]);
        this.0.borrow_mut().under = vec![(2, 1)];
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
    ) -> Vec<Timed> {
        let turn = self.0.borrow().turn;
        let mut done: Vec<Option<Timed>> = handles.iter().map(|_| None).collect();
        for place in permutation(handles.len(), turn) {
            let index = *handles[place];
            let name = self.0.borrow().mountpoints[index];
            let result = self.step(format!("{what} {name}"), |world| act(world, index));
            let result = result.and_then(|inner| inner);
            let took = Duration::from_millis(1);
            done[place] = Some(Timed { result, took });
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

fn text(e: io::Error) -> String {
    crate::sys::strerror(&e)
}

impl Ops for Simulator {
    type Handle = usize;

    fn survey(&mut self) -> io::Result<Survey> {
        self.step("survey".into(), |world| {
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
                let under = |&(_, below): &(usize, usize)| Under {
                    device: (8, below as u32),
                    certain: true,
                };
                let details = Details {
                    under: world.under.iter().filter(of).map(under).collect(),
                    ..Details::default()
                };
                (filesystem.device(), details)
            };
            Survey {
                details: filesystems.iter().map(details).collect(),
                filesystems,
                ..Survey::default()
            }
        })
    }

    fn open(&mut self, target: &Target) -> Result<usize, OpenError> {
        let filesystem = &target.filesystem;
        let index = filesystem.minor as usize;
        let name = String::from_utf8_lossy(&filesystem.mountpoint).into_owned();
        self.step(format!("open {name}"), |_| index)
            .map_err(OpenError::Failed)
    }

    fn flush(&mut self, handles: &[&usize]) -> Vec<io::Result<()>> {
        let each = |&&index: &&usize| self.step(format!("flush {index}"), |_| ());
        handles.iter().map(each).collect()
    }

    fn freeze(&mut self, handles: &[&usize]) -> Vec<Timed> {
        assert!(handles.len() <= self.0.borrow().at_once, "too many at once");
        self.side_by_side("freeze", handles, |world, index| {
            assert!(world.hushed, "the log gate is open during a freeze");
            for &(above, below) in &world.under {
                assert!(
                    above != index || !world.frozen[below],
                    "frozen after what it stands on"
                );
            }
            world.frozen[index] = true;
            Ok(())
        })
    }

    fn thaw(&mut self, handles: &[&usize]) -> Vec<Timed> {
        self.side_by_side("thaw", handles, |world, index| {
            if std::mem::take(&mut world.frozen[index]) {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EINVAL))
            }
        })
    }

    fn call_hooks(
        &mut self,
        phase: Phase,
        reason: Option<ThawReason>,
        _: &Run,
    ) -> Option<MasterReport> {
        if !self.0.borrow().has_hook {
            return None;
        }
        assert_eq!(reason.is_some(), phase == Phase::Thaw);
        let count = |world: &mut World| match phase {
            Phase::Freeze => world.freeze_hooks += 1,
            Phase::Thaw => {
                world.thaw_hooks += 1;
                world.guardian_sees(Event::Order(Order::HooksThawed));
            }
        };
        let result = self.step(format!("hooks {}", phase.as_str()), |world| {
            assert!(!world.hushed, "hooks run while the log gate is shut");
            assert!(
                !world.frozen.contains(&true),
                "hooks run while something is frozen"
            );
            count(world);
        });
        if result.is_err() {
            // It ran, and failed.
            count(&mut self.0.borrow_mut());
        }
        let failure = result.err().map(text);
        Some(MasterReport {
            failure,
            hooks: Vec::new(),
            elapsed: Duration::ZERO,
            leaves_filesystems: self.0.borrow().leaves_filesystems,
            is_ours: false,
        })
    }

    fn stand_guard(&mut self, held: &[(&usize, &str, usize)]) -> Result<(), String> {
        self.step("guard".into(), |world| {
            world.guardian = Some(Machine::default());
            world.entrusted = held.iter().map(|&(&index, ..)| index).collect();
        })
        .map_err(text)
    }

    fn find_guardian(&mut self) {}

    fn tell_guardian(&mut self, order: Order) {
        if self.0.borrow().guardian.is_none() {
            return;
        }
        let name = match &order {
            Order::Frozen { limit_ms, .. } => format!("tell Frozen {limit_ms:?}"),
            other => format!("tell {other:?}"),
        };
        let told = self.step(name, |world| {
            world.guardian_sees(Event::Order(order));
        });
        if told.is_err() {
            self.0.borrow_mut().guardian = None;
        }
    }

    fn claim(&mut self) -> Claim {
        if let Some(expiry) = self.0.borrow_mut().ended.take() {
            return Claim::Ended(expiry);
        }
        self.tell_guardian(Order::Claim);
        Claim::Ours(None)
    }

    fn hear_guardian(&mut self) -> Option<Expiry> {
        self.0.borrow_mut().ended.take()
    }

    fn dismiss_guardian(&mut self) {
        self.tell_guardian(Order::Done);
        self.0.borrow_mut().guardian = None;
    }

    fn guardian_line(&self) -> Option<OwnedFd> {
        None
    }

    fn mark_expired(&mut self, expiry: &Expiry) -> Result<(), String> {
        let expiry = expiry.clone();
        self.step("mark expired".into(), |world| world.expired = Some(expiry))
            .map_err(text)
    }

    fn take_expired(&mut self) -> Option<Expiry> {
        self.0.borrow_mut().expired.take()
    }

    fn mark_frozen(&mut self) -> Result<(), String> {
        self.step("mark".into(), |world| world.marker = true)
            .map_err(text)
    }

    fn mark_thawed(&mut self) -> Result<(), String> {
        self.step("unmark".into(), |world| world.marker = false)
            .map_err(text)
    }

    fn hush(&mut self, at_once: usize) {
        let mut world = self.0.borrow_mut();
        world.hushed = true;
        world.at_once = at_once;
    }

    fn speak(&mut self) {
        let mut world = self.0.borrow_mut();
        assert!(
            !world.frozen.contains(&true),
            "logging while something is frozen"
        );
        world.hushed = false;
    }

    fn now(&mut self) -> Duration {
        self.0.borrow().clock
    }

    fn wall_clock(&mut self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.borrow().clock
    }

    fn reports(&mut self) -> Vec<Report> {
        self.0.borrow().kept.iter().rev().cloned().collect()
    }

    fn keep(&mut self, report: &Report) -> Result<(), String> {
        self.step("keep".into(), |world| world.kept.push(report.clone()))
            .map_err(text)
    }
}
