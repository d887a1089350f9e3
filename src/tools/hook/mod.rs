//! `qemu-ga hook list|check|try|dismiss`: the hooks as they would run, what is wrong with them, one of
//! them by itself, and an end to thaws that cannot be run. The other words of `qemu-ga hook` are the hook master's ([`hooks::run_master`]).

mod check;
mod dismiss;
mod list;
mod trial;

use super::args::{ParsedArgs, Tool};
use crate::cli::OptionSpec;
use crate::hooks::{self, locate};
use std::path::PathBuf;

/// The options that say which hooks are meant.
const OPTIONS: [OptionSpec; 2] = [hooks::DIR, hooks::CONF];

/// `qemu-ga hook`: the master, and the tools under it.
pub const TOOL: Tool = Tool {
    usage: hooks::USAGE,
    subcommands: &[list::TOOL, check::TOOL, trial::TOOL, dismiss::TOOL],
    run: |given| Ok(hooks::run_master(given)),
};

/// The hooks' directory and the file with their settings.
fn place(given: &ParsedArgs) -> (PathBuf, PathBuf) {
    let named = |name| given.value(name).map(PathBuf::from);
    let dir = named("--dir").unwrap_or_else(locate::default_dir);
    let conf = named("--conf").unwrap_or_else(|| locate::conf_beside(&dir));
    (dir, conf)
}

/// The last part of a path.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
