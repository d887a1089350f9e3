use super::{HOOK_DIRS, Line, brief, command_names, lines};
use qemu_ga::cli::{Arg, OptionSpec, ValueKind};

const FUNCTIONS: &str = r#"
# The words after qemu-ga, without the one at the cursor, that name a tool.
function __qemu_ga_tool
    set -l tool
    for word in (commandline -opc)[2..-1]
        if contains -- (string join ' ' -- $tool $word) NAMES
            set -a tool $word
        else
            break
        end
    end
    string join ' ' -- $tool
end

function __qemu_ga_is
    set -l tool (__qemu_ga_tool)
    test "$tool" = "$argv"
end

# The same, with nothing but the tool's name before the cursor.
function __qemu_ga_ends
    __qemu_ga_is $argv; and test (count (commandline -opc)) -eq (math 1 + (count $argv))
end

function __qemu_ga_mount_points
    string replace -rf '^\S+ (\S+) .*' '$1' </proc/self/mounts | string unescape
end

function __qemu_ga_hooks
    for file in HOOK_FILES
        test -f $file; and string replace -r '.*/' '' -- $file
    end
end

function __qemu_ga_commands
    printf '%s\n' COMMANDS
end

function __qemu_ga_patterns
    printf '%s\n' type: dev:
    __qemu_ga_mount_points
end

complete -c qemu-ga -f
"#;

pub fn script() -> String {
    let lines = lines();
    let names = lines.iter().filter(|line| !line.name.is_empty());
    let names: Vec<String> = names.map(|line| quoted(&line.name)).collect();
    let hooks: Vec<String> = HOOK_DIRS.iter().map(|dir| format!("{dir}/*")).collect();
    let functions = FUNCTIONS
        .replace("NAMES", &names.join(" "))
        .replace("HOOK_FILES", &hooks.join(" "))
        .replace("COMMANDS", &command_names().join(" "));
    let mut text = format!(
        "# fish completion for qemu-ga. Made by xtask from the agent's own tables.\n{functions}"
    );
    for line in &lines {
        for (word, summary) in &line.words {
            let condition = quoted(format!("__qemu_ga_ends {}", line.name).trim_end());
            let summary = quoted(summary);
            text += &format!("complete -c qemu-ga -n {condition} -a {word} -d {summary}\n");
        }
        for spec in &line.options {
            text += &option(line, spec);
        }
        if let Some(values) = line.operand.and_then(|operand| values(operand.kind)) {
            let condition = condition(line);
            text += &format!("complete -c qemu-ga -n {condition} {values}\n");
        }
    }
    text
}

fn condition(line: &Line) -> String {
    quoted(format!("__qemu_ga_is {}", line.name).trim_end())
}

fn option(line: &Line, spec: &OptionSpec) -> String {
    let mut text = format!("complete -c qemu-ga -n {}", condition(line));
    if let Some(letter) = spec.short {
        text += &format!(" -s {}", char::from(letter));
    }
    text += &format!(" -l {} -d {}", spec.long, quoted(brief(spec.help)));
    match spec.arg {
        // Its value may be absent, and then an argument that follows is not completed as a path.
        Arg::Switch | Arg::Attached(..) => {}
        Arg::Program(_) => text += " -r -F",
        Arg::List(_, ValueKind::CommandName) => {
            text += " -x -a '(__fish_complete_list , __qemu_ga_commands)'";
        }
        Arg::List(..) => text += " -x -a '(__fish_complete_list , __qemu_ga_patterns)'",
        Arg::Value(_, kind) => match values(kind) {
            Some(values) => text += &format!(" -r {values}"),
            None => text += " -x",
        },
    }
    text.push('\n');
    text
}

fn values(kind: ValueKind) -> Option<String> {
    match kind {
        ValueKind::File => Some("-F".to_owned()),
        ValueKind::Directory => Some("-a '(__fish_complete_directories)'".to_owned()),
        ValueKind::MountPoint => Some("-a '(__qemu_ga_mount_points)'".to_owned()),
        ValueKind::Hook => Some("-F -a '(__qemu_ga_hooks)'".to_owned()),
        ValueKind::Words(words) => Some(format!("-a {}", quoted(&words.join(" ")))),
        ValueKind::CommandName
        | ValueKind::Pattern
        | ValueKind::Seconds
        | ValueKind::Number
        | ValueKind::Text => None,
    }
}

/// fish knows backslashes between single quotes.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('\'', "\\'");
    format!("'{text}'")
}
