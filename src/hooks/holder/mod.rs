//! Holding hooks: what keeps an application quiet by staying alive, a database session with its lock.
//!
//! Between the master of the freeze and that of the thaw stands a keeper, one process for each such
//! hook ([`process`]): it is the hook's parent, so it knows at once when the hook ends, keeps its output
//! while no disk may be written, and ends it at its limit. The master of the thaw reaches it at its
//! door, a socket in the agent's state directory. If the keeper dies, the hook's input ends, and the
//! hook undoes by itself.
//!
//! A hook is released once: a second master, after whoever was killed in between, waits for the outcome
//! of the first and gets it too, and after that finds no door any more. The door of a keeper that died,
//! or gave up waiting for a thaw, stays.

mod process;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use super::exec::{
    CommandOutcome, MAX_TAIL_BYTES, check_not_writable, environment, with_environment,
};
use super::hook_run::HookRun;
use super::settings::HookSettings;
use super::task::CommandLine;
use super::{HookStatus, ThawReason};
use crate::child::{Child, reap_later};
use crate::ipc::Connection;
use crate::sys::poll::timeout;
use crate::sys::strerror;

pub use process::cli;

/// What a keeper may take besides what its hook may.
const HOLDER_RESPONSE_GRACE: Duration = Duration::from_secs(2);
/// What either side has to take in a message.
const HOLDER_SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer than the agent lets a freeze last a hook may hold, in seconds.
const HOLD_LIMIT_GRACE_SECONDS: f64 = 60.0;

/// What a keeper is to do.
#[derive(Debug, Serialize, Deserialize)]
struct HolderRequest {
    program: PathBuf,
    args: Vec<String>,
    user: Option<String>,
    /// Time to become ready, and to let go, in seconds.
    timeout: Option<f64>,
    kill_after: f64,
    /// How long it may hold, in seconds.
    hold: Option<f64>,
    output_limit: u64,
    #[serde(rename = "door")]
    socket: PathBuf,
}

/// What a keeper says: after the start, and at the end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct HolderResponse {
    /// How the hook ended; None: it holds.
    status: Option<HookStatus>,
    /// If it ended before it was released: how long it had held, in seconds.
    lost: Option<f64>,
    output: String,
}

/// What came of letting a hook go.
#[derive(Debug)]
pub struct Released {
    /// How it ended.
    pub ended: CommandOutcome,
    /// Why it did not hold until now, if it did not.
    pub lost: Option<String>,
}

/// Starts the holding hook of `call` and waits until it is ready; None in place of a status: it holds.
pub fn start(
    hook_run: &HookRun,
    policy: &HookSettings,
    command: &CommandLine,
    socket: &Path,
) -> (Option<HookStatus>, CommandOutcome) {
    let time = hook_run.time_for(command.timeout);
    let ended = |status: HookStatus, output: &str| CommandOutcome {
        status,
        tail: tail_of(output),
    };
    if let Some(status) = check_not_writable(&command.program) {
        return (Some(status.clone()), status.into());
    }
    let hold = match (policy.hold_timeout, hook_run.run.hold_limit) {
        (Some(limit), _) => Some(limit.as_secs_f64()),
        (None, limit) if limit > 0.0 => Some(limit + HOLD_LIMIT_GRACE_SECONDS),
        (None, _) => None,
    };
    let request = HolderRequest {
        program: command.program.clone(),
        args: command
            .args
            .iter()
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect(),
        user: policy.user.clone(),
        timeout: time.map(|time| time.as_secs_f64()),
        kill_after: policy.kill_after.as_secs_f64(),
        hold,
        output_limit: policy.output_limit,
        socket: socket.to_owned(),
    };
    let response_timeout = time.map(|time| time + policy.kill_after + HOLDER_RESPONSE_GRACE);
    let result = spawn(hook_run, &request, time).and_then(|(pid, connection)| {
        let response = wait_until_ready(connection, response_timeout, hook_run.stop.as_ref());
        if !matches!(response, Ok(Some(HolderResponse { status: None, .. }))) {
            // It goes by itself when nobody listens; it is only not to be left a zombie.
            reap_later(pid).ok();
        }
        response
    });
    let (status, output) = match result {
        Ok(Some(HolderResponse { status, output, .. })) => (status, output),
        Ok(None) => (Some(HookStatus::Cancelled), String::new()),
        Err(error) => {
            let why = format!("its keeper failed: {}", strerror(&error));
            (Some(HookStatus::cannot_run(why)), String::new())
        }
    };
    hook_run.log().output(output.as_bytes());
    hook_run.log().end_output();
    let ended = ended(status.clone().unwrap_or(HookStatus::Exited(0)), &output);
    (status, ended)
}

/// The keeper, and the line to it.
fn spawn(
    hook_run: &HookRun,
    request: &HolderRequest,
    time: Option<Duration>,
) -> io::Result<(i32, Connection)> {
    let (ours, theirs) = UnixStream::pair()?;
    // Whoever stops the agent's service must not end what an application waits for.
    let cgroup_escape = crate::sys::guardian::service_cgroup_escape().unwrap_or_default();
    let child = Child::own_program()
        .args(["hook", "keep"])
        .stdin_from(OwnedFd::from(theirs))
        .output_to(File::options().write(true).open("/dev/null")?)
        .announce(cgroup_escape);
    let mut ignore = |_: &[u8]| ();
    let started = with_environment(child, environment(hook_run, time)).start(&mut ignore);
    let pid = started.map_err(io::Error::other)?.pid();
    let connection = Connection::from(ours);
    connection.send(request, HOLDER_SEND_TIMEOUT)?;
    Ok((pid, connection))
}

/// What the keeper says; None: the run is to stop.
fn wait_until_ready(
    mut connection: Connection,
    response_timeout: Option<Duration>,
    stop: Option<&OwnedFd>,
) -> io::Result<Option<HolderResponse>> {
    let mut fds = vec![PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
    fds.extend(stop.map(|stop| PollFd::new(stop.as_fd(), PollFlags::POLLIN)));
    poll(&mut fds, timeout(response_timeout))?;
    if fds.get(1).and_then(PollFd::any).unwrap_or(false) {
        return Ok(None);
    }
    // All of it is there or about to be.
    connection.recv(Some(HOLDER_SEND_TIMEOUT)).map(Some)
}

/// Lets the hook go whose keeper is at `door`, and waits for its end.
pub fn release(
    hook_run: &HookRun,
    policy: &HookSettings,
    socket: &Path,
    reason: ThawReason,
) -> Released {
    let response_timeout = policy
        .timeout
        .map(|timeout| timeout + policy.kill_after + HOLDER_RESPONSE_GRACE);
    let response = match request_release(socket, reason, response_timeout) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let line = "it was released before, by another thaw";
            hook_run.log().line(line);
            return Released {
                ended: HookStatus::Exited(0).into(),
                lost: None,
            };
        }
        response => response,
    };
    // Normally the keeper's own doing.
    std::fs::remove_file(socket).ok();
    match response {
        Ok(response) => {
            hook_run.log().output(response.output.as_bytes());
            hook_run.log().end_output();
            Released {
                lost: response.lost.map(|held| {
                    format!("it ended {held:.3} s after it was ready, before it was released")
                }),
                ended: CommandOutcome {
                    status: response.status.unwrap_or(HookStatus::TimedOut),
                    tail: tail_of(&response.output),
                },
            }
        }
        Err(error) => {
            let why = format!(
                "its keeper does not answer ({}), so nobody knows how long it held",
                strerror(&error)
            );
            Released {
                ended: HookStatus::cannot_run(why.clone()).into(),
                lost: Some(why),
            }
        }
    }
}

fn request_release(
    socket: &Path,
    reason: ThawReason,
    response_timeout: Option<Duration>,
) -> io::Result<HolderResponse> {
    let mut connection = Connection::from(UnixStream::connect(socket)?);
    connection.send(&reason, HOLDER_SEND_TIMEOUT)?;
    connection.recv(response_timeout)
}

fn tail_of(output: &str) -> Vec<u8> {
    let bytes = output.as_bytes();
    bytes[bytes.len().saturating_sub(MAX_TAIL_BYTES)..].to_vec()
}
