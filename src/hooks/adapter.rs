//! The interface of an adapter: it maps the contract of another backup system to tasks and runs nothing itself.
//!
//! The adapters are in `src/adapters`, above this folder, so nothing here knows one of them by name: callers of
//! [`super::discovery`] and [`super::runner`] pass the list.

use std::path::Path;

use super::settings::HookConfig;
use super::task::HookTask;
use super::{HookStatus, Phase};
use crate::diagnostic::Diagnostic;
use crate::keyfile::parse_boolean;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enabled {
    No,
    /// Used if its files are in their default place.
    Auto,
    /// Missing files are a failure.
    Yes,
}

impl Enabled {
    pub(crate) fn parse(value: &str) -> Result<Enabled, String> {
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

/// What an adapter discovers tasks from.
#[derive(Debug)]
pub struct DiscoveryContext<'a> {
    /// The root of the default paths: `/`, except in tests.
    pub root: &'a Path,
    /// The settings of the hooks and the adapters.
    pub rules: &'a HookConfig,
    /// The devices that the agent will freeze, in the form of `QGA_DEVICES`.
    pub devices: &'a str,
}

#[derive(Debug, PartialEq)]
pub(crate) struct FilesystemSettings {
    pub origin: &'static str,
    pub exclude: Vec<String>,
    /// Whether a filesystem that another program has frozen is no error.
    pub ignore_frozen: bool,
}

/// Only `name` and `discover` have no default, see [`Adapter::DEFAULT`].
#[derive(Debug)]
pub struct Adapter {
    /// Its name in the report, and of its group in the settings.
    pub name: &'static str,
    /// The system's own names of a snapshot's consistency: pairs of the level in the report and the name.
    pub(crate) tags: &'static [(&'static str, &'static str)],
    /// Finds its tasks; reports a warning for everything that it ignores.
    pub discover: fn(&DiscoveryContext<'_>) -> Discovered,
    pub(crate) error_name: fn(Phase, &HookStatus) -> Option<&'static str>,
    /// None: the adapter is not used, or its system has no such settings. An error: they cannot be read.
    pub(crate) filesystems: fn(&HookConfig) -> Option<Result<FilesystemSettings, Diagnostic>>,
}

impl Adapter {
    pub(crate) const DEFAULT: Adapter = Adapter {
        name: "",
        tags: &[],
        discover: |_| Discovered::default(),
        error_name: |_, _| None,
        filesystems: |_| None,
    };
}

pub(crate) fn by_name(adapters: &'static [Adapter], name: &str) -> Option<&'static Adapter> {
    adapters.iter().find(|adapter| adapter.name == name)
}

/// What discovery found.
#[derive(Debug, Default)]
pub struct Discovered {
    /// In the order of the freeze.
    pub tasks: Vec<HookTask>,
    /// The tasks that `enabled=no` switches off; only [`super::discovery::discover`] sets them.
    pub(crate) disabled: Vec<HookTask>,
    /// Settings and files that are ignored, one line each.
    pub warnings: Vec<String>,
    /// A source asks for no filesystem to be frozen.
    pub leaves_filesystems: bool,
}
