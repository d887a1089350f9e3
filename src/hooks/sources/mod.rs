//! Where the master's steps come from: the hooks' directory, and other systems' scripts, each by an
//! adapter. A new adapter is a file here and a line in [`ADAPTERS`].

mod alibaba;
pub mod azure;
pub mod directory;
mod google;
pub mod script;
mod vmware;

use std::path::Path;

use super::policy::{Rules, boolean};
use super::step::Step;
use super::trust::Refusal;

/// What a source found.
#[derive(Debug, Default)]
pub struct Found {
    /// Its steps, in the order of the freeze.
    pub steps: Vec<Step>,
    /// Those that the settings switch off; filled in by [`find`].
    pub disabled: Vec<Step>,
    /// What was passed over, one line each.
    pub warnings: Vec<String>,
    /// It wants no filesystem frozen.
    pub leaves_filesystems: bool,
}

/// Whether an adapter is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Never.
    No,
    /// If its files are in their usual place.
    Auto,
    /// Always: that its files are missing is a failure.
    Yes,
}

impl Use {
    /// The value of `enabled` in an adapter's group.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(value: &str) -> Result<Use, String> {
        match value {
            "auto" => Ok(Use::Auto),
            _ => match boolean(value) {
                Ok(true) => Ok(Use::Yes),
                Ok(false) => Ok(Use::No),
                Err(_) => Err("is neither yes, no nor auto".into()),
            },
        }
    }
}

/// What an adapter works from.
#[derive(Debug)]
pub struct Scene<'a> {
    /// Below which the adapter's usual places are: `/`, but in tests.
    pub root: &'a Path,
    /// What the operator wants; an adapter's group has its name.
    pub rules: &'a Rules,
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
    pub find: fn(&Scene<'_>) -> Found,
}

/// In the order in which they run within a stage, all of them before the hooks' directory.
pub const ADAPTERS: [Adapter; 4] = [
    vmware::VMWARE,
    azure::AZURE,
    alibaba::ALIBABA,
    google::GOOGLE,
];

/// What the adapter `name` calls a snapshot of the report's `level`.
pub fn tag(name: &str, level: &str) -> Option<&'static str> {
    let adapter = ADAPTERS.iter().find(|adapter| adapter.name == name)?;
    let tag = adapter.tags.iter().find(|(of, _)| *of == level)?;
    Some(tag.1)
}

/// The settings in `conf` and all that this machine's master would run of `dir` by them.
///
/// # Errors
/// Others could have changed the settings or a hook, or the hooks' directory cannot be read.
pub fn read(dir: &Path, conf: &Path, devices: &str) -> Result<(Found, Rules), Refusal> {
    let rules = Rules::read(conf)?;
    let scene = Scene {
        root: Path::new("/"),
        rules: &rules,
        devices,
    };
    let found = find(dir, &scene)?;
    Ok((found, rules))
}

/// The steps of all sources, with the warnings of the policy's file.
///
/// # Errors
/// Others could have changed a hook, or the hooks' directory cannot be read.
pub fn find(dir: &Path, scene: &Scene<'_>) -> Result<Found, Refusal> {
    let rules = scene.rules;
    let mut all = Found {
        warnings: rules.warnings.clone(),
        ..Found::default()
    };
    let known: Vec<&str> = ADAPTERS.iter().map(|adapter| adapter.name).collect();
    all.warnings.extend(rules.unknown_groups(&known));
    let adapters = ADAPTERS.iter().map(|adapter| Ok((adapter.find)(scene)));
    for found in adapters.chain(std::iter::once_with(|| directory::find(dir, rules))) {
        let found: Found = found?;
        all.steps.extend(found.steps);
        all.warnings.extend(found.warnings);
        all.leaves_filesystems |= found.leaves_filesystems;
    }
    (all.steps, all.disabled) = all.steps.into_iter().partition(|step| step.policy.enabled);
    Ok(all)
}
