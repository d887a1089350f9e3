//! Sources of tasks: the hooks' directory, and the scripts of other systems, each found by an adapter. A new
//! adapter is a file here and a line in [`ADAPTERS`].
//!
//! An adapter maps the contract of another system to tasks and runs nothing itself. What it ignores it
//! reports as a warning.

mod alibaba;
pub mod azure;
pub mod directory;
mod google;
mod huawei;
mod nutanix;
pub mod script;
pub mod tools_conf;
pub mod vmware;

use std::path::Path;

use super::settings::{HookConfig, HookSettings};
use super::task::{Eligibility, HookTask};
use super::trust::Refusal;
use super::{HookStatus, Phase};
use crate::keyfile::parse_boolean;

/// The result of discovery.
#[derive(Debug, Default)]
pub struct Discovered {
    /// The tasks in the order of the freeze.
    pub tasks: Vec<HookTask>,
    /// The tasks that `enabled=no` switches off; set by [`discover`].
    pub disabled: Vec<HookTask>,
    /// Settings and files that are ignored, one line each.
    pub warnings: Vec<String>,
    /// A source asks for no filesystem to be frozen.
    pub leaves_filesystems: bool,
}

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

/// The interface of an adapter.
pub struct Adapter {
    /// Its name: in the report, and of its group in the settings.
    pub name: &'static str,
    /// The system's own names of a snapshot's consistency: pairs of the level in the report and the name.
    pub tags: &'static [(&'static str, &'static str)],
    /// Finds its tasks; reports a warning for everything that it ignores.
    pub discover: fn(&DiscoveryContext<'_>) -> Discovered,
    /// The contract's name of such an end.
    pub error_name: fn(Phase, &HookStatus) -> Option<&'static str>,
}

/// All adapters, in the order in which they run within a stage, before the hooks' directory.
pub static ADAPTERS: &[Adapter] = &[
    vmware::VMWARE,
    azure::AZURE,
    alibaba::ALIBABA,
    google::GOOGLE,
    nutanix::NUTANIX,
    huawei::HUAWEI,
];

/// Finds an adapter by name.
pub fn adapter(name: &str) -> Option<&'static Adapter> {
    ADAPTERS.iter().find(|adapter| adapter.name == name)
}

/// The adapter's name for a snapshot of the report's `level`.
pub fn tag(name: &str, level: &str) -> Option<&'static str> {
    let tag = adapter(name)?.tags.iter().find(|(of, _)| *of == level)?;
    Some(tag.1)
}

/// Reads the settings in `conf` and discovers all tasks of this machine with the hooks' directory `dir`.
///
/// # Errors
/// Another user could have changed the settings or a hook, or the hooks' directory cannot be read.
pub fn read(dir: &Path, conf: &Path, devices: &str) -> Result<(Discovered, HookConfig), Refusal> {
    let rules = HookConfig::read(conf)?;
    let context = DiscoveryContext {
        root: Path::new("/"),
        rules: &rules,
        devices,
    };
    let found = discover(dir, &context)?;
    Ok((found, rules))
}

/// The tasks of all sources, with the warnings of the settings file.
///
/// # Errors
/// Another user could have changed a hook, or the hooks' directory cannot be read.
pub fn discover(dir: &Path, context: &DiscoveryContext<'_>) -> Result<Discovered, Refusal> {
    let rules = context.rules;
    let mut all = Discovered {
        warnings: rules.warnings.clone(),
        ..Discovered::default()
    };
    let adapters = ADAPTERS.iter().map(|adapter| Ok(within(adapter, context)));
    for found in adapters.chain(std::iter::once_with(|| directory::find(dir, rules))) {
        let found: Discovered = found?;
        all.tasks.extend(found.tasks);
        all.warnings.extend(found.warnings);
        all.leaves_filesystems |= found.leaves_filesystems;
    }
    (all.tasks, all.disabled) = all.tasks.into_iter().partition(|task| task.policy.enabled);
    Ok(all)
}

/// The adapter's tasks; they cannot run if settings that may be about the adapter cannot be read.
fn within(adapter: &Adapter, context: &DiscoveryContext<'_>) -> Discovered {
    let mut found = (adapter.discover)(context);
    let policy = HookSettings::default();
    let policy = found.tasks.first().map_or(&policy, |task| &task.policy);
    let fault = context.rules.fault_of_adapter(adapter.name, policy);
    let Some((reason, on_failure, is_named)) = fault else {
        return found;
    };
    if found.tasks.is_empty() && is_named {
        let name = format!("[{}]", adapter.name);
        found
            .tasks
            .push(HookTask::new(adapter.name, name, policy.clone()));
    }
    for task in &mut found.tasks {
        task.policy.on_failure = on_failure;
        task.eligibility = Eligibility::Unfit {
            reason: reason.clone(),
            error: None,
        };
    }
    found.leaves_filesystems = false;
    found
}
