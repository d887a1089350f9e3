//! qemu-ga-ref(7): what `pages/qemu-ga-ref.md` says of each command of the wire, compared with the agent's table.

use anyhow::{Context, ensure};
use qemu_ga::commands::{self, Command};

pub const SOURCE: &str = include_str!("../pages/qemu-ga-ref.md");

/// Each command with the lines under its heading.
pub fn sections() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut sections = Vec::new();
    for line in SOURCE.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            sections.push((name, Vec::new()));
        } else if let Some((_, lines)) = sections.last_mut() {
            lines.push(line);
        }
    }
    sections
}

/// `true`: the argument may be absent.
#[cfg(test)]
pub fn arguments<'a>(lines: &[&'a str]) -> Vec<(&'a str, bool)> {
    let lines = lines
        .iter()
        .skip_while(|line| **line != "Arguments:")
        .skip(1);
    let lines = lines.take_while(|line| !line.starts_with("Answer") && !line.starts_with('('));
    let terms = lines.filter_map(|line| line.strip_prefix('`')?.split_once("` ("));
    terms
        .map(|(name, kind)| (name, kind.ends_with(", may be absent)")))
        .collect()
}

/// Adds what the agent knows of each command to the line in parentheses that ends its section.
pub fn markdown() -> anyhow::Result<String> {
    let told: Vec<&str> = sections().iter().map(|(name, _)| *name).collect();
    let missing: Vec<&str> = commands::all()
        .iter()
        .map(|command| command.name)
        .filter(|name| !told.contains(name))
        .collect();
    let missing = missing.join(", ");
    ensure!(
        missing.is_empty(),
        "xtask/pages/qemu-ga-ref.md does not describe {missing}: add `## NAME` with its text, arguments and reply"
    );

    let mut text = String::new();
    let mut current = None;
    for line in SOURCE.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            ensure!(
                current.is_none(),
                "qemu-ga-ref.md: no `(since …)` before {name}"
            );
            let command = commands::find(name).with_context(|| format!("no command {name}"))?;
            current = Some(command);
        }
        match line.strip_suffix(')').filter(|line| line.starts_with('(')) {
            Some(note) => {
                let command = current
                    .take()
                    .with_context(|| format!("no command: {line}"))?;
                text += &format!("{note}{})", known(command));
            }
            None => text += line,
        }
        text.push('\n');
    }
    Ok(text)
}

fn known(command: &Command) -> String {
    let frozen = command
        .while_frozen
        .then_some("; works while filesystems are frozen");
    let silent = (!command.answers).then_some("; success is not answered");
    [frozen, silent].into_iter().flatten().collect()
}
