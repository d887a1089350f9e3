//! `qemu-ga log`: the hook log, by run, hook or failure.
//!
//! Lines are printed as they are in the file, controls of the terminal replaced, so that a search for them works in both.
//! Only the end of a large log is read. [`crate::app`] calls the tool.

mod runs;

use super::args::{ParsedArgs, Tool, ToolError};
use super::output::{self, Style, escape_control};
use crate::hooks::log::{DEFAULT_PATH, LogLine};
use crate::sys::strerror;
use runs::Run;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

const USAGE: &str = "\
Usage: qemu-ga log [--hook NAME] [--run N] [--failed] [--log FILE] [--json]
Shows the log of the freeze hooks, as it is, or only a part of it:
  --hook NAME  this hook, by its file name or path
  --run N      one run, freeze to thaw: 1 is the last, 2 the one before
  --failed     what failed, did not end, or was not called
  --log FILE   the log; default: /var/log/qga-fsfreeze-hook.log
  --json       for machines
Exit status: 0; 1 if there is no log, or nothing in it is meant; 2 for a mistake
in this command.
";

/// Most bytes of the log that are read, from its end. Older ones are logrotate's concern.
const MAX_LOG_BYTES: u64 = 16 << 20;

/// `qemu-ga log`.
pub const TOOL: Tool = Tool {
    name: "log",
    usage: &[USAGE],
    flags: &["--failed"],
    values: &["--hook", "--run", "--log"],
    max_operands: 0,
    run,
};

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    let number = args.number("--run").map_err(ToolError::Mistake)?;
    let path = args
        .value("--log")
        .map_or(Path::new(DEFAULT_PATH), Path::new);
    let shown = path.display();
    let (text, left_out) = read(path).map_err(|error| {
        let why = strerror(&error);
        format!("cannot read {shown}: {why}; it is created when the first hook is called")
    })?;
    let hook = args.value("--hook").map(|name| name.to_string_lossy());
    let mut runs = runs::parse(&text);
    runs.retain(|run| number.is_none_or(|number| run.number == number));
    for run in &mut runs {
        run.entries.retain(|entry| {
            let is_meant = hook.as_ref().is_none_or(|name| entry.is_of(name));
            is_meant && (entry.failed || !args.has("--failed"))
        });
    }
    runs.retain(|run| !run.entries.is_empty());
    if left_out > 0 {
        output::print_error(&format!(
            "the first {left_out} bytes of {shown} are left out\n"
        ));
    }
    if args.has("--json") {
        return Ok(output::print_json_list("runs", &runs));
    }
    if runs.is_empty() {
        let text = format!("no lines selected: no such run, hook or failure in {shown}");
        return Err(ToolError::Failed(text));
    }
    Ok(output::print(&show(&runs, Style::of_stdout())))
}

/// A log as the tool prints it, for the fuzz tests.
pub fn render(text: &str) -> String {
    show(&runs::parse(text), Style::default())
}

/// The end of the log, and the number of bytes before it.
fn read(path: &Path) -> io::Result<(String, u64)> {
    // Reading a FIFO or device may never end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let left_out = length.saturating_sub(MAX_LOG_BYTES);
    file.seek(SeekFrom::Start(left_out))?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG_BYTES).read_to_end(&mut bytes)?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), left_out))
}

fn show(runs: &[Run], style: Style) -> String {
    let mut text = String::new();
    for run in runs {
        if !text.is_empty() {
            text.push('\n');
        }
        for entry in &run.entries {
            for line in &entry.lines {
                let shown = escape_control(line);
                let Some((_, what)) = LogLine::parse(line) else {
                    text += &(shown + "\n");
                    continue;
                };
                text += &match what {
                    LogLine::Execute { .. } | LogLine::Release { .. } => style.bold(&shown),
                    LogLine::Holds { .. } => style.good(&shown),
                    LogLine::Finished { status, note, .. } if note.is_success(status) => {
                        style.good(&shown)
                    }
                    LogLine::Unneeded { .. } => style.warning(&shown),
                    LogLine::Finished { .. }
                    | LogLine::Lost { .. }
                    | LogLine::Skipped { .. }
                    | LogLine::NotCalled { .. }
                    | LogLine::CannotRun { .. }
                    | LogLine::Other(_) => style.bad(&shown),
                };
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
pub(super) use runs::sample;
