//! Adapters: the scripts that other backup systems run around a snapshot, each system in a file of its own.
//!
//! An adapter maps the contract of its system to tasks and runs nothing itself; what it ignores it reports as a
//! warning. The hooks and the freeze know the interface only ([`crate::hooks::adapter`]), and no system by name. The
//! configuration and the tools call the functions here, which add the list of adapters.

mod alibaba;
pub mod azure;
mod google;
mod huawei;
mod nutanix;
mod script;
mod tools_conf;
mod vmware;

use std::path::Path;

use crate::diagnostic::Diagnostic;
use crate::hooks::adapter::{Adapter, Discovered, FilesystemSettings};
use crate::hooks::discovery;
use crate::hooks::settings::HookConfig;

/// In the order in which they run within a stage, before the hooks' directory.
pub static ADAPTERS: &[Adapter] = &[
    vmware::ADAPTER,
    azure::ADAPTER,
    alibaba::ADAPTER,
    google::ADAPTER,
    nutanix::ADAPTER,
    huawei::ADAPTER,
];

pub(crate) fn discover(dir: &Path, conf: &Path) -> Result<(Discovered, HookConfig), Diagnostic> {
    discovery::read(dir, conf, "", ADAPTERS)
}

/// For each system whose adapter is used. Settings that cannot be read say nothing here: they fail the freeze itself.
pub(crate) fn filesystem_settings(conf: &Path) -> Vec<Result<FilesystemSettings, Diagnostic>> {
    let Ok(rules) = HookConfig::read(conf, ADAPTERS) else {
        return Vec::new();
    };
    let settings = ADAPTERS
        .iter()
        .filter_map(|adapter| (adapter.filesystems)(&rules));
    settings.collect()
}
