//! Keys and variables that no table of the agent describes in words: the tables of `pages/settings.md`.

use anyhow::{Context, ensure};
use qemu_ga::hooks::settings::HookSettings;

const SOURCE: &str = include_str!("../pages/settings.md");

/// The texts are Markdown.
#[derive(Debug)]
pub struct Entry {
    /// Without marks; several names have commas between them.
    pub name: String,
    pub kind: String,
    /// Without marks; empty if there is no default to tell.
    pub default: String,
    pub meaning: String,
}

pub fn section(name: &str) -> anyhow::Result<Vec<Entry>> {
    let title = format!("## {name}");
    let mut lines = SOURCE.lines().skip_while(|line| *line != title);
    lines
        .next()
        .with_context(|| format!("settings.md has no section {name}"))?;
    let lines = lines.take_while(|line| !line.starts_with("## "));
    let rows = lines.filter(|line| line.starts_with('|')).skip(2);
    rows.map(entry).collect()
}

fn entry(row: &str) -> anyhow::Result<Entry> {
    let row = row.trim_matches('|').replace("\\|", "\u{0}");
    let cells: Vec<String> = row
        .split('|')
        .map(|cell| cell.trim().replace('\u{0}', "|"))
        .collect();
    let [name, kind, default, meaning] = <[String; 4]>::try_from(cells)
        .map_err(|cells| anyhow::anyhow!("settings.md: not four cells: {cells:?}"))?;
    let name = name.replace('`', "");
    ensure!(!meaning.is_empty(), "settings.md: {name} has no meaning");
    let default = match default.replace('`', "") {
        none if none.is_empty() => default_of_hook(&name).unwrap_or_default(),
        told => told,
    };
    Ok(Entry {
        name,
        kind,
        default,
        meaning,
    })
}

/// `total-timeout` is the one key that is not a hook's own.
fn default_of_hook(key: &str) -> Option<String> {
    let settings = HookSettings::default().settings();
    let found = settings.into_iter().find(|(name, _)| *name == key);
    match found {
        Some((_, value)) => Some(value),
        None => (key == "total-timeout").then(|| "0".to_owned()),
    }
}

pub fn variables(name: &str) -> anyhow::Result<String> {
    let entries = section(name)?.into_iter();
    Ok(entries
        .map(|entry| {
            format!(
                "{}\n: {}\n\n",
                entry.name.replace('_', "\\_"),
                entry.meaning
            )
        })
        .collect())
}

pub fn of_hooks() -> anyhow::Result<String> {
    let mut text = String::new();
    for entry in section("hook")?.into_iter().chain(section("hooks alone")?) {
        let Entry {
            name,
            kind,
            default,
            meaning,
        } = entry;
        text += &format!("{name} ({kind})\n: {meaning}\n");
        if !default.is_empty() {
            text += &format!("  Unless set: {default}.\n");
        }
        if name == "total-timeout" {
            text += "  In `[hooks]` only.\n";
        }
        text.push('\n');
    }
    Ok(text)
}
