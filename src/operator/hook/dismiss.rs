//! `qemu-ga hook dismiss`: gives up the thaws of hooks that could not be run.

use crate::hooks::journal;
use crate::operator::args::{Ended, Given, Tool};
use crate::operator::present;
use crate::operator::setting::{self, Setting};

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
    usage: &[USAGE, setting::HELP, EXIT],
    flags: &[],
    values: setting::OPTIONS,
    most_words: 1,
    work,
};

fn work(given: &Given) -> Result<u8, Ended> {
    let name = given.words.first().map(|name| name.to_string_lossy());
    let statedir = Setting::of(given)?.config.statedir;
    let names = journal::dismiss(&statedir, name.as_deref())?;
    if names.is_empty() {
        return Err(Ended::Failed("no thaw is owed; see qemu-ga status".into()));
    }
    let told = match given.has("--json") {
        true => serde_json::Value::from(names).to_string(),
        false => present::tame(&names.join(", ")),
    };
    Ok(present::print(&(told + "\n")))
}
