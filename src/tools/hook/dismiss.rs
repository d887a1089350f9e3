//! `qemu-ga hook dismiss`: gives up the thaws of hooks that could not be run.
//!
//! It only changes the journal of the hook master; no hook is run. [`super::cli`] calls the tool.

use crate::hooks::journal;
use crate::tools::args::{ParsedArgs, Tool, ToolError};
use crate::tools::context::{self, ToolContext};
use crate::tools::output::{self, Style};

const USAGE: &str = "\
Usage: qemu-ga hook dismiss [HOOK]
Gives up the thaw of a hook that was told to freeze and could not be run at the
thaw, as qemu-ga status shows it. Nothing is run.
  HOOK                 its path or file name; default: all of them
";
const EXIT: &str = "\
Exit status: 0; 1 if there is no such thaw; 2 for a mistake in this command.
";

pub(super) const TOOL: Tool = Tool {
    name: "hook dismiss",
    usage: &[USAGE, context::HELP, EXIT],
    flags: &[],
    values: context::OPTIONS,
    max_operands: 1,
    run,
};

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    let name = args.operands.first().map(|name| name.to_string_lossy());
    let statedir = ToolContext::of(args)?.config.statedir;
    let names = journal::dismiss(&statedir, name.as_deref())?;
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
