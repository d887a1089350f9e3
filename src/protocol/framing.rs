//! Cuts the input into messages. Floor 0.
//!
//! Input has no lines: a message ends where its brackets balance, whatever the pieces it came in. As in the original, the
//! state outlives a connection: half a request of one client and the rest from the next are one message, which is why
//! clients send 0xFF first. `agent::session` keeps one [`Framer`] for the agent's life.

use super::lexer::Lexer;
use super::parser::Parser;

pub use super::parser::Event;

/// The state between two reads of the channel.
#[derive(Debug, Default)]
pub struct Framer {
    lexer: Lexer,
    parser: Parser,
}

impl Framer {
    /// `None` if all of `input` is consumed and more is needed.
    pub fn next_event(&mut self, input: &mut &[u8]) -> Option<Event> {
        while let Some(kind) = self.lexer.next(input) {
            if let Some(event) = self
                .parser
                .push(kind, self.lexer.text(), self.lexer.start())
            {
                // Now, because the next byte may be hours away: idle memory is a budget.
                self.lexer.release();
                return Some(event);
            }
        }
        None
    }
}
