//! A fault in three parts: what failed, why, and what to do about it.
//!
//! The parts stay apart until a person reads them, so that no caller has to cut a sentence. [`Display`](fmt::Display)
//! joins them in the order in which this project writes all its messages: `what: why; remedy`. A part may be empty.

use serde::Serialize;
use std::fmt;

/// What failed, why, and the remedy: each a phrase in lower case without a full stop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// What failed, and on what: `cannot run /etc/qemu/fsfreeze-hook.d/10-db`.
    pub what: String,
    /// The reason: `owned by user 1000`.
    pub why: String,
    /// What to do: `run "chown root: FILE"`.
    pub remedy: String,
}

impl Diagnostic {
    /// Makes one of its parts.
    pub fn new(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("", &self.what), (": ", &self.why), ("; ", &self.remedy)];
        let mut is_first = true;
        for (separator, part) in parts.iter().filter(|(_, part)| !part.is_empty()) {
            let separator = if is_first { "" } else { separator };
            write!(f, "{separator}{part}")?;
            is_first = false;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_and_empty_ones_left_out() {
        let text = |what, why, remedy| Diagnostic::new(what, why, remedy).to_string();
        assert_eq!(
            text("no hook", "no file", "add one"),
            "no hook: no file; add one"
        );
        assert_eq!(text("no hook", "", "add one"), "no hook; add one");
        assert_eq!(text("", "no file", "add one"), "no file; add one");
        assert_eq!(text("", "no file", ""), "no file");
    }
}
