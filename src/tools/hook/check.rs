//! `qemu-ga hook check`: what is wrong with the hooks. `qemu-ga check` looks at the same.

use super::{HELP, OPTIONS, place};
use crate::config::Config;
use crate::hooks::log;
use crate::tools::args::{ParsedArgs, Tool, ToolError};
use crate::tools::check::{files, hooks, report};
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
