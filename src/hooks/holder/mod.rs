//! Holding hooks: programs that keep an application quiesced as long as they run, such as a database session with a
//! lock.
//!
//! The master of the freeze ends before the thaw, so each holding hook runs under a holder ([`process`]). The holder is
//! the hook's parent: it learns of the hook's end at once, keeps its output in memory while no disk can be written, and
//! ends it at its limit. The master of the thaw connects to the holder's socket in the agent's state directory. If the
//! holder dies, the hook's stdin reaches its end, and the hook lets the application continue by itself.
//!
//! A hook is released once. If a master is killed during the thaw, its successor waits for the same result and gets it
//! as well; after that the socket no longer exists. The socket of a holder that died, or that gave up waiting for a
//! thaw, stays.

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

const HOLDER_RESPONSE_GRACE: Duration = Duration::from_secs(2);
const HOLDER_SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer a hook may hold than the agent's hold limit, so that the agent's own thaw comes first.
const HOLD_LIMIT_GRACE_SECONDS: f64 = 60.0;

#[derive(Debug, Serialize, Deserialize)]
struct HolderRequest {
    program: PathBuf,
    args: Vec<String>,
    user: Option<String>,
    /// Seconds to become ready, and again to end after the release; None: no limit.
    timeout: Option<f64>,
    kill_after: f64,
    /// Seconds; None: no limit.
    hold: Option<f64>,
    output_limit: u64,
    socket: PathBuf,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct HolderResponse {
    /// How the hook ended; None: it holds.
    status: Option<HookStatus>,
    /// Seconds that it had held, if it ended before its release.
    lost: Option<f64>,
    output: String,
}

#[derive(Debug)]
pub struct Released {
    pub ended: CommandOutcome,
    /// Why it did not hold until its release; None: it did.
    pub lost: Option<String>,
}

/// Waits until the hook is ready. The status is None if it holds now.
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
            // The holder exits by itself when the connection closes. It only must be reaped, so that no
            // zombie remains.
            reap_later(pid).ok();
        }
        response
    });
    let (status, output) = match result {
        Ok(Some(HolderResponse { status, output, .. })) => (status, output),
        Ok(None) => (Some(HookStatus::Cancelled), String::new()),
        Err(error) => {
            let why = format!("its holder failed: {}", strerror(&error));
            (Some(HookStatus::cannot_run(why)), String::new())
        }
    };
    hook_run.log().output(output.as_bytes());
    hook_run.log().end_output();
    let ended = ended(status.clone().unwrap_or(HookStatus::Exited(0)), &output);
    (status, ended)
}

fn spawn(
    hook_run: &HookRun,
    request: &HolderRequest,
    time: Option<Duration>,
) -> io::Result<(i32, Connection)> {
    let (ours, theirs) = UnixStream::pair()?;
    // systemd kills all processes in the cgroup of a service that it stops. The holder leaves the agent's
    // cgroup, because an application depends on it until the thaw.
    let cgroup_escape = crate::sys::guardian::service_cgroup_escape().unwrap_or_default();
    let child = Child::self_exe()
        .args(["hook", "hold"])
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

/// None: the master must stop.
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
    // The response is complete or about to be.
    connection.recv(Some(HOLDER_SEND_TIMEOUT)).map(Some)
}

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
    // The holder removes its socket itself unless it died.
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
                "its holder does not answer ({}), so how long it held is unknown",
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
