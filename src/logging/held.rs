//! The lines that are held while filesystems are frozen: a bounded, ordered store in memory.
//!
//! All memory is allocated when the store is made, and texts are appended to one buffer, so holding a line allocates
//! nothing: an allocation could wait for a page that only a write to a frozen filesystem would free. When the store is
//! full, new lines are dropped and counted.

use std::time::SystemTime;

use super::line::Level;

#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub lines: usize,
    pub bytes: usize,
}

/// Enough for an hour of a host that polls every few seconds.
pub(super) const BOUNDS: Bounds = Bounds {
    lines: 2048,
    bytes: 128 * 1024,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineKind {
    Log(Level),
    Audit,
}

#[derive(Debug)]
struct HeldLine {
    kind: LineKind,
    when: SystemTime,
    length: usize,
    fields_length: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub log: u64,
    pub audit: u64,
}

#[derive(Debug)]
pub(super) struct HeldLines {
    bounds: Bounds,
    lines: Vec<HeldLine>,
    texts: String,
    dropped: Dropped,
}

impl HeldLines {
    pub fn new(bounds: Bounds) -> HeldLines {
        HeldLines {
            bounds,
            lines: Vec::with_capacity(bounds.lines),
            texts: String::with_capacity(bounds.bytes),
            dropped: Dropped::default(),
        }
    }

    /// `fields` are the line's journal fields.
    pub fn push(&mut self, kind: LineKind, when: SystemTime, text: &str, fields: &str) {
        // The last quarter is for warnings, errors and audit lines: debug output must not displace them.
        let is_minor = matches!(kind, LineKind::Log(Level::Debug | Level::Info));
        let share = |bound: usize| if is_minor { bound / 4 * 3 } else { bound };
        if self.lines.len() >= share(self.bounds.lines)
            || self.texts.len() + text.len() + fields.len() > share(self.bounds.bytes)
        {
            match kind {
                LineKind::Log(_) => self.dropped.log += 1,
                LineKind::Audit => self.dropped.audit += 1,
            }
            return;
        }
        self.texts.push_str(text);
        self.texts.push_str(fields);
        self.lines.push(HeldLine {
            kind,
            when,
            length: text.len(),
            fields_length: fields.len(),
        });
    }

    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Each with its text and its fields.
    pub fn iter(&self) -> impl Iterator<Item = (LineKind, SystemTime, &str, &str)> {
        let mut rest = self.texts.as_str();
        self.lines.iter().map(move |line| {
            let (text, tail) = rest.split_at(line.length);
            let (fields, tail) = tail.split_at(line.fields_length);
            rest = tail;
            (line.kind, line.when, text, fields)
        })
    }
}
