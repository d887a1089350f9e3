//! The built binary, driven over its channels.
//!
//! Run it through `tests/run`, or under `qemu-ga selftest --run` as the test runner: what freezes
//! is done on loop-mounted images in a private mount namespace, and refuses to start elsewhere.
//! `QGA_BINARY_UNDER_TEST` names another agent to hold against the same cases; those that show a
//! deliberate difference (docs/COMPAT.md) then pass over it.

// Helpers of tests, outside of #[test] itself.
#![allow(clippy::expect_used, clippy::panic)]

mod acting;
mod attacks;
mod cli;
mod cycles;
mod edges;
mod exec;
mod expedited_rcu;
mod files;
mod freeze_edges;
mod freezing;
mod guardian;
mod guardian_lost;
mod hook_journal;
mod hook_limits;
mod hook_log;
mod hook_policy;
mod hooks;
mod imitations;
mod info;
mod judgement;
mod killed_agents;
mod levels;
mod limits;
mod log_gate;
mod meminfo;
mod memory;
mod mounts_by_hooks;
mod open_files;
mod operator;
mod panics;
mod parties;
mod power;
mod profiles;
mod random_kills;
mod restart;
mod restored;
mod rig;
mod secrets;
mod serial;
mod sessions;
mod side_by_side;
mod soak;
mod startup;
mod state_files;
mod stop_while_frozen;
mod support;
mod system;
mod transports;
mod two_agents;
mod widths;
mod wire;
