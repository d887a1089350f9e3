//! Strings: the protocol's modified UTF-8 and Rust's. Floor 0.
//!
//! The wire's strings hold any Unicode character except the 66 non-characters. U+0000 is sent as `\u0000` or as the two
//! bytes C0 80, and reaches system calls as those two bytes, because a C string cannot hold it; within the agent it is a
//! plain U+0000 in a `String`. The readers and writers of this module use it, and whatever shows text of others on a
//! terminal or in a log ([`escape_hidden`]).

use std::borrow::Cow;

/// Text of bytes that came from the system: file names, os-release, key files. Each malformed sequence becomes one
/// U+FFFD. A sequence is a lead byte with as many of the continuation bytes it announces as really follow (up to five,
/// as in the original UTF-8), or a single byte that can start nothing. Non-characters count as malformed.
#[must_use]
pub fn from_os_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    push_os_bytes(&mut text, bytes);
    text
}

pub(super) fn push_os_bytes(text: &mut String, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        rest = copy_ascii(rest, |byte| byte.is_ascii(), text);
        if !rest.is_empty() {
            let (character, length) = decode(rest);
            text.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
            rest = &rest[length..];
        }
    }
}

/// Whether a terminal executes the character, or shows those after it in another order: C0 and C1 controls, and
/// Unicode's bidirectional controls (UAX #9).
#[must_use]
pub(crate) fn is_hidden(c: char) -> bool {
    let turns = [
        '\u{200e}'..='\u{200f}',
        '\u{202a}'..='\u{202e}',
        '\u{2066}'..='\u{2069}',
    ];
    c.is_control() || c == '\u{61c}' || turns.iter().any(|range| range.contains(&c))
}

/// `text` with [`is_hidden`] characters as JSON escapes, tabs and line feeds excepted.
#[must_use]
pub(crate) fn escape_hidden(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) && !matches!(c, '\t' | '\n') {
            shown.push_str("\\u");
            for shift in [12, 8, 4, 0] {
                let digit = char::from_digit((u32::from(c) >> shift) & 15, 16);
                shown.extend(digit);
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The bytes that a string of the protocol means to the system: UTF-8, U+0000 as C0 80.
#[must_use]
pub(crate) fn to_os_bytes(text: &str) -> Vec<u8> {
    modified_utf8(text).into_owned()
}

/// Without a copy if `text` has no U+0000.
pub(super) fn modified_utf8(text: &str) -> Cow<'_, [u8]> {
    if !text.as_bytes().contains(&0) {
        return text.as_bytes().into();
    }
    let pieces: Vec<_> = text.as_bytes().split(|&byte| byte == 0).collect();
    pieces.join(&b"\xC0\x80"[..]).into()
}

/// The length of a prefix of `bytes` that is printable ASCII without quotes, apostrophes and backslashes; more of it
/// may follow. Eight bytes at a time, because the content of a file is one string of megabytes.
pub(super) fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xFF;
    const HIGH: u64 = ONES * 0x80;
    // The high bit of each byte that is below `limit` (at most 0x80), if none above it borrows;
    // a borrow can only add false finds, and those end the run early.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let is = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let odd = |group: &[u8]| {
        let word = u64::from_ne_bytes(group.try_into().unwrap_or_default());
        let special = is(word, b'"') | is(word, b'\'') | is(word, b'\\') | is(word, 0x7F);
        (word | below(word, 0x20) | special) & HIGH != 0
    };
    let groups = bytes.chunks_exact(8);
    let whole = groups.len();
    8 * groups.into_iter().position(odd).unwrap_or(whole)
}

/// Returns what follows the run of ASCII bytes that `plain` accepts, which has to accept all that [`plain_run`] finds.
pub(super) fn copy_ascii<'a>(
    bytes: &'a [u8],
    plain: impl Fn(u8) -> bool,
    out: &mut String,
) -> &'a [u8] {
    let prefix = plain_run(bytes);
    let run = prefix
        + bytes[prefix..]
            .iter()
            .take_while(|&&byte| byte.is_ascii() && plain(byte))
            .count();
    let (head, tail) = bytes.split_at(run);
    // An ASCII run is always valid UTF-8.
    out.push_str(std::str::from_utf8(head).unwrap_or_default());
    tail
}

/// The character at the front of `bytes` (not empty), `None` if malformed, and the sequence's length, at least 1.
pub(super) fn decode(bytes: &[u8]) -> (Option<char>, usize) {
    let lead = bytes[0];
    let (announced, least, bits) = match lead {
        0x00..=0x7F => return (Some(char::from(lead)), 1),
        0xC0..=0xDF => (1, 0x80, lead & 0x1F),
        0xE0..=0xEF => (2, 0x800, lead & 0x0F),
        0xF0..=0xF7 => (3, 0x1_0000, lead & 0x07),
        0xF8..=0xFB => (4, 0x20_0000, lead & 0x03),
        0xFC..=0xFD => (5, 0x400_0000, lead & 0x01),
        _ => return (None, 1),
    };
    let mut code = u32::from(bits);
    let mut length = 1;
    while length <= announced {
        match bytes.get(length) {
            Some(&byte) if byte & 0xC0 == 0x80 => code = (code << 6) | u32::from(byte & 0x3F),
            _ => return (None, length),
        }
        length += 1;
    }
    let shortest = code >= least || (code == 0 && length == 2);
    (if shortest { character(code) } else { None }, length)
}

/// `None` for a surrogate, a non-character or a number out of range.
pub(super) fn character(code: u32) -> Option<char> {
    char::from_u32(code).filter(|&c| !is_noncharacter(c))
}

/// U+FDD0 to U+FDEF and the last two of each plane: legal Unicode scalars that the protocol refuses.
pub(super) fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    matches!(code, 0xFDD0..=0xFDEF) || code & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_replacement_for_each_malformed_sequence() {
        for (bytes, text) in [
            (&b"plain"[..], "plain"),
            (b"\xC3\xA9\xF0\x9F\x98\x80", "\u{E9}\u{1F600}"),
            (b"\xE2\x82", "\u{FFFD}"),
            (b"\xE2\x82!", "\u{FFFD}!"),
            (b"\xE0\x80\x80", "\u{FFFD}"),
            (b"\xF8\x88\x80\x80\x80", "\u{FFFD}"),
            (b"\xF8\x88\x80\x80\x80\x80\x80", "\u{FFFD}\u{FFFD}\u{FFFD}"),
            (b"\xFC\x84\x80\x80\x80\x80", "\u{FFFD}"),
            (b"\xFD\x80\x80", "\u{FFFD}"),
            (b"\x80\x80", "\u{FFFD}\u{FFFD}"),
            (b"\xFE\xFF", "\u{FFFD}\u{FFFD}"),
            (b"\xED\xA0\x80", "\u{FFFD}"),
            (b"\xF4\x90\x80\x80", "\u{FFFD}"),
            (b"\xC0\x80", "\0"),
            (b"\xC1\x80", "\u{FFFD}"),
            (b"\xC0\xAF", "\u{FFFD}"),
            (b"\xEF\xBF\xBF", "\u{FFFD}"),
            (b"\xEF\xB7\x90", "\u{FFFD}"),
            (b"\xE0\xA0\xC3\xA9", "\u{FFFD}\u{E9}"),
        ] {
            assert_eq!(from_os_bytes(bytes), text, "{bytes:x?}");
        }
    }

    #[test]
    fn a_plain_run_stops_at_the_group_of_the_first_odd_byte() {
        let plain: Vec<u8> = (0x20..0x7F).filter(|b| !b"\"'\\".contains(b)).collect();
        assert_eq!(plain_run(&plain), plain.len() / 8 * 8);
        for odd in (0..=0xFF).filter(|b| !plain.contains(b)) {
            for at in 0..24 {
                let mut bytes = [b' '; 24];
                bytes[at] = odd;
                assert_eq!(plain_run(&bytes), at / 8 * 8, "{odd:#x} at {at}");
            }
        }
    }

    #[test]
    fn nul_is_two_bytes_for_the_system() {
        assert_eq!(to_os_bytes("a\0\u{E9}"), b"a\xC0\x80\xC3\xA9");
        assert_eq!(from_os_bytes(&to_os_bytes("a\0\u{E9}")), "a\0\u{E9}");
    }
}
