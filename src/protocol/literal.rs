//! The value of a token: strings, numbers, keywords. Floor 0.
//!
//! The lexer has checked the shape; this checks what the shape allows and the protocol does not: bad escapes, UTF-8 that is
//! malformed, characters that the wire does not have. `parser` calls it.

use super::error::CommandError;
use super::text;
use super::value::Value;

/// `token` is as sent, with its delimiters.
pub(super) fn string(token: &[u8]) -> Result<String, CommandError> {
    let mut value = String::with_capacity(token.len().saturating_sub(2));
    let end = token.len().saturating_sub(1);
    let mut at = 1;
    while at < end {
        let rest = &token[at..end];
        let tail = text::copy_ascii(rest, |byte| byte != b'\\', &mut value);
        at += rest.len() - tail.len();
        match tail {
            [] => break,
            [b'\\', ..] => {
                // With the closing delimiter: the original's error text quotes it if the escape is too short.
                let (character, length) = escape(&token[at..])?;
                value.push(character);
                at += length;
            }
            _ => {
                let (character, length) = text::decode(tail);
                value.push(
                    character
                        .ok_or_else(|| CommandError::syntax("invalid UTF-8 sequence in string"))?,
                );
                at += length;
            }
        }
    }
    Ok(value)
}

/// The character of the escape at the front of `rest`, and the escape's length.
fn escape(rest: &[u8]) -> Result<(char, usize), CommandError> {
    let character = match rest.get(1) {
        Some(&byte @ (b'"' | b'\'' | b'\\' | b'/')) => char::from(byte),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{C}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode_escape(rest),
        _ => return Err(CommandError::syntax("invalid escape sequence in string")),
    };
    Ok((character, 2))
}

fn unicode_escape(rest: &[u8]) -> Result<(char, usize), CommandError> {
    let (code, length) = match (code_unit(rest), rest.get(6..).and_then(code_unit)) {
        (Some(high @ 0xD800..=0xDBFF), Some(low @ 0xDC00..=0xDFFF)) => (
            Some(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00)),
            12,
        ),
        (unit, _) => (unit, 6),
    };
    code.and_then(text::character)
        .map(|character| (character, length))
        .ok_or_else(|| {
            let quoted = &rest[..rest.len().min(length)];
            CommandError::syntax_quoting(b"", quoted, b" is not a valid Unicode character")
        })
}

/// The value of a `\uXXXX` at the front of `rest`.
fn code_unit(rest: &[u8]) -> Option<u32> {
    let digits = rest.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |code, &digit| {
        Some((code << 4) | char::from(digit).to_digit(16)?)
    })
}

/// Signed if it fits, else unsigned if that fits, else a double.
pub(super) fn number(token: &[u8]) -> Value {
    // The lexer's numbers are ASCII, and all of them are numbers in Rust's syntax, too: neither default is ever used.
    let token = std::str::from_utf8(token).unwrap_or_default();
    if let Ok(value) = token.parse() {
        Value::Int(value)
    } else if let Ok(value) = token.parse() {
        Value::Uint(value)
    } else {
        Value::Double(token.parse().unwrap_or(f64::NAN))
    }
}

pub(super) fn keyword(token: &[u8]) -> Result<Value, CommandError> {
    match token {
        b"true" => Ok(Value::Bool(true)),
        b"false" => Ok(Value::Bool(false)),
        b"null" => Ok(Value::Null),
        _ => Err(CommandError::syntax_quoting(
            b"invalid keyword '",
            token,
            b"'",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (token, meaning) in [
            (
                &br#""\" \' \\ \/ \b\f\n\r\t""#[..],
                "\" ' \\ / \u{8}\u{C}\n\r\t",
            ),
            (br#""\u0041\u00e9\u0000""#, "A\u{E9}\0"),
            (b"\"\xC0\x80\"", "\0"),
            (br#""\uD83D\uDE00""#, "\u{1F600}"),
            (br#"'a"b'"#, "a\"b"),
            (b"''", ""),
        ] {
            assert_eq!(string(token).unwrap(), meaning);
        }
    }

    #[test]
    fn complaints_quote_the_escape_as_sent() {
        for (token, quoted) in [
            (&br#""\u12zzzz""#[..], "\\u12zz"),
            (br#""\u1""#, "\\u1\""),
            (br#"'\u12'"#, "\\u12'"),
            (br#""\u12\"ab""#, "\\u12\\\""),
            (b"\"\\u123\xC3\xA9\"", "\\u123\u{FFFD}"),
            (br#""\u+123""#, "\\u+123"),
            (br#""\uD800\u0041""#, "\\uD800"),
            (br#""\uD800x""#, "\\uD800"),
            (br#""\uD83F\uDFF""#, "\\uD83F"),
            (br#""\uD83F\uDFFF""#, "\\uD83F\\uDFFF"),
            (br#""\uFDD0""#, "\\uFDD0"),
        ] {
            let expected = format!("JSON parse error, {quoted} is not a valid Unicode character");
            assert_eq!(string(token).unwrap_err().desc, expected);
        }
    }

    #[test]
    fn numbers_keep_integers_exact() {
        assert_eq!(number(b"-0"), Value::Int(0));
        assert_eq!(number(b"-9223372036854775808"), Value::Int(i64::MIN));
        assert_eq!(number(b"9223372036854775808"), Value::Uint(1 << 63));
        assert_eq!(
            number(b"18446744073709551616"),
            Value::Double(18_446_744_073_709_551_616.0)
        );
        assert_eq!(number(b"1.0"), Value::Double(1.0));
    }

    #[test]
    fn a_long_complaint_is_cut() {
        let error = keyword(&[b'b'; 2000]).unwrap_err();
        assert_eq!(error.desc.len(), "JSON parse error, ".len() + 1023);
        assert!(error.desc.ends_with('b'));
    }
}
