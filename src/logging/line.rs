//! The layout of a log line, and escaping a text that would break it.

use crate::protocol::text::is_hidden;
use std::borrow::Cow;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of one line's text, without the notice that it was cut.
pub(super) const MAX_TEXT: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Debug,
    Info,
    Warning,
    Critical,
}

impl Level {
    /// As in GLib, and so in QEMU's agent.
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Critical => "critical",
        }
    }

    /// As in syslog(3).
    pub fn priority(self) -> u8 {
        match self {
            Level::Debug => 7,
            Level::Info => 6,
            Level::Warning => 4,
            Level::Critical => 3,
        }
    }
}

pub(super) fn format(out: &mut Vec<u8>, level: Level, when: SystemTime, text: &str) {
    out.clear();
    // A clock before 1970 is shown as 0.
    let since = when.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = (since.as_secs(), since.subsec_micros());
    // Writing to memory does not fail.
    let _ = writeln!(out, "{seconds}.{micros:06}: {}: {text}", level.name());
}

/// `text` as one line of bounded length with control characters escaped: what a host or a hook has sent must not forge
/// lines or control a terminal.
pub(super) fn escape_control(text: &str) -> Cow<'_, str> {
    let needs_escape = |c: char| is_hidden(c) && c != '\t';
    let text = text.trim_end_matches(['\n', '\r']);
    if text.len() <= MAX_TEXT && !text.contains(needs_escape) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len().min(MAX_TEXT) + 64);
    for (at, c) in text.char_indices() {
        if escaped.len() + c.len_utf8() > MAX_TEXT {
            escaped += &format!(" [{} bytes cut]", text.len() - at);
            break;
        }
        if needs_escape(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}
