//! Finds the tasks of this machine: those of the adapters in the order of their list, then those of the hooks'
//! directory. Whatever is ignored is reported as a warning.

use std::path::Path;

use super::adapter::{Adapter, Discovered, DiscoveryContext};
use super::directory;
use super::settings::{HookConfig, HookSettings};
use super::task::{Eligibility, HookTask};
use crate::diagnostic::Diagnostic;

pub(crate) fn read(
    dir: &Path,
    conf: &Path,
    devices: &str,
    adapters: &'static [Adapter],
) -> Result<(Discovered, HookConfig), Diagnostic> {
    let rules = HookConfig::read(conf, adapters)?;
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
pub fn discover(dir: &Path, context: &DiscoveryContext<'_>) -> Result<Discovered, Diagnostic> {
    let rules = context.rules;
    let mut all = Discovered {
        warnings: rules.warnings.clone(),
        ..Discovered::default()
    };
    let adapters = rules.adapters.iter();
    let adapters = adapters.map(|adapter| Ok(of_adapter(adapter, context)));
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
fn of_adapter(adapter: &'static Adapter, context: &DiscoveryContext<'_>) -> Discovered {
    let mut found = (adapter.discover)(context);
    let policy = HookSettings::default();
    let policy = found.tasks.first().map_or(&policy, |task| &task.policy);
    if let Some((reason, on_failure, is_named)) =
        context.rules.fault_of_adapter(adapter.name, policy)
    {
        if found.tasks.is_empty() && is_named {
            let name = format!("[{}]", adapter.name);
            found.tasks.push(HookTask::new(name, policy.clone()));
        }
        for task in &mut found.tasks {
            task.policy.on_failure = on_failure;
            task.eligibility = Eligibility::unfit(reason.clone());
        }
        found.leaves_filesystems = false;
    }
    for task in &mut found.tasks {
        task.set_adapter(adapter);
    }
    found
}
