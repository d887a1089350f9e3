//! `qemu-ga hook check`: the part of `qemu-ga check` that is about hooks, for hooks anywhere.
//!
//! Nothing is started, and no running agent is needed. [`super::cli`] calls the tool.

use super::{HELP, OPTIONS, find_place};
use crate::hooks::log;
use crate::tools::args::{ParsedArgs, Tool, ToolError};
use crate::tools::check::{Subject, files, hooks, report};
use crate::tools::context::ToolContext;
use std::path::Path;

const USAGE: &str = "\
Usage: qemu-ga hook check [--dir DIR] [--conf FILE] [--log FILE] [--json]
Looks for what would keep hooks from running or from being believed: owners and
modes, interpreters, line ends, settings, users, limits, the log. Every finding
says what to do. Nothing is started.
";
const MORE: &str = "  \
  --log FILE   the hooks' log; default: /var/log/qga-fsfreeze-hook.log
Limits are held against the hold limit of the running agent, or else of its
configuration.
Exit status: 0 all is well; 1 something is to be mended; 2 for a mistake in this
command.
";

pub(super) const TOOL: Tool = Tool {
    name: "hook check",
    usage: &[USAGE, HELP, MORE],
    flags: &[],
    values: &[OPTIONS[0], OPTIONS[1], "--log"],
    max_operands: 0,
    run,
};

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    let (dir, conf) = find_place(args);
    let log = args.value("--log").unwrap_or(log::DEFAULT_PATH.as_ref());
    // Without a readable configuration no agent starts, and the defaults apply to the next one.
    let context =
        ToolContext::of(&ParsedArgs::default()).unwrap_or_else(|_| ToolContext::built_in());
    let mut results = hooks::check_installed(&dir, &conf, context.config.limits.hold);
    let log = files::check_writable(Subject::HookLog, Path::new(log));
    results.push(log.unwrap_or_else(|finding| finding));
    Ok(report(&results, args.has("--json")))
}
