//! The QEMU guest agent in Rust.
//!
//! # Where to start reading
//!
//! A request takes one path through the modules; a freeze is the longest:
//!
//! 1. `main` calls [`app::main`], which parses the command line ([`config`]), opens the channel ([`transport`]), becomes a
//!    daemon and calls [`agent::run`]. For a subcommand it calls [`tools`] instead.
//! 2. [`agent`] reads bytes, [`protocol`] makes a request of them, and the dispatcher looks its command up in the table of
//!    [`commands`], which is where a new command goes.
//! 3. `guest-fsfreeze-freeze` (src/commands/fsfreeze.rs) calls [`freeze::Freezer`], which hands the request to the thread
//!    `freeze` and waits.
//! 4. On that thread [`freeze::engine`] runs the stages one after the other: it starts the guardian, plans
//!    ([`freeze::plan`]), has the hooks called, plans again, and freezes; at the thaw the reverse. This is the code that must
//!    not fail, so it makes no system call itself: it acts through the trait [`freeze::ops`], implemented by `LinuxOps` for the
//!    kernel and by the simulator for the tests, which make every step fail in turn.
//! 5. [`hooks`] is the program `qga-hook` between agent and hooks: it discovers the hooks of this and other backup systems,
//!    runs them in order, and keeps the journal of which must still be thawed.
//! 6. [`freeze::guardian`] is a process of its own that thaws if the agent dies, hangs or is stopped.
//!
//! docs/architecture.md has the same path by process and time, with every failure; docs/glossary.md has the terms. Two rules
//! explain most of what looks odd: between the first FIFREEZE and the last FITHAW the agent writes to no filesystem and no
//! log and needs no new memory; and every hook that was started for a freeze is called exactly once for the thaw.
//!
//! # Floors
//!
//! A module imports from lower floors, and from its own floor only where the table says so; `tests/layering.rs` checks the
//! imports against it.
//!
//! | floor | module | lives there |
//! |---|---|---|
//! | 0 | [`protocol`] | framing, JSON dialect, replies, error texts, argument decoding: pure, no I/O |
//! | 0 | [`keyfile`] | parser of the configuration files: pure |
//! | 0 | [`cli`] | command lines: the tables of options, the scanner, the help: pure |
//! | 0 | [`diagnostic`] | a fault in three parts: what, why, remedy |
//! | 0 | [`version`] | the protocol version that is announced, and our own |
//! | 1 | [`sys`] | the only `unsafe`: ioctls, descriptors, memory locks, local time |
//! | 1 | [`deadline`] | calls that may hang, on threads of a pool, each with a time limit |
//! | 1 | [`probe`] | parsers of /proc, /sys, /run/udev, os-release |
//! | 2 | [`transport`] | virtio-serial, isa-serial, unix-listen, vsock-listen, socket activation: one `Channel` |
//! | 2 | [`ipc`] | JSON lines and descriptors over a unix socket, with time limits |
//! | 2 | [`child`] | helper processes: bounded capture, deadline, the whole process group; uses [`ipc`] |
//! | 2 | [`state`] | state directory: lock, frozen marker, counter, last reports; uses [`ipc`] |
//! | 2 | [`logging`] | log and audit lines; holds them back while filesystems are frozen |
//! | 3 | [`hooks`] | hook discovery, order, run, the hook log; the hook master |
//! | 3 | [`freeze`] | plan, engine (the transaction), ops (real and simulated), report; uses [`hooks`] |
//! | 4 | [`adapters`] | one file for each foreign backup system whose scripts run as hooks; the floors below do not know them |
//! | 4 | [`commands`] | one file per domain: arguments, replies, handlers, its table of commands |
//! | 5 | [`config`], [`agent`] | options and configuration file; session and dispatch |
//! | 5 | [`tools`] | subcommands for people: plan, check, report, inspect, log, status, thaw, selftest; uses [`config`] |
//! | 6 | [`app`] | wiring |
//!
//! The package `xtask` makes the manual pages, the completions, the sample configuration and CONFIGURATION.md
//! from the same tables as the help.

// A reader has the whole of a function on one screen; tests may be longer.
#![cfg_attr(not(test), deny(clippy::too_many_lines))]

/// Target of the tracing events that go to the system's log as audit lines, whatever the level.
pub const AUDIT: &str = "audit";

pub mod adapters;
pub(crate) mod agent;
pub mod app;
pub(crate) mod child;
pub mod cli;
pub mod commands;
pub mod config;
pub(crate) mod deadline;
pub mod diagnostic;
pub mod freeze;
pub mod hooks;
pub(crate) mod ipc;
pub mod keyfile;
pub(crate) mod logging;
pub mod probe;
pub mod protocol;
pub(crate) mod state;
pub mod sys;
pub mod tools;
pub(crate) mod transport;
pub mod version;

#[cfg(test)]
#[allow(dead_code)] // the tests beside the code need no further programs
#[path = "../tests/support/left_out.rs"]
mod left_out;
