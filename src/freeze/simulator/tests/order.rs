//! Batches, parallel calls, and an order that only the freeze itself shows.

use super::*;
use proptest::prelude::*;

fn at_filesystems(world: &Simulator) -> Vec<String> {
    let steps = world.steps().into_iter();
    steps
        .filter(|step| step.starts_with("freeze ") || step.starts_with("thaw "))
        .collect()
}

#[test]
fn batches_follow_one_another_and_thaw_in_reverse() {
    let world = Simulator::stacked();
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 5);
    assert_eq!(world.0.borrow().at_once, 2);
    assert_eq!(engine.thaw().unwrap(), 5);
    assert_eq!(
        at_filesystems(&world),
        [
            "freeze /opt",
            "freeze /srv",
            "freeze /data/loop",
            "freeze /data",
            "freeze /",
            "thaw /",
            "thaw /data",
            "thaw /data/loop",
            "thaw /srv",
            "thaw /opt",
        ]
    );
}

/// Neighbors of one batch are in the kernel at the same time: all are frozen and recorded.
#[test]
fn a_failure_ends_at_its_batch() {
    let refusals = vec![("freeze /opt".to_owned(), libc::EIO)];
    let world = Simulator::stacked().refusing(refusals);
    let mut engine = engine_of(&world, false, LIMIT);
    assert!(engine.freeze(None).is_err());
    engine.conclude();
    assert_eq!(
        at_filesystems(&world),
        ["freeze /opt", "freeze /srv", "thaw /srv"]
    );
    let outcome = |f: &crate::freeze::report::FilesystemRecord| f.outcome;
    let outcomes = world.0.borrow().kept[0]
        .filesystems
        .iter()
        .map(outcome)
        .collect::<Vec<_>>();
    let untouched = FilesystemOutcome::Untouched;
    assert_eq!(
        outcomes,
        [
            FilesystemOutcome::Failed,
            FilesystemOutcome::Thawed,
            untouched,
            untouched,
            untouched
        ]
    );
}

/// The answer names the first of a batch in the order of the plan, the report names all.
#[test]
fn of_several_failures_the_first_is_the_answer_and_all_are_told() {
    for turn in 0..2 {
        let culprits = ["/opt", "/srv"];
        let refusal = |name: &&str| (format!("freeze {name}"), libc::EIO);
        let world = Simulator::stacked()
            .in_turn(turn)
            .refusing(culprits.iter().map(refusal).collect());
        let mut engine = engine_of(&world, false, LIMIT);
        let error = engine.freeze(None).unwrap_err().to_string();
        engine.conclude();
        let reported = |name: &&str| format!("failed to freeze {name}: Input/output error");
        let reported: Vec<String> = culprits.iter().map(reported).collect();
        assert_eq!(error, reported[0]);
        let world = world.0.borrow();
        assert!(!world.frozen.contains(&true) && !world.in_frozen_section && !world.marker);
        assert_eq!((world.freeze_hooks, world.thaw_hooks), (1, 1));
        assert_eq!(world.kept[0].errors, reported);
    }
}

/// All that stays frozen is named, and is thawed by a second request.
#[test]
fn several_thaws_that_fail_are_told_and_can_be_asked_again() {
    let names = ["/data/loop", "/data", "/srv"];
    let refusal = |name: &&str| (format!("thaw {name}"), libc::EIO);
    let world = Simulator::stacked().refusing(names.iter().map(refusal).collect());
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 5);
    let error = engine.thaw().unwrap_err().to_string();
    let reported = |name: &str| format!("failed to thaw {name}: Input/output error");
    let expected = [reported("/srv"), reported("/data/loop"), reported("/data")];
    assert_eq!(error, expected.join("; "));
    assert!(engine.is_frozen());
    assert_eq!(world.0.borrow().frozen, [false, true, true, true, false]);
    assert_eq!(world.0.borrow().thaw_hooks, 0);
    assert_eq!(engine.thaw().unwrap(), 3);
    let world = world.0.borrow();
    assert!(!world.frozen.contains(&true));
    assert_eq!((world.freeze_hooks, world.thaw_hooks), (1, 1));
}

/// Failures that are tolerated, and one that is not.
#[test]
fn what_may_fail_does_not_cover_what_may_not() {
    let refusals = vec![
        ("freeze /data/inner".to_owned(), libc::EOPNOTSUPP),
        ("freeze /".to_owned(), libc::EIO),
    ];
    let world = Simulator::new(&MOUNTS).refusing(refusals.clone());
    let mut engine = engine_of(&world, false, LIMIT);
    let error = engine.freeze(None).unwrap_err().to_string();
    engine.conclude();
    assert_eq!(error, "failed to freeze /: Input/output error");
    assert_eq!(world.0.borrow().kept[0].errors.len(), 2);
    assert!(!world.0.borrow().frozen.contains(&true));
    let world = Simulator::new(&MOUNTS).refusing(refusals[..1].to_vec());
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 2);
    assert_eq!(engine.thaw().unwrap(), 2);
}

fn with_hidden_dependencies(world: Simulator, hidden_dependencies: &[(usize, usize)]) -> Simulator {
    world.0.borrow_mut().hidden_dependencies = hidden_dependencies.to_vec();
    world
}

#[test]
fn what_waits_for_a_frozen_one_is_frozen_before_it() {
    // /data was mounted first and nevertheless writes to /data/inner.
    let world = with_hidden_dependencies(Simulator::new(&MOUNTS), &[(1, 2)]);
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 3);
    assert_eq!(engine.thaw().unwrap(), 3);
    engine.conclude();
    assert_eq!(
        at_filesystems(&world),
        [
            "freeze /data/inner",
            "freeze /data",
            "thaw /data/inner",
            "freeze /data/inner",
            "freeze /",
            "thaw /",
            "thaw /data/inner",
            "thaw /data",
        ]
    );
    assert_eq!(world.0.borrow().kept[0].level, Level::Application);
}

#[test]
fn what_waits_for_each_other_fails() {
    let world = with_hidden_dependencies(Simulator::stacked(), &[(3, 4), (4, 3)]);
    let mut engine = engine_of(&world, false, LIMIT);
    let error = engine.freeze(None).unwrap_err().to_string();
    assert!(error.contains("waits for other filesystems"), "{error}");
    assert!(!world.0.borrow().frozen.contains(&true));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    /// Unknown dependencies, in any direction and together with known ones. If there is an order, everything is frozen;
    /// if there is none, the run fails. No run hangs, and nothing stays frozen.
    #[test]
    fn hidden_dependencies_of_any_kind(
        count in 1_usize..7,
        hidden_dependencies in proptest::collection::vec((0_usize..7, 0_usize..7), 0..8),
        on_hardware in proptest::collection::vec(0_usize..7, 0..7),
        turn in 0_usize..24,
    ) {
        const NAMES: [&str; 7] = ["/", "/a", "/b", "/c", "/d", "/e", "/f"];
        let world = Simulator::new(&NAMES[..count]).in_turn(turn);
        let hidden_dependencies: Vec<(usize, usize)> = hidden_dependencies
            .into_iter()
            .filter(|&(above, below)| above < count && below < count && above != below)
            .collect();
        world.0.borrow_mut().on_hardware = on_hardware;
        let world = with_hidden_dependencies(world, &hidden_dependencies);
        let mut reach = vec![vec![false; count]; count];
        for &(above, below) in &hidden_dependencies {
            reach[above][below] = true;
        }
        for via in 0..count {
            for from in 0..count {
                for to in 0..count {
                    reach[from][to] |= reach[from][via] && reach[via][to];
                }
            }
        }
        let is_circular = (0..count).any(|n| reach[n][n]);
        let mut engine = engine_of(&world, false, LIMIT);
        let frozen = engine.freeze(None);
        let at = format!("{:?}", at_filesystems(&world));
        if is_circular {
            prop_assert!(frozen.is_err(), "{at}");
        } else {
            prop_assert_eq!(frozen.unwrap(), count as u64, "{}", at);
            prop_assert!(world.0.borrow().frozen.iter().all(|&frozen| frozen));
            prop_assert_eq!(engine.thaw().unwrap(), count as u64);
        }
        engine.conclude();
        let world = world.0.borrow();
        prop_assert!(!world.frozen.contains(&true) && world.blocked.is_empty(), "{at}");
        prop_assert!(!world.in_frozen_section && !world.marker && !world.rcu_expedited);
        prop_assert_eq!(world.freeze_hooks, world.thaw_hooks);
    }
}
