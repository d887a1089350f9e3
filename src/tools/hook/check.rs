//! `qemu-ga hook check`: the part of `qemu-ga check` that is about hooks, for hooks anywhere, also without an agent.

use super::{OPTIONS, find_place};
use crate::cli::Usage;
use crate::hooks::{LOG, log};
use crate::tools::args::{JSON, ParsedArgs, Tool, ToolError};
use crate::tools::check::{Subject, files, hooks, report};
use crate::tools::context::ToolContext;
use std::path::Path;

pub(super) const TOOL: Tool = Tool {
    usage: Usage {
        name: "hook check",
        summary: "what is wrong with the hooks, and what to do about it",
        about: "Looks for what would keep hooks from running, or make their result useless: owners \
                and modes, interpreters, line ends, settings, users, limits, the log. Every finding \
                says what to do. Limits are compared with the hold limit of the running agent, or \
                else of its configuration. Nothing is started.",
        operand: None,
        options: &[&OPTIONS, &[LOG, JSON]],
        exit: &[(0, "no problems found"), (1, "there are findings")],
    },
    subcommands: &[],
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
