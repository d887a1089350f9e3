//! The built binary as hook master: as the agent, the master script and an operator call it.

#![allow(clippy::expect_used)] // helpers of tests, outside of #[test] itself

mod adapters;
mod clouds;
mod guide;
mod holding;
mod master;
mod policy;
mod settings;
mod support;
mod tools;
