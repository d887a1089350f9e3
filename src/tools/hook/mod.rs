//! `qemu-ga hook list|check|try|dismiss`: the hooks as they would run, what is wrong with them, one of
//! them by itself, and an end to thaws that cannot be run. The other words of `qemu-ga hook` are the hook master's ([`crate::hooks::cli`]).

mod check;
mod dismiss;
mod list;
mod trial;

use super::args::ParsedArgs;
use crate::adapters::ADAPTERS;
use crate::hooks::{self, locate};
use std::ffi::OsString;
use std::path::PathBuf;

/// The options that say which hooks are meant, for [`super::args::Tool::values`].
const OPTIONS: [&str; 2] = ["--dir", "--conf"];
/// Their part of a help text.
const HELP: &str = "  \
  --dir DIR    default: fsfreeze-hook.d in /etc/qemu or /etc/qemu-ga
  --conf FILE  the hooks' settings; default: fsfreeze-hook.conf beside DIR
  --json       for machines
";

/// Runs `qemu-ga hook` with the arguments behind that word; returns the exit status.
pub fn cli(args: &[OsString]) -> u8 {
    let rest = args.get(1..).unwrap_or_default();
    match args.first().and_then(|word| word.to_str()) {
        Some("list") => list::TOOL.run_cli(rest),
        Some("check") => check::TOOL.run_cli(rest),
        Some("try") => trial::TOOL.run_cli(rest),
        Some("dismiss") => dismiss::TOOL.run_cli(rest),
        _ => hooks::cli(args, ADAPTERS),
    }
}

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
