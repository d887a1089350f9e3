//! The built binary, driven over its channels.
//!
//! Run it through `tests/run`, or under `qemu-ga selftest --run` as the test runner: what freezes
//! is done on loop-mounted images in a private mount namespace, and refuses to start elsewhere.
//! `QGA_BINARY_UNDER_TEST` names another agent to hold against the same cases; those that show a
//! deliberate difference (tests/COMPAT.md) then pass over it.

// Helpers of tests, outside of #[test] itself.
#![allow(clippy::expect_used, clippy::panic)]

mod acting;
mod cli;
mod exec;
mod files;
mod freeze_edges;
mod freezing;
mod guardian;
mod hook_log;
mod hook_policy;
mod hooks;
mod info;
mod limits;
mod log_gate;
mod operator;
mod power;
mod restart;
mod secrets;
mod serial;
mod sessions;
mod side_by_side;
mod soak;
mod startup;
mod support;
mod system;
mod transports;
mod wire;
