//! The lines that are kept while the gate is shut: a bounded, ordered store in memory.
//!
//! Texts lie behind each other in one allocation, so keeping a line allocates nothing once
//! [`Kept::reserve`] was called. When the store is full new lines are dropped and counted. The last
//! quarter is for what must not be lost to chatter: warnings, errors and audit lines.

use std::time::SystemTime;

use super::line::Level;

/// Bounds of the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Number of lines.
    pub lines: usize,
    /// Bytes of all texts together.
    pub bytes: usize,
}

/// Enough for an hour of a host that polls every few seconds.
pub(super) const BOUNDS: Bounds = Bounds {
    lines: 2048,
    bytes: 128 * 1024,
};

/// What kind of line was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Log(Level),
    Audit,
}

#[derive(Debug)]
struct Line {
    kind: Kind,
    when: SystemTime,
    length: usize,
}

/// How many lines found no place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub log: u64,
    pub audit: u64,
}

/// The store.
#[derive(Debug)]
pub(super) struct Kept {
    bounds: Bounds,
    lines: Vec<Line>,
    texts: String,
    dropped: Dropped,
}

impl Kept {
    pub fn new(bounds: Bounds) -> Kept {
        Kept {
            bounds,
            lines: Vec::new(),
            texts: String::new(),
            dropped: Dropped::default(),
        }
    }

    /// Sets aside all the memory that the store may need.
    pub fn reserve(&mut self) {
        self.lines
            .reserve_exact(self.bounds.lines.saturating_sub(self.lines.len()));
        self.texts
            .reserve_exact(self.bounds.bytes.saturating_sub(self.texts.len()));
    }

    pub fn push(&mut self, kind: Kind, when: SystemTime, text: &str) {
        let chatter = matches!(kind, Kind::Log(Level::Debug | Level::Info));
        let share = |bound: usize| if chatter { bound / 4 * 3 } else { bound };
        if self.lines.len() >= share(self.bounds.lines)
            || self.texts.len() + text.len() > share(self.bounds.bytes)
        {
            match kind {
                Kind::Log(_) => self.dropped.log += 1,
                Kind::Audit => self.dropped.audit += 1,
            }
            return;
        }
        self.texts.push_str(text);
        self.lines.push(Line {
            kind,
            when,
            length: text.len(),
        });
    }

    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// The kept lines in their order.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, SystemTime, &str)> {
        let mut rest = self.texts.as_str();
        self.lines.iter().map(move |line| {
            let (text, tail) = rest.split_at(line.length);
            rest = tail;
            (line.kind, line.when, text)
        })
    }
}
