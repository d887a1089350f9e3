//! `qemu-ga hook check`: what is wrong with the hooks. `qemu-ga check` looks at the same.

use super::{OPTIONS, place};
use crate::cli::Usage;
use crate::config::Config;
use crate::hooks::{LOG, log};
use crate::tools::args::{JSON, ParsedArgs, Tool, ToolError};
use crate::tools::check::{files, hooks, report};
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

fn run(given: &ParsedArgs) -> Result<u8, ToolError> {
    let (dir, conf) = place(given);
    let log = given.value("--log").unwrap_or(log::DEFAULT_PATH.as_ref());
    // Without a configuration that makes sense there is no agent; its defaults are what to go by.
    let config =
        ToolContext::of(&ParsedArgs::default()).map_or_else(|_| Config::default(), |s| s.config);
    let mut results = hooks::installed(&dir, &conf, config.limits.hold);
    results.push(files::writable("hook log", Path::new(log)).unwrap_or_else(|finding| finding));
    Ok(report(&results, given.has("--json")))
}
