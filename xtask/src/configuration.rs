//! CONFIGURATION.md: prose from `pages/configuration.md`, with a table in place of each `{{name}}`.

use crate::options::{names, sentence, shown};
use crate::settings::{Entry, section};
use qemu_ga::adapters::ADAPTERS;
use qemu_ga::cli::{Arg, ValueKind};
use qemu_ga::config::options::{AgentOption, Group};
use std::fmt::Write;

pub fn reference() -> anyhow::Result<String> {
    let mut page = include_str!("../pages/configuration.md").to_owned();
    let mut put = |name: &str, table: String| {
        page = page.replace(&format!("{{{{{name}}}}}"), table.trim_end());
    };
    put("general", of_group(Some(Group::General)));
    put("own", of_group(Some(Group::Own)));
    put("command_line", of_group(None));
    for name in ["hook", "hooks alone", "adapter"] {
        let rows = section(name)?.into_iter().map(key);
        put(name, table("key | value | default | meaning", rows));
    }
    put("adapters", of_adapters()?);
    for name in [
        "variables of the agent",
        "variables of the tools",
        "variables of a hook",
        "variables of a master",
        "variables of the build",
        "/etc/sysconfig/qemu-ga",
        "/etc/default/qemu-guest-agent",
    ] {
        let rows = section(name)?
            .into_iter()
            .map(|entry| vec![code(&entry.name), entry.kind, entry.meaning]);
        put(name, table("variable | value | meaning", rows));
    }
    Ok(page)
}

fn of_adapters() -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for adapter in ADAPTERS {
        for entry in section(adapter.name)? {
            let mut row = vec![code(&format!("[{}]", adapter.name))];
            row.extend(key(entry));
            rows.push(row);
        }
    }
    Ok(table("group | key | value | default | meaning", rows))
}

fn key(entry: Entry) -> Vec<String> {
    let Entry {
        name,
        kind,
        default,
        meaning,
    } = entry;
    vec![code(&name), kind, code(&default), meaning]
}

/// The options with a key in `group`, or those without any.
fn of_group(group: Option<Group>) -> String {
    let meant = shown().filter(|option| option.key.map(|(group, _)| group) == group);
    let rows = meant.map(|option| {
        let spec = &option.spec;
        let mut row: Vec<String> = option.key.iter().map(|(_, key)| code(key)).collect();
        let default = spec.default.unwrap_or(match spec.arg {
            Arg::Switch if group.is_some() => "false",
            _ => "",
        });
        row.push(names(spec));
        row.push(kind(option).to_owned());
        // A sentence, or a value as it would be written.
        row.push(if default.contains(' ') {
            default.to_owned()
        } else {
            code(default)
        });
        row.push(sentence(spec.help) + ".");
        row
    });
    let head = match group {
        Some(_) => "key | option | value | default | meaning",
        None => "option | value | default | meaning",
    };
    table(head, rows)
}

fn kind(option: &AgentOption) -> &'static str {
    match option.spec.arg {
        Arg::Switch if option.key.is_some() => "`true` or `false`",
        Arg::Switch | Arg::Program(_) => "",
        Arg::List(..) => "list",
        Arg::Value(_, kind) | Arg::Attached(_, kind) => match kind {
            ValueKind::Seconds => "seconds, 0 to 604800",
            ValueKind::File => "path",
            ValueKind::Directory => "directory",
            _ => "word",
        },
    }
}

fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        let names: Vec<String> = text.split(", ").map(|name| format!("`{name}`")).collect();
        names.join(", ")
    }
}

fn table(head: &str, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let columns = head.split(" | ").count();
    let mut text = format!("| {head} |\n|{}\n", "---|".repeat(columns));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| escaped(cell)).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|")
}
