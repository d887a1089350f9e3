//! The whole protocol against what the original answered, and properties of any input.

mod limits;
mod properties;

use serde::Deserialize;

use super::arguments::{self, NoArguments};
use super::error::CommandError;
use super::framing::{Event, Framer};
use super::reply;
use super::request::Request;
use super::value::{self, Dict, Value};

#[derive(Deserialize)]
struct SyncArguments {
    id: i64,
}

/// Returns the value and whether the sentinel goes first.
fn dispatch(request: Request) -> Result<(Value, bool), CommandError> {
    match request.execute.as_str() {
        "guest-ping" => {
            arguments::decode::<NoArguments>(request.arguments)?;
            Ok((value::to_value(&()), false))
        }
        name @ ("guest-sync" | "guest-sync-delimited") => {
            let delimited = name == "guest-sync-delimited";
            let SyncArguments { id } = arguments::decode(request.arguments)?;
            Ok((value::to_value(&id), delimited))
        }
        name => Err(CommandError::not_found(name)),
    }
}

fn answer(out: &mut Vec<u8>, event: Event) {
    let message = match event {
        Event::Message(message) => message,
        Event::Malformed(error) => return reply::write(out, None, Err(&error), false),
    };
    let (id, result) = match Request::from_value(message) {
        Ok(mut request) => (request.id.take(), dispatch(request)),
        Err((id, error)) => (id, Err(error)),
    };
    let sentinel = matches!(result, Ok((_, true)));
    reply::write(
        out,
        id.as_ref(),
        result.as_ref().map(|(value, _)| value),
        sentinel,
    );
}

/// `input` arrives in pieces of `piece` bytes.
fn converse(framer: &mut Framer, input: &[u8], piece: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for mut piece in input.chunks(piece) {
        while let Some(event) = framer.next_event(&mut piece) {
            answer(&mut out, event);
        }
        assert!(piece.is_empty(), "bytes left behind");
    }
    out
}

fn ask(input: &[u8]) -> String {
    let out = converse(&mut Framer::default(), input, input.len().max(1));
    String::from_utf8_lossy(&out).into_owned()
}

/// `«XX»` is one byte in hexadecimal.
fn bytes(line: &str) -> Vec<u8> {
    let mut parts = line.split('«');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_once('»').unwrap();
        bytes.push(u8::from_str_radix(hex, 16).unwrap());
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

fn exchanges() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut exchanges = Vec::new();
    for line in include_str!("exchanges.txt").lines() {
        if let Some(request) = line.strip_prefix("> ") {
            exchanges.push((bytes(request), Vec::new()));
        } else if let Some(answer) = line.strip_prefix("< ") {
            let (_, answers) = exchanges.last_mut().unwrap();
            answers.extend(bytes(answer));
            answers.push(b'\n');
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{line}");
        }
    }
    exchanges
}

#[test]
fn answers_as_the_original_did() {
    let exchanges = exchanges();
    assert!(exchanges.len() > 250);
    for (request, expected) in exchanges {
        for piece in [request.len().max(1), 1, 3] {
            let answers = converse(&mut Framer::default(), &request, piece);
            assert_eq!(
                String::from_utf8_lossy(&answers),
                String::from_utf8_lossy(&expected),
                "to {:?} in pieces of {piece}",
                String::from_utf8_lossy(&request)
            );
            assert_eq!(answers, expected);
        }
    }
}

#[test]
fn half_a_request_waits_for_the_next_connection() {
    let mut framer = Framer::default();
    assert_eq!(
        converse(&mut framer, b"{\"execute\":\"guest-ping\"", 99),
        b""
    );
    assert_eq!(converse(&mut framer, b"}\n", 99), b"{\"return\": {}}\n");
}

#[test]
fn a_disabled_command_and_an_id_of_every_kind() {
    let mut out = Vec::new();
    let id = Value::Object(Dict::new());
    reply::write(
        &mut out,
        Some(&id),
        Err(&CommandError::disabled("guest-exec")),
        false,
    );
    let desc = "Command guest-exec has been disabled: the command is not allowed";
    let line = format!(
        "{{\"id\": {{}}, \"error\": {{\"class\": \"CommandNotFound\", \"desc\": \"{desc}\"}}}}\n"
    );
    assert_eq!(String::from_utf8(out).unwrap(), line);
    // No JSON for infinity: the largest double stands in.
    assert_eq!(
        ask(b"{'execute':'guest-ping','id':-1e400}"),
        "{\"return\": {}, \"id\": -1.7976931348623157e+308}\n"
    );
}
