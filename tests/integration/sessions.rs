//! Connections that come, go, wait, stop half way, do not read, or read slowly.

use crate::support::{Client, Place, cmd, is_ours, wait_until};
use std::io::Read;
use std::os::unix::net::UnixStream;

const PONG: &str = r#"{"return": {}}"#;

/// A ping whose reply is as large as its id.
fn large_ping(length: usize) -> (String, String) {
    let id = "i".repeat(length);
    let request = format!(r#"{{"execute":"guest-ping","id":"{id}"}}"#);
    (request, format!(r#"{{"return": {{}}, "id": "{id}"}}"#))
}

#[test]
fn a_half_request_is_completed_by_the_next_connection() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let first = agent.connect().exchange(br#"{"execute":"guest-ping""#);
    assert!(first.is_empty());
    let second = agent.connect().exchange(b"}\n");
    assert_eq!(second, b"{\"return\": {}}\n");
}

#[test]
fn a_0xff_forgets_what_a_lost_client_left() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut lost = agent.connect();
    lost.send(br#"{"execute":"guest-fsfreeze-freeze","argum"#);
    drop(lost);
    let mut next = agent.connect();
    next.send(b"\xFF{\"execute\":\"guest-sync\",\"arguments\":{\"id\":5}}\n");
    assert!(next.line().contains("JSON parse error, stray"));
    assert_eq!(next.line(), r#"{"return": 5}"#);
    assert_eq!(
        next.call("guest-fsfreeze-status"),
        r#"{"return": "thawed"}"#
    );
}

#[test]
fn several_clients_wait_for_their_turn() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut first = agent.connect();
    assert_eq!(first.call("guest-ping"), PONG);
    let mut waiting = [agent.connect(), agent.connect()];
    for client in &mut waiting {
        client.post(&cmd("guest-ping"));
        let nonblocking = client.stream.get_mut();
        nonblocking.set_nonblocking(true).expect("nonblocking");
        let early = nonblocking.read(&mut [0]).expect_err("served too early");
        assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
        nonblocking.set_nonblocking(false).expect("blocking");
    }
    assert_eq!(first.call("guest-ping"), PONG);
    drop(first);
    for mut client in waiting {
        assert_eq!(client.line(), PONG);
    }
}

#[test]
fn a_hundred_connections_one_after_the_other() {
    let place = Place::new();
    let agent = place.agent(&[]);
    for _ in 0..100 {
        assert_eq!(agent.call("guest-ping"), PONG);
    }
    assert!(agent.stop().success());
}

#[test]
fn a_client_that_disappears_before_its_reply() {
    let place = Place::new();
    let agent = place.agent(&[]);
    for _ in 0..20 {
        let mut rude = agent.connect();
        rude.post(&cmd("guest-ping"));
        rude.post(&cmd("guest-info"));
        drop(rude);
    }
    assert_eq!(agent.call("guest-ping"), PONG);
    assert!(agent.stop().success());
}

#[test]
fn a_client_that_disappears_in_the_middle_of_its_reply() {
    if !is_ours() {
        return; // it spins while nobody reads
    }
    let place = Place::new();
    let agent = place.agent(&[]);
    let (request, reply) = large_ping(4 << 20);
    let mut rude = agent.connect();
    rude.send(&request);
    // The reply has begun and cannot go on: waiting for the reader must cost nothing.
    let mut start = [0; 16];
    let begin = rude.stream.read_exact(&mut start);
    begin.expect("the reply begins");
    assert!(reply.as_bytes().starts_with(&start));
    agent.comes_to_rest();
    let mut next = agent.connect();
    next.post(&cmd("guest-ping"));
    agent.comes_to_rest();
    drop(rude);
    // Not a byte of the other's reply.
    assert_eq!(next.line(), PONG);
    assert!(agent.stop().success());
}

#[test]
fn a_client_that_reads_slowly_gets_all_of_it() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let (request, expected) = large_ping(2 << 20);
    let mut client = agent.connect();
    client.send(&request);
    let mut reply = Vec::new();
    while !reply.ends_with(b"\n") {
        let mut piece = [0; 8192];
        let count = client.stream.read(&mut piece).expect("more");
        assert_ne!(count, 0, "the agent closed");
        reply.extend_from_slice(&piece[..count]);
        if reply.len() % (256 << 10) < 8192 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    reply.pop();
    assert!(reply == expected.as_bytes(), "the reply is garbled");
    assert_eq!(client.call("guest-ping"), PONG);
}

#[test]
fn memory_of_large_requests_is_given_back() {
    if !is_ours() || !cfg!(target_env = "gnu") {
        return;
    }
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    assert_eq!(client.call("guest-ping"), PONG);
    let before = agent.resident();
    // Many small blocks, and blocks so large that the C library changes its ways.
    let numbers = format!(
        r#"{{"execute":"guest-ping","arguments":{{"a":[1{}]}}}}"#,
        ",1".repeat(100_000)
    );
    for mebibytes in [8, 4, 2, 8] {
        let (request, reply) = large_ping(mebibytes << 20);
        client.post(&request);
        assert!(client.line() == reply, "the reply is garbled");
        client.post(&numbers);
        assert!(client.line().contains("Parameter 'a' is unexpected"));
    }
    wait_until("the memory is given back", || {
        agent.resident() < before + (1 << 20)
    });
    assert_eq!(client.call("guest-ping"), PONG);
}

#[test]
fn sigterm_ends_the_agent_whatever_its_client_does() {
    let place = Place::new();
    for client in [None, Some(&b""[..]), Some(br#"{"execute":"guest-"#)] {
        let agent = place.agent(&[]);
        let connected = client.map(|sent| {
            let mut client = agent.connect();
            assert_eq!(client.call("guest-ping"), PONG);
            client.send(sent);
            client
        });
        assert!(agent.stop().success(), "{client:?}");
        drop(connected);
    }
}

#[test]
fn sigterm_ends_the_agent_while_nobody_reads_its_reply() {
    if !is_ours() {
        return; // it spins
    }
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    client.send(large_ping(4 << 20).0);
    let begin = client.stream.read_exact(&mut [0]);
    begin.expect("the reply begins");
    assert!(agent.stop().success());
}

#[test]
fn an_existing_socket_is_replaced() {
    let place = Place::new();
    let dead = place.agent(&[]);
    dead.kill();
    assert!(place.path("sock").exists());
    // Not through `agent`, which clears the way.
    let second = place.agent_command(&[]).spawn().expect("starts");
    let mut second = crate::support::Agent::adopt(second);
    let mut answered = None;
    wait_until("the second agent answers", || {
        let connected = UnixStream::connect(place.path("sock"));
        answered = connected.ok().map(|s| Client::new(s).call("guest-ping"));
        answered.is_some()
    });
    assert_eq!(answered.as_deref(), Some(PONG));
    second.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(second.wait().success());
    // As the original: the socket stays.
    assert!(place.path("sock").exists());
}
