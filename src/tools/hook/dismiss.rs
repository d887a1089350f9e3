//! `qemu-ga hook dismiss`: gives up the thaws of hooks that could not be run.

use crate::hooks::journal;
use crate::tools::args::{ParsedArgs, Tool, ToolError};
use crate::tools::context::{self, ToolContext};
use crate::tools::output;

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

fn run(given: &ParsedArgs) -> Result<u8, ToolError> {
    let name = given.operands.first().map(|name| name.to_string_lossy());
    let statedir = ToolContext::of(given)?.config.statedir;
    let names = journal::dismiss(&statedir, name.as_deref()).map_err(|error| error.to_string())?;
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
