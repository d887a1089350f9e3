//! A panic at a chosen step, in debug builds only: `DEBUG_PANIC_AT=N` panics in the agent's Nth operation.
//! tests/integration shows that the result is that of a SIGKILL at this point.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU32, Ordering};

#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "it is what this is for")]
pub(super) fn step(name: &str) {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let number = TAKEN.fetch_add(1, Ordering::Relaxed) + 1;
    // Unset as a rule; then no step panics.
    let wanted = std::env::var("DEBUG_PANIC_AT").ok();
    if wanted.is_some_and(|wanted| wanted == number.to_string()) {
        panic!("step {number}: {name}");
    }
}

#[cfg(not(debug_assertions))]
pub(super) fn step(_: &str) {}
