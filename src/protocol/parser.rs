//! Tokens to values. Floor 0.
//!
//! A message is complete when its braces and its brackets are each balanced (or one of them closes too often). The first
//! problem in it is reported at its token; the rest of the message, up to where it would be complete or to a byte that is in
//! no token, is discarded: a client gets one error for one message, as from the original. Values are built as tokens come,
//! with a stack on the heap and no recursion. `framing` calls it.

use super::dict::Dict;
use super::error::CommandError;
use super::lexer::{Position, TOKEN_LIMIT, TokenKind};
use super::literal;
use super::value::Value;

/// Objects and arrays together, as in the original.
pub(super) const DEPTH_LIMIT: i64 = 1024;
/// Tokens of a message at most, as in the original.
pub(super) const COUNT_LIMIT: usize = 1 << 21;

/// One complete message, or an error in its place.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Of any type.
    Message(Value),
    /// Answered with this error, without an id.
    Malformed(CommandError),
}

#[derive(Debug)]
enum Frame {
    Array(Vec<Value>),
    /// With the key whose value comes next.
    Object(Dict, Option<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Expect {
    #[default]
    Value,
    /// Right after `[`: a value or `]`.
    FirstValue,
    /// Right after `{`: a key or `}`.
    FirstKey,
    Key,
    Colon,
    Separator,
}

#[derive(Debug, Default)]
pub(super) struct Parser {
    stack: Vec<Frame>,
    expect: Expect,
    /// The message has been answered with an error.
    discarding: bool,
    // What is discarded has no limit.
    braces: i64,
    brackets: i64,
    tokens: usize,
    bytes: usize,
}

impl Parser {
    /// Returns an event if the token ends the message or is the first problem in it.
    pub(super) fn push(&mut self, kind: TokenKind, text: &[u8], start: Position) -> Option<Event> {
        self.count_brackets(kind);
        let result = if self.discarding {
            Ok(None)
        } else if kind == TokenKind::Stray {
            Err(CommandError::stray(text).at(start))
        } else {
            self.check_limits(kind, text)
                .and_then(|()| self.accept(kind, text).map_err(|error| error.at(start)))
        };
        let is_open = self.braces >= 0 && self.brackets >= 0 && self.braces + self.brackets > 0;
        if kind == TokenKind::Stray || !is_open {
            *self = Self::default();
        } else if result.is_err() {
            // What was built so far is freed; of the tokens to come only the brackets count.
            self.stack = Vec::new();
            self.discarding = true;
        }
        result.map_or_else(
            |error| Some(Event::Malformed(error)),
            |value| value.map(Event::Message),
        )
    }

    fn count_brackets(&mut self, kind: TokenKind) {
        match kind {
            TokenKind::OpenBrace => self.braces += 1,
            TokenKind::CloseBrace => self.braces -= 1,
            TokenKind::OpenBracket => self.brackets += 1,
            TokenKind::CloseBracket => self.brackets -= 1,
            _ => {}
        }
    }

    fn check_limits(&mut self, kind: TokenKind, text: &[u8]) -> Result<(), CommandError> {
        self.tokens += 1;
        self.bytes += text.len();
        if kind == TokenKind::Oversized || self.bytes >= TOKEN_LIMIT {
            return Err(CommandError::limit("token size"));
        }
        if self.tokens > COUNT_LIMIT {
            return Err(CommandError::limit("token count"));
        }
        if self.braces + self.brackets > DEPTH_LIMIT {
            return Err(CommandError::limit("nesting depth"));
        }
        Ok(())
    }

    /// Returns the message if the token ends it.
    fn accept(&mut self, kind: TokenKind, text: &[u8]) -> Result<Option<Value>, CommandError> {
        match self.expect {
            Expect::Colon if kind == TokenKind::Colon => self.expect = Expect::Value,
            Expect::Colon => return Err(CommandError::syntax("expecting ':'")),
            Expect::Separator => return self.accept_separator(kind),
            Expect::FirstKey if kind == TokenKind::CloseBrace => return self.close(),
            Expect::FirstValue if kind == TokenKind::CloseBracket => return self.close(),
            Expect::FirstKey | Expect::Key => self.accept_key(kind, text)?,
            Expect::Value | Expect::FirstValue => match kind {
                TokenKind::OpenBrace => {
                    self.stack.push(Frame::Object(Dict::new(), None));
                    self.expect = Expect::FirstKey;
                }
                TokenKind::OpenBracket => {
                    self.stack.push(Frame::Array(Vec::new()));
                    self.expect = Expect::FirstValue;
                }
                TokenKind::String => return self.deliver(Value::String(literal::string(text)?)),
                TokenKind::Number => return self.deliver(literal::number(text)),
                TokenKind::Word => return self.deliver(literal::keyword(text)?),
                _ => return Err(CommandError::syntax("expecting value")),
            },
        }
        Ok(None)
    }

    fn accept_key(&mut self, kind: TokenKind, text: &[u8]) -> Result<(), CommandError> {
        if kind != TokenKind::String {
            return Err(CommandError::syntax("expecting key"));
        }
        let key = literal::string(text)?;
        if let Some(Frame::Object(_, pending)) = self.stack.last_mut() {
            *pending = Some(key);
        }
        self.expect = Expect::Colon;
        Ok(())
    }

    fn accept_separator(&mut self, kind: TokenKind) -> Result<Option<Value>, CommandError> {
        match (self.stack.last(), kind) {
            (Some(Frame::Object(..)), TokenKind::Comma) => self.expect = Expect::Key,
            (Some(Frame::Array(_)), TokenKind::Comma) => self.expect = Expect::Value,
            (Some(Frame::Object(..)), TokenKind::CloseBrace)
            | (Some(Frame::Array(_)), TokenKind::CloseBracket) => return self.close(),
            (Some(Frame::Object(..)), _) => {
                return Err(CommandError::syntax("expected ',' or '}'"));
            }
            _ => return Err(CommandError::syntax("expected ',' or ']'")),
        }
        Ok(None)
    }

    fn close(&mut self) -> Result<Option<Value>, CommandError> {
        match self.stack.pop() {
            Some(Frame::Array(elements)) => self.deliver(Value::Array(elements)),
            Some(Frame::Object(members, _)) => self.deliver(Value::Object(members)),
            None => Err(CommandError::syntax("expecting value")),
        }
    }

    /// Adds a finished value: as element, as value of a member, or as the message, which is returned.
    fn deliver(&mut self, value: Value) -> Result<Option<Value>, CommandError> {
        match self.stack.last_mut() {
            None => return Ok(Some(value)),
            Some(Frame::Array(elements)) => elements.push(value),
            Some(Frame::Object(members, pending)) => {
                if let Some(key) = pending.take() {
                    if members.insert(key, value).is_some() {
                        return Err(CommandError::syntax("duplicate key"));
                    }
                }
            }
        }
        self.expect = Expect::Separator;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Position = Position { line: 3, column: 7 };

    fn malformed(problem: &str) -> Option<Event> {
        let desc = format!("3:7: JSON parse error, {problem}");
        Some(Event::Malformed(CommandError::generic(desc)))
    }

    #[test]
    fn nothing_is_kept_of_a_message_that_failed() {
        let mut parser = Parser::default();
        let mut push = |kind, text: &[u8]| parser.push(kind, text, START);
        assert_eq!(push(TokenKind::OpenBracket, b"["), None);
        for _ in 0..1000 {
            assert_eq!(push(TokenKind::String, b"'a'"), None);
            assert_eq!(push(TokenKind::Comma, b","), None);
        }
        assert_eq!(
            push(TokenKind::Word, b"x"),
            malformed("invalid keyword 'x'")
        );
        assert_eq!(
            push(TokenKind::Word, b"y"),
            None,
            "one error for one message"
        );
        assert_eq!(parser.stack.capacity(), 0);
        assert_eq!(parser.push(TokenKind::CloseBracket, b"]", START), None);
        assert!(!parser.discarding);
        assert_eq!((parser.tokens, parser.bytes), (0, 0));
    }

    #[test]
    fn a_stray_byte_drops_the_message() {
        let mut parser = Parser::default();
        let mut push = |kind, text: &[u8]| parser.push(kind, text, START);
        assert_eq!(push(TokenKind::OpenBrace, b"{"), None);
        assert_eq!(push(TokenKind::Stray, b"@"), malformed("stray '@'"));
        assert_eq!(push(TokenKind::OpenBrace, b"{"), None);
        assert_eq!(push(TokenKind::Comma, b","), malformed("expecting key"));
        assert_eq!(push(TokenKind::Stray, b"@"), None, "answered already");
        assert_eq!(
            push(TokenKind::Number, b"1"),
            Some(Event::Message(Value::Int(1)))
        );
        assert_eq!((parser.stack.capacity(), parser.braces), (0, 0));
    }
}
