//! Makes what packages install besides the agent.
//!
//! `cargo xtask manual DIRECTORY` writes the manual pages, the completions of the shells, a sample of the configuration
//! file, CONFIGURATION.md, and the licenses of the crates into DIRECTORY. Options, tools, commands and defaults come from
//! the agent's own tables; the prose is in `pages/`.

mod completion;
mod configuration;
mod crates;
mod man;
mod options;
mod pages;
mod reference;
mod sample;
mod settings;
#[cfg(test)]
mod tests;

use anyhow::{Context, bail};
use std::ffi::{OsStr, OsString};
use std::path::Path;

fn files() -> anyhow::Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("qemu-ga.8", pages::agent()?),
        ("qemu-ga-ref.7", pages::reference()?),
        ("fsfreeze-hook.5", pages::hook()?),
        ("qga-snapshot.1", pages::of_host("qga-snapshot")?),
        ("qga-fleet.1", pages::of_host("qga-fleet")?),
        ("qemu-ga.bash", completion::bash()),
        ("qemu-ga.fish", completion::fish()),
        ("_qemu-ga", completion::zsh()),
        ("qemu-ga.conf", sample::conf()),
        ("CONFIGURATION.md", configuration::reference()?),
    ])
}

fn manual(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    for (name, text) in files()?.into_iter().chain(crates::files()?) {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args
        .iter()
        .map(OsString::as_os_str)
        .collect::<Vec<&OsStr>>()[..]
    {
        [task, directory] if task == "manual" => manual(Path::new(directory)),
        _ => bail!("usage: cargo xtask manual DIRECTORY"),
    }
}
