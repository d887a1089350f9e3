//! The agent's options as text: for the page, the completion and the sample.

use crate::roff::literal;
use qemu_ga::config::options::{Arg, Group, OPTIONS, Spec};

/// The options that the help shows.
pub fn shown() -> impl Iterator<Item = &'static Spec> {
    OPTIONS.iter().filter(|spec| !spec.help.is_empty())
}

/// The options as a list for a page.
pub fn markup() -> String {
    let mut text = String::new();
    for spec in shown() {
        text += &format!("@ {}\n{}.\n", names(spec), sentence(spec.help));
        if let Some(default) = spec.default {
            text += &format!("Default: {}.\n", literal(default));
        }
        if let Some((group, key)) = spec.key {
            let group = match group {
                Group::General => String::new(),
                Group::Own => format!(" in the group `[{}]`", group.name()),
            };
            text += &format!("Key of the configuration file: `{key}`{group}.\n");
        }
    }
    text
}

/// `` `-x`, `--long`=*VALUE* `` and the older spellings.
pub fn names(spec: &Spec) -> String {
    let value = match spec.arg {
        Arg::Switch => String::new(),
        Arg::Value(name) | Arg::List(name) => format!("=*{name}*"),
        Arg::Attached(name) => format!("[=*{name}*]"),
    };
    let short = spec
        .short
        .map(|letter| format!("`-{}`", char::from(letter)));
    let long = [spec.long].into_iter().chain(spec.old.iter().copied());
    let long = long.map(|long| format!("`--{long}`{value}"));
    short.into_iter().chain(long).collect::<Vec<_>>().join(", ")
}

/// With a capital letter, as markup.
pub fn sentence(help: &str) -> String {
    let mut chars = help.chars();
    let first: String = chars
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .collect();
    literal(&(first + chars.as_str()))
}
