//! Flushes and the mount table around the hooks.

use super::*;

fn flushes(world: &Simulator) -> Vec<String> {
    let steps = world.steps().into_iter();
    steps.filter(|step| step.starts_with("flush 1")).collect()
}

/// Number of flushes of the root; `dirty` is what is dirty before the first and before each possible further one.
fn flushes_with(has_hook: bool, dirty: &[Option<u64>]) -> usize {
    let world = Simulator::new(&MOUNTS);
    world.0.borrow_mut().has_hook = has_hook;
    world.0.borrow_mut().dirty = dirty.to_vec();
    assert_eq!(engine_of(&world, false, LIMIT).freeze(None).unwrap(), 3);
    flushes(&world).len()
}

#[test]
fn it_is_flushed_again_as_long_as_that_pays() {
    const MB: u64 = 1 << 20;
    let clean = Some(0);
    assert_eq!(flushes_with(false, &[clean]), 1);
    assert_eq!(flushes_with(true, &[clean]), 2, "hooks have written");
    assert_eq!(flushes_with(false, &[Some(900 * MB), clean]), 1);
    let shrinking = [900 * MB, 300 * MB, 90 * MB, 0].map(Some);
    assert_eq!(flushes_with(false, &shrinking), 3);
    let endless = [900 * MB, 300 * MB, 100 * MB, 33 * MB, 11 * MB, 5 * MB].map(Some);
    assert_eq!(flushes_with(false, &endless), 4, "bounded");
    let barely_shrinking = [900 * MB, 300 * MB, 200 * MB].map(Some);
    assert_eq!(
        flushes_with(false, &barely_shrinking),
        2,
        "not even half was gone"
    );
    assert_eq!(flushes_with(false, &[None]), 2, "nobody knows");
}

#[test]
fn the_journal_is_committed_first_only_where_there_is_something_to_flush() {
    for (dirty, expected) in [
        (Some(0), "flush 1"),
        (Some(1 << 30), "flush 1 with a commit"),
        (None, "flush 1 with a commit"),
    ] {
        let world = Simulator::new(&MOUNTS);
        world.0.borrow_mut().dirty = vec![dirty, Some(0)];
        assert_eq!(engine_of(&world, false, LIMIT).freeze(None).unwrap(), 3);
        assert_eq!(flushes(&world)[0], expected);
    }
}

#[test]
fn what_a_hook_mounts_is_frozen_too() {
    let world = Simulator::new(&MOUNTS);
    world.0.borrow_mut().mounted_by_hooks = Some("/late");
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 4);
    assert_eq!(world.0.borrow().frozen, [true; 4]);
    assert_eq!(engine.thaw().unwrap(), 4);
    engine.conclude();
    let world = world.0.borrow();
    assert_eq!(world.kept[0].filesystems[0].mountpoint, "/late");
    assert_eq!(world.kept[0].level, Level::Application);
}

/// Without a guardian no process would switch it off again if the agent died.
#[test]
fn without_a_guardian_grace_periods_are_as_always() {
    let refusal = ("entrust".to_owned(), libc::EIO);
    let world = Simulator::new(&MOUNTS).refusing(vec![refusal.clone(), refusal]);
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 3);
    assert!(!world.steps().contains(&"expedite".to_owned()));
}

#[test]
fn the_root_filesystem_is_flushed_for_the_snapshot_file_and_no_other() {
    let world = Simulator::new(&MOUNTS);
    world.0.borrow_mut().has_hook = false;
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 3);
    let steps = world.steps();
    let written = steps.iter().position(|step| step == "write snapshot");
    let after = steps.iter().skip(written.unwrap());
    let flushes: Vec<_> = after.filter(|step| step.starts_with("flush")).collect();
    assert_eq!(flushes, ["flush 0"]);
}

#[test]
fn no_snapshot_file_where_its_filesystem_is_not_frozen() {
    let only: &[Vec<u8>] = &[b"/data".to_vec()];
    let optional = FreezePolicy {
        optional: vec![Pattern::parse("/").unwrap()],
        ..FreezePolicy::default()
    };
    let without_root = Simulator::new(&["/data", "/srv"]);
    for (world, only, policy) in [
        (Simulator::new(&MOUNTS), Some(only), FreezePolicy::default()),
        (Simulator::new(&MOUNTS), None, optional),
        (without_root, None, FreezePolicy::default()),
    ] {
        let mut engine = with_policy(&world, false, LIMIT, policy);
        assert!(engine.freeze(only).unwrap() > 0);
        assert_eq!(world.0.borrow().snapshot, None);
        engine.thaw().unwrap();
        engine.conclude();
        assert_eq!(world.0.borrow().snapshot, None);
    }
}

/// The kernel refuses it in the end.
#[test]
fn a_snapshot_file_whose_filesystem_cannot_be_frozen_is_withdrawn() {
    let refusal = vec![("freeze /".into(), libc::EOPNOTSUPP)];
    let world = Simulator::new(&MOUNTS).refusing(refusal);
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 2);
    assert_eq!(world.0.borrow().snapshot, None);
    engine.thaw().unwrap();
}

#[test]
fn a_snapshot_file_that_cannot_be_written_fails_nothing_and_is_reported() {
    let refusal = vec![("write snapshot".into(), libc::ENOSPC)];
    let world = Simulator::new(&MOUNTS).refusing(refusal);
    let mut engine = engine_of(&world, false, LIMIT);
    assert_eq!(engine.freeze(None).unwrap(), 3);
    engine.thaw().unwrap();
    engine.conclude();
    let errors = &world.0.borrow().kept[0].errors;
    assert!(
        matches!(&errors[..], [text] if text.contains("No space left on device")),
        "{errors:?}"
    );
}

/// It was killed together with its guardian between the file and the first FIFREEZE.
#[test]
fn the_next_agent_withdraws_a_snapshot_file_of_nothing_frozen() {
    let world = Simulator::new(&MOUNTS);
    world.0.borrow_mut().snapshot = Some(SnapshotState::Frozen);
    engine_of(&world, false, LIMIT);
    assert_eq!(world.0.borrow().snapshot, None);
}
