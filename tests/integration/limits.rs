//! Input that is too deep, too much or too long, and garbage: one error, and on it goes.

use crate::support::{Agent, Place, failed};

const NOT_AN_OBJECT: &str = "QMP input must be a JSON object";

/// The first reply to `request`; the agent must still answer afterwards.
fn first_reply(agent: &Agent, request: &[u8]) -> String {
    let replies = agent.connect().exchange(request);
    let replies = String::from_utf8(replies).expect("ASCII");
    let first = replies.lines().next().expect("a reply").to_owned();
    still_answers(agent);
    first
}

/// As a host synchronises: whatever was before, after a 0xFF comes this reply.
fn still_answers(agent: &Agent) {
    let sync = b"\xFF{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":31}}\n";
    let answer = agent.connect().exchange(sync);
    assert!(
        answer.ends_with(b"\xFF{\"return\": 31}\n"),
        "{}",
        answer.escape_ascii()
    );
}

#[test]
fn nesting() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let deep = |depth: usize| ["[".repeat(depth), "]".repeat(depth), "\n".into()].concat();
    let allowed = first_reply(&agent, deep(1024).as_bytes());
    assert_eq!(allowed, failed(NOT_AN_OBJECT));
    let refused = first_reply(&agent, deep(1025).as_bytes());
    assert_eq!(refused, failed("JSON nesting depth limit exceeded"));
    let objects = r#"{"a":"#.repeat(1025);
    let refused = first_reply(&agent, objects.as_bytes());
    assert_eq!(refused, failed("JSON nesting depth limit exceeded"));
}

#[test]
fn tokens() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let list = |commas: usize| format!("[{}1]\n", "1,".repeat(commas));
    // One bracket, N values with N-1 commas between them, one bracket.
    let allowed = first_reply(&agent, list((1 << 20) - 2).as_bytes());
    assert_eq!(allowed, failed(NOT_AN_OBJECT));
    let refused = first_reply(&agent, list((1 << 20) - 1).as_bytes());
    assert_eq!(refused, failed("JSON token count limit exceeded"));
}

#[test]
fn size() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let string = |length: usize| format!("\"{}\"\n", "x".repeat(length - 2));
    let most = 64 << 20;
    let allowed = first_reply(&agent, string(most - 1).as_bytes());
    assert_eq!(allowed, failed(NOT_AN_OBJECT));
    let refused = first_reply(&agent, string(most).as_bytes());
    assert_eq!(refused, failed("JSON token size limit exceeded"));
}

#[test]
fn garbage_of_every_kind() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let every_byte: Vec<u8> = (0..=255).collect();
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut noise = Vec::new();
    for _ in 0..65_536 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        noise.push((state >> 33) as u8);
    }
    let halves = br#"{"execute":"guest-ping","arguments":{"a":[1,2,"#;
    for garbage in [
        every_byte.as_slice(),
        &noise,
        halves,
        b"\"",
        b"'",
        b"\\",
        b"-",
    ] {
        agent.connect().exchange(garbage);
        still_answers(&agent);
    }
    assert!(agent.stop().success());
}
