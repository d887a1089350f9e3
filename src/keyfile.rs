//! Key files (floor 0): the format of GLib and of desktop entries, and the readers of their values.
//!
//! Bytes in, entries or a [`Problem`] out, no I/O. Lines are groups, `key=value` pairs, `#` comments or blank; white
//! space before a line, around the `=` and after a `]` is ignored, white space at the end of a value is part of it.
//! Values are interpreted only on demand, so an error in a group that nobody reads does no harm. A value means the same
//! in all of our own groups; [`Entry::boolean`] has the narrower rule of GLib for the group that QEMU's agent reads.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// An error in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1.
    pub line: usize,
    pub(crate) reason: String,
    pub(crate) advice: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (line {}); {}", self.reason, self.line, self.advice)
    }
}

impl std::error::Error for Problem {}

/// One `key=value` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name of its group; empty in what [`lines`] yields.
    pub group: Cow<'a, str>,
    /// Without the white space around it.
    pub key: Cow<'a, str>,
    /// Counted from 1.
    pub line: usize,
    raw: &'a [u8],
}

#[derive(Debug)]
pub(crate) enum Line<'a> {
    Group(Cow<'a, str>),
    Entry(Entry<'a>),
    Invalid(Problem),
}

/// The lines of `text` but for comments and blank ones: the number, counted from 1, the line without its indentation,
/// and its meaning. An invalid line does not affect the others.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8], Line<'_>)> {
    let read = |(index, line): (usize, _)| {
        let line: &[u8] = line;
        // The line end of a file that was edited on Windows.
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        let number = index + 1;
        let invalid = |(reason, advice)| {
            Line::Invalid(Problem {
                line: number,
                reason,
                advice,
            })
        };
        let read = match line {
            [] | [b'#', ..] => return None,
            [b'[', ..] => group_name(line).map_or_else(invalid, Line::Group),
            _ => match line.iter().position(|b| *b == b'=') {
                // White space at the end of a value is part of it for GLib.
                Some(at) if at > 0 => Line::Entry(Entry {
                    group: Cow::Borrowed(""),
                    key: String::from_utf8_lossy(line[..at].trim_ascii_end()),
                    line: number,
                    raw: line[at + 1..].trim_ascii_start(),
                }),
                _ => invalid((unknown_line(line), "write key=value, or # before a comment")),
            },
        };
        Some((number, line, read))
    };
    text.split(|b| *b == b'\n').enumerate().filter_map(read)
}

/// The entries in file order, including those of repeated groups and keys.
///
/// # Errors
/// The first invalid line.
pub fn parse(text: &[u8]) -> Result<Vec<Entry<'_>>, Problem> {
    let mut entries = Vec::new();
    let mut group = None;
    for (_, _, line) in lines(text) {
        let mut entry = match line {
            Line::Invalid(problem) => return Err(problem),
            Line::Group(name) => {
                group = Some(name);
                continue;
            }
            Line::Entry(entry) => entry,
        };
        let Some(group) = &group else {
            return Err(entry.problem(
                "Key file does not start with a group".into(),
                "put a line [general] before the first key",
            ));
        };
        if !is_valid_key(entry.key.as_bytes()) {
            let reason = format!("Invalid key name: {}", excerpt(&entry.key));
            return Err(entry.problem(reason, "a key has no brackets"));
        }
        entry.group = Cow::clone(group);
        entries.push(entry);
    }
    Ok(entries)
}

fn unknown_line(line: &[u8]) -> String {
    let line = excerpt(&String::from_utf8_lossy(line));
    format!("'{line}' is neither a group, a key with a value nor a comment")
}

/// The first 80 characters for a message, with control and other invisible characters escaped.
pub(crate) fn excerpt(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(80) {
        match c {
            // escape_debug would double or mask these, which is harder to compare with the file.
            '\\' | '\'' | '"' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

fn group_name(line: &[u8]) -> Result<Cow<'_, str>, (String, &'static str)> {
    let Some(name) = line
        .trim_ascii_end()
        .strip_prefix(b"[")
        .and_then(|l| l.strip_suffix(b"]"))
    else {
        return Err((
            unknown_line(line),
            "write a group as [name], alone on its line",
        ));
    };
    let bad = |b: &u8| b.is_ascii_control() || matches!(b, b'[' | b']');
    if name.is_empty() || name.iter().any(bad) {
        let name = excerpt(&String::from_utf8_lossy(name));
        return Err((
            format!("Invalid group name: {name}"),
            "write a group as [name]",
        ));
    }
    Ok(String::from_utf8_lossy(name))
}

/// Brackets may only enclose a locale at the end: `key[de]`, which is a key of its own.
fn is_valid_key(key: &[u8]) -> bool {
    let bare = match key.strip_suffix(b"]") {
        Some(rest) => match rest.iter().position(|b| *b == b'[') {
            Some(at) if at > 0 && at + 1 < rest.len() => [&rest[..at], &rest[at + 1..]].concat(),
            _ => return false,
        },
        None => key.to_vec(),
    };
    !bare.iter().any(|b| matches!(b, b'[' | b']'))
}

impl Entry<'_> {
    pub(crate) fn problem(&self, reason: String, advice: &'static str) -> Problem {
        Problem {
            line: self.line,
            reason,
            advice,
        }
    }

    fn text(&self) -> Result<&str, Problem> {
        match std::str::from_utf8(self.raw) {
            Err(_) => Err(self.problem(
                format!("the value of '{}' is not UTF-8", self.key),
                "save the file as UTF-8",
            )),
            Ok(text) if text.contains('\0') => Err(self.problem(
                format!("the value of '{}' holds a NUL byte", self.key),
                "write the line again",
            )),
            Ok(text) => Ok(text),
        }
    }

    /// The value with its escapes (`\s \t \n \r \\`) resolved.
    ///
    /// # Errors
    /// It is not UTF-8, has a NUL byte or another escape.
    pub fn string(&self) -> Result<String, Problem> {
        let text = self.text()?;
        let mut value = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            value.push(match c {
                '\\' => match chars.next() {
                    Some('s') => ' ',
                    Some('t') => '\t',
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('\\') => '\\',
                    other => {
                        let shown = other
                            .map(|c| c.escape_debug().to_string())
                            .unwrap_or_default();
                        return Err(self.problem(
                            format!(
                                "the value of '{}' has an unknown escape '\\{shown}'",
                                self.key
                            ),
                            r"use \s \t \n \r or \\",
                        ));
                    }
                },
                c => c,
            });
        }
        Ok(value)
    }

    /// The value as g_key_file_get_boolean() reads it: `true`, `1`, `false` or `0`, and blanks after it.
    pub fn boolean(&self) -> Result<bool, Problem> {
        match self.text()?.trim_ascii_end() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => {
                let reason = format!(
                    "the value '{}' of '{}' is not a boolean",
                    excerpt(other),
                    self.key
                );
                Err(self.problem(reason, "use true or false"))
            }
        }
    }
}

/// A week. A longer time in a key file is taken for a mistake.
const MAX_SECONDS: f64 = 604_800.0;

/// `yes` or `no`, or another usual spelling of them. This and the readers below it are for our own groups; each error
/// completes a sentence that begins with the setting.
pub(crate) fn parse_boolean(value: &str) -> Result<bool, String> {
    match value.trim() {
        "yes" | "true" | "1" | "on" => Ok(true),
        "no" | "false" | "0" | "off" => Ok(false),
        _ => Err("is neither yes nor no".into()),
    }
}

/// A number of seconds up to a week, fractions allowed.
pub(crate) fn parse_seconds(value: &str) -> Result<Duration, String> {
    match value.trim().parse::<f64>() {
        Ok(seconds) if (0.0..=MAX_SECONDS).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(format!(
            "is not a number of seconds from 0 to {MAX_SECONDS}"
        )),
    }
}

/// A number of seconds up to a week; 0 means no limit. The error is the second half of a sentence.
pub fn parse_time_limit(value: &str) -> Result<Option<Duration>, String> {
    parse_seconds(value).map(|limit| (!limit.is_zero()).then_some(limit))
}

pub(crate) fn parse_number<N: FromStr + PartialOrd + fmt::Display>(
    value: &str,
    max: N,
) -> Result<N, String> {
    match value.trim().parse() {
        Ok(number) if number <= max => Ok(number),
        _ => Err(format!("is not a whole number from 0 to {max}")),
    }
}

/// The form of a value that [`Entry::string`] reads back: backslashes and line ends are escaped, and the blanks at the
/// start, which a reader would remove.
pub fn escape(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut leading = true;
    for byte in value {
        let escaped: &[u8] = match byte {
            b' ' if leading => br"\s",
            b'\t' if leading => br"\t",
            b'\n' => br"\n",
            b'\r' => br"\r",
            b'\\' => br"\\",
            other => std::slice::from_ref(other),
        };
        leading &= matches!(byte, b' ' | b'\t');
        out.extend_from_slice(escaped);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_our_own_groups() {
        for (yes, no) in [
            ("yes", "no"),
            ("true", "false"),
            (" 1 ", " 0"),
            ("on", "off"),
        ] {
            assert_eq!(
                (parse_boolean(yes), parse_boolean(no)),
                (Ok(true), Ok(false))
            );
        }
        assert!(parse_boolean("Yes").is_err() && parse_boolean("").is_err());
        assert_eq!(parse_seconds(" 1.5 "), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time_limit("0"), Ok(None));
        assert_eq!(
            parse_time_limit("604800").unwrap(),
            Some(Duration::from_secs(604_800))
        );
        for value in ["", "-1", "15m", "604800.1", "nan", "inf"] {
            let why = "is not a number of seconds from 0 to 604800";
            assert_eq!(parse_time_limit(value), Err(why.into()), "{value}");
        }
        assert_eq!(parse_number(" 99", 99_u8), Ok(99));
        for value in ["", "-1", "100", "256", "1.0"] {
            let why = "is not a whole number from 0 to 99";
            assert_eq!(parse_number(value, 99_u8), Err(why.into()), "{value}");
        }
    }
}
