//! Very many mixed requests with all manners of going away: memory and descriptors stay flat.
//!
//! 50,000 requests, or `QGA_SOAK_REQUESTS`.

use crate::support::{Agent, Client, Place, cmd};
use std::fs;
use std::io::BufRead;

const REQUESTS: u64 = 50_000;
/// What a heap may grow by when nothing is kept, in bytes.
const SLACK: u64 = 512 << 10;

/// One request each, with one reply each.
const MIXED: [&str; 14] = [
    r#"{"execute":"guest-ping"}"#,
    r#"{"execute":"guest-ping","id":{"n":[1,2.5,"three",null,true]}}"#,
    r#"{"execute":"guest-sync","arguments":{"id":7}}"#,
    r#"{"execute":"guest-get-time"}"#,
    r#"{"execute":"guest-get-host-name"}"#,
    r#"{"execute":"guest-get-timezone"}"#,
    r#"{"execute":"guest-get-osinfo"}"#,
    r#"{"execute":"guest-get-users"}"#,
    r#"{"execute":"guest-info"}"#,
    r#"{"execute":"guest-network-get-interfaces"}"#,
    r#"{"execute":"guest-no-such-command"}"#,
    r#"{"execute":"guest-sync","arguments":{"id":"seven"}}"#,
    r#"{"execute":"guest-file-read","arguments":{"handle":-1}}"#,
    r#"["no","object"]"#,
];

/// Deterministic numbers, so that a failure can be had again.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// `count` requests; half of them are the cheap ones that hosts send all day.
    fn requests(&mut self, count: u64) -> String {
        let mut text = String::new();
        for _ in 0..count {
            let kinds = if self.below(2) == 0 { 3 } else { MIXED.len() };
            let kind = usize::try_from(self.below(kinds as u64)).expect("small");
            text.push_str(MIXED[kind]);
            text.push('\n');
        }
        text
    }
}

/// Reads replies up to the one to `guest-sync-delimited`; how many came before it.
fn replies_before_sync(client: &mut Client) -> u64 {
    let mut count = 0;
    loop {
        let mut line = Vec::new();
        client.stream.read_until(b'\n', &mut line).expect("a reply");
        assert!(line.ends_with(b"\n"), "the agent closed the connection");
        if line.starts_with(b"\xFF") {
            return count;
        }
        count += 1;
    }
}

fn sync(client: &mut Client) -> u64 {
    client.send(b"\xFF{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":1}}\n");
    replies_before_sync(client)
}

/// A file opened, written and closed; a helper process run to its end.
fn files_and_processes(place: &Place, client: &mut Client) -> u64 {
    let number = |reply: &str| {
        let digits = reply.chars().filter(char::is_ascii_digit);
        digits.collect::<String>().parse::<u64>().expect(reply)
    };
    let path = place.name("written");
    let open = r#"{"execute":"guest-file-open","arguments":{"path":"PATH","mode":"w"}}"#;
    let handle = number(&client.ask(&open.replace("PATH", &path)));
    let on_handle = |command: &str, more: &str| {
        format!(r#"{{"execute":"{command}","arguments":{{"handle":{handle}{more}}}}}"#)
    };
    client.ask(&on_handle("guest-file-write", r#","buf-b64":"c29haw==""#));
    client.ask(&on_handle("guest-file-close", ""));
    assert_eq!(place.read("written"), "soak");
    let exec = r#"{"execute":"guest-exec","arguments":{"path":"/bin/true","capture-output":true}}"#;
    let pid = number(&client.ask(exec));
    let status = format!(r#"{{"execute":"guest-exec-status","arguments":{{"pid":{pid}}}}}"#);
    let mut sent = 4;
    loop {
        sent += 1;
        let said = client.ask(&status);
        assert!(said.contains("\"exited\""), "{said}");
        if said.contains(r#""exited": true"#) {
            return sent;
        }
    }
}

/// One connection; how many requests it sent.
fn visit(place: &Place, agent: &Agent, dice: &mut Dice) -> u64 {
    let mut client = agent.connect();
    // What the one before left behind.
    sync(&mut client);
    let mut sent = 1;
    if dice.below(50) == 0 {
        sent += files_and_processes(place, &mut client);
    }
    for _ in 0..dice.below(8) {
        let count = 1 + dice.below(30);
        client.send(dice.requests(count));
        client.send(cmd("guest-sync-delimited").replace('}', r#","arguments":{"id":2}}"#));
        assert_eq!(replies_before_sync(&mut client), count);
        sent += count + 1;
    }
    let count = 1 + dice.below(20);
    match dice.below(4) {
        // In the middle of a request, of a text, or deep in brackets.
        0 => client.send(r#"{"execute":"guest-pi"#),
        1 => client.send(r#"[[[[{"a":[{"b":["#),
        // Without reading the replies.
        2 => {
            client.send(dice.requests(count));
            sent += count;
        }
        // In order.
        _ => {
            client.send(dice.requests(count));
            client.finish();
            sent += count;
        }
    }
    sent
}

fn descriptors(agent: &Agent) -> usize {
    agent.comes_to_rest();
    let all = fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("fd");
    all.count()
}

#[test]
fn memory_and_descriptors_stay_flat() {
    let wanted = std::env::var("QGA_SOAK_REQUESTS").map_or(REQUESTS, |text| {
        text.parse().expect("QGA_SOAK_REQUESTS is a number")
    });
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut dice = Dice(wanted);
    let mut run = |until: u64| {
        let mut sent = 0;
        let mut visits = 0;
        while sent < until {
            sent += visit(&place, &agent, &mut dice);
            visits += 1;
        }
        (sent, visits, agent.resident(), descriptors(&agent))
    };
    let warm = run(wanted / 5);
    let end = run(wanted - wanted / 5);
    println!("requests, connections, bytes, descriptors: {warm:?}, then {end:?}");
    assert!(end.2 <= warm.2 + SLACK, "memory: {} to {}", warm.2, end.2);
    assert_eq!(end.3, warm.3, "descriptors");
}
