//! Floor 1: the only `unsafe` of the crate, each piece behind a safe, owning API.
//!
//! What the `nix` crate already makes safe is used from there; here lives the rest: the freeze
//! ioctls, memory locking, the environment of socket activation, becoming a daemon.

pub mod activation;
pub mod daemon;
pub mod fsfreeze;
pub mod memory;
