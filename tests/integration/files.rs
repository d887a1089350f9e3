//! guest-file-*: what a host may rely on beyond the observed exchanges.

use crate::support::{Client, Place, cmd, disabled, failed, is_ours, returned};
use qemu_ga::protocol::base64;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn ask(client: &mut Client, command: &str, arguments: &str) -> String {
    client.ask(&format!(
        r#"{{"execute":"guest-file-{command}","arguments":{{{arguments}}}}}"#
    ))
}

fn open(client: &mut Client, path: &str, mode: &str) -> i64 {
    let reply = ask(
        client,
        "open",
        &format!(r#""path":"{path}","mode":"{mode}""#),
    );
    let handle = reply
        .strip_prefix(r#"{"return": "#)
        .and_then(|rest| rest.strip_suffix('}'));
    handle.and_then(|h| h.parse().ok()).expect("a handle")
}

fn write(client: &mut Client, handle: i64, bytes: &[u8]) -> String {
    let text = base64::encode(bytes);
    ask(
        client,
        "write",
        &format!(r#""handle":{handle},"buf-b64":"{text}""#),
    )
}

fn read(client: &mut Client, handle: i64, count: u64) -> (Vec<u8>, bool) {
    let reply = ask(
        client,
        "read",
        &format!(r#""handle":{handle},"count":{count}"#),
    );
    let reply: serde_json::Value = serde_json::from_str(&reply).expect("JSON");
    let reply = &reply["return"];
    let bytes = base64::decode(reply["buf-b64"].as_str().expect("text")).expect("base64");
    assert_eq!(reply["count"].as_u64(), Some(bytes.len() as u64));
    (bytes, reply["eof"].as_bool().expect("a flag"))
}

#[test]
fn megabytes_there_and_back_on_two_connections() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i ^ (i >> 9)) as u8).collect();
    let handle = open(&mut agent.connect(), &place.name("f"), "w+");
    let mut client = agent.connect();
    for piece in bytes.chunks(1 << 20) {
        let written = returned(format!(r#"{{"count": {}, "eof": false}}"#, piece.len()));
        assert_eq!(write(&mut client, handle, piece), written);
    }
    let rewind = format!(r#""handle":{handle},"offset":0,"whence":0"#);
    assert_eq!(
        ask(&mut client, "seek", &rewind),
        returned(r#"{"eof": false, "position": 0}"#)
    );
    assert_eq!(
        read(&mut client, handle, 1 << 20),
        (bytes[..1 << 20].to_vec(), false)
    );
    assert_eq!(
        read(&mut client, handle, 48 << 20),
        (bytes[1 << 20..].to_vec(), true)
    );
    assert_eq!(fs::read(place.path("f")).expect("file"), bytes);
}

#[test]
fn what_was_written_waits_for_a_flush_a_close_or_the_agent_s_end() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    let name = place.name("f");
    let handle = open(&mut client, &name, "w");
    write(&mut client, handle, b"one");
    assert_eq!(place.read("f"), "");
    ask(&mut client, "flush", &format!(r#""handle":{handle}"#));
    assert_eq!(place.read("f"), "one");
    write(&mut client, handle, b"two");
    ask(&mut client, "close", &format!(r#""handle":{handle}"#));
    assert_eq!(place.read("f"), "onetwo");
    let handle = open(&mut client, &name, "a");
    write(&mut client, handle, b"three");
    assert_eq!(place.read("f"), "onetwo");
    assert!(agent.stop().success());
    assert_eq!(place.read("f"), "onetwothree");
}

#[test]
fn handles_do_not_come_again_after_a_restart() {
    let place = Place::new();
    let agent = place.agent(&[]);
    assert_eq!(open(&mut agent.connect(), "/dev/null", "r"), 1000);
    assert_eq!(open(&mut agent.connect(), "/dev/null", "r"), 1001);
    assert!(agent.stop().success());
    assert_eq!(place.read("state/qga.state"), "[global]\nfd_counter=1002\n");
    let agent = place.agent(&[]);
    assert_eq!(
        ask(&mut agent.connect(), "close", r#""handle":1001"#),
        failed("handle '1001' has not been found")
    );
    assert_eq!(open(&mut agent.connect(), "/dev/null", "r"), 1002);
}

#[test]
fn a_counter_of_the_original_s_that_wrapped() {
    if !is_ours() {
        return;
    }
    let place = Place::new();
    let state = "[global]\nfd_counter=-2147483648\n";
    fs::write(place.path("state/qga.state"), state).expect("state");
    let agent = place.agent(&[]);
    assert_eq!(open(&mut agent.connect(), "/dev/null", "r"), 2_147_483_648);
    assert_eq!(open(&mut agent.connect(), "/dev/null", "r"), 2_147_483_649);
}

#[test]
fn a_pipe_that_runs_dry_gives_what_it_had() {
    if !is_ours() {
        return;
    }
    let place = Place::new();
    let fifo = place.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    let reader = open(&mut client, &place.name("fifo"), "r");
    let writer = open(&mut client, &place.name("fifo"), "w");
    write(&mut client, writer, b"some");
    ask(&mut client, "flush", &format!(r#""handle":{writer}"#));
    assert_eq!(read(&mut client, reader, 10), (b"some".to_vec(), false));
    assert_eq!(
        ask(&mut client, "read", &format!(r#""handle":{reader}"#)),
        failed("failed to read file: Resource temporarily unavailable")
    );
    ask(&mut client, "close", &format!(r#""handle":{writer}"#));
    assert_eq!(read(&mut client, reader, 10), (Vec::new(), true));
}

#[test]
fn a_failed_close_frees_the_handle() {
    if !is_ours() {
        return;
    }
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    let handle = open(&mut client, "/dev/full", "w");
    write(&mut client, handle, b"x");
    let close = format!(r#""handle":{handle}"#);
    assert_eq!(
        ask(&mut client, "close", &close),
        failed("failed to close handle: No space left on device")
    );
    assert_eq!(
        ask(&mut client, "close", &close),
        failed(&format!("handle '{handle}' has not been found"))
    );
    assert_eq!(client.ask(&cmd("guest-ping")), returned("{}"));
}

#[test]
fn bad_input_changes_nothing() {
    let place = Place::new();
    fs::write(place.path("f"), "content").expect("file");
    let agent = place.agent(&["-b", "guest-file-flush"]);
    let mut client = agent.connect();
    let handle = open(&mut client, &place.name("f"), "r+");
    for (command, arguments, text) in [
        (
            "read",
            r#""count":10000000000"#,
            "value '10000000000' is invalid for argument count",
        ),
        (
            "read",
            r#""count":1.5"#,
            "Invalid parameter type for 'count', expected: integer",
        ),
        (
            "read",
            r#""count":null"#,
            "Invalid parameter type for 'count', expected: integer",
        ),
        (
            "read",
            r#""count":18446744073709551615"#,
            "Invalid parameter type for 'count', expected: integer",
        ),
        (
            "write",
            r#""buf-b64":"YWJj","count":-1"#,
            "value '-1' is invalid for argument count",
        ),
        (
            "write",
            r#""buf-b64":"YWJj","count":10000000000"#,
            "value '10000000000' is invalid for argument count",
        ),
        (
            "write",
            r#""buf-b64":"YWJjYWJj YWJj""#,
            "Base64 data contains invalid characters",
        ),
        ("write", "\"count\":1", "Parameter 'buf-b64' is missing"),
        (
            "write",
            r#""buf-b64":"YWJj","x":1"#,
            "Parameter 'x' is unexpected",
        ),
        (
            "seek",
            r#""offset":-1,"whence":0"#,
            "failed to seek file: Invalid argument",
        ),
        (
            "seek",
            r#""offset":-9223372036854775808,"whence":1"#,
            "failed to seek file: Invalid argument",
        ),
        (
            "seek",
            r#""offset":0,"whence":-1"#,
            "invalid whence code -1",
        ),
        (
            "seek",
            r#""offset":0,"whence":9223372036854775807"#,
            "invalid whence code 9223372036854775807",
        ),
    ] {
        let arguments = format!(r#""handle":{handle},{arguments}"#);
        assert_eq!(
            ask(&mut client, command, &arguments),
            failed(text),
            "{arguments}"
        );
    }
    assert_eq!(
        ask(&mut client, "flush", &format!(r#""handle":{handle}"#)),
        disabled("guest-file-flush")
    );
    assert_eq!(read(&mut client, handle, 100), (b"content".to_vec(), true));
    ask(&mut client, "close", &format!(r#""handle":{handle}"#));
    assert_eq!(place.read("f"), "content");
    assert_eq!(
        ask(&mut client, "open", r#""path":"/nonexistent\u0000/x""#),
        failed(
            r"failed to open file '/nonexistent\u0000/x' (mode: 'r'): No such file or directory"
        )
    );
}

#[test]
fn a_new_file_is_for_everybody_whatever_the_umask() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    for mode in ["w", "a", "w+", "a+b"] {
        open(&mut client, &place.name(mode), mode);
        let permissions = fs::metadata(place.path(mode)).expect("file").permissions();
        assert_eq!(permissions.mode() & 0o7777, 0o666, "{mode}");
    }
}
