//! Parser (floor 0) for configuration files: the key file format of GLib and the desktop entries.
//!
//! Floor-pure: bytes in, entries or a [`Problem`] out, no I/O. Lines are groups, `key=value` pairs,
//! `#` comments or blank; white space before a line, around the `=` and before a line's end after a
//! `]` does not count, white space at the end of a value does. Values are only interpreted when
//! asked for, so what is wrong in a group that nobody reads does no harm.

use std::borrow::Cow;
use std::fmt;

/// What is wrong with a file, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub advice: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (line {}): {}", self.reason, self.line, self.advice)
    }
}

impl std::error::Error for Problem {}

/// One `key=value` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The group that it stands in.
    pub group: Cow<'a, str>,
    /// The key, without the white space around it.
    pub key: Cow<'a, str>,
    /// The line, counted from 1.
    pub line: usize,
    raw: &'a [u8],
}

/// What a line is.
#[derive(Debug)]
pub enum Line<'a> {
    /// The head of a group.
    Group(Cow<'a, str>),
    /// A key with its value; its group is left empty.
    Entry(Entry<'a>),
    /// None of these.
    Wrong(Problem),
}

/// The lines of `text` that say something: the number, counted from 1, the line as it stands, and what it
/// is. What is wrong with one changes nothing about the others.
pub fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8], Line<'_>)> {
    let read = |(index, line): (usize, _)| {
        let line: &[u8] = line;
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        let number = index + 1;
        let wrong = |(reason, advice)| {
            Line::Wrong(Problem {
                line: number,
                reason,
                advice,
            })
        };
        let read = match line {
            [] | [b'#', ..] => return None,
            [b'[', ..] => group_name(line).map_or_else(wrong, Line::Group),
            _ => match line.iter().position(|b| *b == b'=') {
                Some(at) if at > 0 => Line::Entry(Entry {
                    group: Cow::Borrowed(""),
                    key: String::from_utf8_lossy(line[..at].trim_ascii_end()),
                    line: number,
                    raw: line[at + 1..].trim_ascii_start(),
                }),
                _ => wrong((neither(line), "write key=value, or # before a comment")),
            },
        };
        Some((number, line, read))
    };
    text.split(|b| *b == b'\n').enumerate().filter_map(read)
}

/// Splits `text` into its entries, in file order; repeated groups and keys are all there.
pub fn parse(text: &[u8]) -> Result<Vec<Entry<'_>>, Problem> {
    let mut entries = Vec::new();
    let mut group = None;
    for (_, _, line) in lines(text) {
        let mut entry = match line {
            Line::Wrong(problem) => return Err(problem),
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
        if !is_key(entry.key.as_bytes()) {
            let reason = format!("Invalid key name: {}", shown(&entry.key));
            return Err(entry.problem(reason, "a key has no brackets"));
        }
        entry.group = Cow::clone(group);
        entries.push(entry);
    }
    Ok(entries)
}

fn neither(line: &[u8]) -> String {
    let line = shown(&String::from_utf8_lossy(line));
    format!("'{line}' is neither a group, a key with a value nor a comment")
}

/// `text` for a message: cut, and with what cannot be seen escaped.
pub fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(80) {
        match c {
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
        return Err((neither(line), "write a group as [name], alone on its line"));
    };
    let bad = |b: &u8| b.is_ascii_control() || matches!(b, b'[' | b']');
    if name.is_empty() || name.iter().any(bad) {
        let shown = shown(&String::from_utf8_lossy(name));
        return Err((
            format!("Invalid group name: {shown}"),
            "write a group as [name]",
        ));
    }
    Ok(String::from_utf8_lossy(name))
}

/// Brackets may only enclose a language at the end: `key[de]`, a key of its own.
fn is_key(key: &[u8]) -> bool {
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
    /// What is wrong with this entry.
    pub fn problem(&self, reason: String, advice: &'static str) -> Problem {
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
                "write it anew",
            )),
            Ok(text) => Ok(text),
        }
    }

    /// The value with its escapes (`\s \t \n \r \\`) resolved.
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

    /// The value as a boolean: exactly `true`, `1`, `false` or `0`, blanks after it tolerated.
    pub fn boolean(&self) -> Result<bool, Problem> {
        match self.text()?.trim_ascii_end() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => {
                let shown = shown(other);
                Err(self.problem(
                    format!("the value '{}' of '{}' is not a boolean", shown, self.key),
                    "use true or false",
                ))
            }
        }
    }
}

/// Writes a value so that [`Entry::string`] gives it back: backslashes and line ends escaped
/// everywhere, blanks where they would get lost, at the start.
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
