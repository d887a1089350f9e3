//! Tests that cannot run here say so, and each test program ends with their number.
//!
//! libtest has no way to mark a running test as ignored, so such a test returns early and libtest counts it as passed.
//! The number is printed by an atexit(3) handler, because libtest offers no hook for the end of a run. It goes to stderr
//! directly, because libtest captures what `println!` writes. As root nothing is left out: what is missing is a failure, and
//! the tier `unit` of tests/run fails if this text appears.

#![allow(clippy::print_stdout)] // clippy allows it in #[test] functions alone

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Mutex, Once, PoisonError};

/// What is missing, and the name of the test. A set, because one test may ask several times.
static LEFT_OUT: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// Whether the calling test must return because it needs root and the user is not root. The rest of a test that
/// calls it in the middle is left out.
#[must_use]
pub fn needs_root() -> bool {
    let missing = !nix::unistd::geteuid().is_root();
    if missing {
        note("root");
    }
    missing
}

/// Whether the calling test must return because a program is not installed, which only a user without root may
/// leave so: tests/run installs what it needs.
#[must_use]
pub fn needs_program(name: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    let mut command = Command::new(name);
    command.arg("--version");
    let started = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let missing = started.is_err();
    if missing {
        note(name);
    }
    missing
}

fn note(what: &str) {
    static REGISTERED: Once = Once::new();
    // SAFETY: the handler is a function without arguments that does not unwind.
    REGISTERED.call_once(|| unsafe {
        nix::libc::atexit(print_counts);
    });
    // libtest names the thread of a test after it.
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    let mut tests = LEFT_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    tests.insert((what.to_owned(), name));
    // Shown by `cargo test -- --show-output`.
    println!("left out: needs {what}");
}

extern "C" fn print_counts() {
    let tests = LEFT_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: BTreeSet<&String> = tests.iter().map(|(what, _)| what).collect();
    let mut text = String::new();
    for what in missing {
        let count = tests.iter().filter(|(other, _)| other == what).count();
        let plural = if count == 1 { "" } else { "s" };
        text += &format!("left out: needs {what}: {count} test{plural}\n");
    }
    text += "to leave nothing out: sudo tests/run --only unit\n";
    // Without stderr nobody can be told, and a panic here would abort.
    std::io::stderr().write_all(text.as_bytes()).ok();
}
