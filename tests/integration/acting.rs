//! Every observed exchange of the file and program commands, in one conversation.

use crate::support::{Client, Place, wait_until};
use std::fmt::Write;
use std::fs;

const EXCHANGES: &str = include_str!("exchanges_acting.txt");
const RUNNING: &str = r#"{"return": {"exited": false}}"#;

/// The reply to `request`; a status is asked for until it is what `expected` says, or an end.
fn reply(client: &mut Client, request: &str, expected: &str) -> String {
    let mut reply = client.ask(request);
    if request.contains("guest-exec-status") && expected != RUNNING {
        wait_until("the child ends", || {
            if reply == RUNNING {
                reply = client.ask(request);
            }
            reply != RUNNING
        });
    }
    reply
}

/// The number in a reply `{"return": {"pid": 77}}`.
fn pid(reply: &str) -> Option<&str> {
    reply
        .strip_prefix(r#"{"return": {"pid": "#)?
        .strip_suffix("}}")
}

#[test]
fn every_observed_exchange() {
    let place = Place::new();
    fs::write(place.path("ro"), "hello world").expect("file");
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    let lines: Vec<&str> = EXCHANGES.lines().filter(|l| !l.starts_with('#')).collect();
    assert_eq!(lines.len(), 2 * 58);
    let mut last = String::new();
    let mut wrong = String::new();
    for pair in lines.chunks(2) {
        let fill = |line: &str, mark: &str, pid: &str| {
            let line = line.strip_prefix(mark).expect("its mark").replace('⏎', "");
            line.replace("<DIR>/", &place.name(""))
                .replace("<PID>", pid)
        };
        let request = fill(pair[0], "> ", &last);
        let expected = fill(pair[1], "< ", "<PID>");
        let mut reply = reply(&mut client, &request, &expected);
        if let Some(pid) = pid(&reply) {
            last = pid.to_owned();
            reply = reply.replace(pid, "<PID>");
        }
        if reply != expected {
            writeln!(wrong, "> {request}\n< {reply}\n= {expected}").expect("memory");
        }
    }
    assert!(wrong.is_empty(), "< is what came, = what should:\n{wrong}");
}
