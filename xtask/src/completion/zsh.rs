use super::{HOOK_DIRS, Line, brief, command_names, lines, quoted};
use qemu_ga::cli::{Arg, OptionSpec, ValueKind};

const FUNCTIONS: &str = r#"
_qemu_ga_mount_points() {
    local -a fields points
    local line
    while read -r line; do
        fields=("${(@s: :)line}")
        points+=("${(g:o:)fields[2]}")
    done </proc/self/mounts
    compadd "$@" -a points
}

_qemu_ga_hooks() {
    local -a hooks
    hooks=(HOOK_FILES)
    compadd -a hooks
    _files
}

_qemu_ga_commands() {
    compadd "$@" - COMMANDS
}

_qemu_ga_patterns() {
    compadd "$@" -S '' - type: dev:
    _qemu_ga_mount_points "$@"
}
"#;

pub fn script() -> String {
    let lines = lines();
    let names = lines.iter().filter(|line| !line.name.is_empty());
    let names: Vec<String> = names.map(|line| quoted(&line.name)).collect();
    // Only plain files, without their directory.
    let hooks: Vec<String> = HOOK_DIRS
        .iter()
        .map(|dir| format!("{dir}/*(N.:t)"))
        .collect();
    let functions = FUNCTIONS
        .replace("HOOK_FILES", &hooks.join(" "))
        .replace("COMMANDS", &command_names().join(" "));
    let cases: String = lines.iter().map(case).collect();
    format!(
        "#compdef qemu-ga
# zsh completion for qemu-ga. Made by xtask from the agent's own tables.
{functions}
_qemu_ga() {{
    local tool= name
    # What names the tool is taken off the words, so that the rest is the tool's own command line.
    while (( CURRENT > 2 )); do
        name=\"${{tool:+$tool }}${{words[2]}}\"
        case \"$name\" in
            {names}) tool=$name ;;
            *) break ;;
        esac
        words[2]=()
        (( CURRENT-- ))
    done
    case \"$tool\" in
{cases}    esac
}}

_qemu_ga \"$@\"
",
        names = names.join("|"),
    )
}

fn case(line: &Line) -> String {
    let mut text = format!("        {})\n", quoted(&line.name));
    if !line.words.is_empty() {
        let words = line.words.iter();
        let words: Vec<String> = words
            .map(|(word, summary)| quoted(&format!("{word}:{summary}")))
            .collect();
        text += &format!(
            "            if (( CURRENT == 2 )) && [[ ${{words[2]}} != -* ]]; then\n                \
             local -a tools\n                tools=({})\n                _describe tool tools\n            \
             fi\n",
            words.join(" ")
        );
    }
    let mut specs: Vec<String> = line.options.iter().flat_map(|spec| option(spec)).collect();
    if let Some(operand) = line.operand {
        let rest = if operand.max > 1 { "*" } else { "1" };
        let action = action(operand.kind);
        specs.push(quoted(&format!("{rest}:{}:{action}", operand.name)));
    }
    if !specs.is_empty() {
        text += "            _arguments -s -S";
        for spec in specs {
            text += &format!(" \\\n                {spec}");
        }
        text.push('\n');
    }
    text + "            ;;\n"
}

/// For `_arguments`, one for each spelling.
fn option(spec: &OptionSpec) -> Vec<String> {
    let help = brief(spec.help).replace('[', "\\[").replace(']', "\\]");
    let (long, short, value) = match spec.arg {
        Arg::Switch => ("", "", String::new()),
        Arg::Attached(name, kind) => ("=-", "-", format!("::{name}:{}", action(kind))),
        Arg::Program(_) => (
            "",
            "",
            ":program:_command_names -e:*::argument:_normal".to_owned(),
        ),
        Arg::List(name, kind) => ("=", "+", format!(":{name}:_sequence {}", action(kind))),
        Arg::Value(name, kind) => ("=", "+", format!(":{name}:{}", action(kind))),
    };
    let long_name = format!("--{}", spec.long);
    let short_name = spec.short.map(|letter| format!("-{}", char::from(letter)));
    let both = short_name
        .as_ref()
        .map(|short| format!("({short} {long_name})"));
    let both = both.unwrap_or_default();
    let short = short_name.map(|name| format!("{both}{name}{short}[{help}]{value}"));
    let long = Some(format!("{both}{long_name}{long}[{help}]{value}"));
    let all = short.into_iter().chain(long);
    all.map(|spec| quoted(&spec)).collect()
}

fn action(kind: ValueKind) -> String {
    match kind {
        ValueKind::File => "_files".to_owned(),
        ValueKind::Directory => "_files -/".to_owned(),
        ValueKind::MountPoint => "_qemu_ga_mount_points".to_owned(),
        ValueKind::Hook => "_qemu_ga_hooks".to_owned(),
        ValueKind::Words(words) => format!("({})", words.join(" ")),
        ValueKind::CommandName => "_qemu_ga_commands".to_owned(),
        ValueKind::Pattern => "_qemu_ga_patterns".to_owned(),
        ValueKind::Seconds | ValueKind::Number | ValueKind::Text => " ".to_owned(),
    }
}
