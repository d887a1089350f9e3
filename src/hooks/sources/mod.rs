//! Where the master's steps come from: the hooks' directory, and other systems' scripts, each by an
//! adapter. A new adapter is a file here and a line in [`ADAPTERS`].

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

use super::settings::{HookConfig, HookSettings, boolean};
use super::task::{Eligibility, HookTask};
use super::trust::Refusal;
use super::{HookStatus, Phase};

/// What a source found.
#[derive(Debug, Default)]
pub struct Discovered {
    /// Its steps, in the order of the freeze.
    pub tasks: Vec<HookTask>,
    /// Those that the settings switch off; filled in by [`discover`].
    pub disabled: Vec<HookTask>,
    /// What was passed over, one line each.
    pub warnings: Vec<String>,
    /// It wants no filesystem frozen.
    pub leaves_filesystems: bool,
}

/// Whether an adapter is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enabled {
    /// Never.
    No,
    /// If its files are in their usual place.
    Auto,
    /// Always: that its files are missing is a failure.
    Yes,
}

impl Enabled {
    /// The value of `enabled` in an adapter's group.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(value: &str) -> Result<Enabled, String> {
        match value {
            "auto" => Ok(Enabled::Auto),
            _ => match boolean(value) {
                Ok(true) => Ok(Enabled::Yes),
                Ok(false) => Ok(Enabled::No),
                Err(_) => Err("is neither yes, no nor auto".into()),
            },
        }
    }
}

/// What an adapter works from.
#[derive(Debug)]
pub struct DiscoveryContext<'a> {
    /// Below which the adapter's usual places are: `/`, but in tests.
    pub root: &'a Path,
    /// What the operator wants; an adapter's group has its name.
    pub rules: &'a HookConfig,
    /// The devices that the agent will freeze, as `QGA_DEVICES` has them.
    pub devices: &'a str,
}

/// Other systems' scripts.
pub struct Adapter {
    /// Its name: of its group in the file, and in the report.
    pub name: &'static str,
    /// What it calls a snapshot that is worth so much: pairs of a level's name in the report, and its
    /// own word.
    pub tags: &'static [(&'static str, &'static str)],
    /// Finds its steps. It passes over nothing silently.
    pub discover: fn(&DiscoveryContext<'_>) -> Discovered,
    /// What its contract calls an end like this one.
    pub error_name: fn(Phase, &HookStatus) -> Option<&'static str>,
}

/// In the order in which they run within a stage, all of them before the hooks' directory.
pub static ADAPTERS: &[Adapter] = &[
    vmware::VMWARE,
    azure::AZURE,
    alibaba::ALIBABA,
    google::GOOGLE,
    nutanix::NUTANIX,
    huawei::HUAWEI,
];

/// The adapter `name`.
pub fn adapter(name: &str) -> Option<&'static Adapter> {
    ADAPTERS.iter().find(|adapter| adapter.name == name)
}

/// What the adapter `name` calls a snapshot of the report's `level`.
pub fn tag(name: &str, level: &str) -> Option<&'static str> {
    let tag = adapter(name)?.tags.iter().find(|(of, _)| *of == level)?;
    Some(tag.1)
}

/// The settings in `conf` and all that this machine's master would run of `dir` by them.
///
/// # Errors
/// Others could have changed the settings or a hook, or the hooks' directory cannot be read.
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

/// The steps of all sources, with the warnings of the policy's file.
///
/// # Errors
/// Others could have changed a hook, or the hooks' directory cannot be read.
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

/// What the adapter finds, made unfit if settings that may be its own cannot be read.
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
