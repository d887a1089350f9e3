//! Every observed exchange, and how the bytes may be cut.

use crate::support::{Agent, Place};
use std::fmt::Write;

const EXCHANGES: &str = include_str!("exchanges.txt");

/// Bytes as `exchanges.txt` writes them.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '⏎' => bytes.push(b'\n'),
            '«' => {
                let (hex, after) = rest.split_once('»').expect("a closed byte");
                bytes.push(u8::from_str_radix(hex, 16).expect("hex"));
                rest = after;
            }
            _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

fn exchanges() -> Vec<(&'static str, Vec<u8>)> {
    let lines = EXCHANGES.lines();
    // What older originals say is for tests/compliance.
    let lines: Vec<&str> = lines
        .filter(|line| !line.starts_with('#') && !line.starts_with("<theirs"))
        .collect();
    let pairs = lines.chunks(2).map(|pair| {
        let request = pair[0].strip_prefix("> ").expect("a request");
        match pair[1].strip_prefix("< ").expect("a reply") {
            "(nothing)" => (request, Vec::new()),
            reply => (request, bytes(reply)),
        }
    });
    pairs.collect()
}

/// Leaves nothing in the agent's parser; an error, unless the rest of a message that had one is discarded.
fn reset(agent: &Agent) {
    // The line feed ends the skipping that follows an error.
    let answer = agent.connect().exchange(b"\xFF\n");
    assert!(
        answer.is_empty() || answer.ends_with(b"\"}}\n"),
        "{answer:?}"
    );
}

/// Runs every exchange with a `send` that delivers the request, and tells all that differ.
fn run_all(send: impl Fn(&Agent, &[u8]) -> Vec<u8>) {
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut wrong = String::new();
    let all = exchanges();
    assert_eq!(all.len(), 145);
    for (request, expected) in all {
        reset(&agent);
        let reply = send(&agent, &bytes(request));
        if reply != expected {
            let (reply, expected) = (reply.escape_ascii(), expected.escape_ascii());
            writeln!(wrong, "> {request}\n< {reply}\n= {expected}").expect("memory");
        }
    }
    assert!(wrong.is_empty(), "< is what came, = what should:\n{wrong}");
    assert!(agent.stop().success());
}

#[test]
fn every_observed_exchange() {
    run_all(|agent, request| agent.connect().exchange(request));
}

#[test]
fn every_observed_exchange_byte_by_byte() {
    run_all(|agent, request| {
        let mut client = agent.connect();
        for byte in request {
            client.send([*byte]);
        }
        client.finish()
    });
}

#[test]
fn two_hundred_requests_in_one_write() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let (mut requests, mut replies) = (String::new(), String::new());
    for id in 0..200 {
        let request = r#"{"execute":"guest-sync","arguments":{"id":"#;
        writeln!(requests, "{request}{id}}}}}").expect("memory");
        writeln!(replies, "{{\"return\": {id}}}").expect("memory");
    }
    let answer = agent.connect().exchange(requests.as_bytes());
    assert_eq!(String::from_utf8_lossy(&answer), replies);
}

#[test]
fn a_client_gets_its_reply_without_ending_the_line_or_the_connection() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    client.send(br#"{"execute":"guest-ping"}"#);
    assert_eq!(client.line(), r#"{"return": {}}"#);
    client.send(b" 12");
    client.send(br#" "word" "#);
    let not_an_object =
        r#"{"error": {"class": "GenericError", "desc": "QMP input must be a JSON object"}}"#;
    assert_eq!(client.line(), not_an_object);
    assert_eq!(client.line(), not_an_object);
}
