//! Keys and variables that no table of the agent describes in words: `settings.txt`, for the pages
//! and the reference of the configuration.
//!
//! A line of the file is `== section`, `= key kind default` with `_` for a blank in the kind, or prose;
//! more blanks at its start go on with the line before. The agent is asked for a default that stands not
//! there, and the tests ask it for those that do.

use crate::reference::joined;
use anyhow::Context;
use qemu_ga::hooks::settings::HookSettings;
use std::fmt::Write;

const SOURCE: &str = include_str!("settings.txt");

/// A key or variable.
#[derive(Debug)]
pub struct Entry {
    /// Its name, or several with commas between.
    pub name: String,
    /// What its value is.
    pub kind: String,
    /// What counts if it is not set; empty if there is nothing to tell.
    pub default: String,
    /// What it means, in the pages' markup.
    pub prose: String,
}

/// The entries of a section.
pub fn section(name: &str) -> anyhow::Result<Vec<Entry>> {
    let lines = joined(SOURCE);
    let title = format!("== {name}");
    let mut lines = lines.iter().skip_while(|line| **line != title);
    lines
        .next()
        .with_context(|| format!("settings.txt has no section {name}"))?;
    let mut entries: Vec<Entry> = Vec::new();
    for line in lines.take_while(|line| !line.starts_with("== ")) {
        if let Some(head) = line.strip_prefix("= ") {
            let (name, rest) = head.split_once(' ').context("a key has a kind")?;
            let (kind, default) = rest.split_once(' ').unwrap_or((rest, ""));
            let default = match default {
                "" => default_of_hook(name).unwrap_or_default(),
                told => told.to_owned(),
            };
            entries.push(Entry {
                name: name.replace(',', ", "),
                kind: kind.replace('_', " "),
                default,
                prose: String::new(),
            });
        } else {
            let entry = entries.last_mut().context("a key comes first")?;
            entry.prose.push_str(line);
        }
    }
    Ok(entries)
}

/// The default of a key of a hook's group; `total-timeout` is the one that is not the policy's.
pub fn default_of_hook(key: &str) -> Option<String> {
    let settings = HookSettings::default().settings();
    let found = settings.into_iter().find(|(name, _)| *name == key);
    match found {
        Some((_, value)) => Some(value),
        None => (key == "total-timeout").then(|| "0".to_owned()),
    }
}

/// The variables of a section as a list for a page.
pub fn variables(name: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    for entry in section(name)? {
        let _ = writeln!(text, "@ {}\n{}", entry.name, entry.prose);
    }
    Ok(text)
}

/// The keys of a hook as a list for a page.
pub fn of_hooks() -> anyhow::Result<String> {
    let mut text = String::new();
    for entry in section("hook")?.into_iter().chain(section("hooks alone")?) {
        let Entry {
            name,
            kind,
            default,
            prose,
        } = entry;
        let _ = writeln!(text, "@ {name} ({kind})\n{prose}");
        if !default.is_empty() {
            let _ = writeln!(text, "Unless set: {default}.");
        }
        if name == "total-timeout" {
            text.push_str("In `[hooks]` only.\n");
        }
    }
    Ok(text)
}
