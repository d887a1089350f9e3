//! The completion of bash, which needs nothing of the package bash-completion.

use super::{HOOK_DIRS, Line, command_names, lines};
use qemu_ga::cli::{Arg, OptionSpec, ValueKind};
use std::fmt::Write;

/// Functions that read the part of a word before the cursor from `part`, and what precedes it from `head`.
/// No word is expanded again: the name of a mount point or of a hook may hold anything.
const FUNCTIONS: &str = r#"
# Adds those of the lines on standard input that begin with the word.
_qemu_ga_add()
{
    local word
    while IFS= read -r word; do
        [[ $word != "$part"* ]] || COMPREPLY+=("$head$(printf %q "$word")")
    done
}

_qemu_ga_words()
{
    _qemu_ga_add < <(printf '%s\n' "$@")
}

_qemu_ga_mount_points()
{
    local point _
    while read -r _ point _; do
        printf '%b\n' "${point//\\/\\0}"
    done </proc/self/mounts
}

_qemu_ga_hooks()
{
    local file
    for file in HOOK_FILES; do
        [ ! -f "$file" ] || printf '%s\n' "${file##*/}"
    done
}

# A comma separated list: its last part is completed.
_qemu_ga_list()
{
    [[ $part != *,* ]] || head=${part%,*},
    part=${part##*,}
    compopt -o nospace 2>/dev/null
}

_qemu_ga_files() # f: files, d: directories
{
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen "-$1" -- "$part")
}
"#;

pub fn script() -> String {
    let hooks: Vec<String> = HOOK_DIRS.iter().map(|dir| format!("{dir}/*")).collect();
    let mut values = String::new();
    let mut operands = String::new();
    let mut options = String::new();
    let mut names = Vec::new();
    for line in lines() {
        if !line.name.is_empty() {
            names.push(format!("\"{}\"", line.name));
        }
        for spec in &line.options {
            values += &value_case(&line, spec);
        }
        operands += &operand_case(&line);
        let all: Vec<String> = line
            .options
            .iter()
            .flat_map(|spec| spellings(spec))
            .collect();
        if !all.is_empty() {
            let _ = writeln!(
                options,
                "        \"{}\") _qemu_ga_words {} ;;",
                line.name,
                all.join(" ")
            );
        }
    }
    format!(
        "# bash completion for qemu-ga. Made by xtask from the agent's own tables.
{functions}
_qemu_ga()
{{
    local part=${{COMP_WORDS[COMP_CWORD]}} head='' tool='' option='' attached='' at
    COMPREPLY=()
    for ((at = 1; at < COMP_CWORD; at++)); do
        case \"${{tool:+$tool }}${{COMP_WORDS[at]}}\" in
        {names}) tool=${{tool:+$tool }}${{COMP_WORDS[at]}} ;;
        *) break ;;
        esac
    done
    # The shell divides words at =.
    if [ \"$part\" = = ]; then
        part='' attached=1 option=${{COMP_WORDS[COMP_CWORD - 1]}}
    elif [ \"${{COMP_WORDS[COMP_CWORD - 1]}}\" = = ]; then
        attached=1 option=${{COMP_WORDS[COMP_CWORD - 2]}}
    else
        option=${{COMP_WORDS[COMP_CWORD - 1]}}
    fi
    case \"$tool|$option$attached\" in
{values}    esac
    if [[ $part = -* ]]; then
        case $tool in
{options}        esac
        return
    fi
    case \"$tool\" in
{operands}    esac
}} &&
complete -F _qemu_ga qemu-ga
",
        functions = FUNCTIONS.replace("HOOK_FILES", &hooks.join(" ")),
        names = names.join("|"),
    )
}

fn spellings(spec: &OptionSpec) -> Vec<String> {
    let short = spec.short.map(|letter| format!("-{}", char::from(letter)));
    let long = Some(format!("--{}", spec.long));
    short.into_iter().chain(long).collect()
}

/// A case for the value of an option. The option has a 1 after it if the value is attached by `=`.
fn value_case(line: &Line, spec: &OptionSpec) -> String {
    let (kind, is_list) = match spec.arg {
        Arg::Switch => return String::new(),
        Arg::Program(_) => {
            let (name, long) = (&line.name, spec.long);
            return format!("    \"{name}|--{long}\") _qemu_ga_files f; return ;;\n");
        }
        Arg::List(_, kind) => (kind, true),
        Arg::Value(_, kind) | Arg::Attached(_, kind) => (kind, false),
    };
    let mut patterns = Vec::new();
    for spelling in spellings(spec) {
        if !matches!(spec.arg, Arg::Attached(..)) {
            patterns.push(format!("\"{}|{spelling}\"", line.name));
        }
        if spelling.starts_with("--") {
            patterns.push(format!("\"{}|{spelling}1\"", line.name));
        }
    }
    let list = if is_list { "_qemu_ga_list; " } else { "" };
    format!(
        "    {}) {list}{}return ;;\n",
        patterns.join("|"),
        action(kind)
    )
}

fn operand_case(line: &Line) -> String {
    let mut actions = String::new();
    if !line.words.is_empty() {
        let words: Vec<&str> = line.words.iter().map(|(word, _)| *word).collect();
        let count = line.name.split_whitespace().count();
        actions += &format!(
            "[ \"$COMP_CWORD\" -ne {} ] || _qemu_ga_words {}; ",
            count + 1,
            words.join(" ")
        );
    }
    if let Some(operand) = line.operand {
        actions += &action(operand.kind);
    }
    if actions.is_empty() {
        return String::new();
    }
    format!("    \"{}\") {actions};;\n", line.name)
}

/// Ends with `; ` unless it is empty.
fn action(kind: ValueKind) -> String {
    match kind {
        ValueKind::File => "_qemu_ga_files f; ".to_owned(),
        ValueKind::Directory => "_qemu_ga_files d; ".to_owned(),
        ValueKind::MountPoint => "_qemu_ga_add < <(_qemu_ga_mount_points); ".to_owned(),
        ValueKind::Hook => "if [[ $part = */* ]]; then _qemu_ga_files f; \
             else _qemu_ga_add < <(_qemu_ga_hooks); fi; "
            .to_owned(),
        ValueKind::Words(words) => format!("_qemu_ga_words {}; ", words.join(" ")),
        ValueKind::CommandName => format!("_qemu_ga_words {}; ", command_names().join(" ")),
        ValueKind::Pattern => {
            "_qemu_ga_words type: dev:; _qemu_ga_add < <(_qemu_ga_mount_points); ".to_owned()
        }
        ValueKind::Seconds | ValueKind::Number | ValueKind::Text => String::new(),
    }
}
