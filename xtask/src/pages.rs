//! The manual pages: prose from `pages/`, with the tables in place of `{{name}}`.

use crate::man::{Head, page};
use crate::{options, reference, settings};
use anyhow::{Context, ensure};
use qemu_ga::app::TOOLS;
use qemu_ga::version::{AGENT_VERSION, PROTOCOL_VERSION};

const MANUAL: &str = "QEMU guest agent";

fn made(name: &str, section: u8, markdown: &str) -> anyhow::Result<String> {
    let markdown = markdown.replace("{{protocol}}", PROTOCOL_VERSION);
    ensure!(!markdown.contains("{{"), "{name}: a table is missing");
    let head = Head {
        name,
        section,
        source: &format!("qemu-ga-rs {AGENT_VERSION}"),
        manual: MANUAL,
    };
    page(&head, &markdown).with_context(|| format!("{name}({section})"))
}

pub fn agent() -> anyhow::Result<String> {
    let variables = settings::variables("variables of the agent")?;
    let tools = TOOLS.iter().flat_map(|tool| tool.all());
    let tools: String = tools.map(|tool| options::of_tool(&tool.usage)).collect();
    let text = include_str!("../pages/qemu-ga.md")
        .replace("{{options}}", &options::markdown())
        .replace("{{variables}}", &variables)
        .replace("{{tools}}", &tools);
    made("qemu-ga", 8, &text)
}

pub fn reference() -> anyhow::Result<String> {
    made("qemu-ga-ref", 7, &reference::markdown()?)
}

pub fn hook() -> anyhow::Result<String> {
    let variables = settings::variables("variables of a hook")?;
    let text = include_str!("../pages/fsfreeze-hook.md")
        .replace("{{variables}}", &variables)
        .replace("{{settings}}", &settings::of_hooks()?);
    made("fsfreeze-hook", 5, &text)
}

/// A tool of host/, whose options tests/host/run compares with its page.
pub fn of_host(name: &str) -> anyhow::Result<String> {
    let text = match name {
        "qga-snapshot" => include_str!("../pages/qga-snapshot.md"),
        _ => include_str!("../pages/qga-fleet.md"),
    };
    made(name, 1, text)
}
