//! The lines of the hook log about single hooks: the master writes them and `qemu-ga log` reads them (floor 3).
//!
//! Operators search for these texts, so each is here once, for both directions. A line is `DATE: TEXT`; QEMU's
//! fsfreeze-hook script writes the same `execute` and `finished` lines with the date of date(1).

use std::fmt;

use super::QUOTE;

const EXECUTE: &str = "execute ";
const RELEASE: &str = "release ";
const FINISHED: &str = " finished with status=";
const HOLDS: &str = " is ready and holds";
const LOST: &str = " did not hold until the thaw: ";
const SKIPPED: &str = " skipped: ";
const UNNEEDED: &str =
    " is not called with thaw: it was not called with freeze, or that settled it";
const NOT_CALLED: &str = " is not called: ";
const CANNOT_RUN: &str = " cannot be run: ";

/// Without its date. A hook is named by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLine<'a> {
    /// Read back, `args` is the last word, and the rest is the path.
    Execute { hook: &'a str, args: &'a str },
    /// A holding hook is to end, for this reason.
    Release { hook: &'a str, reason: &'a str },
    /// A holding hook is ready, and stays until its release.
    Holds { hook: &'a str },
    /// The status is 128 plus the signal if a signal ended the hook.
    Finished {
        hook: &'a str,
        status: i32,
        note: EndNote,
    },
    /// A holding hook ended before its release.
    Lost { hook: &'a str, why: &'a str },
    /// The hook is not executable, so the freeze goes on without it.
    Skipped { hook: &'a str, why: &'a str },
    /// The hook needs no thaw, because it did not freeze.
    Unneeded { hook: &'a str },
    /// The hook is not started, because no time is left.
    NotCalled { hook: &'a str, why: &'a str },
    /// The hook cannot be started.
    CannotRun { hook: &'a str, why: &'a str },
    /// Any other text.
    Other(&'a str),
}

/// What the log says of an exit status whose number alone would be misread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndNote {
    None,
    Success,
    NotApplicable,
    /// A holding hook ended before it was ready, which is a failure whatever the status.
    Early,
    /// A note that this version does not write.
    Unknown,
}

impl EndNote {
    const ALL: [EndNote; 4] = [
        EndNote::None,
        EndNote::Success,
        EndNote::NotApplicable,
        EndNote::Early,
    ];

    fn text(self) -> &'static str {
        match self {
            EndNote::None | EndNote::Unknown => "",
            EndNote::Success => " (success)",
            EndNote::NotApplicable => " (not applicable)",
            EndNote::Early => " (before it was ready)",
        }
    }

    pub fn is_success(self, status: i32) -> bool {
        match self {
            EndNote::None => status == 0,
            EndNote::Success | EndNote::NotApplicable => true,
            EndNote::Early | EndNote::Unknown => false,
        }
    }
}

impl fmt::Display for LogLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            LogLine::Execute { hook, args: "" } => write!(f, "{EXECUTE}{hook}"),
            LogLine::Execute { hook, args } => write!(f, "{EXECUTE}{hook} {args}"),
            LogLine::Release { hook, reason } => write!(f, "{RELEASE}{hook} {reason}"),
            LogLine::Holds { hook } => write!(f, "{hook}{HOLDS}"),
            LogLine::Finished { hook, status, note } => {
                write!(f, "{hook}{FINISHED}{status}{}", note.text())
            }
            LogLine::Lost { hook, why } => write!(f, "{hook}{LOST}{why}"),
            LogLine::Skipped { hook, why } => write!(f, "{hook}{SKIPPED}{why}"),
            LogLine::Unneeded { hook } => write!(f, "{hook}{UNNEEDED}"),
            LogLine::NotCalled { hook, why } => write!(f, "{hook}{NOT_CALLED}{why}"),
            LogLine::CannotRun { hook, why } => write!(f, "{hook}{CANNOT_RUN}{why}"),
            LogLine::Other(text) => f.write_str(text),
        }
    }
}

impl<'a> LogLine<'a> {
    /// The date and the text. None: a hook printed the line.
    pub fn parse(line: &'a str) -> Option<(&'a str, LogLine<'a>)> {
        let (date, text) = split_date(line)?;
        Some((date, LogLine::parse_text(text)))
    }

    fn parse_text(text: &'a str) -> LogLine<'a> {
        // A path may contain any of these texts. What follows the path of a call or an end has no blanks, so
        // the last occurrence is the real one.
        if let Some((hook, args)) = text
            .strip_prefix(EXECUTE)
            .and_then(|call| call.rsplit_once(' '))
        {
            return LogLine::Execute { hook, args };
        }
        if let Some(finished) = LogLine::parse_finished(text) {
            return finished;
        }
        if let Some((hook, reason)) = text
            .strip_prefix(RELEASE)
            .and_then(|call| call.rsplit_once(' '))
        {
            return LogLine::Release { hook, reason };
        }
        if !text.starts_with('/') {
            return LogLine::Other(text);
        }
        if let Some(hook) = text.strip_suffix(HOLDS) {
            return LogLine::Holds { hook };
        }
        if let Some(hook) = text.strip_suffix(UNNEEDED) {
            return LogLine::Unneeded { hook };
        }
        let split = |words| text.split_once(words);
        if let Some((hook, why)) = split(SKIPPED) {
            LogLine::Skipped { hook, why }
        } else if let Some((hook, why)) = split(LOST) {
            LogLine::Lost { hook, why }
        } else if let Some((hook, why)) = split(CANNOT_RUN) {
            LogLine::CannotRun { hook, why }
        } else if let Some((hook, why)) = split(NOT_CALLED) {
            LogLine::NotCalled { hook, why }
        } else {
            LogLine::Other(text)
        }
    }

    fn parse_finished(text: &'a str) -> Option<LogLine<'a>> {
        let (hook, end) = text.rsplit_once(FINISHED)?;
        let digits = end.find(' ').unwrap_or(end.len());
        let (status, note) = end.split_at(digits);
        let known = EndNote::ALL.into_iter().find(|known| known.text() == note);
        Some(LogLine::Finished {
            hook,
            status: status.parse().ok()?,
            note: known.unwrap_or(EndNote::Unknown),
        })
    }
}

/// Whether a text begins as the lines above do. Output that does, behind a date, is quoted.
pub(super) fn looks_like_one(text: &str) -> bool {
    ["/", EXECUTE, RELEASE]
        .iter()
        .any(|start| text.starts_with(start))
}

pub(super) fn split_date(line: &str) -> Option<(&str, &str)> {
    // The script uses date(1), whose format depends on the locale. All formats have 4 to 8 words, one of them
    // a time of day.
    let is_date = |text: &str| {
        let words = text.split_whitespace();
        let mut clocks = words.clone();
        let is_clock = |word: &str| word.len() == 8 && word.matches(':').count() == 2;
        (4..=8).contains(&words.count()) && clocks.any(is_clock)
    };
    let is_quoted = line.as_bytes().starts_with(QUOTE);
    line.split_once(": ")
        .filter(|(date, _)| !is_quoted && is_date(date))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let hook = "/h/20 a skipped";
        let finished = |status, note| LogLine::Finished { hook, status, note };
        for line in [
            LogLine::Execute {
                hook,
                args: "freeze",
            },
            LogLine::Release { hook, reason: "ok" },
            LogLine::Holds { hook },
            finished(0, EndNote::None),
            finished(3, EndNote::Success),
            finished(77, EndNote::NotApplicable),
            finished(0, EndNote::Early),
            LogLine::Lost { hook, why: "x: y" },
            LogLine::Skipped { hook, why: "x" },
            LogLine::Unneeded { hook },
            LogLine::NotCalled { hook, why: "x" },
            LogLine::CannotRun { hook, why: "x" },
            LogLine::Other("no hook to thaw"),
            LogLine::Other("/h/1 did not finish within 5 s and was ended"),
        ] {
            let date = "Thu Nov 23 13:38:05 MSK 2023";
            let text = format!("{date}: {line}");
            assert_eq!(LogLine::parse(&text), Some((date, line)), "{text}");
        }
        let unknown = LogLine::parse_text("/h/1 finished with status=0 (new)");
        assert!(matches!(
            unknown,
            LogLine::Finished {
                note: EndNote::Unknown,
                ..
            }
        ));
        assert_eq!(LogLine::parse("| Thu Nov 23 13:38:05 MSK 2023: /x"), None);
    }

    /// Operators search for these.
    #[test]
    fn the_texts_stay_as_they_are() {
        let hook = "/h";
        let texts = [
            LogLine::Execute {
                hook,
                args: "freeze",
            },
            LogLine::Finished {
                hook,
                status: 77,
                note: EndNote::NotApplicable,
            },
            LogLine::Skipped { hook, why: "w" },
        ]
        .map(|line| line.to_string());
        let expected = [
            "execute /h freeze",
            "/h finished with status=77 (not applicable)",
            "/h skipped: w",
        ];
        assert_eq!(texts, expected);
    }
}
