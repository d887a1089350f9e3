//! The three pages: prose from `pages/`, with the tables in place of `{{name}}`.

use crate::roff::{Head, page};
use crate::{options, reference as commands, settings};
use qemu_ga::app::TOOLS;
use qemu_ga::version::{AGENT_VERSION, PROTOCOL_VERSION};

const MANUAL: &str = "QEMU guest agent";

fn made(name: &str, section: u8, markup: &str) -> String {
    let markup = markup.replace("{{protocol}}", PROTOCOL_VERSION);
    let head = Head {
        name,
        section,
        source: &format!("qemu-ga-rs {AGENT_VERSION}"),
        manual: MANUAL,
    };
    page(&head, &markup)
}

/// qemu-ga(8).
pub fn agent() -> anyhow::Result<String> {
    let text = include_str!("pages/qemu-ga.txt")
        .replace("{{options}}", &options::markup())
        .replace(
            "{{variables}}",
            &settings::variables("variables of the agent")?,
        )
        .replace("{{tools}}", &tools());
    Ok(made("qemu-ga", 8, &text))
}

/// qemu-ga-ref(7).
pub fn reference() -> anyhow::Result<String> {
    let text = include_str!("pages/qemu-ga-ref.txt").replace("{{commands}}", &commands::markup()?);
    Ok(made("qemu-ga-ref", 7, &text))
}

/// fsfreeze-hook(5).
pub fn hook() -> anyhow::Result<String> {
    let text = include_str!("pages/fsfreeze-hook.txt")
        .replace(
            "{{variables}}",
            &settings::variables("variables of a hook")?,
        )
        .replace("{{settings}}", &settings::of_hooks()?);
    Ok(made("fsfreeze-hook", 5, &text))
}

/// The command line of every tool.
fn tools() -> String {
    let all = TOOLS.iter().flat_map(|tool| tool.all());
    all.map(|tool| options::of_tool(&tool.usage) + "\n")
        .collect()
}
