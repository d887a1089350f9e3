//! Floor 5: subcommands for people.

pub mod selftest;
