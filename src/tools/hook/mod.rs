//! `qemu-ga hook list|check|try|dismiss`: show the hooks, check them, run one, and give up pending thaws.
//!
//! Hooks are found by the master's own code, so what is shown is what a freeze runs. [`crate::app`] calls [`cli`], which
//! passes all other words to the hook master ([`crate::hooks::cli`]).

mod check;
mod dismiss;
mod list;
mod trial;

use super::args::ParsedArgs;
use crate::diagnostic::Diagnostic;
use crate::hooks::task::Eligibility;
use crate::hooks::trust::Refusal;
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
        _ => hooks::cli(args),
    }
}

/// The hooks' directory and the file with their settings.
fn find_place(args: &ParsedArgs) -> (PathBuf, PathBuf) {
    let named = |name| args.value(name).map(PathBuf::from);
    let dir = named("--dir").unwrap_or_else(locate::default_dir);
    let conf = named("--conf").unwrap_or_else(|| locate::conf_beside(&dir));
    (dir, conf)
}

/// Why no hook is run.
pub(super) fn refusal_diagnostic(refusal: &Refusal) -> Diagnostic {
    Diagnostic::new("", &refusal.0, "")
}

/// Why a hook is not run, and what to do about it. None: it runs.
pub(super) fn skip_diagnostic(eligibility: &Eligibility) -> Option<Diagnostic> {
    match eligibility {
        Eligibility::Fit => None,
        Eligibility::Skipped(reason) | Eligibility::Unfit { reason, .. } => {
            Some(Diagnostic::new("", reason, ""))
        }
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
