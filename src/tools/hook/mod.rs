//! `qemu-ga hook list|check|try|dismiss`: show the hooks, check them, run one, and give up pending thaws.
//!
//! Hooks are found by the master's own code, so what is shown is what a freeze runs. [`crate::app`] calls [`TOOL`], whose
//! own operands are those of the hook master ([`hooks::run_master`]).

mod check;
mod dismiss;
mod list;
mod trial;

use super::args::{ParsedArgs, Tool};
use crate::adapters::ADAPTERS;
use crate::cli::OptionSpec;
use crate::diagnostic::Diagnostic;
use crate::hooks::task::Eligibility;
use crate::hooks::{self, locate};
use std::path::PathBuf;

/// The options that say which hooks are meant.
const OPTIONS: [OptionSpec; 2] = [hooks::DIR, hooks::CONF];

/// `qemu-ga hook`: the master, and the tools under it.
pub const TOOL: Tool = Tool {
    usage: hooks::USAGE,
    subcommands: &[list::TOOL, check::TOOL, trial::TOOL, dismiss::TOOL],
    run: |args| Ok(hooks::run_master(args, ADAPTERS)),
};

/// The hooks' directory and the file with their settings.
fn find_place(args: &ParsedArgs) -> (PathBuf, PathBuf) {
    let named = |name| args.value(name).map(PathBuf::from);
    let dir = named("--dir").unwrap_or_else(locate::default_dir);
    let conf = named("--conf").unwrap_or_else(|| locate::conf_beside(&dir));
    (dir, conf)
}

/// Why a hook is not run, and what to do about it. None: it runs.
pub(super) fn skip_diagnostic(eligibility: &Eligibility) -> Option<Diagnostic> {
    match eligibility {
        Eligibility::Fit => None,
        Eligibility::Skipped(reason) | Eligibility::Unfit { reason, .. } => Some(reason.clone()),
    }
}

/// What the tools print, for the test of docs/json.md.
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
