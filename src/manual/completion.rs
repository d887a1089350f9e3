//! The bash completion: the agent's options, the tools, and each tool's options as its help has them.

use crate::options::shown;
use qemu_ga::app::{SUBCOMMANDS, usage};
use qemu_ga::commands;
use qemu_ga::config::options::{Arg, Id};
use std::collections::BTreeSet;
use std::fmt::Write;

/// An option of a tool, and whether a value follows it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taken {
    /// With its dashes.
    pub name: String,
    /// It takes a value.
    pub value: bool,
}

/// The options that a tool's help names.
pub fn options_of(tool: &str) -> BTreeSet<Taken> {
    let help = usage(tool).unwrap_or_default();
    let mut found = BTreeSet::new();
    for line in help.lines() {
        // `  -c, --config FILE    what it does`
        let Some(rest) = line.strip_prefix("  ").filter(|rest| rest.starts_with('-')) else {
            continue;
        };
        let names = rest.split("  ").next().unwrap_or(rest);
        let words: Vec<&str> = names
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .collect();
        let value = words.last().is_some_and(|word| !word.starts_with('-'));
        for name in words.iter().filter(|word| word.starts_with('-')) {
            let name = (*name).to_owned();
            found.insert(Taken { name, value });
        }
    }
    // Every tool understands it, none says so.
    found.insert(Taken {
        name: "--help".to_owned(),
        value: false,
    });
    found
}

/// The words with which the arguments of a tool begin.
fn words_of(tool: &str) -> &'static str {
    match tool {
        "hook" => "freeze thaw",
        _ => "",
    }
}

/// The completion script.
pub fn bash() -> String {
    let long: Vec<String> = shown().map(|spec| format!("--{}", spec.long)).collect();
    let tools: Vec<&str> = SUBCOMMANDS.iter().map(|s| s.name).collect();
    let names: Vec<&str> = commands::all().iter().map(|c| c.name).collect();
    let mut with_path = String::new();
    for spec in shown() {
        if matches!(spec.arg, Arg::Value("PATH" | "DIR")) {
            let short = spec
                .short
                .map_or(String::new(), |c| format!("-{}|", char::from(c)));
            let _ = write!(
                with_path,
                "{}{short}--{}",
                if with_path.is_empty() { "" } else { "|" },
                spec.long
            );
        }
    }
    let mut cases = String::new();
    for tool in SUBCOMMANDS {
        let taken = options_of(tool.name);
        let all: Vec<&str> = taken.iter().map(|t| t.name.as_str()).collect();
        let _ = writeln!(
            cases,
            "        {}) words=\"{}\" ;;",
            tool.name,
            [words_of(tool.name)]
                .into_iter()
                .chain(all)
                .filter(|w| !w.is_empty())
                .collect::<Vec<_>>()
                .join(" ")
        );
    }
    let method = shown()
        .find(|spec| spec.id == Id::Method)
        .map_or("", |spec| spec.help);
    let methods: Vec<&str> = method
        .split([' ', ','])
        .filter(|word| word.contains('-'))
        .collect();
    format!(
        "# bash completion for qemu-ga. Made by src/manual from the agent's own tables.

_qemu_ga()
{{
    local cur prev words
    COMPREPLY=()
    cur=${{COMP_WORDS[COMP_CWORD]}}
    prev=${{COMP_WORDS[COMP_CWORD-1]}}
    if [ \"$prev\" = = ]; then
        prev=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    if [ \"$cur\" = = ]; then
        cur=
    fi
    words=
    case $prev in
        -m|--method) words=\"{methods}\" ;;
        -a|--allow-rpcs|-b|--block-rpcs) words=\"{names}\" ;;
        {with_path}|--log|--dir|--conf) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); return ;;
    esac
    if [ -n \"$words\" ]; then
        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")
        return
    fi
    case ${{COMP_WORDS[1]}} in
{cases}        *)
            words=\"{long}\"
            [ \"$COMP_CWORD\" -gt 1 ] || words=\"{tools} $words\"
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")
}} &&
complete -F _qemu_ga qemu-ga
",
        methods = methods.join(" "),
        names = names.join(" "),
        long = long.join(" "),
        tools = tools.join(" "),
    )
}
