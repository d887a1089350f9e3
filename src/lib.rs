//! The QEMU guest agent in Rust.
//!
//! The tree is built in floors. A floor uses lower floors, never upward, and sideways only where
//! named here; `tests/layering.rs` holds the imports against this table.
//!
//! | floor | module | lives there |
//! |---|---|---|
//! | 0 | [`protocol`] | framing, JSON dialect, replies, error texts, argument decoding: pure, no I/O |
//! | 0 | [`keyfile`] | parser of the configuration files: pure |
//! | 0 | [`diagnostic`] | a fault in three parts: what, why, remedy |
//! | 0 | [`version`] | the protocol version that is announced, and our own |
//! | 1 | [`sys`] | the only `unsafe`: ioctls, descriptors, memory locks, local time |
//! | 1 | [`deadline`] | calls that may hang, on threads of a pool, each with a time limit |
//! | 1 | [`probe`] | parsers of /proc, /sys, /run/udev, os-release |
//! | 2 | [`transport`] | virtio-serial, isa-serial, unix-listen, vsock-listen, socket activation: one `Channel` |
//! | 2 | [`ipc`] | JSON lines and descriptors over a unix socket, with time limits |
//! | 2 | [`child`] | helper processes: bounded capture, deadline, the whole process group |
//! | 2 | [`state`] | state directory: lock, frozen marker, counter, last reports |
//! | 2 | [`logging`] | log and audit lines; holds them back while filesystems are frozen |
//! | 3 | [`hooks`] | hook discovery, order, run, the hook log; the hook master |
//! | 3 | [`freeze`] | plan, engine (the transaction), ops (real and simulated), report; uses [`hooks`] |
//! | 4 | [`commands`] | one file per domain: arguments, replies, handlers, its table of commands |
//! | 5 | [`config`], [`agent`] | options and configuration file; session and dispatch |
//! | 5 | [`tools`] | subcommands for people: plan, check, report, log, status, thaw, selftest; uses [`config`] |
//! | 6 | [`app`] | wiring |
//!
//! Beside the library, `src/manual/` (cargo's example `manual`) makes the manual pages, the completion,
//! the sample configuration and CONFIGURATION.md from the same tables as the help.

/// Target of the tracing events that go to the system's log as audit lines, whatever the level.
pub const AUDIT: &str = "audit";

pub mod agent;
pub mod app;
pub(crate) mod child;
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
pub mod state;
pub mod sys;
pub mod tools;
pub mod transport;
pub mod version;

#[cfg(test)]
#[allow(dead_code)] // the tests beside the code need no further programs
#[path = "../tests/support/left_out.rs"]
mod left_out;
