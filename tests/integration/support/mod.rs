//! What every test stands on: a directory of its own, agents in it, clients, filesystems.

pub mod agent;
#[path = "../../support/binary.rs"]
mod binary;
pub mod client;
pub mod disk;
pub mod fuse_disk;
pub mod json;
#[path = "../../support/left_out.rs"]
pub mod left_out;
pub mod stuck_writer;

pub use agent::{Agent, Place, install, is_ours, is_running, our_binary, wait_for_exit};
pub use binary::binary;
pub use client::Client;
pub use disk::{Disk, in_namespace};
pub use json::{cmd, disabled, failed, freeze_list, returned};
pub use left_out::needs_root;
pub use stuck_writer::{FuseWriter, StuckWriter};

use std::io::Write;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up; far more than a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `done` says so.
///
/// # Panics
/// It never does; `what` names it.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Tells whoever runs the tests that a case did not run, and why; not by `eprintln`, whose text is
/// shown for failed tests alone.
pub fn not_run(why: &str) {
    writeln!(std::io::stderr(), "NOT RUN: {why}").expect("stderr");
}
