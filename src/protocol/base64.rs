//! Base64 as the protocol takes it: a strict alphabet, a lenient grouping. Floor 0.

use super::error::CommandError;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding, without line breaks.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 0x3F];
            text.push(if place > group.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}

/// What `text` encodes. Line feeds are skipped; padding may stand anywhere; a last group of
/// fewer than four characters is dropped.
///
/// # Errors
/// Any character outside the alphabet, `=` and LF.
pub fn decode(text: &str) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let mut group = [0_u8; 4];
    let mut filled = 0;
    for byte in text.bytes() {
        if byte == b'\n' {
            continue;
        }
        if digit(byte).is_none() {
            return Err(CommandError::base64());
        }
        group[filled] = byte;
        filled += 1;
        if filled == 4 {
            filled = 0;
            push_group(&mut bytes, group);
        }
    }
    Ok(bytes)
}

/// Padding counts as zero bits; at the third or fourth place it takes that byte away.
fn push_group(bytes: &mut Vec<u8>, group: [u8; 4]) {
    let bits = group
        .iter()
        .fold(0, |bits, &c| bits << 6 | u32::from(digit(c).unwrap_or(0)));
    let [_, first, second, third] = bits.to_be_bytes();
    bytes.push(first);
    if group[2] != b'=' {
        bytes.push(second);
    }
    if group[3] != b'=' {
        bytes.push(third);
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        b'=' => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lenient_as_the_original() {
        for (text, bytes) in [
            ("aGVsbG8=", &b"hello"[..]),
            ("aGVsbG8", b"hel"),
            ("YQ==YQ==", b"aa"),
            ("", b""),
            ("=", b""),
            ("====", b"\0"),
            ("Y===", b"\x60"),
            ("Y=Q=", b"\x60\x04"),
            ("=YQ=", b"\x01\x84"),
            ("YQ=Q", b"\x61\x10"),
            ("Y\nQ\n==\n", b"a"),
            ("YWJj=YQ==", b"abc\x01\x84"),
        ] {
            assert_eq!(decode(text).unwrap(), bytes, "{text:?}");
        }
    }

    #[test]
    fn strict_alphabet() {
        for text in ["a b", "YQ==\r\n", "a-b_", "@@", "\0", "YQ==\u{E9}", "aGVs!"] {
            assert_eq!(decode(text), Err(CommandError::base64()), "{text:?}");
        }
    }

    #[test]
    fn encodes_what_it_decodes() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"a", "YQ=="),
            (b"ab", "YWI="),
            (b"abc", "YWJj"),
            (b"\xFF\xEF\xBE\0", "/+++AA=="),
        ] {
            assert_eq!(encode(bytes), text);
            assert_eq!(decode(text).unwrap(), bytes);
        }
    }
}
