//! Floor 5: subcommands for people.
//!
//! Each tool is a file with a [`args::Tool`], and an entry in [`crate::app`]'s table.
//! All but `selftest`, `thaw --now` and `hook try` only look, and all speak JSON with `--json`. [`args`] takes
//! their command lines apart, [`setting`] finds the configuration that they go by, [`present`] shows.

pub mod args;
pub mod check;
mod grace_periods;
pub mod hook;
mod live;
pub mod log;
pub mod plan;
mod present;
pub mod report;
pub mod selftest;
mod setting;
pub mod status;
pub mod thaw;
mod unit;
