//! The completions of bash, zsh and fish, from the tables of the command lines.
//!
//! They propose tools, options and values: words, files, mount points of /proc/self/mounts, hooks of the hooks'
//! directories, names of commands and patterns. A script calls no program and never evaluates a name that it has read.

mod bash;
mod fish;
#[cfg(test)]
mod tests;
mod zsh;

pub use bash::script as bash;
pub use fish::script as fish;
pub use zsh::script as zsh;

use crate::options::shown;
use qemu_ga::app::TOOLS;
use qemu_ga::cli::{Operand, OptionSpec};
use qemu_ga::commands;
use qemu_ga::tools::args::Tool;

struct Line {
    /// The words after `qemu-ga`; empty for the agent itself.
    name: String,
    options: Vec<&'static OptionSpec>,
    operand: Option<Operand>,
    /// What may come next in the name, each with what it is for.
    words: Vec<(&'static str, &'static str)>,
}

fn lines() -> Vec<Line> {
    let words = |tools: &'static [Tool]| tools.iter().map(|tool| (tool.word(), tool.usage.summary));
    let agent = Line {
        name: String::new(),
        options: shown().map(|option| &option.spec).collect(),
        operand: None,
        words: words(&TOOLS)
            .chain([("help", "show the help of a tool")])
            .collect(),
    };
    let help = |name: &str, tools: &'static [Tool]| Line {
        name: format!("help {name}").trim_end().to_owned(),
        options: Vec::new(),
        operand: None,
        words: words(tools).collect(),
    };
    let mut lines = vec![agent, help("", &TOOLS)];
    for tool in TOOLS.iter().flat_map(|tool| tool.all()) {
        lines.push(help(tool.usage.name, tool.subcommands));
        lines.push(Line {
            name: tool.usage.name.to_owned(),
            options: tool.usage.options().collect(),
            operand: tool.usage.operand,
            words: words(tool.subcommands).collect(),
        });
    }
    lines
}

fn command_names() -> Vec<&'static str> {
    commands::all().iter().map(|command| command.name).collect()
}

/// An option's help up to the first pause.
fn brief(help: &'static str) -> &'static str {
    let ends = ["; ", ". ", " ("].iter().filter_map(|end| help.find(end));
    ends.min().map_or(help, |end| &help[..end])
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

const HOOK_DIRS: [&str; 2] = ["/etc/qemu/fsfreeze-hook.d", "/etc/qemu-ga/fsfreeze-hook.d"];
