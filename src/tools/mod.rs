//! Floor 5: subcommands for people.
//!
//! Each tool is a file with a [`args::Tool`], and an entry in [`crate::app`]'s table.
//! All but `selftest`, `thaw --now` and `hook try` only look, and all speak JSON with `--json`. [`args`] takes
//! their command lines apart, [`context`] finds the configuration that they go by, [`output`] shows.

pub mod args;
pub mod check;
mod context;
mod grace_periods;
pub mod hook;
mod live;
pub mod log;
mod output;
pub mod plan;
pub mod report;
pub mod selftest;
pub mod status;
mod systemd_unit;
pub mod thaw;
