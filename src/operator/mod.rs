//! Floor 5: subcommands for people.
//!
//! Each tool is a file with `cli(arguments) -> exit status`, and an entry in [`crate::app`]'s table.
//! All but `selftest` and `thaw --now` only look, and all speak JSON with `--json`. [`args`] takes
//! their command lines apart, [`setting`] finds the configuration that they go by, [`present`] shows.

mod args;
mod present;
pub mod selftest;
mod setting;
mod unit;
