//! Socket activation and vsock.

use crate::support::{
    Agent, Client, PATIENCE, Place, failed, is_ours, not_run, returned, wait_until,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output, Stdio};

/// The agent as the service manager starts it: `descriptors` from 3 on, LISTEN_PID its own. A shell
/// does it, as it keeps its process id over exec.
fn activated(place: &Place, descriptors: &[OwnedFd], count: &str, args: &[&str]) -> Command {
    let mut script = String::new();
    for (fd, number) in descriptors.iter().zip(3..) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        // A socket cannot be opened by that path, so it is inherited as standard input is.
        assert!(std::fs::exists(path).expect("proc"));
        script += &format!("exec {number}<&{}; ", if number == 3 { 0 } else { 1 });
    }
    script +=
        "exec </dev/null; export LISTEN_PID=$$ LISTEN_FDS LISTEN_FDNAMES=x; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(crate::support::binary());
    command.env("LISTEN_FDS", count);
    command.env("QGA_CONF", place.path("no.conf"));
    let mut given = descriptors.iter();
    if let Some(first) = given.next() {
        command.stdin(Stdio::from(first.try_clone().expect("descriptor")));
    }
    if let Some(second) = given.next() {
        command.stdout(Stdio::from(second.try_clone().expect("descriptor")));
    }
    command.arg("-t").arg(place.path("state"));
    command.args(args);
    command
}

fn listener(place: &Place, name: &str) -> OwnedFd {
    UnixListener::bind(place.path(name)).expect("socket").into()
}

#[test]
fn a_passed_socket_replaces_method_and_path() {
    let place = Place::new();
    let sock = listener(&place, "sock");
    let args = ["-m", "isa-serial", "-p", "/nonexistent", "-v", "-l"];
    let log = place.name("log");
    let mut command = activated(&place, &[sock], "1", &[&args[..], &[&log]].concat());
    let agent = Agent::adopt(command.spawn().expect("starts"));
    for _ in 0..2 {
        let stream = UnixStream::connect(place.path("sock")).expect("connects");
        assert_eq!(Client::new(stream).call("guest-ping"), returned("{}"));
    }
    // Its children must not take the socket for theirs.
    let fds = format!("/proc/{}/fdinfo/3", agent.child.id());
    let info = std::fs::read_to_string(fds).expect("fdinfo");
    let flags = info
        .lines()
        .find_map(|l| l.strip_prefix("flags:\t"))
        .expect("flags");
    let flags = i32::from_str_radix(flags, 8).expect("octal");
    assert_ne!(flags & nix::libc::O_CLOEXEC, 0);
    assert!(agent.stop().success());
}

#[test]
fn a_dump_under_activation_has_no_path() {
    let place = Place::new();
    let sock = listener(&place, "sock");
    let out = activated(&place, &[sock], "1", &["-D", "-p", "/x"]).output();
    let text = String::from_utf8(out.expect("runs").stdout).expect("text");
    assert!(
        text.contains("\nmethod=unix-listen\n") && !text.contains("path=/"),
        "{text}"
    );
}

fn said(out: Output) -> String {
    assert_eq!(out.status.code(), Some(1));
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn descriptors_that_cannot_be_used() {
    let place = Place::new();
    let two = [listener(&place, "a"), listener(&place, "b")];
    let out = activated(&place, &two, "2", &[]).output().expect("runs");
    assert!(said(out).contains("qemu-ga only supports listening on one socket"));
    let tcp = TcpListener::bind("127.0.0.1:0").expect("socket").into();
    let file = File::open("/dev/zero").expect("file").into();
    for other in [tcp, file] {
        let out = activated(&place, &[other], "1", &[])
            .output()
            .expect("runs");
        assert!(said(out).contains("unsupported listen fd type"));
    }
    let out = activated(&place, &[], "1", &[]).output().expect("runs");
    let text = "Socket activation failed: invalid file descriptor fd = 3: Bad file descriptor";
    assert!(said(out).contains(text));
}

#[test]
fn variables_for_another_process_are_ignored() {
    let place = Place::new();
    let mut command = place.agent_command(&[]);
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    let agent = Agent::start(command, &place.path("sock"));
    assert_eq!(agent.call("guest-ping"), returned("{}"));
    assert!(agent.stop().success());
}

#[test]
fn a_client_cannot_authenticate_where_no_token_is_configured() {
    if !is_ours() {
        return; // it has no such command
    }
    let place = Place::new();
    let agent = place.agent(&[]);
    let ask = |arguments: &str| {
        let request = format!(r#"{{"execute":"x-guest-authenticate","arguments":{arguments}}}"#);
        agent.connect().ask(&request)
    };
    assert_eq!(
        ask(r#"{"token":"0123456789abcdef"}"#),
        failed("no token is configured (vsock-token-file)")
    );
    assert_eq!(ask("{}"), failed("Parameter 'token' is missing"));
}

/// linux/vm_sockets.h: this very machine.
const VMADDR_CID_LOCAL: u32 = 1;

fn vsock_to(port: u32) -> nix::Result<OwnedFd> {
    let kind = (
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
    );
    let fd = socket(kind.0, kind.1, kind.2, None)?;
    connect(fd.as_raw_fd(), &VsockAddr::new(VMADDR_CID_LOCAL, port)).map(|()| fd)
}

#[test]
fn vsock_over_the_loopback() {
    // Nobody listens there: refused where there is a loopback.
    match vsock_to(u32::MAX - 1) {
        Err(nix::Error::ECONNRESET | nix::Error::ECONNREFUSED) => {}
        other => {
            let why = "no vsock loopback here (modprobe vsock_loopback): ";
            return not_run(&format!("{why}{other:?}"));
        }
    }
    let place = Place::new();
    let port = 20_000 + std::process::id() % 40_000;
    let address = format!("{VMADDR_CID_LOCAL}:{port}");
    let mut command = place.command();
    command.args(["-m", "vsock-listen", "-p", &address]);
    if is_ours() {
        command.arg("--vsock-allow-cid=1");
    }
    command.arg("-t").arg(place.path("state"));
    let agent = Agent::adopt(command.spawn().expect("starts"));
    for _ in 0..2 {
        let mut stream = None;
        wait_until("the agent listens", || {
            stream = vsock_to(port).ok();
            stream.is_some()
        });
        let mut stream = BufReader::new(File::from(stream.expect("connected")));
        let limit = i64::try_from(PATIENCE.as_secs()).expect("seconds");
        let limit = TimeVal::seconds(limit);
        let option = nix::sys::socket::sockopt::ReceiveTimeout;
        nix::sys::socket::setsockopt(stream.get_ref(), option, &limit).expect("timeout");
        let request = crate::support::cmd("guest-ping");
        stream
            .get_mut()
            .write_all(request.as_bytes())
            .expect("write");
        let mut line = String::new();
        stream.read_line(&mut line).expect("a reply");
        assert_eq!(line, "{\"return\": {}}\n");
    }
    assert!(agent.stop().success());
}
