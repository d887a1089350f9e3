//! How the tools show things: colour, tables, bars, wrapped lists, times. What comes from outside
//! (names, output of hooks) is tamed first, so that it cannot command the terminal.

use crate::freeze::report::Level;
use crate::protocol::text::{escape_hidden, is_hidden};
use crate::sys::localtime::{DATE, format_seconds};
use serde::Serialize;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// What the tools write for: the width of a console.
pub const TERMINAL_WIDTH: usize = 80;

/// Writes to standard output; the exit status is 1 if that fails.
pub fn print(text: &str) -> u8 {
    u8::from(io::stdout().write_all(text.as_bytes()).is_err())
}

/// Writes to standard error, all that is left to complain to.
pub fn print_error(text: &str) {
    let text = escape_hidden(text);
    io::stderr().write_all(text.as_bytes()).ok();
}

/// Writes `value` as JSON; the exit status is 1 if that fails.
pub fn print_json(value: &impl Serialize) -> u8 {
    // Through the one writer that is there anyway, and indented from the plain value: a second writer
    // for every type would make the binary larger.
    print_indented(serde_json::to_vec(value))
}

/// `value` as plain JSON; null if it has none.
pub fn value(value: &impl Serialize) -> Value {
    let json = serde_json::to_vec(value).unwrap_or_default();
    serde_json::from_slice(&json).unwrap_or_default()
}

#[inline(never)]
fn print_indented(plain: serde_json::Result<Vec<u8>>) -> u8 {
    let indented = plain
        .and_then(|json| serde_json::from_slice::<Value>(&json))
        .and_then(|value| serde_json::to_string_pretty(&value));
    match indented {
        Ok(text) => print(&(escape_hidden(&text) + "\n")),
        Err(error) => {
            print_error(&format!("cannot write JSON: {error}\n"));
            1
        }
    }
}

/// How text may look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    colour: bool,
    unicode: bool,
}

impl Style {
    /// What standard output takes: colour on a terminal alone, and not if NO_COLOR is set.
    pub fn of_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| {
            let value = std::env::var(name).ok()?;
            (!value.is_empty()).then_some(value.to_ascii_lowercase())
        });
        Self {
            colour: io::stdout().is_terminal() && !dumb && !set("NO_COLOR"),
            unicode: locale.is_some_and(|l| l.contains("utf-8") || l.contains("utf8")),
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A heading.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// All is well.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Look here.
    pub fn warning(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Something is wrong.
    pub fn bad(self, text: &str) -> String {
        self.paint("31;1", text)
    }

    /// A bar of `width` columns for a stretch of time from `from` to `to` of `whole`. What took any
    /// time at all is at least one column wide.
    pub fn bar(self, from: f64, to: f64, whole: f64, width: usize) -> String {
        if width == 0 || to <= from || whole <= 0.0 {
            return String::new();
        }
        let column = |at: f64| ((at / whole * width as f64).round().max(0.0) as usize).min(width);
        let start = column(from).min(width - 1);
        let end = column(to).max(start + 1);
        let mark = if self.unicode { "█" } else { "#" };
        " ".repeat(start) + &self.paint("36", &mark.repeat(end - start))
    }
}

/// `text` in one line, without what a terminal would obey.
pub fn escape_control(text: &str) -> String {
    let safe = |c: char| match c {
        '\t' => ' ',
        c if is_hidden(c) => '?',
        c => c,
    };
    text.chars().map(safe).collect()
}

/// A message in one line: where others end a line there is a blank, and nothing at its end.
pub fn message(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().lines().map(escape_control).collect();
    lines.join(" ")
}

/// A level of consistency: green if applications were made quiet, yellow if filesystems alone were, else red.
pub fn level(level: Level, text: &str, style: Style) -> String {
    match level {
        Level::Application => style.good(text),
        Level::Filesystem => style.warning(text),
        Level::Crash | Level::None => style.bad(text),
    }
}

/// A time span for people; `-` for what has not happened.
pub fn span_or_none(seconds: f64) -> String {
    match seconds > 0.0 {
        true => span(seconds),
        false => "-".into(),
    }
}

/// A time span for people.
pub fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 0.9995 {
        return format!("{:.1} ms", seconds * 1e3);
    }
    if seconds < 59.995 {
        return format!("{seconds:.2} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    match hours {
        0 => format!("{minutes} min {seconds} s"),
        _ => format!("{hours} h {minutes} min"),
    }
}

/// `1 mount`, `2 mounts`.
pub fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// A moment, given in seconds since the epoch, as date(1) has it.
pub fn moment(seconds: f64) -> String {
    format_seconds(seconds, DATE)
}

/// The same, for tables.
pub fn short_moment(seconds: f64) -> String {
    format_seconds(seconds, c"%F %T")
}

/// Rows in aligned columns, two blanks between them, each line behind `indent`. `right` are the
/// columns of numbers.
pub fn table(indent: &str, right: &[usize], rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| visible(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (column, cell) in row.iter().enumerate() {
            let blanks = " ".repeat(widths[column].saturating_sub(visible(cell)));
            if right.contains(&column) {
                line += &(blanks + cell);
            } else {
                line += &(cell.clone() + &blanks);
            }
            line += "  ";
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// How many columns a cell takes, escape sequences aside.
fn visible(cell: &str) -> usize {
    let mut escape = false;
    let counts = |c: &char| {
        let starts = *c == '\x1b';
        let counted = !escape && !starts;
        escape = starts || (escape && *c != 'm');
        counted
    };
    cell.chars().filter(counts).count()
}

/// `text` broken at blanks into lines that fit the console: `first` before the first, as many
/// blanks before the others.
pub fn wrap(first: &str, text: &str) -> String {
    let indent = visible(first);
    let room = TERMINAL_WIDTH.saturating_sub(indent).max(20);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > room {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    first.to_owned() + &lines.join(&format!("\n{}", " ".repeat(indent))) + "\n"
}

/// What was left out, the mountpoints of one reason together.
pub fn left_out<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for (mountpoint, reason) in entries {
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, mountpoints)) => mountpoints.push(mountpoint),
            None => reasons.push((reason, vec![mountpoint])),
        }
    }
    let mut text = String::new();
    for (reason, mountpoints) in reasons {
        text += &wrap("  ", &escape_control(reason));
        text += &wrap("      ", &escape_control(&mountpoints.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_where_the_time_was() {
        let style = Style::default();
        assert_eq!(style.bar(0.0, 5.0, 10.0, 10), "#####");
        assert_eq!(style.bar(5.0, 10.0, 10.0, 10), "     #####");
        assert_eq!(style.bar(10.0, 10.001, 10.001, 10), "         #");
        assert_eq!(style.bar(0.0, 0.0, 10.0, 10), "");
        assert_eq!(style.bar(0.0, 0.0, 0.0, 10), "");
        let unicode = Style {
            unicode: true,
            ..style
        };
        assert_eq!(unicode.bar(0.0, 0.001, 10.0, 10), "█");
    }

    #[test]
    fn spans_for_people() {
        let spans = [0.0, 0.0123, 0.9996, 1.5, 59.996, 903.4, 7325.0].map(span);
        let expected = [
            "0.0 ms",
            "12.3 ms",
            "1.00 s",
            "1.50 s",
            "1 min 0 s",
            "15 min 3 s",
            "2 h 2 min",
        ];
        assert_eq!(spans, expected);
    }

    #[test]
    fn the_level_has_the_colour_of_what_it_is_worth() {
        let style = Style {
            colour: true,
            ..Style::default()
        };
        let levels = [
            Level::None,
            Level::Crash,
            Level::Filesystem,
            Level::Application,
        ];
        let colours = levels.map(|of| level(of, "x", style));
        let [red, yellow, green] = ["\x1b[31;1m", "\x1b[33m", "\x1b[32m"];
        for (told, colour) in colours.iter().zip([red, red, yellow, green]) {
            assert!(told.starts_with(colour), "{told:?}");
        }
    }

    #[test]
    fn tables_align_whatever_the_colour() {
        let colour = Style {
            colour: true,
            ..Style::default()
        };
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let plain = [row(["a", "1", "x"]), row(["bbb", "22", ""])];
        let text = table("  ", &[1], &plain);
        assert_eq!(text, "  a     1  x\n  bbb  22\n");
        let painted = [vec![colour.bad("a"), "1".into()], plain[1].clone()];
        let text = table("", &[1], &painted);
        assert_eq!(text, "\x1b[31;1ma\x1b[0m     1\nbbb  22\n");
    }

    #[test]
    fn long_lines_are_wrapped_and_reasons_put_together() {
        let text = wrap("  - ", &"word ".repeat(40));
        assert!(
            text.lines().all(|line| line.len() <= TERMINAL_WIDTH),
            "{text}"
        );
        assert!(text.starts_with("  - word") && text.contains("\n    word"));
        let text = left_out([("/a", "one"), ("/b", "two"), ("/c", "one")].into_iter());
        assert_eq!(text, "  one\n      /a, /c\n  two\n      /b\n");
    }

    #[test]
    fn nothing_commands_the_terminal() {
        assert_eq!(escape_control("a\x1b[31mb\tc\r\n"), "a?[31mb c??");
        assert_eq!(Style::default().bad("x"), "x");
        assert_eq!(message("no \x1b[31m\r\nserver\n\n"), "no ?[31m server");
    }
}
