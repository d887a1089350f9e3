//! Options as text: for the page, CONFIGURATION.md, the completion and the sample.

use crate::man::literal;
use qemu_ga::cli::{Arg, OptionSpec, Usage};
use qemu_ga::config::options::{AgentOption, Group, OPTIONS};
use std::fmt::Write;

pub fn shown() -> impl Iterator<Item = &'static AgentOption> {
    OPTIONS.iter().filter(|option| !option.spec.help.is_empty())
}

pub fn markdown() -> String {
    let mut text = String::new();
    for option in shown() {
        text += &entry(&option.spec);
        if let Some((group, key)) = option.key {
            let group = match group {
                Group::General => String::new(),
                Group::Own => format!(" in the group `[{}]`", group.name()),
            };
            text += &format!("  Key of the configuration file: `{key}`{group}.\n");
        }
        text.push('\n');
    }
    text
}

fn entry(spec: &OptionSpec) -> String {
    let mut text = format!("{}\n: {}.\n", names(spec), sentence(spec.help));
    if let Some(default) = spec.default {
        text += &format!("  Default: {}.\n", literal(default));
    }
    text
}

pub fn of_tool(usage: &Usage) -> String {
    let parts: Vec<String> = usage.synopsis().iter().map(|part| literal(part)).collect();
    let mut text = format!(
        "## qemu-ga {name}\n\n`qemu-ga {name}` {}\n\n{}\n\n",
        parts.join(" "),
        literal(usage.about),
        name = usage.name,
    );
    if let Some(operand) = usage.operand {
        let _ = writeln!(text, "*{}*\n: {}.\n", operand.name, sentence(operand.help));
    }
    for spec in usage.options() {
        text += &entry(spec);
        text.push('\n');
    }
    text += "Exit status:\n\n";
    for (status, meaning) in usage.exit_statuses() {
        let _ = writeln!(text, "{status}\n: {}.\n", sentence(meaning));
    }
    text
}

pub fn names(spec: &OptionSpec) -> String {
    let value = match spec.arg {
        Arg::Switch => String::new(),
        Arg::Value(name, _) | Arg::List(name, _) => format!("=*{name}*"),
        Arg::Attached(name, _) => format!("[=*{name}*]"),
        Arg::Program(name) => format!(" *{name}*"),
    };
    let short = spec
        .short
        .map(|letter| format!("`-{}`", char::from(letter)));
    let long = [spec.long].into_iter().chain(spec.old.iter().copied());
    let long = long.map(|long| format!("`--{long}`{value}"));
    short.into_iter().chain(long).collect::<Vec<_>>().join(", ")
}

/// Begins with a capital letter; Markdown.
pub fn sentence(help: &str) -> String {
    let mut chars = help.chars();
    let first: String = chars
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .collect();
    literal(&(first + chars.as_str()))
}
