//! A world of filesystems that fails, or ends the agent, at any step it is told to; and the
//! engine driven through every such step.

use super::engine::{Engine, FreezeError};
use super::ops::{OpenError, Ops};
use super::plan::Survey;
use super::report::{Outcome, Report};
use crate::hooks::Phase;
use crate::hooks::master::MasterReport;
use crate::probe::filesystems::Filesystem;
use nix::libc;
use std::cell::RefCell;
use std::io;
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
    frozen: Vec<bool>,
    marker: bool,
    hushed: bool,
    has_hook: bool,
    freeze_hooks: u32,
    thaw_hooks: u32,
    kept: Vec<Report>,
    steps: Vec<String>,
    fault: Option<(usize, Fault)>,
    clock: Duration,
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

    fn failing(self, step: usize, fault: Fault) -> Self {
        self.0.borrow_mut().fault = Some((step, fault));
        self
    }

    /// One operation: `act` happens unless the fault strikes here.
    fn step<R>(&self, name: String, act: impl FnOnce(&mut World) -> R) -> io::Result<R> {
        let mut world = self.0.borrow_mut();
        world.clock += Duration::from_millis(1);
        let number = world.steps.len();
        world.steps.push(name);
        let fault = world
            .fault
            .and_then(|(at, fault)| (at == number).then_some(fault));
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

    fn steps(&self) -> Vec<String> {
        self.0.borrow().steps.clone()
    }
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
            Survey {
                filesystems: world
                    .mountpoints
                    .iter()
                    .enumerate()
                    .map(filesystem)
                    .collect(),
                ..Survey::default()
            }
        })
    }

    fn open(&mut self, filesystem: &Filesystem) -> Result<usize, OpenError> {
        let index = filesystem.minor as usize;
        let name = String::from_utf8_lossy(&filesystem.mountpoint).into_owned();
        self.step(format!("open {name}"), |_| index)
            .map_err(OpenError::Failed)
    }

    fn flush(&mut self, handles: &[&usize]) -> Vec<io::Result<()>> {
        let each = |&&index: &&usize| self.step(format!("flush {index}"), |_| ());
        handles.iter().map(each).collect()
    }

    fn freeze(&mut self, handle: &usize) -> io::Result<()> {
        let name = self.0.borrow().mountpoints[*handle];
        self.step(format!("freeze {name}"), |world| {
            assert!(world.hushed, "the log gate is open during a freeze");
            world.frozen[*handle] = true;
        })
    }

    fn thaw(&mut self, handle: &usize) -> io::Result<()> {
        let name = self.0.borrow().mountpoints[*handle];
        self.step(format!("thaw {name}"), |world| {
            let was = std::mem::take(&mut world.frozen[*handle]);
            if was {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EINVAL))
            }
        })?
    }

    fn call_hooks(&mut self, phase: Phase) -> Option<MasterReport> {
        if !self.0.borrow().has_hook {
            return None;
        }
        let result = self.step(format!("hooks {}", phase.as_str()), |world| {
            assert!(!world.hushed, "hooks run while the log gate is shut");
            assert!(
                !world.frozen.contains(&true),
                "hooks run while something is frozen"
            );
        });
        match phase {
            Phase::Freeze => self.0.borrow_mut().freeze_hooks += 1,
            Phase::Thaw => self.0.borrow_mut().thaw_hooks += 1,
        }
        let failure = result.err().map(text);
        Some(MasterReport {
            failure,
            hooks: Vec::new(),
            elapsed: Duration::ZERO,
        })
    }

    fn mark_frozen(&mut self) -> Result<(), String> {
        self.step("mark".into(), |world| world.marker = true)
            .map_err(text)
    }

    fn mark_thawed(&mut self) -> Result<(), String> {
        self.step("unmark".into(), |world| world.marker = false)
            .map_err(text)
    }

    fn hush(&mut self) {
        self.0.borrow_mut().hushed = true;
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

    fn keep(&mut self, report: &Report) -> Result<(), String> {
        self.step("keep".into(), |world| world.kept.push(report.clone()))
            .map_err(text)
    }
}

const MOUNTS: [&str; 3] = ["/", "/data", "/data/inner"];

#[test]
fn the_whole_transaction_in_order() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = Engine::new(world.clone(), false);
    assert_eq!(engine.freeze(None), Ok(3));
    assert!(engine.is_frozen() && world.0.borrow().marker);
    assert_eq!(engine.thaw(), Ok(3));
    assert!(!engine.is_frozen() && !world.0.borrow().marker && !world.0.borrow().hushed);
    let steps = world.steps();
    let expected = [
        "survey",
        "open /data/inner",
        "open /data",
        "open /",
        "flush 2",
        "flush 1",
        "flush 0",
        "hooks freeze",
        "flush 2",
        "flush 1",
        "flush 0",
        "mark",
        "freeze /data/inner",
        "freeze /data",
        "freeze /",
        "thaw /",
        "thaw /data",
        "thaw /data/inner",
        "unmark",
        "hooks thaw",
        "keep",
    ];
    assert_eq!(steps, expected);
    let report = &world.0.borrow().kept[0];
    assert!(
        report
            .filesystems
            .iter()
            .all(|f| f.outcome == Outcome::Thawed),
        "{report:?}"
    );
    assert_eq!(report.errors, [] as [String; 0]);
}

#[test]
fn a_list_freezes_what_it_names_and_nothing_at_all_runs_no_hook() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = Engine::new(world.clone(), false);
    assert_eq!(
        engine.freeze(Some(&[b"/data".to_vec(), b"/zzz".to_vec()])),
        Ok(1)
    );
    assert_eq!(world.0.borrow().frozen, [false, true, false]);
    assert_eq!(engine.thaw(), Ok(1));
    assert_eq!(engine.freeze(Some(&[])), Ok(0));
    assert!(!engine.is_frozen());
    let world = world.0.borrow();
    assert_eq!((world.freeze_hooks, world.thaw_hooks), (1, 1));
}

#[test]
fn what_cannot_freeze_is_left_out_and_hooks_are_thawed_if_nothing_froze() {
    for code in [libc::EOPNOTSUPP, libc::EBUSY] {
        let world = Simulator::new(&["/only"]).failing(6, Fault::Errno(code));
        let mut engine = Engine::new(world.clone(), false);
        assert_eq!(engine.freeze(None), Ok(0), "{:?}", world.steps());
        assert_eq!(world.steps()[6], "freeze /only");
        assert!(!engine.is_frozen());
        let world = world.0.borrow();
        assert_eq!((world.freeze_hooks, world.thaw_hooks), (1, 1));
        assert_eq!(world.kept[0].filesystems[0].outcome, Outcome::Skipped);
    }
}

#[test]
fn a_thaw_without_a_freeze_runs_no_hook_but_frees_what_others_froze() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = Engine::new(world.clone(), false);
    assert_eq!(engine.thaw(), Ok(0));
    world.0.borrow_mut().frozen[1] = true;
    assert_eq!(engine.thaw(), Ok(1));
    let world = world.0.borrow();
    assert_eq!(
        (world.freeze_hooks, world.thaw_hooks, world.frozen[1]),
        (0, 0, false)
    );
}

#[test]
fn a_filesystem_thawed_by_others_is_not_counted() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = Engine::new(world.clone(), false);
    assert_eq!(engine.freeze(None), Ok(3));
    world.0.borrow_mut().frozen[2] = false;
    assert_eq!(engine.thaw(), Ok(2));
    assert_eq!(
        world.0.borrow().kept[0].filesystems[0].outcome,
        Outcome::ThawedByOthers
    );
}

#[test]
fn a_successor_inherits_the_freeze() {
    let world = Simulator::new(&MOUNTS);
    assert_eq!(Engine::new(world.clone(), false).freeze(None), Ok(3));
    let marker = world.0.borrow().marker;
    let mut successor = Engine::new(world.clone(), marker);
    assert!(successor.is_frozen());
    assert!(successor.freeze(None).is_err());
    assert_eq!(successor.thaw(), Ok(3));
    let world = world.0.borrow();
    assert_eq!(
        (world.freeze_hooks, world.thaw_hooks, world.marker),
        (1, 1, false)
    );
}

/// Every operation fails in turn, while freezing and while thawing.
#[test]
fn whatever_fails_nothing_stays_frozen_and_every_hook_is_thawed_once() {
    let whole = {
        let world = Simulator::new(&MOUNTS);
        let mut engine = Engine::new(world.clone(), false);
        engine.freeze(None).and_then(|_| engine.thaw()).unwrap();
        world.steps().len()
    };
    for step in 0..whole {
        for code in [libc::EIO, libc::EPERM, libc::ENOSPC, libc::ENOENT] {
            let world = Simulator::new(&MOUNTS).failing(step, Fault::Errno(code));
            let mut engine = Engine::new(world.clone(), false);
            let frozen = engine.freeze(None);
            let name = world.steps()[step.min(world.steps().len() - 1)].clone();
            let at = format!("step {step} ({name}), errno {code}: {frozen:?}");
            if let Err(FreezeError(error)) = &frozen {
                assert!(!engine.is_frozen(), "{at}");
                assert!(!world.0.borrow().frozen.contains(&true), "{at}");
                assert!(!world.0.borrow().kept.is_empty(), "{at}");
                let culprit = name.rsplit(' ').next().unwrap();
                if name.starts_with("freeze") || name.starts_with("open") {
                    assert!(error.contains(&format!("{culprit}:")), "{at}");
                }
            } else {
                let thawed = engine.thaw();
                if engine.is_frozen() {
                    // The FITHAW that failed is named, and asking again mends it.
                    assert!(
                        thawed.unwrap_err().0.starts_with("failed to thaw /"),
                        "{at}"
                    );
                    assert_eq!(engine.thaw(), Ok(1), "{at}");
                }
            }
            let struck = world.steps()[step].clone();
            let world = world.0.borrow();
            assert!(!world.frozen.contains(&true), "{at}");
            assert!(!world.hushed, "{at}");
            assert_eq!(world.freeze_hooks, world.thaw_hooks, "{at}");
            if struck != "unmark" {
                assert!(!world.marker, "{at}");
            }
        }
    }
}

/// The agent dies at every step; its successor thaws.
#[test]
fn whenever_the_agent_dies_its_successor_can_thaw() {
    for fault in [Fault::Death, Fault::DeathAfter] {
        for step in 0.. {
            let world = Simulator::new(&MOUNTS).failing(step, fault);
            let mut engine = Engine::new(world.clone(), false);
            let run = catch_unwind(AssertUnwindSafe(|| {
                engine.freeze(None).and_then(|_| engine.thaw())
            }));
            if run.is_ok() {
                assert!(step > 20, "the fault struck at every step");
                break;
            }
            let at = format!("{fault:?} at {}", world.steps()[step]);
            world.0.borrow_mut().hushed = false;
            let marker = world.0.borrow().marker;
            assert!(marker || !world.0.borrow().frozen.contains(&true), "{at}");
            let mut successor = Engine::new(world.clone(), marker);
            successor.thaw().unwrap();
            let world = world.0.borrow();
            assert!(!world.frozen.contains(&true) && !world.marker, "{at}");
        }
    }
}
