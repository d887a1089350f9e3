//! Base64 as the original accepts it: a strict alphabet, a lenient grouping. Floor 0.
//!
//! guest-file-read and -write, guest-exec and guest-set-user-password use it. Not a crate's, because padding may be
//! anywhere, an incomplete last group is dropped and only line feeds are skipped; clients may depend on any of that.

use super::error::CommandError;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A digit's value, [`PAD`], [`BREAK`] or [`BAD`].
const MEANING: [u8; 256] = meanings();
const PAD: u8 = 0x40;
const BREAK: u8 = 0x41;
const BAD: u8 = 0x80;

const fn meanings() -> [u8; 256] {
    let mut table = [BAD; 256];
    let mut value = 0;
    while value < 64 {
        table[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    table[b'=' as usize] = PAD;
    table[b'\n' as usize] = BREAK;
    table
}

/// With padding, without line breaks.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    encode_onto(&mut text, bytes);
    text
}

/// Data may be encoded in pieces if the length of each but the last is a multiple of 3.
pub(crate) fn encode_onto(text: &mut String, bytes: &[u8]) {
    // By way of a piece of stack: a string grows faster by the slice than by the character.
    let mut digits = [b'='; 4 * 256];
    for piece in bytes.chunks(3 * 256) {
        let mut filled = 0;
        let groups = piece.chunks_exact(3);
        let rest = groups.remainder();
        for (group, place) in groups.zip(digits.chunks_exact_mut(4)) {
            let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
            place[0] = ALPHABET[(bits >> 18) as usize & 0x3F];
            place[1] = ALPHABET[(bits >> 12) as usize & 0x3F];
            place[2] = ALPHABET[(bits >> 6) as usize & 0x3F];
            place[3] = ALPHABET[bits as usize & 0x3F];
            filled += 4;
        }
        if let [first, more @ ..] = rest {
            let second = more.first().copied();
            let bits = u32::from_be_bytes([0, *first, second.unwrap_or(0), 0]);
            digits[filled] = ALPHABET[(bits >> 18) as usize & 0x3F];
            digits[filled + 1] = ALPHABET[(bits >> 12) as usize & 0x3F];
            digits[filled + 2] = match second {
                Some(_) => ALPHABET[(bits >> 6) as usize & 0x3F],
                None => b'=',
            };
            digits[filled + 3] = b'=';
            filled += 4;
        }
        // The alphabet is ASCII.
        text.push_str(std::str::from_utf8(&digits[..filled]).unwrap_or_default());
    }
}

/// Line feeds are skipped; padding may be anywhere; a last group of fewer than four characters is dropped.
pub fn decode(text: &str) -> Result<Vec<u8>, CommandError> {
    let text = text.as_bytes();
    let mut bytes = vec![0; text.len() / 4 * 3];
    let mut places = bytes.chunks_exact_mut(3);
    let mut done = 0;
    // The fast path: whole groups of digits, up to the first with anything else in it.
    for (group, place) in text.chunks_exact(4).zip(&mut places) {
        let [a, b, c, d] = [group[0], group[1], group[2], group[3]].map(|c| MEANING[c as usize]);
        if a | b | c | d >= PAD {
            break;
        }
        place[0] = (a << 2) | (b >> 4);
        place[1] = (b << 4) | (c >> 2);
        place[2] = (c << 6) | d;
        done += 1;
    }
    bytes.truncate(done * 3);
    decode_rest(&text[done * 4..], &mut bytes)?;
    Ok(bytes)
}

fn decode_rest(text: &[u8], bytes: &mut Vec<u8>) -> Result<(), CommandError> {
    let mut group = [0_u8; 4];
    let mut filled = 0;
    for &byte in text {
        match MEANING[byte as usize] {
            BREAK => continue,
            BAD => return Err(CommandError::base64()),
            value => group[filled] = value,
        }
        filled += 1;
        if filled == 4 {
            filled = 0;
            push_group(bytes, group);
        }
    }
    Ok(())
}

/// Padding counts as zero bits; at the third or fourth place it takes that byte away.
fn push_group(bytes: &mut Vec<u8>, group: [u8; 4]) {
    let bits = group
        .iter()
        .fold(0, |bits, &value| (bits << 6) | u32::from(value & !PAD));
    let [_, first, second, third] = bits.to_be_bytes();
    bytes.push(first);
    if group[2] != PAD {
        bytes.push(second);
    }
    if group[3] != PAD {
        bytes.push(third);
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

    #[test]
    fn long_input_with_line_feeds_and_in_pieces() {
        let bytes: Vec<u8> = (0..5000_u32).map(|i| ((i * 31) >> 3) as u8).collect();
        for length in [767, 768, 769, 770, 4999, 5000] {
            let text = encode(&bytes[..length]);
            assert_eq!(text.len(), length.div_ceil(3) * 4);
            assert_eq!(decode(&text).unwrap(), &bytes[..length]);
            let mut lines = text.clone();
            lines.insert(2001.min(text.len()), '\n');
            assert_eq!(decode(&lines).unwrap(), &bytes[..length]);
            let mut pieces = String::new();
            encode_onto(&mut pieces, &bytes[..300]);
            encode_onto(&mut pieces, &bytes[300..length]);
            assert_eq!(pieces, text);
            lines.replace_range(700..701, "!");
            assert_eq!(decode(&lines), Err(CommandError::base64()));
        }
    }
}
