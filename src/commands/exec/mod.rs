//! Floor 4: programs in the guest: guest-exec and guest-exec-status.
//!
//! A child runs beside the agent: its end is noticed by SIGCHLD, its pipes are served by tasks, so
//! nothing that it or its descendants do keeps the agent from answering, and nothing runs here
//! while there is no child. Its record stays until its end was reported.

mod capture;
mod children;
mod launch;
#[cfg(test)]
mod tests;

use super::{Command, CommandResult, Context, Waiting, answer};
use crate::protocol::arguments::{Alternate, decode};
use crate::protocol::base64;
use crate::protocol::error::CommandError;
use crate::protocol::value::Dict;
use crate::sys::spawn::WaitStatus;
use capture::Captured;
use serde::{Deserialize, Serialize};

pub use children::Children;

pub(super) const COMMANDS: &[Command] = &[
    Command::later(31, "guest-exec-status", exec_status),
    Command::now(32, "guest-exec", exec),
];

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Exec {
    path: String,
    arg: Option<Vec<String>>,
    env: Option<Vec<String>>,
    input_data: Option<String>,
    capture_output: Option<Alternate<bool, Mode>>,
}

/// What of the child's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename = "GuestExecCaptureOutput", rename_all = "kebab-case")]
enum Mode {
    None,
    Stdout,
    Stderr,
    Separated,
    Merged,
}

#[derive(Serialize)]
struct Pid {
    pid: i32,
}

#[derive(Deserialize)]
struct ExecStatus {
    pid: i64,
}

/// What came of a child; only the first member until it has ended.
#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    exited: bool,
    exitcode: Option<i32>,
    signal: Option<i32>,
    out_data: Option<String>,
    err_data: Option<String>,
    out_truncated: Option<bool>,
    err_truncated: Option<bool>,
}

fn exec(context: &mut Context, arguments: Dict) -> CommandResult {
    let exec: Exec = decode(arguments)?;
    let input = exec.input_data.as_deref().map(base64::decode).transpose()?;
    let arguments = exec.arg.unwrap_or_default();
    let words: Vec<&str> = std::iter::once(&exec.path)
        .chain(&arguments)
        .map(String::as_str)
        .collect();
    tracing::info!(target: crate::AUDIT, "guest-exec called: \"{}\"", words.join(" "));
    let mode = match exec.capture_output {
        None | Some(Alternate::Scalar(false)) => Mode::None,
        Some(Alternate::Scalar(true)) => Mode::Separated,
        Some(Alternate::Name(mode)) => mode,
    };
    let started = launch::launch(&words, exec.env.as_deref(), input.is_some(), mode)?;
    let pid = started.pid;
    context.children.add(started, input)?;
    answer(Pid { pid })
}

fn exec_status(context: &mut Context, arguments: Dict) -> Waiting<'_> {
    Box::pin(async move {
        let ExecStatus { pid } = decode(arguments)?;
        tracing::info!(target: crate::AUDIT, "guest-exec-status called, pid: {pid}");
        match context.children.report(pid).await {
            // The original's format string is broken, and clients may know its text.
            None => Err(CommandError::generic("PID ld does not exist")),
            Some(None) => answer(Status::default()),
            Some(Some((ended, out, err))) => answer(status(ended, out, err)),
        }
    })
}

fn status(ended: WaitStatus, out: Captured, err: Captured) -> Status {
    let data = |captured: &Captured| {
        let present = !captured.data.is_empty();
        (
            present.then(|| base64::encode(&captured.data)),
            (present || captured.truncated).then_some(captured.truncated),
        )
    };
    let (out_data, out_truncated) = data(&out);
    let (err_data, err_truncated) = data(&err);
    let (exitcode, signal) = match ended {
        WaitStatus::Exited(code) => (Some(code), None),
        WaitStatus::Signaled(signal) => (None, Some(signal)),
    };
    Status {
        exited: true,
        exitcode,
        signal,
        out_data,
        err_data,
        out_truncated,
        err_truncated,
    }
}
