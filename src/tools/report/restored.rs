//! `qemu-ga report --restored`: the run from whose copy this machine was started, and its restore hooks.

use super::runs::report_value;
use super::show;
use crate::config::Config;
use crate::freeze::restored;
use crate::freeze::snapshot::{Restored, SnapshotFile};
use crate::tools::args::ToolError;
use crate::tools::output::{self, Style, message};
use crate::tools::time;
use serde_json::Value;

pub(super) fn run(
    config: &Config,
    as_json: bool,
    all: bool,
    style: Style,
) -> Result<u8, ToolError> {
    let failed = |why: &str| ToolError::Failed(format!("cannot show a start from a copy: {why}"));
    let path = config.snapshot_file.clone();
    let path = path.ok_or_else(|| failed("snapshot-file is off"))?;
    let read = restored::read(&SnapshotFile::from(path)).map_err(|why| failed(&why))?;
    let restored = read.ok_or_else(|| failed("this machine was not started from one"))?;
    Ok(match as_json {
        true => output::print_json(&value(&restored)),
        false => output::print(&render(&restored, all, style)),
    })
}

pub(super) fn value(restored: &Restored) -> Value {
    let mut value = output::value(restored);
    value["found"] = output::value(&time::rfc3339(restored.found));
    value["run"] = report_value(&restored.run);
    value
}

fn render(restored: &Restored, all: bool, style: Style) -> String {
    let mut text = style.wrap(
        "Found   ",
        &message(&format!("{}: {restored}", output::moment(restored.found))),
    );
    if let Some(why) = &restored.error {
        text += &style.wrap("Error   ", &message(why));
    }
    text += &format!(
        "\n{}\n",
        style.bold("Restore hooks, in the order of running")
    );
    if restored.hooks.is_empty() {
        text += match restored.complete {
            true => "  none\n",
            false => "  not run yet\n",
        };
    }
    for hook in &restored.hooks {
        let line = match hook.succeeded {
            true => style.good(&format!("{}: success", hook.path)),
            false => message(&hook.to_string()),
        };
        text += &style.wrap("  - ", &line);
    }
    text + "\n" + &show(&restored.run, None, all, style)
}
