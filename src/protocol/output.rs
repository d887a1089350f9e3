//! Values to text: one line of ASCII. Floor 0.
//!
//! Blanks, escapes and the order of members are the original's, byte for byte: clients compare replies as text. `reply`
//! calls it.

use std::io::Write as _;

use super::number::write_double;
use super::text::{is_noncharacter, plain_run};
use super::value::{Dict, Value};

/// Objects in [`Dict::wire_order`]. Recursive: a value nests at most as deep as the parser or a reply's type lets it.
pub(super) fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(number) => write_integer(out, number),
        Value::Uint(number) => write_integer(out, number),
        Value::Double(number) => write_double(out, *number),
        Value::String(text) => write_string(out, text),
        Value::Array(elements) => write_array(out, elements),
        Value::Object(members) => write_object(out, members),
    }
}

fn write_integer(out: &mut Vec<u8>, number: &dyn std::fmt::Display) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{number}");
}

fn write_array(out: &mut Vec<u8>, elements: &[Value]) {
    out.push(b'[');
    for (at, element) in elements.iter().enumerate() {
        write_separator(out, at);
        write_value(out, element);
    }
    out.push(b']');
}

fn write_object(out: &mut Vec<u8>, members: &Dict) {
    out.push(b'{');
    for (at, (key, value)) in members.wire_order().into_iter().enumerate() {
        write_separator(out, at);
        write_string(out, key);
        out.extend_from_slice(b": ");
        write_value(out, value);
    }
    out.push(b'}');
}

fn write_separator(out: &mut Vec<u8>, at: usize) {
    if at > 0 {
        out.extend_from_slice(b", ");
    }
}

/// Appends a string with its quotes, escaped to ASCII.
pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text;
    while !rest.is_empty() {
        let plain = |byte: &u8| matches!(byte, 0x20..=0x7E) && *byte != b'"' && *byte != b'\\';
        // Eight bytes at a time first: the content of a file is one string of up to 64 MiB.
        let prefix = plain_run(rest.as_bytes());
        let run = prefix + rest[prefix..].bytes().take_while(plain).count();
        let (head, tail) = rest.split_at(run);
        out.extend_from_slice(head.as_bytes());
        let mut characters = tail.chars();
        if let Some(character) = characters.next() {
            write_escaped(out, character);
        }
        rest = characters.as_str();
    }
    out.push(b'"');
}

fn write_escaped(out: &mut Vec<u8>, character: char) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\u{C}' => out.extend_from_slice(b"\\f"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // As the original replaces them; a client's parser may refuse them.
        c if is_noncharacter(c) => out.extend_from_slice(b"\\uFFFD"),
        c => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a vector cannot fail.
                let _ = write!(out, "\\u{unit:04X}");
            }
        }
    }
}
