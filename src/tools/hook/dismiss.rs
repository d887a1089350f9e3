//! `qemu-ga hook dismiss`: gives up the thaws of hooks that could not be run.

use crate::cli::{Operand, Usage, ValueKind};
use crate::hooks::journal;
use crate::tools::args::{JSON, ParsedArgs, Tool, ToolError};
use crate::tools::context::{self, ToolContext};
use crate::tools::output;

pub(super) const TOOL: Tool = Tool {
    usage: Usage {
        name: "hook dismiss",
        summary: "give up the thaw of a hook that cannot be run",
        about: "Gives up the thaw of a hook that was called with freeze and could not be run at the \
                thaw; qemu-ga status shows it. Nothing is run.",
        operand: Some(Operand {
            name: "HOOK",
            kind: ValueKind::Hook,
            help: "its path or file name (default: all of them)",
            required: false,
            max: 1,
        }),
        options: &[&[JSON], context::OPTIONS],
        exit: &[(0, "done"), (1, "there is no such thaw")],
    },
    subcommands: &[],
    run,
};

fn run(given: &ParsedArgs) -> Result<u8, ToolError> {
    let name = given.operands.first().map(|name| name.to_string_lossy());
    let statedir = ToolContext::of(given)?.config.statedir;
    let names = journal::dismiss(&statedir, name.as_deref())?;
    if names.is_empty() {
        return Err(ToolError::Failed(
            "no thaw is owed; see qemu-ga status".into(),
        ));
    }
    let told = match given.has("--json") {
        true => serde_json::Value::from(names).to_string(),
        false => output::escape_control(&names.join(", ")),
    };
    Ok(output::print(&(told + "\n")))
}
