//! The built binary as hook master: as the agent, the master script and an operator call it.

#![allow(clippy::expect_used)] // helpers of tests, outside of #[test] itself

mod adapters;
mod clouds;
mod guide;
mod holding;
#[allow(dead_code)] // needs_program
#[path = "../support/left_out.rs"]
mod left_out;
mod master;
mod policy;
mod settings;
mod support;
mod tools;
