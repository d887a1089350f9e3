//! The interface of an adapter: it maps the contract of another backup system to tasks and runs nothing itself.
//!
//! The adapters are in `src/adapters`, above this folder. Their list comes from the callers of
//! [`super::discovery`] and [`super::runner`], so nothing here knows one of them by name.

use std::path::Path;

use super::discovery::Discovered;
use super::settings::HookConfig;
use super::{HookStatus, Phase};
use crate::diagnostic::Diagnostic;
use crate::keyfile::parse_boolean;

/// Whether an adapter is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enabled {
    /// Never.
    No,
    /// If its files are in their default place.
    Auto,
    /// Always; it is a failure if its files are missing.
    Yes,
}

impl Enabled {
    /// Parses the value of `enabled` in an adapter's group.
    ///
    /// # Errors
    /// Any other value.
    pub fn parse(value: &str) -> Result<Enabled, String> {
        match value {
            "auto" => Ok(Enabled::Auto),
            _ => match parse_boolean(value) {
                Ok(true) => Ok(Enabled::Yes),
                Ok(false) => Ok(Enabled::No),
                Err(_) => Err("is neither yes, no nor auto".into()),
            },
        }
    }
}

/// The input of an adapter.
#[derive(Debug)]
pub struct DiscoveryContext<'a> {
    /// The root of the default paths: `/`, except in tests.
    pub root: &'a Path,
    /// The settings; an adapter's group has the adapter's name.
    pub rules: &'a HookConfig,
    /// The devices that the agent will freeze, in the form of `QGA_DEVICES`.
    pub devices: &'a str,
}

/// What another system's settings say of filesystems.
#[derive(Debug, PartialEq)]
pub struct FilesystemSettings {
    /// The file that says it, for messages.
    pub origin: &'static str,
    /// Glob patterns of mount points that are not frozen.
    pub exclude: Vec<String>,
    /// Whether a filesystem that another program has frozen is no error.
    pub ignore_frozen: bool,
}

/// An adapter. Only `name` and `discover` have no default, see [`Adapter::DEFAULT`].
#[derive(Debug)]
pub struct Adapter {
    /// Its name: in the report, and of its group in the settings.
    pub name: &'static str,
    /// The system's own names of a snapshot's consistency: pairs of the level in the report and the name.
    pub tags: &'static [(&'static str, &'static str)],
    /// Finds its tasks; reports a warning for everything that it ignores.
    pub discover: fn(&DiscoveryContext<'_>) -> Discovered,
    /// The contract's name of such an end.
    pub error_name: fn(Phase, &HookStatus) -> Option<&'static str>,
    /// What the system's settings say of filesystems, if the adapter is used and they say anything; an error if
    /// they cannot be read.
    pub filesystems: fn(&HookConfig) -> Option<Result<FilesystemSettings, Diagnostic>>,
}

impl Adapter {
    /// A contract that names no levels and no errors and says nothing of filesystems.
    pub const DEFAULT: Adapter = Adapter {
        name: "",
        tags: &[],
        discover: |_| Discovered::default(),
        error_name: |_, _| None,
        filesystems: |_| None,
    };
}

/// Finds an adapter by name.
pub fn by_name(adapters: &'static [Adapter], name: &str) -> Option<&'static Adapter> {
    adapters.iter().find(|adapter| adapter.name == name)
}
