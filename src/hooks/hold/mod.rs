//! Holding hooks: what keeps an application quiet by staying alive, a database session with its lock.
//!
//! Between the master of the freeze and that of the thaw stands a keeper, one process for each such
//! hook ([`keeper`]): it is the hook's parent, so it knows at once when the hook ends, keeps its output
//! while no disk may be written, and ends it at its limit. The master of the thaw reaches it at its
//! door, a socket in the agent's state directory. If the keeper dies, the hook's input ends, and the
//! hook undoes by itself.

mod keeper;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use super::call::{Ended, TAIL, environment, refused};
use super::desk::Desk;
use super::policy::Policy;
use super::step::Call;
use super::{HookStatus, ThawReason};
use crate::sys::poll::timeout;
use crate::sys::process::{Family, own_program, prepare};
use crate::sys::strerror;

pub use keeper::cli;

/// What a keeper may take besides what its hook may.
const SLACK: Duration = Duration::from_secs(2);
/// How much longer than the agent lets a freeze last a hook may hold, in seconds.
const BEYOND: f64 = 60.0;

/// What a keeper is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    program: PathBuf,
    args: Vec<String>,
    user: Option<String>,
    /// Time to become ready, and to let go, in seconds.
    timeout: Option<f64>,
    kill_after: f64,
    /// How long it may hold, in seconds.
    hold: Option<f64>,
    output_limit: u64,
    door: PathBuf,
}

/// What a keeper says: after the start, and at the end.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Word {
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
    pub ended: Ended,
    /// Why it did not hold until now, if it did not.
    pub lost: Option<String>,
}

/// Starts the holding hook of `call` and waits until it is ready; None in place of a status: it holds.
pub fn start(
    desk: &Desk,
    policy: &Policy,
    call: &Call,
    door: &Path,
) -> (Option<HookStatus>, Ended) {
    let time = desk.time_for(call.timeout);
    let ended = |status: HookStatus, output: &str| Ended {
        status,
        tail: tail_of(output),
    };
    if let Some(status) = refused(&call.program) {
        return (Some(status.clone()), status.into());
    }
    let hold = match (policy.hold_timeout, desk.run.hold_limit) {
        (Some(limit), _) => Some(limit.as_secs_f64()),
        (None, limit) if limit > 0.0 => Some(limit + BEYOND),
        (None, _) => None,
    };
    let order = Order {
        program: call.program.clone(),
        args: call
            .args
            .iter()
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect(),
        user: policy.user.clone(),
        timeout: time.map(|time| time.as_secs_f64()),
        kill_after: policy.kill_after.as_secs_f64(),
        hold,
        output_limit: policy.output_limit,
        door: door.to_owned(),
    };
    let patience = time.map(|time| time + policy.kill_after + SLACK);
    let said = spawn(desk, &order, time).and_then(|(mut keeper, said)| {
        let heard = hear(said, patience, desk.stop.as_ref());
        if !matches!(heard, Ok(Some(Word { status: None, .. }))) {
            // It goes by itself when nobody listens; it is only not to be left a zombie.
            std::thread::spawn(move || keeper.wait());
        }
        heard
    });
    let (status, output) = match said {
        Ok(Some(Word { status, output, .. })) => (status, output),
        Ok(None) => (Some(HookStatus::Cancelled), String::new()),
        Err(error) => {
            let why = format!("its keeper failed: {}", strerror(&error));
            (Some(HookStatus::cannot_run(why)), String::new())
        }
    };
    desk.log().output(output.as_bytes());
    desk.log().end_output();
    let ended = ended(status.clone().unwrap_or(HookStatus::Exited(0)), &output);
    (status, ended)
}

/// The keeper, and what it says.
fn spawn(desk: &Desk, order: &Order, time: Option<Duration>) -> io::Result<(Child, File)> {
    let (said, say) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let mut command = own_program()?;
    command
        .args(["hook", "keep"])
        .stdin(Stdio::piped())
        .stdout(say)
        .stderr(Stdio::null());
    for (name, value) in environment(desk, time) {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    // Whoever stops the agent's service must not end what an application waits for.
    let ways_out = crate::sys::guardian::ways_out_of_service().unwrap_or_default();
    prepare(&mut command, Family::Session, Vec::new(), ways_out);
    let mut keeper = command.spawn()?;
    // Our copy of its end would keep the pipe open after its death.
    drop(command);
    let mut orders = keeper.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    orders.write_all(&serde_json::to_vec(order)?)?;
    Ok((keeper, said.into()))
}

/// All that the keeper says; None: the run is to stop.
fn hear(
    mut said: File,
    patience: Option<Duration>,
    stop: Option<&OwnedFd>,
) -> io::Result<Option<Word>> {
    let due = patience.and_then(|patience| Instant::now().checked_add(patience));
    let mut text = Vec::new();
    loop {
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let mut fds = vec![PollFd::new(said.as_fd(), PollFlags::POLLIN)];
        fds.extend(stop.map(|stop| PollFd::new(stop.as_fd(), PollFlags::POLLIN)));
        if poll(&mut fds, timeout(left))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if fds.get(1).and_then(PollFd::any).unwrap_or(false) {
            return Ok(None);
        }
        let mut buffer = [0; 4096];
        match said.read(&mut buffer)? {
            0 => return Ok(serde_json::from_slice(&text).map(Some)?),
            length => text.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Lets the hook go whose keeper is at `door`, and waits for its end.
pub fn release(desk: &Desk, policy: &Policy, door: &Path, reason: ThawReason) -> Released {
    let patience = policy
        .timeout
        .map(|timeout| timeout + policy.kill_after + SLACK);
    let told = speak(door, reason, patience);
    // Normally the keeper's own doing.
    std::fs::remove_file(door).ok();
    match told {
        Ok(told) => {
            desk.log().output(told.output.as_bytes());
            desk.log().end_output();
            Released {
                lost: told.lost.map(|held| {
                    format!("it ended {held:.3} s after it was ready, before it was released")
                }),
                ended: Ended {
                    status: told.status.unwrap_or(HookStatus::TimedOut),
                    tail: tail_of(&told.output),
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

fn speak(door: &Path, reason: ThawReason, patience: Option<Duration>) -> io::Result<Word> {
    let mut line = UnixStream::connect(door)?;
    line.set_read_timeout(patience)?;
    line.write_all(reason.as_str().as_bytes())?;
    line.write_all(b"\n")?;
    let mut text = Vec::new();
    line.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn tail_of(output: &str) -> Vec<u8> {
    let bytes = output.as_bytes();
    bytes[bytes.len().saturating_sub(TAIL)..].to_vec()
}
