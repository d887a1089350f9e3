//! A panic at a chosen step, in debug builds alone: `DEBUG_PANIC_AT=N` ends the agent at its Nth step, as a bug there
//! would end a release build. Tests show that it is like SIGKILL at that point. A release build has nothing of this.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU32, Ordering};

/// The next step of the engine is about to be taken.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "it is what this is for")]
pub(super) fn step(name: &str) {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let number = TAKEN.fetch_add(1, Ordering::Relaxed) + 1;
    let wanted = std::env::var("DEBUG_PANIC_AT").ok();
    if wanted.is_some_and(|wanted| wanted == number.to_string()) {
        panic!("step {number}: {name}");
    }
}

#[cfg(not(debug_assertions))]
pub(super) fn step(_: &str) {}
