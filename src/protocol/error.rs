//! Error replies: their class, and the texts of the protocol itself. Floor 0.
//!
//! Clients match on the class, and some on the text, so each text is here once, exactly as releases 10.0 of the original
//! have it. Texts of a single command are in its file.

use std::fmt;

use super::text;

/// The `class` member of an error answer. No other class is ever sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// Any error but an unknown or disabled command.
    GenericError,
    /// The command does not exist, or is not allowed now.
    CommandNotFound,
}

impl ErrorClass {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
        }
    }
}

/// An error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    /// The `class` member.
    pub class: ErrorClass,
    /// The `desc` member: text for people, which some clients compare.
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
    /// An error of class `GenericError`.
    #[must_use]
    pub fn generic(desc: impl Into<String>) -> Self {
        Self {
            class: ErrorClass::GenericError,
            desc: desc.into(),
        }
    }

    /// There is no such command.
    #[must_use]
    pub fn not_found(name: &str) -> Self {
        let desc = format!("The command {name} has not been found");
        Self {
            class: ErrorClass::CommandNotFound,
            desc,
        }
    }

    /// The command exists, but a list or the frozen state forbids it.
    #[must_use]
    pub fn disabled(name: &str) -> Self {
        let desc = format!("Command {name} has been disabled: the command is not allowed");
        Self {
            class: ErrorClass::CommandNotFound,
            desc,
        }
    }

    /// The message is JSON, but not an object.
    #[must_use]
    pub fn not_an_object() -> Self {
        Self::generic("QMP input must be a JSON object")
    }

    /// A top-level member has the wrong type; `expected` with its article.
    #[must_use]
    pub fn member_type(name: &str, expected: &str) -> Self {
        Self::generic(format!("QMP input member '{name}' must be {expected}"))
    }

    /// A top-level member that no request has.
    #[must_use]
    pub fn unexpected_member(name: &str) -> Self {
        Self::generic(format!("QMP input member '{name}' is unexpected"))
    }

    /// The request names no command.
    #[must_use]
    pub fn no_command() -> Self {
        Self::generic("QMP input lacks member 'execute'")
    }

    /// A mandatory argument is absent. `path` is dotted, as in `vcpus[0].online`.
    #[must_use]
    pub fn missing_parameter(path: &str) -> Self {
        Self::generic(format!("Parameter '{path}' is missing"))
    }

    /// An argument that the command does not declare.
    #[must_use]
    pub fn unexpected_parameter(path: &str) -> Self {
        Self::generic(format!("Parameter '{path}' is unexpected"))
    }

    /// An argument of the wrong JSON type.
    #[must_use]
    pub fn parameter_type(path: &str, expected: &str) -> Self {
        Self::generic(format!(
            "Invalid parameter type for '{path}', expected: {expected}"
        ))
    }

    /// An argument outside the range of its type.
    #[must_use]
    pub fn parameter_expects(path: &str, expected: &str) -> Self {
        Self::generic(format!("Parameter '{path}' expects {expected}"))
    }

    /// A string that is none of an enumeration's names.
    #[must_use]
    pub fn parameter_value(path: &str, value: &str) -> Self {
        Self::generic(format!(
            "Parameter '{path}' does not accept value '{value}'"
        ))
    }

    /// Base64 input with a character outside the alphabet.
    #[must_use]
    pub fn base64() -> Self {
        Self::generic("Base64 data contains invalid characters")
    }

    /// A byte that continues no token; `collected` is the token so far, that byte last. As in the original, a NUL ends the
    /// quotation.
    pub(super) fn stray(collected: &[u8]) -> Self {
        let end = collected
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(collected.len());
        // Allocated once: the token may have tens of megabytes.
        let mut desc = String::with_capacity(end + 64);
        desc.push_str("JSON parse error, stray '");
        text::push_os_bytes(&mut desc, &collected[..end]);
        desc.push('\'');
        Self::generic(desc)
    }

    /// A message whose tokens are good but whose grammar is not.
    pub(super) fn syntax(problem: &str) -> Self {
        Self::syntax_quoting(b"", b"", problem.as_bytes())
    }

    /// Like [`Self::syntax`], quoting bytes of the message; they need not be UTF-8.
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
