//! Character devices, with a pseudo terminal in the place of the port.

use crate::support::{Agent, Place, cmd, is_ours, returned};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::ttyname;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;

/// The host's end of a serial line, with the carrier.
pub struct Host {
    stream: BufReader<File>,
    /// Without it the line would hang up whenever the agent closes it.
    _carrier: OwnedFd,
}

impl Host {
    pub fn post(&mut self, request: &str) {
        let stream = self.stream.get_mut();
        stream
            .write_all(format!("{request}\n").as_bytes())
            .expect("write");
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a reply");
        line.trim_end_matches('\n').to_owned()
    }

    pub fn call(&mut self, command: &str) -> String {
        self.post(&cmd(command));
        self.line()
    }
}

/// A host, and the path of the guest's end. The guest's end starts raw, as nobody can tell when
/// the agent has made it so.
pub fn pty() -> (Host, String) {
    let pty = openpty(None, None).expect("a pty");
    let mut raw = tcgetattr(&pty.slave).expect("termios");
    cfmakeraw(&mut raw);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &raw).expect("termios");
    let path = ttyname(&pty.slave).expect("name");
    let stream = BufReader::new(File::from(pty.master));
    let host = Host {
        stream,
        _carrier: pty.slave,
    };
    (host, path.to_str().expect("text").to_owned())
}

fn agent(place: &Place, method: &str, path: &str, args: &[&str]) -> Agent {
    let mut command = place.command();
    command.args(["-m", method, "-p", path]).args(args);
    command.arg("-t").arg(place.path("state"));
    command.arg("-l").arg(place.path("log"));
    Agent::adopt(command.spawn().expect("starts"))
}

#[test]
fn a_conversation_over_either_kind_of_device() {
    for method in ["isa-serial", "virtio-serial"] {
        let place = Place::new();
        let (mut host, path) = pty();
        let agent = agent(&place, method, &path, &[]);
        assert_eq!(host.call("guest-ping"), returned("{}"), "{method}");
        host.post(r#"{"execute":"guest-sync","arguments":{"id":9}}"#);
        assert_eq!(host.line(), returned(9));
        assert!(host.call("guest-info").contains("guest-fsfreeze-thaw"));
        // All 256 bytes go through unchanged: none is taken for a control character.
        host.post("\u{11}\u{13}\u{3}\u{4}\u{1c}");
        for control in ["\\u0011", "\\u0013", "\\u0003", "\\u0004", "\\u001C"] {
            let text = format!("JSON parse error, stray '{control}'");
            assert_eq!(host.line(), crate::support::failed(&text));
        }
        agent.comes_to_rest();
        assert!(agent.stop().success());
    }
}

#[test]
fn a_lost_line_ends_the_agent() {
    if !is_ours() {
        return; // it stays, deaf
    }
    let place = Place::new();
    let (mut host, path) = pty();
    let mut agent = agent(&place, "isa-serial", &path, &[]);
    assert_eq!(host.call("guest-ping"), returned("{}"));
    drop(host);
    assert_eq!(agent.wait().code(), Some(0));
    let log = place.read("log");
    assert!(log.contains(": warning: error reading channel: "), "{log}");
    assert!(log.contains(&path), "{log}");
}

#[test]
fn a_lost_line_is_opened_again_with_retry_path() {
    if !is_ours() {
        return; // the 10.0 line's retry is broken
    }
    let place = Place::new();
    let link = place.path("port");
    let (mut host, path) = pty();
    symlink(path, &link).expect("link");
    let agent = agent(&place, "isa-serial", &place.name("port"), &["-r"]);
    assert_eq!(host.call("guest-ping"), returned("{}"));
    fs::remove_file(&link).expect("rm");
    drop(host);
    let lost = "warning: the channel is lost";
    crate::support::wait_until("the loss", || place.read("log").contains(lost));
    let (mut next, path) = pty();
    symlink(path, &link).expect("link");
    assert_eq!(next.call("guest-ping"), returned("{}"));
    assert!(agent.stop().success());
}

#[test]
fn a_line_that_hangs_up_and_is_still_there_is_opened_again() {
    if !is_ours() {
        return; // it stays, deaf
    }
    let place = Place::new();
    let link = place.path("port");
    let (mut host, path) = pty();
    symlink(path, &link).expect("link");
    let agent = agent(&place, "isa-serial", &place.name("port"), &[]);
    assert_eq!(host.call("guest-ping"), returned("{}"));
    let (mut next, path) = pty();
    fs::remove_file(&link).expect("rm");
    symlink(path, &link).expect("link");
    drop(host);
    assert_eq!(next.call("guest-ping"), returned("{}"));
    assert!(agent.stop().success());
}

#[test]
fn a_path_that_is_missing_at_the_start_is_awaited_with_retry_path() {
    if !is_ours() {
        return; // fatal in the 10.0 line
    }
    let place = Place::new();
    let agent = agent(&place, "virtio-serial", &place.name("port"), &["-r"]);
    let missing = format!(
        "error opening channel '{}': No such file or directory",
        place.name("port")
    );
    crate::support::wait_until("the warning", || place.read("log").contains(&missing));
    let (mut host, path) = pty();
    symlink(path, place.path("port")).expect("link");
    assert_eq!(host.call("guest-ping"), returned("{}"));
    assert!(agent.stop().success());
}

#[test]
fn sigterm_ends_an_agent_that_waits_for_its_path() {
    if !is_ours() {
        return;
    }
    let place = Place::new();
    let agent = agent(&place, "isa-serial", &place.name("port"), &["-r"]);
    crate::support::wait_until("it waits", || place.read("log").contains("No such file"));
    assert!(agent.stop().success());
}
