//! `qemu-ga hook dismiss`: gives up the thaws of hooks that could not be run. Only the journal is changed.

use crate::cli::{Operand, Usage, ValueKind};
use crate::hooks::journal;
use crate::tools::args::{JSON, ParsedArgs, Tool, ToolError};
use crate::tools::context::{self, ToolContext};
use crate::tools::output::{self, Style};

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

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    let name = args.operands.first().map(|name| name.to_string_lossy());
    let statedir = ToolContext::of(args)?.config.statedir;
    let names = journal::dismiss(&statedir, name.as_deref()).map_err(|error| error.to_string())?;
    if names.is_empty() {
        return Err(ToolError::Failed(
            "no pending thaw; see qemu-ga status".into(),
        ));
    }
    Ok(match args.has("--json") {
        true => output::print_json_list("dismissed", &names),
        false => {
            let names = output::escape_control(&names.join(", "));
            output::print(&Style::of_stdout().wrap("", &names))
        }
    })
}
