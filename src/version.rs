//! Floor 0: the two version numbers of the agent.
//!
//! Hosts compare the protocol version with QEMU's releases to find out which commands the guest has; people want to know
//! which qemu-ga-rs runs. Everything else takes both from here: guest-info, `--version`, the manual pages.

/// The QEMU release whose guest agent protocol is implemented, as in `guest-info` and `--version`.
///
/// A distribution that must announce another release sets `QGA_PROTOCOL_VERSION` at build time.
pub const PROTOCOL_VERSION: &str = match option_env!("QGA_PROTOCOL_VERSION") {
    Some(version) => version,
    None => "11.1.3",
};

/// The version of qemu-ga-rs.
pub const AGENT_VERSION: &str = env!("CARGO_PKG_VERSION");
