//! The input stream cut into messages. Floor 0.
//!
//! There are no lines on input: a message ends where its brackets balance, whatever the pieces
//! it came in. State lives as long as the [`Framer`], which therefore may outlive a connection:
//! half a request from one client and the rest from the next form one message.

use super::lexer::Lexer;
use super::parser::Parser;

pub use super::parser::Event;

/// Reads messages from bytes.
#[derive(Debug, Default)]
pub struct Framer {
    lexer: Lexer,
    parser: Parser,
}

impl Framer {
    /// Takes bytes from the front of `input` until one event is complete; `None` when all bytes
    /// are used and more are needed.
    pub fn next_event(&mut self, input: &mut &[u8]) -> Option<Event> {
        while let Some(kind) = self.lexer.next(input) {
            if let Some(event) = self.parser.push(kind, self.lexer.text()) {
                self.lexer.release();
                return Some(event);
            }
        }
        None
    }
}
