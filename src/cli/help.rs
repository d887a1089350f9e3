//! The help texts, made from the tables; no line is longer than [`WIDTH`].

use super::{Arg, Operand, OptionSpec, Usage};

/// Width of the help: a console's, without the last column.
pub(crate) const WIDTH: usize = 79;
/// Where the second column begins at most.
const MAX_COLUMN: usize = 28;

fn long_form(long: &str, arg: Arg) -> String {
    match arg {
        Arg::Switch => format!("--{long}"),
        Arg::Value(name, _) | Arg::List(name, _) => format!("--{long}={name}"),
        Arg::Attached(name, _) => format!("--{long}[={name}]"),
        Arg::Program(name) => format!("--{long} {name}"),
    }
}

pub(crate) fn names(spec: &OptionSpec) -> String {
    let short = spec
        .short
        .map(|letter| format!("-{}", letter.escape_ascii()));
    let long = [spec.long].into_iter().chain(spec.old.iter().copied());
    let all: Vec<String> = short
        .into_iter()
        .chain(long.map(|long| long_form(long, spec.arg)))
        .collect();
    all.join(", ")
}

/// `text` broken at blanks into lines of at most `width` columns; a longer word has a line of its own.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    wrap_words(text.split_whitespace(), width, width)
}

/// In lines of at most `width` columns, the first of `first`. A longer word has a line of its own: paths can be copied.
pub(crate) fn wrap_words<'a>(
    words: impl IntoIterator<Item = &'a str>,
    first: usize,
    width: usize,
) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in words {
        let (columns, is_first) = (word.chars().count(), lines.len() == 1);
        let room = if is_first { first } else { width };
        let Some(line) = lines.last_mut() else { break };
        if used == 0 && (!is_first || columns <= first || width <= first) {
            line.push_str(word);
            used = columns;
        } else if used > 0 && used + 1 + columns <= room {
            line.push(' ');
            line.push_str(word);
            used += 1 + columns;
        } else {
            lines.push(word.to_owned());
            used = columns;
        }
    }
    lines
}

/// Two columns, the second wrapped; a name that is too long for the first has a line of its own.
pub(crate) fn columns(rows: &[(String, String)]) -> String {
    let widest = rows.iter().map(|(left, _)| left.len() + 4).max();
    let column = widest.unwrap_or(0).min(MAX_COLUMN);
    let mut text = String::new();
    for (left, right) in rows {
        let mut left = format!("  {left}");
        for line in wrap(right, WIDTH - column) {
            if left.len() + 2 > column && !left.is_empty() {
                text += &format!("{left}\n");
                left.clear();
            }
            text += &format!("{left:<column$}{line}\n");
            left.clear();
        }
    }
    text
}

pub(crate) fn row(spec: &OptionSpec) -> (String, String) {
    let mut help = spec.help.to_owned();
    if let Some(default) = spec.default {
        help += &format!(" (default: {default})");
    }
    (names(spec), help)
}

fn operand(operand: &Operand) -> String {
    let more = if operand.max > 1 { "..." } else { "" };
    match operand.required {
        true => format!("{}{more}", operand.name),
        false => format!("[{}{more}]", operand.name),
    }
}

impl Usage {
    /// What may follow the name, in words that must not be divided: `[--all]`, `[N]`.
    pub fn synopsis(&self) -> Vec<String> {
        let options = self.options.iter().copied().flatten();
        let options = options.map(|spec| format!("[{}]", long_form(spec.long, spec.arg)));
        let (before, after) = match &self.operand {
            Some(given) if given.required => (Some(operand(given)), None),
            given => (None, given.as_ref().map(operand)),
        };
        before.into_iter().chain(options).chain(after).collect()
    }

    pub(crate) fn help(&self) -> String {
        let head = format!("Usage: qemu-ga {} ", self.name);
        let indent = " ".repeat(head.len());
        let (parts, width) = (self.synopsis(), WIDTH - head.len());
        let lines = wrap_words(parts.iter().map(String::as_str), width, width);
        let mut text = head + &lines.join(&format!("\n{indent}")) + "\n\n";
        for line in wrap(self.about, WIDTH) {
            text += &format!("{line}\n");
        }
        let operand = self.operand.as_ref();
        let operand = operand.map(|given| (given.name.to_owned(), given.help.to_owned()));
        let rows: Vec<_> = operand.into_iter().chain(self.options().map(row)).collect();
        text += &format!("\n{}\nExit status:\n", columns(&rows));
        let statuses = self.exit_statuses().into_iter();
        let statuses: Vec<_> = statuses
            .map(|(status, meaning)| (status.to_string(), meaning.to_owned()))
            .collect();
        text + &columns(&statuses)
    }
}
