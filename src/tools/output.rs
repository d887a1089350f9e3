//! How the tools print: colors, tables, bars, wrapped text, times and JSON.
//!
//! Text from outside (names, output of hooks) passes [`escape_control`] or [`message`], so that it cannot control the
//! terminal. No line is wider than the terminal, unless a single word is: such a path or command can still be copied.

use crate::cli::help::wrap_words;
use crate::freeze::report::Level;
use crate::protocol::text::{escape_hidden, is_hidden};
use crate::sys::localtime::{DATE, format_seconds};
use crate::sys::terminal;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::io::{self, IsTerminal, Write};
use std::ops::RangeInclusive;

use super::time;

/// In columns, if standard output is no terminal.
const DEFAULT_WIDTH: usize = 80;
const WIDTHS: RangeInclusive<usize> = 40..=200;
/// Continuation lines are indented less if fewer columns than this are left.
const MIN_TEXT_WIDTH: usize = 22;
const NARROW_WIDTH: usize = 72;
const MIN_CELL_WIDTH: usize = 6;
const RESET: &str = "\x1b[0m";
/// It changes if a member is removed or gets another meaning.
const JSON_VERSION: u32 = 1;

/// Returns the exit status, 1 if writing fails.
pub(super) fn print(text: &str) -> u8 {
    u8::from(io::stdout().write_all(text.as_bytes()).is_err())
}

/// An error is ignored, because nowhere is left to report it.
pub(super) fn print_error(text: &str) {
    let text = escape_hidden(text);
    io::stderr().write_all(text.as_bytes()).ok();
}

/// With the schema's version. Returns the exit status, 1 if writing fails.
pub(super) fn print_json(object: &impl Serialize) -> u8 {
    print_object(with_version(value(object)))
}

pub(super) fn print_json_list(name: &str, list: &impl Serialize) -> u8 {
    print_object(with_version(named(name, list)))
}

pub(super) fn named(name: &str, list: &impl Serialize) -> Value {
    let mut object = serde_json::Map::new();
    object.insert(name.to_owned(), value(list));
    Value::Object(object)
}

/// Null if it cannot be written as JSON.
pub(super) fn value(value: &impl Serialize) -> Value {
    // By way of the text: a second serializer for every type would make the binary larger.
    let json = serde_json::to_vec(value).unwrap_or_default();
    serde_json::from_slice(&json).unwrap_or_default()
}

pub(super) fn with_version(mut object: Value) -> Value {
    if let Some(members) = object.as_object_mut() {
        members.insert("version".into(), JSON_VERSION.into());
    }
    object
}

#[inline(never)]
fn print_object(object: Value) -> u8 {
    match serde_json::to_string_pretty(&object) {
        Ok(text) => print(&(escape_hidden(&text) + "\n")),
        Err(error) => {
            print_error(&format!("cannot write JSON: {error}\n"));
            1
        }
    }
}

pub(super) fn serialize_time<S: Serializer>(
    seconds: &f64,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time::rfc3339(*seconds).serialize(serializer)
}

#[allow(clippy::ref_option, reason = "the signature that serde calls")]
pub(super) fn serialize_optional_time<S: Serializer>(
    seconds: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    seconds.and_then(time::rfc3339).serialize(serializer)
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    color: bool,
    unicode: bool,
    width: usize,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            color: false,
            unicode: false,
            width: DEFAULT_WIDTH,
        }
    }
}

impl Style {
    /// Follows the terminal's width, and `NO_COLOR` (no-color.org).
    pub(super) fn of_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| {
            let value = std::env::var(name).ok()?;
            (!value.is_empty()).then_some(value.to_ascii_lowercase())
        });
        let columns = terminal::columns(io::stdout()).unwrap_or(DEFAULT_WIDTH);
        Self {
            color: io::stdout().is_terminal() && !dumb && !set("NO_COLOR"),
            unicode: locale.is_some_and(|l| l.contains("utf-8") || l.contains("utf8")),
            width: columns.clamp(*WIDTHS.start(), *WIDTHS.end()),
        }
    }

    pub(super) fn width(self) -> usize {
        self.width
    }

    pub(super) fn is_narrow(self) -> bool {
        self.width < NARROW_WIDTH
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.color && !text.is_empty() {
            format!("\x1b[{code}m{text}{RESET}")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn warning(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31;1", text)
    }

    /// The part from `from` to `to` of a bar of `width` columns that is `whole` long: at least one column unless empty.
    pub(super) fn bar(self, from: f64, to: f64, whole: f64, width: usize) -> String {
        if width == 0 || to <= from || whole <= 0.0 {
            return String::new();
        }
        let column = |at: f64| ((at / whole * width as f64).round().max(0.0) as usize).min(width);
        let start = column(from).min(width - 1);
        let end = column(to).max(start + 1);
        let mark = if self.unicode { "█" } else { "#" };
        " ".repeat(start) + &self.paint("36", &mark.repeat(end - start))
    }

    /// Breaks `text` at blanks. Later lines are indented as far as `first` is wide, or less if little room is left.
    pub(super) fn wrap(self, first: &str, text: &str) -> String {
        let used = visible(first);
        let room = self.width.saturating_sub(used);
        let longest = text.split_whitespace().map(visible).max().unwrap_or(0);
        let indent = match room < MIN_TEXT_WIDTH || longest > room {
            true => used.min(4),
            false => used,
        };
        let lines = wrap_words(text.split_whitespace(), room, self.width - indent);
        let next = format!("\n{}", " ".repeat(indent));
        let text = first.to_owned() + &lines.join(&next);
        // `first` alone may end in blanks.
        let lines = text.lines().map(str::trim_end);
        lines.collect::<Vec<_>>().join("\n") + "\n"
    }

    /// Each row with its line end. `right` are the columns of numbers; others are made narrower until the table fits.
    pub(super) fn table(self, indent: &str, right: &[usize], rows: &[Vec<String>]) -> Vec<String> {
        let widths = self.column_widths(indent.len(), right, rows);
        let line_of = |row: &[Vec<String>], number: usize| {
            let mut line = indent.to_owned();
            for (column, pieces) in row.iter().enumerate() {
                let piece = pieces.get(number).map_or("", String::as_str);
                let blanks = " ".repeat(widths[column].saturating_sub(visible(piece)));
                match right.contains(&column) {
                    true => line += &(blanks + piece),
                    false => line += &(piece.to_owned() + &blanks),
                }
                line += "  ";
            }
            line.trim_end().to_owned() + "\n"
        };
        let text_of = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths);
            let cells: Vec<_> = cells
                .map(|(cell, &width)| break_cell(cell, width))
                .collect();
            let height = cells.iter().map(Vec::len).max().unwrap_or(0);
            (0..height.max(1))
                .map(|number| line_of(&cells, number))
                .collect()
        };
        rows.iter().map(text_of).collect()
    }

    fn column_widths(self, indent: usize, right: &[usize], rows: &[Vec<String>]) -> Vec<usize> {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let natural = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| visible(cell)).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..columns).map(natural).collect();
        let gaps = indent + 2 * columns.saturating_sub(1);
        while gaps + widths.iter().sum::<usize>() > self.width {
            let is_shrinkable =
                |&column: &usize| !right.contains(&column) && widths[column] > MIN_CELL_WIDTH;
            let widest = (0..columns).filter(is_shrinkable);
            let Some(widest) = widest.max_by_key(|&column| widths[column]) else {
                break;
            };
            widths[widest] -= 1;
        }
        widths
    }

    pub(super) fn left_out<'a>(self, entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for (mountpoint, reason) in entries {
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, mountpoints)) => mountpoints.push(mountpoint),
                None => reasons.push((reason, vec![mountpoint])),
            }
        }
        let mut text = String::new();
        for (reason, mountpoints) in reasons {
            text += &self.wrap("  ", &escape_control(reason));
            text += &self.wrap("      ", &escape_control(&mountpoints.join(", ")));
        }
        text
    }
}

/// `text` in one line: controls of the terminal and of the direction of text become `?`.
pub(super) fn escape_control(text: &str) -> String {
    let safe = |c: char| match c {
        '\t' => ' ',
        c if is_hidden(c) => '?',
        c => c,
    };
    text.chars().map(safe).collect()
}

/// As [`escape_control`], with line ends as blanks.
pub(super) fn message(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().lines().map(escape_control).collect();
    lines.join(" ")
}

pub(super) fn level(level: Level, text: &str, style: Style) -> String {
    match level {
        Level::Application => style.good(text),
        Level::Filesystem => style.warning(text),
        Level::Crash | Level::None => style.bad(text),
    }
}

pub(super) fn span_or_none(seconds: f64) -> String {
    match seconds > 0.0 {
        true => span(seconds),
        false => "-".into(),
    }
}

pub(super) fn span(seconds: f64) -> String {
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

pub(super) fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

pub(super) fn join_pids(pids: &[i32]) -> String {
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    pids.join(", ")
}

pub(super) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// As date(1) prints it; `seconds` is since the epoch.
pub(super) fn moment(seconds: f64) -> String {
    format_seconds(seconds, DATE)
}

pub(super) fn short_moment(seconds: f64) -> String {
    format_seconds(seconds, c"%F %T")
}

/// Columns on a terminal, without the escape sequences of [`Style`].
fn visible(text: &str) -> usize {
    pieces(text)
        .filter(|(_, is_escape)| !is_escape)
        .map(|(piece, _)| piece.chars().count())
        .sum()
}

/// `text` cut into escape sequences of [`Style`] (`true`) and what is between them.
fn pieces(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let is_escape = rest.starts_with('\x1b');
        let end = match is_escape {
            true => rest.find('m').map(|at| at + 1),
            false => rest.find('\x1b'),
        };
        let (piece, tail) = rest.split_at(end.unwrap_or(rest.len()));
        rest = tail;
        Some((piece, is_escape))
    })
}

/// Lines of at most `width` columns, broken behind a blank, slash or comma if there is one. Each has its own color.
fn break_cell(cell: &str, width: usize) -> Vec<String> {
    if visible(cell) <= width {
        return vec![cell.to_owned()];
    }
    let plain: String = pieces(cell)
        .filter(|(_, is_escape)| !is_escape)
        .map(|(piece, _)| piece)
        .collect();
    let mut lengths = line_lengths(&plain.chars().collect::<Vec<_>>(), width.max(1)).into_iter();
    let (mut lines, mut line, mut color) = (Vec::new(), String::new(), String::new());
    let mut left = lengths.next().unwrap_or(0);
    for (piece, is_escape) in pieces(cell) {
        if is_escape {
            line += piece;
            color = if piece == RESET {
                String::new()
            } else {
                piece.to_owned()
            };
            continue;
        }
        for c in piece.chars() {
            if left == 0 {
                left = lengths.next().unwrap_or(usize::MAX);
                let end = if color.is_empty() { "" } else { RESET };
                lines.push(std::mem::replace(&mut line, color.clone()) + end);
            }
            line.push(c);
            left -= 1;
        }
    }
    lines.push(line);
    lines
}

fn line_lengths(text: &[char], width: usize) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut rest = text;
    while rest.len() > width {
        let is_end = |c: &char| matches!(c, ' ' | '/' | ',');
        let end = rest[..width]
            .iter()
            .rposition(is_end)
            .map_or(width, |at| at + 1);
        // A path's first slash is no place to break.
        let end = if end == 1 { width } else { end };
        lengths.push(end);
        rest = &rest[end..];
    }
    lengths.push(rest.len());
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_their_part_of_the_time() {
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
    fn spans_have_the_units_that_fit() {
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
    fn each_level_has_its_color() {
        let style = Style {
            color: true,
            ..Style::default()
        };
        let levels = [
            Level::None,
            Level::Crash,
            Level::Filesystem,
            Level::Application,
        ];
        let colors = levels.map(|of| level(of, "x", style));
        let [red, yellow, green] = ["\x1b[31;1m", "\x1b[33m", "\x1b[32m"];
        for (text, color) in colors.iter().zip([red, red, yellow, green]) {
            assert!(text.starts_with(color), "{text:?}");
        }
    }

    #[test]
    fn colors_do_not_move_columns() {
        let color = Style {
            color: true,
            ..Style::default()
        };
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let plain = [row(["a", "1", "x"]), row(["bbb", "22", ""])];
        let text = Style::default().table("  ", &[1], &plain).concat();
        assert_eq!(text, "  a     1  x\n  bbb  22\n");
        let painted = [vec![color.bad("a"), "1".into()], plain[1].clone()];
        let text = Style::default().table("", &[1], &painted).concat();
        assert_eq!(text, "\x1b[31;1ma\x1b[0m     1\nbbb  22\n");
    }

    #[test]
    fn text_follows_the_width() {
        for width in [40, 80, 200] {
            let style = Style {
                width,
                ..Style::default()
            };
            for indent in [2, 17, 26] {
                let first = format!("{:indent$}- ", "");
                let text = style.wrap(&first, &"word ".repeat(90));
                assert!(text.lines().all(|line| line.len() <= width), "{text}");
                assert!(
                    text.lines()
                        .nth(1)
                        .is_some_and(|line| line.len() > width - 10)
                );
                assert!(text.starts_with(&(first + "word")), "{text}");
            }
        }
        let text =
            Style::default().left_out([("/a", "one"), ("/b", "two"), ("/c", "one")].into_iter());
        assert_eq!(text, "  one\n      /a, /c\n  two\n      /b\n");
        let narrow = Style {
            width: 40,
            ..Style::default()
        };
        let long = "/a/path/that/is/too/long/for/the/line/but/can/be/copied";
        let expected = format!("{:30}\n    {long}\n    end\n", "head").replace("head  ", "head");
        let text = narrow.wrap(&format!("{:30}", "head"), &format!("{long} end"));
        assert_eq!(text.replace(' ', ""), expected.replace(' ', ""));
    }

    #[test]
    fn tables_fit_and_keep_their_colors() {
        let narrow = Style {
            color: true,
            width: 24,
            ..Style::default()
        };
        let row = ["/srv/data/base", "12", &narrow.bad("FAILED: no space left")].map(str::to_owned);
        let lines = narrow.table("", &[1], &[row.to_vec()]);
        let lines: Vec<&str> = lines[0].lines().collect();
        assert!(lines.iter().all(|line| visible(line) <= 24), "{lines:?}");
        let (first, second) = (lines[0], lines[1]);
        assert!(
            first.starts_with("/srv/      12  \x1b[31;1mFAILED: "),
            "{first:?}"
        );
        assert!(
            second.starts_with("data/base      \x1b[31;1mno "),
            "{second:?}"
        );
    }

    #[test]
    fn controls_do_not_reach_the_terminal() {
        assert_eq!(escape_control("a\x1b[31mb\tc\r\n"), "a?[31mb c??");
        assert_eq!(Style::default().bad("x"), "x");
        assert_eq!(message("no \x1b[31m\r\nserver\n\n"), "no ?[31m server");
    }
}
