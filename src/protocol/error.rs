//! Error replies: their class, and the texts of the protocol itself. Floor 0.
//!
//! Clients match on the class, and some on the text, so each text is here once, exactly as release 11.1 of the original
//! has it. Texts of a single command are in its file.

use std::fmt;

use super::lexer::Position;
use super::text;

/// No other class is ever sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    GenericError,
    /// The command does not exist, or is not allowed now.
    CommandNotFound,
}

impl ErrorClass {
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
        }
    }
}

/// An error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    pub(crate) class: ErrorClass,
    /// For people, but some clients compare it.
    pub desc: String,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.desc)
    }
}

impl std::error::Error for CommandError {}

/// The original cuts a text of its parser at this many bytes, the prefix not counted.
const SYNTAX_TEXT_LIMIT: usize = 1023;

impl CommandError {
    #[must_use]
    pub(crate) fn generic(desc: impl Into<String>) -> Self {
        Self {
            class: ErrorClass::GenericError,
            desc: desc.into(),
        }
    }

    #[must_use]
    pub(crate) fn not_found(name: &str) -> Self {
        let desc = format!("The command {name} has not been found");
        Self {
            class: ErrorClass::CommandNotFound,
            desc,
        }
    }

    /// The command exists, but a list or the frozen state forbids it.
    #[must_use]
    pub(crate) fn disabled(name: &str) -> Self {
        let desc = format!("Command {name} has been disabled: the command is not allowed");
        Self {
            class: ErrorClass::CommandNotFound,
            desc,
        }
    }

    #[must_use]
    pub(crate) fn not_an_object() -> Self {
        Self::generic("QMP input must be a JSON object")
    }

    /// `expected` with its article.
    #[must_use]
    pub(crate) fn member_type(name: &str, expected: &str) -> Self {
        Self::generic(format!("QMP input member '{name}' must be {expected}"))
    }

    #[must_use]
    pub(crate) fn unexpected_member(name: &str) -> Self {
        Self::generic(format!("QMP input member '{name}' is unexpected"))
    }

    #[must_use]
    pub(crate) fn no_command() -> Self {
        Self::generic("QMP input lacks member 'execute'")
    }

    /// `path` is dotted, as in `vcpus[0].online`.
    #[must_use]
    pub(crate) fn missing_parameter(path: &str) -> Self {
        Self::generic(format!("Parameter '{path}' is missing"))
    }

    #[must_use]
    pub(crate) fn unexpected_parameter(path: &str) -> Self {
        Self::generic(format!("Parameter '{path}' is unexpected"))
    }

    #[must_use]
    pub(crate) fn parameter_type(path: &str, expected: &str) -> Self {
        Self::generic(format!(
            "Invalid parameter type for '{path}', expected: {expected}"
        ))
    }

    #[must_use]
    pub(crate) fn parameter_expects(path: &str, expected: &str) -> Self {
        Self::generic(format!("Parameter '{path}' expects {expected}"))
    }

    #[must_use]
    pub(crate) fn parameter_value(path: &str, value: &str) -> Self {
        Self::generic(format!(
            "Parameter '{path}' does not accept value '{value}'"
        ))
    }

    #[must_use]
    pub(crate) fn base64() -> Self {
        Self::generic("Base64 data contains invalid characters")
    }

    /// Adds where in the input the problem is, which the original's limit of [`SYNTAX_TEXT_LIMIT`] does not count.
    pub(super) fn at(mut self, position: Position) -> Self {
        let Position { line, column } = position;
        self.desc.insert_str(0, &format!("{line}:{column}: "));
        self
    }

    /// `collected` is the token so far, the stray byte last. As in the original, a NUL ends the quotation.
    pub(super) fn stray(collected: &[u8]) -> Self {
        let end = collected.iter().position(|&byte| byte == 0);
        let quoted = &collected[..end.unwrap_or(collected.len())];
        Self::syntax_quoting(b"stray '", quoted, b"'")
    }

    /// A message whose tokens are good but whose grammar is not.
    pub(super) fn syntax(problem: &str) -> Self {
        Self::syntax_quoting(b"", b"", problem.as_bytes())
    }

    /// `quoted` need not be UTF-8.
    pub(super) fn syntax_quoting(before: &[u8], quoted: &[u8], after: &[u8]) -> Self {
        let quoted = &quoted[..quoted.len().min(SYNTAX_TEXT_LIMIT)];
        let mut problem = [before, quoted, after].concat();
        problem.truncate(SYNTAX_TEXT_LIMIT);
        Self::generic(format!(
            "JSON parse error, {}",
            text::from_os_bytes(&problem)
        ))
    }

    /// A message beyond one of the limits: `nesting depth`, `token count` or `token size`.
    pub(super) fn limit(what: &str) -> Self {
        Self::generic(format!("JSON {what} limit exceeded"))
    }
}
