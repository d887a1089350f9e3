//! What is done side by side, level by level.

use super::*;

/// Any number of FIFREEZEs of one level fail: the answer names the first in the order of the plan,
/// the report all of them, and the higher level is left alone.
#[test]
fn of_several_failures_the_first_is_the_answer_and_all_are_told() {
    for turn in 0..6 {
        for failing in 1..8_usize {
            let culprits: Vec<&str> = ["/data/inner", "/data", "/"]
                .into_iter()
                .enumerate()
                .filter_map(|(place, name)| (failing >> place & 1 == 1).then_some(name))
                .collect();
            let refusal = |name: &&str| (format!("freeze {name}"), libc::EIO);
            let world = Simulator::new(&MOUNTS)
                .in_turn(turn)
                .refusing(culprits.iter().map(refusal).collect());
            let error = engine_of(&world, false, LIMIT).freeze(None).unwrap_err().0;
            let told = |name: &&str| format!("failed to freeze {name}: Input/output error");
            let told: Vec<String> = culprits.iter().map(told).collect();
            assert_eq!(error, told[0]);
            let world = world.0.borrow();
            assert!(!world.frozen.contains(&true) && !world.hushed && !world.marker);
            assert_eq!((world.freeze_hooks, world.thaw_hooks), (1, 1));
            let report = &world.kept[0];
            assert_eq!(report.errors, told);
            for record in &report.filesystems {
                let failed = culprits.contains(&record.mountpoint.as_str());
                let outcome = match failed {
                    true => Outcome::Failed,
                    false => Outcome::Thawed,
                };
                assert_eq!(record.outcome, outcome, "{turn} {culprits:?}");
                assert_eq!(record.detail.is_some(), failed);
            }
        }
    }
}

#[test]
fn levels_follow_one_another_and_a_failure_ends_at_its_own() {
    let steps = |world: &Simulator| -> Vec<String> {
        let at_filesystem =
            |step: &&String| step.starts_with("freeze ") || step.starts_with("thaw ");
        world
            .steps()
            .iter()
            .filter(at_filesystem)
            .cloned()
            .collect()
    };
    let world = Simulator::stacked();
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None), Ok(4));
    assert_eq!(world.0.borrow().at_once, 2);
    assert_eq!(engine.thaw(), Ok(4));
    assert_eq!(
        steps(&world),
        [
            "freeze /srv",
            "freeze /data/loop",
            "freeze /data",
            "freeze /",
            "thaw /data",
            "thaw /",
            "thaw /srv",
            "thaw /data/loop",
        ]
    );
    let refusals = vec![("freeze /srv".to_owned(), libc::EIO)];
    let world = Simulator::stacked().refusing(refusals);
    assert!(engine_of(&world, false, LIMIT).freeze(None).is_err());
    assert_eq!(
        steps(&world),
        ["freeze /srv", "freeze /data/loop", "thaw /data/loop"]
    );
    let outcome = |f: &crate::freeze::report::FilesystemRecord| f.outcome;
    let outcomes: Vec<Outcome> = world.0.borrow().kept[0]
        .filesystems
        .iter()
        .map(outcome)
        .collect();
    let untouched = Outcome::Untouched;
    assert_eq!(
        outcomes,
        [Outcome::Failed, Outcome::Thawed, untouched, untouched]
    );
}

/// What stays frozen is named, all of it, and is thawed when asked again.
#[test]
fn several_thaws_that_fail_are_told_and_can_be_asked_again() {
    let names = ["/data/loop", "/data", "/srv"];
    let refusal = |name: &&str| (format!("thaw {name}"), libc::EIO);
    let world = Simulator::stacked().refusing(names.iter().map(refusal).collect());
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None), Ok(4));
    let error = engine.thaw().unwrap_err().0;
    let told = |name: &str| format!("failed to thaw {name}: Input/output error");
    // In the order of freezing.
    let expected = [told("/srv"), told("/data/loop"), told("/data")];
    assert_eq!(error, expected.join("; "));
    assert!(engine.is_frozen());
    assert_eq!(world.0.borrow().frozen, [false, true, true, true]);
    assert_eq!(world.0.borrow().thaw_hooks, 0);
    assert_eq!(engine.thaw(), Ok(3));
    let world = world.0.borrow();
    assert!(!world.frozen.contains(&true));
    assert_eq!((world.freeze_hooks, world.thaw_hooks), (1, 1));
}

/// Failures that pass and one that does not, in one level.
#[test]
fn what_may_fail_does_not_cover_what_may_not() {
    let refusals = vec![
        ("freeze /data/inner".to_owned(), libc::EOPNOTSUPP),
        ("freeze /".to_owned(), libc::EIO),
    ];
    let world = Simulator::new(&MOUNTS).refusing(refusals.clone());
    let error = engine_of(&world, false, LIMIT).freeze(None).unwrap_err().0;
    assert_eq!(error, "failed to freeze /: Input/output error");
    assert_eq!(world.0.borrow().kept[0].errors.len(), 2);
    assert!(!world.0.borrow().frozen.contains(&true));
    let world = Simulator::new(&MOUNTS).refusing(refusals[..1].to_vec());
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None), Ok(2));
    assert_eq!(engine.thaw(), Ok(2));
}
