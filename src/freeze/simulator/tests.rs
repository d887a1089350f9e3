//! The engine, driven through every fault at every step.

mod order;
mod rounds;

use super::*;
use crate::freeze::report::Level;

const LIMIT: Option<Duration> = Some(Duration::from_secs(900));
fn engine_of(world: &Simulator, inherited: bool, hold: Option<Duration>) -> Engine<Simulator> {
    with_policy(world, inherited, hold, FreezePolicy::default())
}

fn with_policy(
    world: &Simulator,
    inherited: bool,
    hold: Option<Duration>,
    policy: FreezePolicy,
) -> Engine<Simulator> {
    let limits = FreezeLimits {
        hold,
        ..FreezeLimits::default()
    };
    Engine::new(world.clone(), inherited, policy, limits)
}

const MOUNTS: [&str; 3] = ["/", "/data", "/data/inner"];

#[test]
fn the_whole_transaction_in_order() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 3);
    assert!(engine.is_frozen() && world.0.borrow().marker);
    assert_eq!(engine.thaw().unwrap(), 3);
    assert!(!engine.is_frozen() && !world.0.borrow().marker && !world.0.borrow().in_frozen_section);
    assert!(
        world.0.borrow().kept.is_empty(),
        "the answer does not wait for it"
    );
    engine.conclude();
    let steps = world.steps();
    let expected = [
        "guard",
        "survey",
        "open /data/inner",
        "open /data",
        "open /",
        "flush 2",
        "flush 1",
        "flush 0",
        "await guardian",
        "hooks freeze",
        "survey again",
        "open /data/inner",
        "open /data",
        "open /",
        "write snapshot",
        "flush 2",
        "flush 1",
        "flush 0",
        "entrust",
        "mark",
        "expedite",
        "freeze /data/inner",
        "freeze /data",
        "freeze /",
        "restore",
        "tell Frozen",
        "tell Claim",
        "thaw /",
        "thaw /data",
        "thaw /data/inner",
        "unmark",
        "withdraw snapshot",
        "hooks thaw",
        "tell Done",
        "keep",
        "finish snapshot",
    ];
    assert_eq!(steps, expected);
    let report = &world.0.borrow().kept[0];
    assert!(
        report
            .filesystems
            .iter()
            .all(|f| f.outcome == FilesystemOutcome::Thawed),
        "{report:?}"
    );
    assert_eq!(report.errors, [] as [String; 0]);
}

#[test]
fn a_list_freezes_what_it_names_and_nothing_at_all_runs_no_hook() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(
        engine
            .freeze(Some(&[b"/data".to_vec(), b"/zzz".to_vec()]))
            .unwrap(),
        1
    );
    assert_eq!(world.0.borrow().frozen, [false, true, false]);
    assert_eq!(engine.thaw().unwrap(), 1);
    assert_eq!(engine.freeze(Some(&[])).unwrap(), 0);
    assert!(!engine.is_frozen());
    let world = world.0.borrow();
    assert_eq!((world.freeze_hooks, world.thaw_hooks), (1, 1));
}

#[test]
fn what_cannot_freeze_is_left_out_and_hooks_are_thawed_if_nothing_froze() {
    for code in [libc::EOPNOTSUPP, libc::EBUSY] {
        let world = Simulator::new(&["/only"]).refusing(vec![("freeze /only".into(), code)]);
        let as_original = FreezePolicy {
            ignore_frozen: true,
            ..FreezePolicy::default()
        };
        let mut engine = with_policy(&world, false, LIMIT, as_original);
        assert_eq!(engine.freeze(None).unwrap(), 0, "{:?}", world.steps());
        engine.conclude();
        assert!(!engine.is_frozen());
        let world = world.0.borrow();
        assert_eq!((world.freeze_hooks, world.thaw_hooks), (1, 1));
        assert_eq!(
            world.kept[0].filesystems[0].outcome,
            FilesystemOutcome::Skipped
        );
        assert!(world.guardian.is_none());
    }
}

#[test]
fn a_stranger_s_freeze_and_in_strict_mode_any_refusal_fails_the_run() {
    let strict = FreezePolicy {
        strict: true,
        ..FreezePolicy::default()
    };
    for (policy, code) in [
        (FreezePolicy::default(), libc::EBUSY),
        (strict, libc::EOPNOTSUPP),
    ] {
        let world = Simulator::new(&MOUNTS).refusing(vec![("freeze /data".into(), code)]);
        let mut engine = with_policy(&world, false, LIMIT, policy);
        let error = engine.freeze(None).unwrap_err().to_string();
        assert!(error.starts_with("failed to freeze /data: "), "{error}");
        assert!(!world.0.borrow().frozen.contains(&true));
    }
}

#[test]
fn what_is_optional_may_fail() {
    let refusals = [
        vec![("open /data", libc::ENOENT); 2],
        vec![("freeze /data", libc::EIO)],
    ];
    for refusals in refusals {
        let own = |(name, code): (&str, i32)| (name.to_owned(), code);
        let world = Simulator::new(&MOUNTS).refusing(refusals.into_iter().map(own).collect());
        let policy = FreezePolicy {
            optional: vec![Pattern::parse("/data").unwrap()],
            ..FreezePolicy::default()
        };
        let mut engine = with_policy(&world, false, LIMIT, policy);
        assert_eq!(engine.freeze(None).unwrap(), 2);
        assert_eq!(engine.thaw().unwrap(), 2);
        engine.conclude();
        let world = world.0.borrow();
        let report = &world.kept[0];
        assert_eq!(report.filesystems[1].outcome, FilesystemOutcome::Skipped);
        assert_eq!(report.errors.len(), 1, "told once");
    }
}

#[test]
fn with_hooks_only_the_applications_are_held_until_the_thaw() {
    let world = Simulator::new(&MOUNTS);
    let policy = FreezePolicy {
        freeze: FreezeMode::HooksOnly,
        ..FreezePolicy::default()
    };
    let mut engine = with_policy(&world, false, LIMIT, policy);
    assert_eq!(engine.freeze(None).unwrap(), 0);
    assert!(engine.is_frozen());
    assert_eq!(world.0.borrow().thaw_hooks, 0);
    assert_eq!(engine.thaw().unwrap(), 0);
    let world = world.0.borrow();
    assert_eq!(
        (world.freeze_hooks, world.thaw_hooks, world.marker),
        (1, 1, false)
    );
}

#[test]
fn a_thaw_without_a_freeze_runs_no_hook_but_frees_what_others_froze() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.thaw().unwrap(), 0);
    world.0.borrow_mut().frozen[1] = true;
    assert_eq!(engine.thaw().unwrap(), 1);
    let world = world.0.borrow();
    assert_eq!(
        (world.freeze_hooks, world.thaw_hooks, world.frozen[1]),
        (0, 0, false)
    );
}

#[test]
fn a_filesystem_thawed_by_others_is_not_counted() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 3);
    world.0.borrow_mut().frozen[2] = false;
    assert_eq!(engine.thaw().unwrap(), 2);
    engine.conclude();
    assert_eq!(
        world.0.borrow().kept[0].filesystems[0].outcome,
        FilesystemOutcome::ThawedByOthers
    );
}

#[test]
fn a_successor_inherits_the_freeze() {
    let world = Simulator::new(&MOUNTS);
    assert_eq!(engine_of(&world, false, LIMIT).freeze(None).unwrap(), 3);
    let marker = world.0.borrow().marker;
    let mut successor = engine_of(&world, marker, LIMIT);
    assert!(successor.is_frozen());
    assert!(successor.freeze(None).is_err());
    assert_eq!(successor.thaw().unwrap(), 3);
    let world = world.0.borrow();
    assert_eq!(
        (world.freeze_hooks, world.thaw_hooks, world.marker),
        (1, 1, false)
    );
}

/// An adapter's settings can ask for hooks only, without a frozen filesystem.
#[test]
fn if_the_hooks_want_it_the_filesystems_are_left_alone() {
    let world = Simulator::new(&MOUNTS).with_hooks_only(true);
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 0);
    assert!(engine.is_frozen() && world.0.borrow().marker);
    assert_eq!(world.0.borrow().thaw_hooks, 0, "applications are held");
    assert_eq!(engine.thaw().unwrap(), 0);
    engine.conclude();
    let freezes = |step: &String| step.starts_with("freeze ") || step.starts_with("thaw ");
    assert!(!world.steps().iter().any(freezes), "{:?}", world.steps());
    {
        let world = world.0.borrow();
        assert_eq!((world.freeze_hooks, world.thaw_hooks), (1, 1));
        let report = &world.kept[0];
        assert_eq!(
            (report.level, report.end),
            (Level::Crash, Some(RunEnd::Thaw))
        );
        for filesystem in &report.filesystems {
            assert_eq!(filesystem.outcome, FilesystemOutcome::Skipped);
            assert!(filesystem.detail.as_ref().unwrap().contains("adapter"));
        }
    }
    // It applies to one run only.
    world.0.borrow_mut().leaves_filesystems = false;
    assert_eq!(engine.freeze(None).unwrap(), 3);
    assert_eq!(engine.thaw().unwrap(), 3);
}

/// Every world of the exhaustive tests: flat and in levels, with each order in which parallel operations may end, so
/// that every part of a level is the frozen one once when the agent dies; and one whose hooks ask for no frozen
/// filesystem.
fn worlds() -> impl Iterator<Item = impl Fn() -> Simulator + Copy> {
    let turns = (0..6).map(|turn| (false, turn, false));
    let turns = turns.chain((0..2).map(|turn| (true, turn, false)));
    let turns = turns.chain([(false, 0, true)]);
    turns.map(|(stacked, turn, hooks_only)| {
        move || {
            let world = match stacked {
                true => Simulator::stacked(),
                false => Simulator::new(&MOUNTS),
            };
            world.in_turn(turn).with_hooks_only(hooks_only)
        }
    })
}

/// Every operation fails in turn, while freezing and while thawing.
#[test]
fn whatever_fails_nothing_stays_frozen_and_every_hook_is_thawed_once() {
    for world in worlds() {
        let whole = {
            let world = world();
            let mut engine = engine_of(&world, false, LIMIT);
            engine.freeze(None).and_then(|_| engine.thaw()).unwrap();
            engine.conclude();
            world.steps().len()
        };
        let codes = [libc::EIO, libc::EPERM, libc::ENOSPC, libc::ENOENT];
        for (step, code) in (0..whole).flat_map(|step| codes.map(|code| (step, code))) {
            let world = world().failing(step, Fault::Errno(code));
            let mut engine = engine_of(&world, false, LIMIT);
            let frozen = engine.freeze(None);
            if !engine.is_frozen() {
                engine.conclude();
            }
            let name = world.steps()[step.min(world.steps().len() - 1)].clone();
            let at = format!("step {step} ({name}), errno {code}: {frozen:?}");
            if let Err(error) = &frozen {
                assert!(!engine.is_frozen(), "{at}");
                assert!(!world.0.borrow().frozen.contains(&true), "{at}");
                assert!(!world.0.borrow().kept.is_empty(), "{at}");
                let name = world.steps()[step].clone();
                let culprit = name.rsplit(' ').next().unwrap();
                if name.starts_with("freeze") || name.starts_with("open") {
                    assert!(error.to_string().contains(&format!("{culprit}:")), "{at}");
                }
            } else {
                let says_frozen = world.0.borrow().snapshot == Some(SnapshotState::Frozen);
                let is_root_frozen = world.0.borrow().frozen[0];
                assert_eq!(
                    says_frozen,
                    is_root_frozen && name != "write snapshot",
                    "{at}"
                );
                let thawed = engine.thaw();
                if engine.is_frozen() {
                    // The FITHAW that failed is named, and a second thaw succeeds.
                    assert!(
                        thawed
                            .unwrap_err()
                            .to_string()
                            .starts_with("failed to thaw /"),
                        "{at}"
                    );
                    assert_eq!(engine.thaw().unwrap(), 1, "{at}");
                }
                engine.conclude();
            }
            let failed = world.steps()[step].clone();
            let world = world.0.borrow();
            assert!(!world.frozen.contains(&true), "{at}");
            assert!(!world.in_frozen_section, "{at}");
            assert!(!world.rcu_expedited || failed == "restore", "{at}");
            assert_eq!(world.freeze_hooks, world.thaw_hooks, "{at}");
            assert!(world.guardian.is_none(), "{at}");
            if failed != "unmark" {
                assert!(!world.marker, "{at}");
            }
            assert_ne!(world.snapshot, Some(SnapshotState::Frozen), "{at}");
        }
    }
}

/// The agent dies at every step. Before everything is frozen, and once the thaw has begun, the guardian undoes; in
/// between it keeps the freeze for the next agent.
#[test]
fn whenever_the_agent_dies_all_is_undone_and_every_hook_thawed_once() {
    let faults = [Fault::Death, Fault::DeathAfter];
    for (world, fault) in worlds().flat_map(|world| faults.map(|fault| (world, fault))) {
        for step in 0.. {
            let world = world().failing(step, fault);
            let mut engine = engine_of(&world, false, LIMIT);
            let run = catch_unwind(AssertUnwindSafe(|| {
                let thawed = engine.freeze(None).and_then(|_| engine.thaw());
                engine.conclude();
                thawed
            }));
            if run.is_ok() {
                assert!(step > 14, "the fault struck at every step");
                break;
            }
            let at = format!("{fault:?} at {step}, {}", world.steps()[step]);
            world.0.borrow_mut().in_frozen_section = false;
            world.0.borrow_mut().apply_guardian_event(Event::Gone);
            assert!(!world.0.borrow().rcu_expedited, "{at}");
            let marker = world.0.borrow().marker;
            let held = world.0.borrow().frozen.iter().all(|&frozen| frozen);
            assert!(
                !world.0.borrow().frozen.contains(&true) || (held && marker),
                "{at}: half frozen"
            );
            let mut successor = engine_of(&world, marker, LIMIT);
            successor.thaw().unwrap();
            let world = world.0.borrow();
            assert!(!world.frozen.contains(&true) && !world.marker, "{at}");
            assert_ne!(world.snapshot, Some(SnapshotState::Frozen), "{at}");
            assert!(world.freeze_hooks <= world.thaw_hooks, "{at}");
            assert!(world.thaw_hooks <= 1, "{at}");
        }
    }
}

#[test]
fn after_the_hold_limit_the_agent_thaws_and_the_late_thaw_hears_of_it_once() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 3);
    engine.check_hold();
    assert!(engine.is_frozen(), "too early");
    world.0.borrow_mut().clock += Duration::from_secs(900);
    engine.check_hold();
    assert!(!engine.is_frozen());
    assert_eq!(world.0.borrow().thaw_hooks, 1);
    let late = engine.thaw().unwrap_err().to_string();
    assert!(
        late.contains("hold limit") && late.contains("3 filesystems"),
        "{late}"
    );
    assert_eq!(engine.thaw().unwrap(), 0);
    assert_eq!(world.0.borrow().thaw_hooks, 1);
}

#[test]
fn a_freeze_that_is_ended_early_is_told_of_once() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = engine_of(&world, false, None);
    assert_eq!(engine.freeze(None).unwrap(), 3);
    engine.end_early("of the channel").unwrap();
    assert!(!engine.is_frozen() && !world.0.borrow().frozen.contains(&true));
    engine.end_early("of nothing").unwrap();
    assert_eq!(world.0.borrow().kept[0].level, Level::Crash);
    let late = engine_of(&world, false, None)
        .thaw()
        .unwrap_err()
        .to_string();
    assert!(late.contains("because of the channel"), "{late}");
    assert_eq!(engine.thaw().unwrap(), 0);
    assert_eq!(world.0.borrow().thaw_hooks, 1);
}

#[test]
fn without_a_hold_limit_a_freeze_holds_for_ever() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = engine_of(&world, false, None);
    assert_eq!(engine.freeze(None).unwrap(), 3);
    world.0.borrow_mut().clock += Duration::from_secs(1_000_000);
    engine.check_hold();
    assert!(engine.is_frozen());
    assert_eq!(engine.thaw().unwrap(), 3);
}

/// The agent was stopped when the limit passed: the guardian has acted, and the agent must not.
#[test]
fn an_agent_that_wakes_up_after_the_guardian_acted_does_nothing_twice() {
    for checks_first in [true, false] {
        let world = Simulator::new(&MOUNTS);
        let mut engine = engine_of(&world, false, LIMIT);
        assert_eq!(engine.freeze(None).unwrap(), 3);
        world.0.borrow_mut().apply_guardian_event(Event::Limit);
        world.0.borrow_mut().clock += Duration::from_secs(2000);
        assert!(!world.0.borrow().frozen.contains(&true));
        if checks_first {
            engine.check_hold();
            assert!(!engine.is_frozen());
        }
        let late = engine.thaw().unwrap_err().to_string();
        assert!(late.contains("was ended"), "{late}");
        assert_eq!(engine.thaw().unwrap(), 0);
        let world = world.0.borrow();
        assert_eq!((world.thaw_hooks, world.in_frozen_section), (1, false));
        assert_eq!(world.kept.len(), 1, "the guardian's report stands");
        assert_eq!(world.kept[0].errors, [GUARDIANS]);
    }
}

/// The next agent learns that the guardian ended the freeze; it has no report of its own to store.
#[test]
fn a_successor_keeps_no_report_of_what_the_guardian_ended() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 3);
    world.0.borrow_mut().apply_guardian_event(Event::Gone);
    let mut successor = engine_of(&world, true, LIMIT);
    world.0.borrow_mut().apply_guardian_event(Event::Limit);
    successor.check_hold();
    assert!(!successor.is_frozen() && !successor.has_legacy());
    let kept = &world.0.borrow().kept;
    assert_eq!((kept.len(), kept[0].filesystems.len()), (1, 3));
}

/// A guardian that gets SIGTERM while everything is frozen thaws; before and after that it leaves the thaw to the
/// agent.
#[test]
fn a_guardian_that_is_stopped_thaws_only_what_it_holds() {
    let world = Simulator::new(&MOUNTS);
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 3);
    world.0.borrow_mut().apply_guardian_event(Event::Signaled);
    assert!(!world.0.borrow().frozen.contains(&true));
    assert!(engine.thaw().is_err());

    let mut claimed = GuardianState::default();
    for request in [
        Request::HooksCalled,
        Request::Frozen {
            report: Box::default(),
            order: Vec::new(),
            since_ms: 0,
        },
        Request::Claim,
    ] {
        claimed.apply(Event::Request(request), None);
    }
    assert_eq!(claimed.apply(Event::Signaled, None), []);
    assert_eq!(claimed.apply(Event::Limit, None), []);
    assert!(matches!(
        claimed.apply(Event::ClaimLimit { is_stuck: false }, None)[..],
        [
            Action::Undo {
                hooks: Hooks::Frozen,
                ..
            },
            _
        ]
    ));
}

#[test]
fn a_new_freeze_forgets_the_expired_one() {
    for keeps in [false, true] {
        let world = Simulator::new(&MOUNTS);
        world.0.borrow_mut().expired = Some(expiry());
        world.0.borrow_mut().keeps_expired = keeps;
        let mut engine = engine_of(&world, false, LIMIT);
        assert_eq!(engine.freeze(None).unwrap(), 3);
        assert_eq!(engine.thaw().unwrap(), 3);
    }
}

/// The agent is asked to stop at every step of a freeze.
#[test]
fn asked_to_stop_before_the_freeze_is_whole_it_is_undone() {
    for world in worlds() {
        let whole = {
            let world = world();
            engine_of(&world, false, LIMIT).freeze(None).unwrap();
            world.steps()
        };
        let is_last = |step: &String| step.starts_with("freeze /") || step == "hooks freeze";
        let last = whole.iter().rposition(is_last);
        let hooks = whole.iter().position(|step| step == "await guardian");
        for (at, step) in whole.iter().enumerate() {
            let world = world();
            world.0.borrow_mut().stops_at = Some(at);
            let mut engine = engine_of(&world, false, LIMIT);
            let frozen = engine.freeze(None);
            let what = format!("stop at step {at} ({step}): {frozen:?}");
            assert_eq!(frozen.is_err(), at <= last.unwrap() + 1, "{what}");
            assert_eq!(engine.is_frozen(), frozen.is_ok(), "{what}");
            match frozen {
                // A complete freeze continues until the thaw.
                Ok(_) => assert!(engine.thaw().is_ok(), "{what}"),
                Err(error) => {
                    assert!(
                        error.to_string().contains("the agent was asked to stop"),
                        "{what}"
                    );
                    engine.conclude();
                }
            }
            let world = world.0.borrow();
            assert!(!world.frozen.contains(&true) && !world.marker, "{what}");
            assert!(!world.in_frozen_section && !world.rcu_expedited, "{what}");
            assert!(world.guardian.is_none() || at > last.unwrap() + 1, "{what}");
            assert_eq!(world.freeze_hooks, world.thaw_hooks, "{what}");
            let has_called = world.freeze_hooks > 0;
            assert_eq!(has_called, Some(at) > hooks, "{what}");
        }
    }
}
