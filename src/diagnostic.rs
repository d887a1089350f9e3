//! A fault in three parts: what failed, why, and what to do about it.
//!
//! The parts stay apart until a person reads them, so that no caller has to cut a sentence. [`Display`](fmt::Display)
//! joins them in the order in which this project writes all its messages: `what: why; remedy`. A part may be empty.

use serde::Serialize;
use std::fmt;

/// Each part is a phrase in lower case without a full stop.
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
    /// A fault of these parts.
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

/// The word of `known` that was probably meant, as a question for a remedy; `None` if none is similar.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // Two slips of the pen in a long word, one in a short one.
    let most = if word.len() > 4 { 2 } else { 1 };
    let distance = |candidate: &str| strsim::osa_distance(word, candidate);
    let close = known.into_iter().map(|known| (distance(known), known));
    let (_, best) = close.filter(|(far, _)| *far <= most).min()?;
    Some(format!("did you mean '{best}'?"))
}

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

    #[test]
    fn a_similar_word_is_offered() {
        let ask = |word| did_you_mean(word, ["status", "thaw", "check"]);
        assert_eq!(ask("stauts").unwrap(), "did you mean 'status'?");
        assert_eq!(ask("thw").unwrap(), "did you mean 'thaw'?");
        assert_eq!((ask("hook"), ask("")), (None, None));
    }
}
