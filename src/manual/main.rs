//! Makes what packages install beside the agent: `cargo run --example manual -- DIRECTORY` writes the
//! manual pages, the bash completion, a sample of the configuration file and CONFIGURATION.md into
//! DIRECTORY.
//!
//! Options, tools, commands and defaults come from the tables that the agent itself goes by; the pages'
//! prose is in `pages/`, what each command takes and answers in `commands.txt`, what each key of the
//! hooks and each variable means in `settings.txt`. This is a program of its own: nothing of it gets
//! into the agent.

mod completion;
mod configuration;
mod options;
mod pages;
mod reference;
mod roff;
mod sample;
mod settings;
#[cfg(test)]
mod tests;

use anyhow::Context;
use std::path::PathBuf;

/// Every file: its name, and what is in it.
fn files() -> anyhow::Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("qemu-ga.8", pages::agent()?),
        ("qemu-ga-ref.7", pages::reference()?),
        ("fsfreeze-hook.5", pages::hook()?),
        ("qemu-ga.bash", completion::bash()),
        ("qemu-ga.conf", sample::conf()),
        ("CONFIGURATION.md", configuration::reference()?),
    ])
}

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os().nth(1);
    let directory = PathBuf::from(directory.context("name the directory to write to")?);
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    for (name, text) in files()? {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
