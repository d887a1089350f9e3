//! The bash completion: the agent's options, the tools, and each tool's options.

use crate::options::shown;
use qemu_ga::app::TOOLS;
use qemu_ga::cli::{OptionSpec, ValueKind};
use qemu_ga::commands;
use qemu_ga::config::options::METHODS;
use std::collections::BTreeSet;
use std::fmt::Write;

/// `-x` and `--long`.
fn names(spec: &OptionSpec) -> Vec<String> {
    let short = spec.short.map(|letter| format!("-{}", char::from(letter)));
    let long = Some(format!("--{}", spec.long));
    short.into_iter().chain(long).collect()
}

/// The completion script.
pub fn bash() -> String {
    let long: Vec<String> = shown()
        .map(|option| format!("--{}", option.spec.long))
        .collect();
    let tools: Vec<&str> = TOOLS.iter().map(|tool| tool.word()).collect();
    let commands: Vec<&str> = commands::all().iter().map(|c| c.name).collect();
    let mut with_path = BTreeSet::new();
    let of_tools = TOOLS
        .iter()
        .flat_map(|tool| tool.all())
        .flat_map(|tool| tool.usage.options());
    for spec in shown().map(|option| &option.spec).chain(of_tools) {
        if let Some((_, ValueKind::File | ValueKind::Directory)) = spec.arg.value() {
            with_path.extend(names(spec));
        }
    }
    let with_path: Vec<String> = with_path.into_iter().collect();
    let with_path = with_path.join("|");
    let mut cases = String::new();
    for tool in &TOOLS {
        let below = tool.subcommands.iter().map(|tool| tool.word().to_owned());
        let options = tool.usage.options().flat_map(names);
        let words: Vec<String> = below.chain(options).collect();
        let _ = writeln!(
            cases,
            "        {}) words=\"{}\" ;;",
            tool.word(),
            words.join(" ")
        );
    }
    format!(
        "# bash completion for qemu-ga. Made by xtask from the agent's own tables.

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
        {with_path}) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); return ;;
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
        methods = METHODS.join(" "),
        names = commands.join(" "),
        long = long.join(" "),
        tools = tools.join(" "),
    )
}
