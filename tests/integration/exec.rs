//! guest-exec: what a host may rely on beyond the observed exchanges.

use crate::log_gate::{audit_lines, system_log};
use crate::memory::kibibytes;
use crate::support::disk::detach;
use crate::support::{
    Agent, Client, Disk, Place, disabled, failed, in_namespace, is_ours, wait_until,
};
use nix::sys::signal::Signal;
use qemu_ga::protocol::base64;
use serde_json::{Value, json};
use std::fs;

/// Sends guest-exec; the pid.
fn exec(client: &mut Client, arguments: &Value) -> i64 {
    let request = json!({ "execute": "guest-exec", "arguments": arguments });
    let reply = client.ask(&request.to_string());
    let reply: Value = serde_json::from_str(&reply).expect("JSON");
    reply["return"]["pid"].as_i64().expect("a pid")
}

/// A shell script by guest-exec; the pid.
pub fn shell(client: &mut Client, script: &str, capture: &Value) -> i64 {
    let arguments = json!({ "path": "/bin/sh", "arg": ["-c", script], "capture-output": capture });
    exec(client, &arguments)
}

fn status(client: &mut Client, pid: i64) -> Value {
    let request = json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } });
    let reply = client.ask(&request.to_string());
    let mut reply: Value = serde_json::from_str(&reply).expect("JSON");
    reply["return"].take()
}

/// Waits for the end of a process; its status.
pub fn end(client: &mut Client, pid: i64) -> Value {
    let mut last = Value::Null;
    wait_until("the child ends", || {
        last = status(client, pid);
        assert!(last.is_object(), "the record is there");
        last["exited"] == true
    });
    last
}

/// What a process wrote.
pub fn text(status: &Value, member: &str) -> Option<String> {
    let bytes = base64::decode(status[member].as_str()?).expect("base64");
    Some(String::from_utf8(bytes).expect("text"))
}

fn descriptors(agent: &Agent) -> Vec<String> {
    let dir = format!("/proc/{}/fd", agent.child.id());
    let links = fs::read_dir(dir).expect("fd").map(|entry| {
        let target = fs::read_link(entry.expect("entry").path());
        target.expect("link").to_string_lossy().into_owned()
    });
    let mut links: Vec<String> = links.collect();
    links.sort();
    links
}

#[test]
fn children_hear_the_signals_that_the_starter_of_the_agent_had_ignored() {
    let place = Place::new();
    let agent = place.agent_under(&["env", "--ignore-signal=HUP,CHLD"], &[]);
    let mut client = agent.connect();
    let pid = shell(&mut client, "grep SigIgn /proc/self/status", &json!(true));
    let said = text(&end(&mut client, pid), "out-data").expect("output");
    let ignored = u64::from_str_radix(said.split_whitespace().last().expect("mask"), 16);
    let [hup, chld] = [Signal::SIGHUP, Signal::SIGCHLD].map(|signal| 1 << (signal as u32 - 1));
    assert_eq!(ignored.expect("a mask") & (hup | chld), 0, "{said}");
}

#[test]
fn every_capture_mode_again_and_again_costs_the_agent_no_descriptor() {
    if !is_ours() {
        return;
    }
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    let script = "echo out; echo err >&2";
    let mut before = None;
    for _ in 0..5 {
        for (mode, out, err) in [
            (json!("none"), None, None),
            (json!(false), None, None),
            (json!("stdout"), Some("out\n"), None),
            (json!("stderr"), None, Some("err\n")),
            (json!("separated"), Some("out\n"), Some("err\n")),
            (json!(true), Some("out\n"), Some("err\n")),
            (json!("merged"), Some("out\nerr\n"), None),
        ] {
            let pid = shell(&mut client, script, &mode);
            let status = end(&mut client, pid);
            assert_eq!(text(&status, "out-data").as_deref(), out, "{mode}");
            assert_eq!(text(&status, "err-data").as_deref(), err, "{mode}");
        }
        // What listens for ended children came with the first.
        let now = descriptors(&agent);
        assert_eq!(before.get_or_insert_with(|| now.clone()), &now);
    }
}

#[test]
fn five_hundred_children() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    for _ in 0..500 {
        let pid = exec(&mut client, &json!({ "path": "/bin/true" }));
        assert_eq!(
            end(&mut client, pid),
            json!({ "exited": true, "exitcode": 0 })
        );
    }
    assert_eq!(children(&agent), "");
    agent.comes_to_rest();
}

fn children(agent: &Agent) -> String {
    let pid = agent.child.id();
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children")
}

#[test]
fn a_descendant_that_holds_the_pipe_holds_nothing_else() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    let fifo = place.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    let script = format!("(read word <{}; echo $word) & echo first", fifo.display());
    let pid = shell(&mut client, &script, &json!(true));
    wait_until("the child is reaped", || {
        !children(&agent).contains(&pid.to_string())
    });
    assert_eq!(status(&mut client, pid), json!({ "exited": false }));
    let other = shell(&mut client, "echo other", &json!(true));
    assert_eq!(
        text(&end(&mut client, other), "out-data").as_deref(),
        Some("other\n")
    );
    agent.comes_to_rest();
    fs::write(&fifo, "last\n").expect("the descendant reads");
    let status = end(&mut client, pid);
    assert_eq!(text(&status, "out-data").as_deref(), Some("first\nlast\n"));
}

#[test]
fn a_child_that_nobody_asks_for_is_reaped_and_remembered() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let pid = shell(&mut agent.connect(), "exit 9", &json!("none"));
    wait_until("the child is reaped", || children(&agent).is_empty());
    let mut client = agent.connect();
    assert_eq!(
        status(&mut client, pid),
        json!({ "exited": true, "exitcode": 9 })
    );
    let again = json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } });
    assert_eq!(
        client.ask(&again.to_string()),
        failed("PID ld does not exist")
    );
}

#[test]
fn input_of_any_size_and_output_beyond_the_limit() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    let input = base64::encode(&vec![b'x'; 1_000_000]);
    let arguments =
        json!({ "path": "wc", "arg": ["-c"], "input-data": input, "capture-output": true });
    let pid = exec(&mut client, &arguments);
    assert_eq!(
        text(&end(&mut client, pid), "out-data").as_deref(),
        Some("1000000\n")
    );
    let pid = exec(&mut client, &json!({ "path": "true", "input-data": input }));
    assert_eq!(end(&mut client, pid)["exitcode"], 0);
    let pid = shell(&mut client, "head -c 16777217 /dev/zero", &json!(true));
    let status = end(&mut client, pid);
    let data = status["out-data"].as_str().expect("data");
    assert_eq!(base64::decode(data).expect("base64").len(), 16 << 20);
    if is_ours() {
        assert_eq!(status["out-truncated"], true);
    }
}

#[test]
fn where_the_program_comes_from() {
    let place = Place::new();
    fs::create_dir(place.path("bin")).expect("dir");
    place.script("bin/own", "echo \"$A:$*\"");
    fs::write(place.path("bin/noshebang"), "echo \"run by sh: $1\"\n").expect("script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(place.path("bin/noshebang"), mode).expect("mode");
    let mut command = place.agent_command(&[]);
    let path = std::env::var("PATH").expect("PATH");
    command.env("PATH", format!("{path}:{}", place.name("bin")));
    let agent = Agent::start(command, &place.path("sock"));
    let mut client = agent.connect();
    for (arguments, out) in [
        (
            json!({ "path": "own", "arg": ["a b", ""], "env": ["A=1"] }),
            "1:a b \n",
        ),
        (json!({ "path": "own", "env": [] }), ":\n"),
        (
            json!({ "path": place.name("bin/noshebang"), "arg": ["x"] }),
            "run by sh: x\n",
        ),
        (
            json!({ "path": "env", "env": ["A=1", "A=2"] }),
            "A=1\nA=2\n",
        ),
        (
            json!({ "path": "printf", "arg": ["%s", "\u{0}"] }),
            "\u{fffd}",
        ),
    ] {
        let mut arguments = arguments;
        arguments["capture-output"] = json!(true);
        let pid = exec(&mut client, &arguments);
        let status = end(&mut client, pid);
        if out == "\u{fffd}" {
            // NUL travels as C0 80.
            assert_eq!(status["out-data"], "wIA=");
        } else {
            assert_eq!(
                text(&status, "out-data").as_deref(),
                Some(out),
                "{arguments}"
            );
        }
    }
    let elsewhere = json!({ "path": "own", "env": ["PATH=/nonexistent"] });
    let request = json!({ "execute": "guest-exec", "arguments": elsewhere });
    assert_eq!(
        client.ask(&request.to_string()),
        failed(r"Failed to execute child process \u201Cown\u201D (No such file or directory)")
    );
}

#[test]
fn no_program_is_started_while_frozen() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("b"));
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        let before = shell(&mut client, "exit 4", &json!("none"));
        client.ask(&crate::support::freeze_list(&[disk.mountpoint()]));
        let touch = json!({ "path": "touch", "arg": [place.name("touched")] });
        let request = json!({ "execute": "guest-exec", "arguments": touch });
        assert_eq!(client.ask(&request.to_string()), disabled("guest-exec"));
        let ask = json!({ "execute": "guest-exec-status", "arguments": { "pid": before } });
        assert_eq!(client.ask(&ask.to_string()), disabled("guest-exec-status"));
        client.call("guest-fsfreeze-thaw");
        assert_eq!(end(&mut client, before)["exitcode"], 4);
        assert!(!place.path("touched").exists());
    });
}

#[test]
fn the_system_log_tells_who_did_what_and_no_input() {
    in_namespace(|| {
        let place = Place::new();
        let log = system_log(&place);
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        let name = place.name("f");
        let arguments = json!({ "path": "cat", "arg": ["-", "a b"], "input-data": "c2VjcmV0" });
        let pid = exec(&mut client, &arguments);
        end(&mut client, pid);
        let mut ask = |command: &str, arguments: Value| {
            let request = json!({ "execute": command, "arguments": arguments });
            client.ask(&request.to_string())
        };
        ask("guest-file-open", json!({ "path": name, "mode": "w" }));
        ask("guest-file-open", json!({ "path": name }));
        let data = json!({ "handle": 1001, "buf-b64": "c2VjcmV0" });
        assert!(ask("guest-file-write", data).contains("error"));
        ask("guest-file-close", json!({ "handle": 1001 }));
        ask("guest-shutdown", json!({ "mode": "bogus" }));
        let last = "info: guest-shutdown called, mode: bogus";
        let mut lines = audit_lines(&log, last);
        // As many as the client was impatient.
        let status = format!("info: guest-exec-status called, pid: {pid}");
        assert!(lines.contains(&status), "{lines:?}");
        lines.retain(|line| *line != status);
        let expected = [
            "info: guest-exec called: \"cat - a b\"".to_owned(),
            format!("info: guest-file-open called, filepath: {name}, mode: w"),
            "info: guest-file-open, handle: 1000".to_owned(),
            format!("info: guest-file-open called, filepath: {name}, mode: r"),
            "info: guest-file-open, handle: 1001".to_owned(),
            "info: guest-file-write failed, handle: 1001".to_owned(),
            "info: guest-file-close called, handle: 1001".to_owned(),
            last.to_owned(),
        ];
        assert_eq!(lines, expected);
        detach(&place.path("null"));
    });
}

#[test]
fn output_that_nobody_asks_for_costs_64_mib_at_most_and_the_oldest_is_given_up() {
    if !is_ours() {
        return;
    }
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    client.call("guest-ping");
    let before = kibibytes(&agent, "Rss:");
    let marks = place.path("ended");
    fs::create_dir(&marks).expect("directory");
    let pids: Vec<i64> = (0..12)
        .map(|number| {
            let script = format!(
                "head -c 16000000 /dev/zero; echo {number} >&2; : >{}/{number}",
                marks.display()
            );
            let pid = shell(&mut client, &script, &json!(true));
            let mark = marks.join(number.to_string());
            wait_until("it has written", || mark.exists());
            pid
        })
        .collect();
    let first = end(&mut client, pids[0]);
    assert!(first["out-data"].is_null(), "it is given up");
    assert_eq!(first["out-truncated"], true);
    assert_eq!(first["exitcode"], 0);
    let most = kibibytes(&agent, "Rss:");
    assert!(most < before + 100 * 1024, "{before} KiB, then {most} KiB");
    let mut whole = 0;
    for (number, &pid) in pids.iter().enumerate().skip(1) {
        let status = end(&mut client, pid);
        let length = status["out-data"].as_str().map_or(0, str::len);
        assert_eq!(status["out-truncated"], length == 0, "{number}");
        assert!(length == 0 && whole == 0 || length == 16_000_000_usize.div_ceil(3) * 4);
        whole += usize::from(length > 0);
    }
    assert_eq!(whole, 4, "as many as there is room for");
    wait_until("memory is given back", || {
        kibibytes(&agent, "Rss:") < before + 4 * 1024
    });
}
