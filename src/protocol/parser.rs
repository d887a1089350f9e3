//! Tokens to values. Floor 0.
//!
//! A message is complete when its braces and its brackets are each balanced (or one of them closes too often). The first
//! problem in it is reported then and not earlier: a client that sent several lines gets one error for one message, as
//! from the original. Values are built as tokens come, with a stack on the heap and no recursion, and nothing is kept of a
//! message that has already failed but its counts. `framing` calls it.

use super::dict::Dict;
use super::error::CommandError;
use super::lexer::{TOKEN_LIMIT, TokenKind};
use super::literal;
use super::value::Value;

/// Objects and arrays together, as in the original.
pub(super) const DEPTH_LIMIT: i32 = 1024;
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
    Colon,
    Separator,
}

#[derive(Debug, Default)]
pub(super) struct Parser {
    stack: Vec<Frame>,
    expect: Expect,
    result: Option<Result<Value, CommandError>>,
    braces: i32,
    brackets: i32,
    tokens: usize,
    bytes: usize,
}

impl Parser {
    /// Returns the event if the token ends the message.
    pub(super) fn push(&mut self, kind: TokenKind, text: &[u8]) -> Option<Event> {
        if let Err(error) = self.count(kind, text) {
            *self = Self::default();
            return Some(Event::Malformed(error));
        }
        if !matches!(self.result, Some(Err(_))) {
            if let Err(error) = self.accept(kind, text) {
                // What was built so far is freed; the tokens to come are only counted.
                self.stack = Vec::new();
                self.result = Some(Err(error));
            }
        }
        let open = self.braces >= 0 && self.brackets >= 0 && self.braces + self.brackets > 0;
        if open {
            return None;
        }
        match std::mem::take(self).result {
            Some(Ok(value)) => Some(Event::Message(value)),
            Some(Err(error)) => Some(Event::Malformed(error)),
            None => None,
        }
    }

    /// Errors are those that end the message at once.
    fn count(&mut self, kind: TokenKind, text: &[u8]) -> Result<(), CommandError> {
        match kind {
            TokenKind::Stray => return Err(CommandError::stray(text)),
            TokenKind::Oversized => return Err(CommandError::limit("token size")),
            TokenKind::OpenBrace => self.braces += 1,
            TokenKind::CloseBrace => self.braces -= 1,
            TokenKind::OpenBracket => self.brackets += 1,
            TokenKind::CloseBracket => self.brackets -= 1,
            TokenKind::Comma
            | TokenKind::Colon
            | TokenKind::String
            | TokenKind::Number
            | TokenKind::Word => {}
        }
        self.tokens += 1;
        self.bytes += text.len();
        if self.bytes >= TOKEN_LIMIT {
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

    fn accept(&mut self, kind: TokenKind, text: &[u8]) -> Result<(), CommandError> {
        match self.expect {
            Expect::Colon if kind == TokenKind::Colon => self.expect = Expect::Value,
            Expect::Colon => return Err(CommandError::syntax("missing : in object pair")),
            Expect::Separator => return self.accept_separator(kind),
            Expect::FirstKey if kind == TokenKind::CloseBrace => return self.close(),
            Expect::FirstValue if kind == TokenKind::CloseBracket => return self.close(),
            Expect::Value | Expect::FirstValue | Expect::FirstKey => match kind {
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
        Ok(())
    }

    fn accept_separator(&mut self, kind: TokenKind) -> Result<(), CommandError> {
        let problem = match (self.stack.last(), kind) {
            (Some(_), TokenKind::Comma) => {
                self.expect = Expect::Value;
                return Ok(());
            }
            (Some(Frame::Array(_)), TokenKind::CloseBracket)
            | (Some(Frame::Object(..)), TokenKind::CloseBrace) => return self.close(),
            (Some(Frame::Object(..)), _) => "expected separator in dict",
            _ => "expected separator in list",
        };
        Err(CommandError::syntax(problem))
    }

    fn close(&mut self) -> Result<(), CommandError> {
        match self.stack.pop() {
            Some(Frame::Array(elements)) => self.deliver(Value::Array(elements)),
            Some(Frame::Object(members, _)) => self.deliver(Value::Object(members)),
            None => Err(CommandError::syntax("expecting value")),
        }
    }

    /// Adds a finished value: as element, key, value of a member, or as the message.
    fn deliver(&mut self, value: Value) -> Result<(), CommandError> {
        match self.stack.last_mut() {
            None => self.result = Some(Ok(value)),
            Some(Frame::Array(elements)) => {
                elements.push(value);
                self.expect = Expect::Separator;
            }
            Some(Frame::Object(members, pending)) => match (pending.take(), value) {
                (Some(key), value) => {
                    if members.insert(key, value).is_some() {
                        return Err(CommandError::syntax("duplicate key"));
                    }
                    self.expect = Expect::Separator;
                }
                (None, Value::String(key)) => {
                    *pending = Some(key);
                    self.expect = Expect::Colon;
                }
                (None, _) => {
                    return Err(CommandError::syntax("key is not a string in object"));
                }
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_of_a_message_that_failed() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(TokenKind::OpenBracket, b"["), None);
        for _ in 0..1000 {
            assert_eq!(parser.push(TokenKind::String, b"'a'"), None);
            assert_eq!(parser.push(TokenKind::Comma, b","), None);
        }
        assert_eq!(
            parser.push(TokenKind::Word, b"x"),
            None,
            "reported at the end, not before"
        );
        assert_eq!(parser.stack.capacity(), 0);
        assert_eq!(parser.tokens, 2002, "but still counted");
        let error = CommandError::syntax("invalid keyword 'x'");
        assert_eq!(
            parser.push(TokenKind::CloseBracket, b"]"),
            Some(Event::Malformed(error))
        );
        assert_eq!((parser.tokens, parser.bytes), (0, 0));
    }

    #[test]
    fn a_stray_byte_drops_the_message() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(TokenKind::OpenBrace, b"{"), None);
        let error = CommandError::generic("JSON parse error, stray '@'");
        assert_eq!(
            parser.push(TokenKind::Stray, b"@"),
            Some(Event::Malformed(error))
        );
        assert_eq!((parser.stack.capacity(), parser.braces), (0, 0));
        assert_eq!(
            parser.push(TokenKind::Number, b"1"),
            Some(Event::Message(Value::Int(1)))
        );
    }
}
