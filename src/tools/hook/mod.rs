//! `qemu-ga hook list|check|try|dismiss`. Hooks are found by the master's own code, so what is shown is what a freeze
//! runs. [`TOOL`]'s own operands are those of the hook master ([`hooks::run_master`]).

mod check;
mod dismiss;
mod list;
mod trial;

use super::args::{ParsedArgs, Tool};
use crate::adapters::ADAPTERS;
use crate::cli::OptionSpec;
use crate::hooks::{self, locate};
use std::path::PathBuf;

const OPTIONS: [OptionSpec; 2] = [hooks::DIR, hooks::CONF];

pub const TOOL: Tool = Tool {
    usage: hooks::USAGE,
    subcommands: &[list::TOOL, check::TOOL, trial::TOOL, dismiss::TOOL],
    run: |args| Ok(hooks::run_master(args, ADAPTERS)),
};

fn find_place(args: &ParsedArgs) -> (PathBuf, PathBuf) {
    let named = |name| args.value(name).map(PathBuf::from);
    let dir = named("--dir").unwrap_or_else(locate::default_dir);
    let conf = named("--conf").unwrap_or_else(|| locate::conf_beside(&dir));
    (dir, conf)
}

#[cfg(test)]
pub(super) fn samples() -> Vec<(&'static str, serde_json::Value)> {
    let names = vec!["x"];
    vec![
        ("qemu-ga hook list", list::sample()),
        ("qemu-ga hook try", trial::sample()),
        (
            "qemu-ga hook dismiss",
            super::output::named("dismissed", &names),
        ),
    ]
}
