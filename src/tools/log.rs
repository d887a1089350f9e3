//! `qemu-ga log`: the hook log, by run, hook or failure. Lines are printed as they are in the file, except for controls
//! of the terminal, so that a search works here as in the file.

mod runs;

use super::args::{JSON, ParsedArgs, Tool, ToolError};
use super::output::{self, Style, escape_control};
use crate::cli::{Arg, OptionSpec, Usage, ValueKind};
use crate::hooks::LOG;
use crate::hooks::log::{DEFAULT_PATH, LogLine};
use crate::sys::strerror;
use runs::Run;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Only the end of a larger log is read: older lines are logrotate's concern.
const MAX_LOG_BYTES: u64 = 16 << 20;

const HOOK: Arg = Arg::Value("NAME", ValueKind::Hook);

pub(crate) const TOOL: Tool = Tool {
    usage: Usage {
        name: "log",
        summary: "the log of the freeze hooks, by run, hook or failure",
        about: "Shows the log of the freeze hooks as it is, or a part of it.",
        operand: None,
        options: &[&[
            OptionSpec::new("hook", HOOK, "only this hook, by its file name or path"),
            OptionSpec::new(
                "run",
                Arg::Value("N", ValueKind::Number),
                "only one run, freeze to thaw: 1 is the last, 2 the one before",
            ),
            OptionSpec::switch("failed", "only what failed, did not end, or was not called"),
            LOG,
            JSON,
        ]],
        exit: &[(0, "shown"), (1, "no log, or nothing in it matches")],
    },
    subcommands: &[],
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

/// For the fuzz tests.
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
