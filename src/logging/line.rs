//! What a line looks like: level names, the layout, and what is done to a text that would break it.

use crate::protocol::text::is_hidden;
use std::borrow::Cow;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest text of one line in bytes, without the notice that it was cut.
pub(super) const MAX_TEXT: usize = 4096;

/// The level of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Debug,
    Info,
    Warning,
    Critical,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Critical => "critical",
        }
    }
}

impl Level {
    /// The level's number for syslog(3).
    pub fn priority(self) -> u8 {
        match self {
            Level::Debug => 7,
            Level::Info => 6,
            Level::Warning => 4,
            Level::Critical => 3,
        }
    }
}

/// Puts a log line, its line end included, into `out` in place of what was there.
pub(super) fn format(out: &mut Vec<u8>, level: Level, when: SystemTime, text: &str) {
    out.clear();
    let since = when.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = (since.as_secs(), since.subsec_micros());
    // Writing to memory does not fail.
    let _ = writeln!(out, "{seconds}.{micros:06}: {}: {text}", level.name());
}

/// `text` as one line of bounded length. Control characters are shown escaped: what a host or a
/// hook sent must not be able to forge lines or drive a terminal.
pub(super) fn escape_control(text: &str) -> Cow<'_, str> {
    let breaks = |c: char| is_hidden(c) && c != '\t';
    let text = text.trim_end_matches(['\n', '\r']);
    if text.len() <= MAX_TEXT && !text.contains(breaks) {
        return Cow::Borrowed(text);
    }
    let mut tame = String::with_capacity(text.len().min(MAX_TEXT) + 64);
    for (at, c) in text.char_indices() {
        if tame.len() + c.len_utf8() > MAX_TEXT {
            tame += &format!(" [{} bytes cut]", text.len() - at);
            break;
        }
        if breaks(c) {
            tame.extend(c.escape_default());
        } else {
            tame.push(c);
        }
    }
    Cow::Owned(tame)
}
