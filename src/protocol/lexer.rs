//! Bytes to tokens, in any pieces. Floor 0.
//!
//! The dialect: JSON's tokens, strings also between apostrophes, keywords of lower-case letters (the parser knows which
//! exist). A byte that continues no token makes a [`TokenKind::Stray`]; the lexer then skips to the next structural
//! character, control character or 0xFE/0xFF, so that a broken message costs at most the rest of itself. 0xFE and 0xFF
//! are part of no token: a client sends one to end whatever was sent before. Lines and columns are counted over the agent's
//! life, for the errors that name them. `framing` calls it.

use super::text::plain_run;

/// In bytes, quotes included, as in the original.
pub(super) const TOKEN_LIMIT: usize = 64 << 20;

/// A larger buffer of a token is freed when the token is done.
const KEPT_CAPACITY: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    Comma,
    Colon,
    String,
    Number,
    Word,
    /// Not a token: what was collected, the unexpected byte last.
    Stray,
    /// The rest of the token is read as new tokens.
    Oversized,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum LexerState {
    #[default]
    Start,
    Recovery,
    String(u8),
    Escape(u8),
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Word,
}

enum Transition {
    /// The byte belongs to no token.
    Skip(LexerState),
    /// The byte belongs to the token, which may go on.
    Collect(LexerState),
    /// The byte is the token's last.
    Close(TokenKind),
    /// The token ended before this byte.
    End(TokenKind),
    Stray,
}

/// Where a token starts: both count from 1, columns in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: u64,
    pub(super) column: u64,
}

#[derive(Debug)]
pub(super) struct Lexer {
    state: LexerState,
    text: Vec<u8>,
    done: bool,
    /// Of the next byte.
    next: Position,
    start: Position,
    started: bool,
    /// The next byte ended a number, a word or a recovery, and the original has counted it as part of that.
    counted: bool,
}

impl Default for Lexer {
    fn default() -> Self {
        let first = Position { line: 1, column: 1 };
        Self {
            state: LexerState::default(),
            text: Vec::new(),
            done: false,
            next: first,
            start: first,
            started: false,
            counted: false,
        }
    }
}

impl Lexer {
    /// The bytes of the token that [`Self::next`] just returned.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Where that token starts, as the original says it: one column late if the byte before it needed this one to end.
    pub(super) fn start(&self) -> Position {
        self.start
    }

    /// `None` if all of `input` is consumed.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Option<TokenKind> {
        self.release();
        while let Some((&byte, rest)) = input.split_first() {
            let transition = self.state.step(byte);
            self.counted |= self.state == LexerState::Recovery
                && !matches!(transition, Transition::Skip(LexerState::Recovery));
            match transition {
                Transition::Skip(state) => {
                    self.advance(input, 1);
                    self.started = false;
                    self.state = state;
                }
                Transition::Collect(state @ LexerState::String(quote)) => {
                    // A run of the string at once: byte by byte, a file of 48 MiB takes many times as long.
                    let room = (TOKEN_LIMIT + 1).saturating_sub(self.text.len()).max(1);
                    let within = &rest[..rest.len().min(room - 1)];
                    let prefix = plain_run(within);
                    let run = within[prefix..].iter().take_while(|&&b| is_plain(b, quote));
                    self.collect(input, 1 + prefix + run.count());
                    self.state = state;
                }
                Transition::Collect(state) => {
                    self.collect(input, 1);
                    self.state = state;
                }
                Transition::Close(kind) => {
                    self.collect(input, 1);
                    return self.finish(kind, LexerState::Start);
                }
                Transition::End(kind) => {
                    self.counted = true;
                    return self.finish(kind, LexerState::Start);
                }
                Transition::Stray => {
                    self.collect(input, 1);
                    return self.finish(TokenKind::Stray, LexerState::Recovery);
                }
            }
            if self.text.len() > TOKEN_LIMIT {
                return self.finish(TokenKind::Oversized, LexerState::Start);
            }
        }
        None
    }

    /// Adds the next `length` bytes to the token.
    fn collect(&mut self, input: &mut &[u8], length: usize) {
        if !self.started {
            self.started = true;
            self.start = self.next;
            self.start.column += u64::from(self.counted);
        }
        let bytes = self.advance(input, length);
        self.text.extend_from_slice(bytes);
    }

    /// Takes the next `length` bytes. A line feed is always taken alone: it is inside of no token.
    fn advance<'a>(&mut self, input: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (head, tail) = input.split_at(length);
        *input = tail;
        self.counted = false;
        if head == b"\n" {
            self.next.line += 1;
            self.next.column = 1;
        } else {
            self.next.column += head.len() as u64;
        }
        head
    }

    /// Clears the finished token, if any, and frees a large buffer.
    pub(super) fn release(&mut self) {
        if self.done {
            self.done = false;
            self.text.clear();
            self.text.shrink_to(KEPT_CAPACITY);
        }
    }

    fn finish(&mut self, kind: TokenKind, next: LexerState) -> Option<TokenKind> {
        self.state = next;
        self.done = true;
        // What follows an oversized token starts where that did, as in the original.
        self.started = kind == TokenKind::Oversized;
        Some(kind)
    }
}

fn is_plain(byte: u8, quote: u8) -> bool {
    (0x20..=0xFD).contains(&byte) && byte != quote && byte != b'\\'
}

impl LexerState {
    fn step(self, byte: u8) -> Transition {
        use Transition::{Close, Collect, End, Skip, Stray};
        match (self, byte) {
            // After a stray byte, as the original resumes: at structure, 0xFE/0xFF, or a control character.
            (Self::Recovery, b'{' | b'}' | b'[' | b']' | b':' | b',' | 0xFE | 0xFF) => {
                Self::Start.step(byte)
            }
            (Self::Recovery, b'\t' | 0x20..) => Skip(Self::Recovery),
            (Self::Recovery, _) => Self::Start.step(byte),

            (Self::Start, b' ' | b'\t' | b'\r' | b'\n') => Skip(Self::Start),
            (Self::Start, b'{') => Close(TokenKind::OpenBrace),
            (Self::Start, b'}') => Close(TokenKind::CloseBrace),
            (Self::Start, b'[') => Close(TokenKind::OpenBracket),
            (Self::Start, b']') => Close(TokenKind::CloseBracket),
            (Self::Start, b':') => Close(TokenKind::Colon),
            (Self::Start, b',') => Close(TokenKind::Comma),
            (Self::Start, b'"' | b'\'') => Collect(Self::String(byte)),
            (Self::Start, b'-') => Collect(Self::Minus),
            (Self::Start | Self::Minus, b'0') => Collect(Self::Zero),
            (Self::Start | Self::Minus, b'1'..=b'9') => Collect(Self::Integer),
            (Self::Start, b'a'..=b'z') => Collect(Self::Word),

            (Self::String(quote), _) if byte == quote => Close(TokenKind::String),
            (Self::String(quote), b'\\') => Collect(Self::Escape(quote)),
            (Self::String(quote) | Self::Escape(quote), 0x20..=0xFD) => {
                Collect(Self::String(quote))
            }

            (Self::Zero, b'0'..=b'9') => Stray,
            (Self::Zero | Self::Integer, b'.') => Collect(Self::Point),
            (Self::Integer, b'0'..=b'9') => Collect(Self::Integer),
            (Self::Point | Self::Fraction, b'0'..=b'9') => Collect(Self::Fraction),
            (Self::Integer | Self::Fraction, b'e' | b'E') => Collect(Self::Exponent),
            (Self::Exponent, b'+' | b'-') => Collect(Self::ExponentSign),
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, b'0'..=b'9') => {
                Collect(Self::ExponentDigits)
            }
            (Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits, _) => {
                End(TokenKind::Number)
            }

            (Self::Word, b'a'..=b'z') => Collect(Self::Word),
            (Self::Word, _) => End(TokenKind::Word),
            _ => Stray,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(mut input: &[u8]) -> Vec<(TokenKind, String)> {
        let mut lexer = Lexer::default();
        let mut found = Vec::new();
        while let Some(kind) = lexer.next(&mut input) {
            found.push((kind, String::from_utf8_lossy(lexer.text()).into_owned()));
        }
        found
    }

    #[test]
    fn recovery_stops_at_structure_and_control_only() {
        let kinds = |input| {
            tokens(input)
                .into_iter()
                .map(|(kind, _)| kind)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            kinds(b"@\"a\"\t'b' 1 true\n1 "),
            [TokenKind::Stray, TokenKind::Number]
        );
        assert_eq!(kinds(b"@x]"), [TokenKind::Stray, TokenKind::CloseBracket]);
        assert_eq!(kinds(b"@\x0B"), [TokenKind::Stray, TokenKind::Stray]);
        assert_eq!(
            kinds(b"@\x7F\x80{"),
            [TokenKind::Stray, TokenKind::OpenBrace]
        );
        assert_eq!(kinds(b"\xFF\xFE"), [TokenKind::Stray, TokenKind::Stray]);
    }

    #[test]
    fn a_number_ends_where_it_must() {
        for (input, first) in [
            (&b"0e1 "[..], (TokenKind::Number, "0")),
            (b"-0e1 ", (TokenKind::Number, "-0")),
            (b"0.5e1 ", (TokenKind::Number, "0.5e1")),
            (b"1E+5,", (TokenKind::Number, "1E+5")),
            (b"12\xFF", (TokenKind::Number, "12")),
            (b"1.{", (TokenKind::Stray, "1.{")),
            (b"1e+\n", (TokenKind::Stray, "1e+\n")),
            (b"-}", (TokenKind::Stray, "-}")),
            (b"00", (TokenKind::Stray, "00")),
        ] {
            assert_eq!(tokens(input)[0], (first.0, first.1.to_owned()));
        }
        assert_eq!(tokens(b"12"), [], "nothing proves that the number ended");
    }

    #[test]
    fn lines_and_columns() {
        let starts = |mut input: &[u8]| {
            let mut lexer = Lexer::default();
            let mut found = Vec::new();
            while lexer.next(&mut input).is_some() {
                found.push((lexer.start().line, lexer.start().column));
            }
            found
        };
        assert_eq!(starts(b" {\n\n \"\xC3\xA9\" ,"), [(1, 2), (3, 2), (3, 7)]);
        // One late where the byte before needs this one to end; not where a skipped byte is between.
        assert_eq!(
            starts(b"1}a}@ }1 }a\n}"),
            [
                (1, 1),
                (1, 3),
                (1, 3),
                (1, 5),
                (1, 5),
                (1, 8),
                (1, 8),
                (1, 10),
                (1, 11),
                (2, 1)
            ]
        );
        assert_eq!(starts(b"\xFF\xFF\n\xFF"), [(1, 1), (1, 3), (2, 1)]);
    }

    #[test]
    fn a_large_token_gives_its_memory_back() {
        let mut lexer = Lexer::default();
        let text = [&b"'"[..], &[b'a'; 100_000], b"'"].concat();
        assert_eq!(lexer.next(&mut &text[..]), Some(TokenKind::String));
        assert!(lexer.text.capacity() > 100_000);
        lexer.release();
        assert!(lexer.text.capacity() <= KEPT_CAPACITY);
    }
}
