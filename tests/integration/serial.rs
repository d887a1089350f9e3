//! Character devices, with a pseudo terminal in the place of the port.

use crate::support::{Agent, PATIENCE, Place, cmd, is_ours, returned, wait_until};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};

/// The host's end of a serial line, with the carrier.
pub struct Host {
    stream: BufReader<File>,
    /// Without it the line would hang up whenever the agent closes it.
    _carrier: File,
}

impl Host {
    pub fn post(&mut self, request: &str) {
        let stream = self.stream.get_mut();
        stream
            .write_all(format!("{request}\n").as_bytes())
            .expect("write");
    }

    pub fn line(&mut self) -> String {
        if self.stream.buffer().is_empty() {
            let mut fds = [PollFd::new(
                self.stream.get_ref().as_fd(),
                PollFlags::POLLIN,
            )];
            let patience = PollTimeout::try_from(PATIENCE).expect("a timeout");
            assert_eq!(poll(&mut fds, patience), Ok(1), "no reply");
        }
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a reply");
        line.trim_end_matches('\n').to_owned()
    }

    pub fn call(&mut self, command: &str) -> String {
        self.post(&cmd(command));
        self.line()
    }
}

/// A host whose line's other end is the link `port` of `place`: the number of a pseudo terminal is
/// used again at once, by another test. It starts raw, as nobody can tell when the agent has made
/// it so.
pub fn line_to(place: &Place) -> Host {
    // Both ends close on exec, else an agent would hold the host's.
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a pty");
    grantpt(&master).expect("a pty");
    unlockpt(&master).expect("a pty");
    let device = ptsname_r(&master).expect("name");
    let mut carrier = File::options();
    carrier
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NOCTTY.bits());
    let carrier = carrier.open(&device).expect("the other end");
    let mut raw = tcgetattr(&carrier).expect("termios");
    cfmakeraw(&mut raw);
    tcsetattr(&carrier, SetArg::TCSANOW, &raw).expect("termios");
    unlink(place);
    symlink(device, place.path("port")).expect("link");
    Host {
        stream: BufReader::new(File::from(OwnedFd::from(master))),
        _carrier: carrier,
    }
}

/// Makes the path of the line go away.
pub fn unlink(place: &Place) {
    fs::remove_file(place.path("port")).ok();
}

/// An agent at the end of the line.
pub fn agent(place: &Place, method: &str, args: &[&str]) -> Agent {
    let mut command = place.command();
    command.args(["-m", method, "-p"]).arg(place.path("port"));
    command.arg("-t").arg(place.path("state"));
    command.arg("-l").arg(place.path("log")).args(args);
    Agent::adopt(command.spawn().expect("starts"))
}

#[test]
fn a_conversation_over_either_kind_of_device() {
    for method in ["isa-serial", "virtio-serial"] {
        let place = Place::new();
        let mut host = line_to(&place);
        let agent = agent(&place, method, &[]);
        assert_eq!(host.call("guest-ping"), returned("{}"), "{method}");
        host.post(r#"{"execute":"guest-sync","arguments":{"id":9}}"#);
        assert_eq!(host.line(), returned(9));
        assert!(host.call("guest-info").contains("guest-fsfreeze-thaw"));
        // All 256 bytes go through unchanged: none is taken for a control character.
        host.post("\u{11}\u{13}\u{3}\u{4}\u{1c}");
        for (column, control) in [
            (1, "\\u0011"),
            (3, "\\u0013"),
            (4, "\\u0003"),
            (5, "\\u0004"),
            (6, "\\u001C"),
        ] {
            let text = format!("4:{column}: JSON parse error, stray '{control}'");
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
    let mut host = line_to(&place);
    let mut agent = agent(&place, "isa-serial", &[]);
    assert_eq!(host.call("guest-ping"), returned("{}"));
    unlink(&place);
    drop(host);
    assert_eq!(agent.wait().code(), Some(0));
    let lost = format!(
        ": warning: error reading channel: error opening channel '{}': No such file or directory\n",
        place.name("port")
    );
    assert!(place.read("log").contains(&lost), "{}", place.read("log"));
}

#[test]
fn a_lost_line_is_opened_again_with_retry_path() {
    if !is_ours() {
        return; // it ends
    }
    let place = Place::new();
    let mut host = line_to(&place);
    let agent = agent(&place, "isa-serial", &["-r"]);
    assert_eq!(host.call("guest-ping"), returned("{}"));
    unlink(&place);
    drop(host);
    let lost = "warning: lost the channel";
    wait_until("the loss", || place.read("log").contains(lost));
    let mut next = line_to(&place);
    assert_eq!(next.call("guest-ping"), returned("{}"));
    assert!(agent.stop().success());
}

#[test]
fn a_line_that_hangs_up_and_is_still_there_is_opened_again() {
    if !is_ours() {
        return; // it stays, deaf
    }
    let place = Place::new();
    let mut host = line_to(&place);
    let agent = agent(&place, "isa-serial", &[]);
    assert_eq!(host.call("guest-ping"), returned("{}"));
    let mut next = line_to(&place);
    drop(host);
    assert_eq!(next.call("guest-ping"), returned("{}"));
    assert!(agent.stop().success());
}

#[test]
fn a_path_that_is_missing_at_the_start_is_awaited_with_retry_path() {
    if !is_ours() {
        return; // it is fatal
    }
    for method in ["virtio-serial", "isa-serial"] {
        let place = Place::new();
        let agent = agent(&place, method, &["-r"]);
        let missing = format!(
            "error opening channel '{}': No such file or directory",
            place.name("port")
        );
        wait_until("the warning", || place.read("log").contains(&missing));
        let mut host = line_to(&place);
        assert_eq!(host.call("guest-ping"), returned("{}"));
        assert!(agent.stop().success());
    }
}

#[test]
fn sigterm_ends_an_agent_that_waits_for_its_path() {
    if !is_ours() {
        return; // it sleeps on
    }
    let place = Place::new();
    let agent = agent(&place, "isa-serial", &["-r"]);
    wait_until("it waits", || place.read("log").contains("No such file"));
    assert!(agent.stop().success());
}
