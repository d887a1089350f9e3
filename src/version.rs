//! Floor 0: the two version numbers the agent carries.
//!
//! Hosts compare the protocol version with QEMU's releases; people want to know which qemu-ga-rs
//! answers. Nothing else may spell either number.

/// The QEMU release whose guest agent protocol is spoken, as `guest-info` and `--version` tell it.
///
/// A distribution that must announce another release sets `QGA_PROTOCOL_VERSION` at build time.
pub const PROTOCOL_VERSION: &str = match option_env!("QGA_PROTOCOL_VERSION") {
    Some(version) => version,
    None => "10.0.13",
};

/// The version of qemu-ga-rs itself.
pub const AGENT_VERSION: &str = env!("CARGO_PKG_VERSION");
