//! The commands of the wire: what `commands.txt` says of each, held against the agent's table.
//!
//! A line of the file is `== section`, `= command release`, `> argument type text`, `< member type text`,
//! `<< text` (a reply that is no object), or prose; more blanks at its start go on with the line before.

use anyhow::{Context, ensure};
use qemu_ga::commands::{self, Command};
use std::fmt::Write;

const SOURCE: &str = include_str!("commands.txt");

/// One command's description.
#[derive(Debug, Default)]
pub struct Entry {
    /// Its name.
    pub name: String,
    since: String,
    prose: String,
    /// Name, type and meaning of each argument; a question mark behind the name: it may be left out.
    pub arguments: Vec<(String, String, String)>,
    reply: Vec<(String, String, String)>,
    reply_as_whole: String,
}

/// A heading, and the commands under it.
pub type Section = (String, Vec<Entry>);

/// The file, read.
pub fn sections() -> anyhow::Result<Vec<Section>> {
    let mut sections: Vec<Section> = Vec::new();
    for line in joined(SOURCE) {
        if let Some(title) = line.strip_prefix("== ") {
            sections.push((title.to_owned(), Vec::new()));
            continue;
        }
        let (_, entries) = sections.last_mut().context("a section comes first")?;
        if let Some(rest) = line.strip_prefix("= ") {
            let (name, since) = rest.split_once(' ').context("a command has a release")?;
            entries.push(Entry {
                name: name.to_owned(),
                since: since.to_owned(),
                ..Entry::default()
            });
            continue;
        }
        let entry = entries.last_mut().context("a command comes first")?;
        if let Some(rest) = line.strip_prefix("> ") {
            entry.arguments.push(member(rest)?);
        } else if let Some(rest) = line.strip_prefix("<< ") {
            entry.reply_as_whole = rest.to_owned();
        } else if let Some(rest) = line.strip_prefix("< ") {
            entry.reply.push(member(rest)?);
        } else {
            let _ = writeln!(entry.prose, "{line}");
        }
    }
    Ok(sections)
}

/// Lines, each with those that go on with it.
pub fn joined(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match lines.last_mut() {
            Some(last) if line.starts_with(' ') => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines
}

fn member(text: &str) -> anyhow::Result<(String, String, String)> {
    let mut parts = text.splitn(3, ' ').map(ToOwned::to_owned);
    let part = |part: Option<String>| part.with_context(|| format!("name, type and text: {text}"));
    Ok((
        part(parts.next())?,
        part(parts.next())?,
        part(parts.next())?,
    ))
}

/// Every command, for the page.
pub fn markup() -> anyhow::Result<String> {
    let mut text = String::new();
    let mut told = Vec::new();
    for (title, entries) in sections()? {
        let _ = writeln!(text, "# {}", title.to_uppercase());
        for entry in entries {
            let found = commands::find(&entry.name);
            let command = found.with_context(|| format!("no command {}", entry.name))?;
            of(&mut text, &entry, command);
            told.push(entry.name);
        }
    }
    let missing: Vec<&str> = commands::all()
        .iter()
        .map(|command| command.name)
        .filter(|name| !told.iter().any(|told| told == name))
        .collect();
    ensure!(
        missing.is_empty(),
        "commands.txt (beside reference.rs) does not describe {}: add `= NAME RELEASE` with its text, arguments and reply",
        missing.join(", ")
    );
    Ok(text)
}

fn of(text: &mut String, entry: &Entry, command: &Command) {
    let _ = write!(text, "## {}\n{}", entry.name, entry.prose);
    if !entry.arguments.is_empty() {
        text.push_str("\nArguments:\n");
        members(text, &entry.arguments);
    }
    if !entry.reply.is_empty() {
        text.push_str("\nAnswer, an object:\n");
        members(text, &entry.reply);
    }
    if !entry.reply_as_whole.is_empty() {
        let _ = writeln!(text, "\nAnswer: {}", entry.reply_as_whole);
    }
    let mut notes = match entry.since.as_str() {
        "own" => vec!["an extension of qemu-ga-rs".to_owned()],
        since => vec![format!("since QEMU {since}")],
    };
    if command.while_frozen {
        notes.push("works while filesystems are frozen".to_owned());
    }
    if !command.answers {
        notes.push("success is not answered".to_owned());
    }
    let _ = writeln!(text, "\n({})\n", notes.join("; "));
}

fn members(text: &mut String, members: &[(String, String, String)]) {
    for (name, kind, meaning) in members {
        let (name, optional) = match name.strip_suffix('?') {
            Some(name) => (name, ", may be absent"),
            None => (name.as_str(), ""),
        };
        let kind = kind.replace('_', " ");
        let _ = writeln!(text, "@ `{name}` ({kind}{optional})\n{meaning}");
    }
}
