//! Floor 4: programs in the guest: guest-exec and guest-exec-status.
//!
//! guest-exec returns as soon as the program is executed (`launch`). SIGCHLD says when it ends (`children`), and tasks read
//! its output and write its input (`capture`), so nothing that it or its descendants do keeps the agent from answering, and
//! without children there are no wakeups. Its record stays until guest-exec-status has reported its end once.

mod capture;
mod children;
mod launch;
#[cfg(test)]
mod tests;

use super::{Class, Command, CommandFuture, CommandResult, Context, answer};
use crate::protocol::arguments::decode;
use crate::protocol::base64;
use crate::protocol::error::CommandError;
use crate::protocol::value::Dict;
use crate::sys::spawn::WaitStatus;
use capture::Captured;
use serde::{Deserialize, Serialize};

pub(crate) use children::Children;

pub(super) const COMMANDS: &[Command] = &[
    Command::later(31, "guest-exec-status", Class::Exec, exec_status),
    Command::now(32, "guest-exec", Class::Exec, exec),
];

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Exec {
    path: String,
    arg: Option<Vec<String>>,
    env: Option<Vec<String>>,
    input_data: Option<String>,
    capture_output: Option<GuestExecCaptureOutput>,
}

/// The schema's name, which error texts contain.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum GuestExecCaptureOutput {
    None,
    Stdout,
    Stderr,
    Separated,
    Merged,
    Boolean(bool),
}

/// Which of the child's outputs are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CaptureMode {
    None,
    Stdout,
    Stderr,
    Separated,
    Merged,
}

impl From<GuestExecCaptureOutput> for CaptureMode {
    fn from(argument: GuestExecCaptureOutput) -> Self {
        match argument {
            GuestExecCaptureOutput::None | GuestExecCaptureOutput::Boolean(false) => Self::None,
            GuestExecCaptureOutput::Stdout => Self::Stdout,
            GuestExecCaptureOutput::Stderr => Self::Stderr,
            GuestExecCaptureOutput::Separated | GuestExecCaptureOutput::Boolean(true) => {
                Self::Separated
            }
            GuestExecCaptureOutput::Merged => Self::Merged,
        }
    }
}

#[derive(Serialize)]
struct ExecReply {
    pid: i32,
}

#[derive(Deserialize)]
struct ExecStatus {
    pid: i64,
}

/// Only the first member until the child has ended.
#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ExecStatusReply {
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
    let mode = exec
        .capture_output
        .map_or(CaptureMode::None, CaptureMode::from);
    let started = launch::launch(&words, exec.env.as_deref(), input.is_some(), mode)?;
    let pid = started.pid;
    context.children.add(started, input)?;
    answer(ExecReply { pid })
}

fn exec_status(context: &mut Context, arguments: Dict) -> CommandFuture<'_> {
    Box::pin(async move {
        let ExecStatus { pid } = decode(arguments)?;
        tracing::info!(target: crate::AUDIT, "guest-exec-status called, pid: {pid}");
        match context.children.report(pid).await {
            // The original's format string lacks its `%`, and clients may compare the text.
            None => Err(CommandError::generic("PID ld does not exist")),
            Some(None) => answer(ExecStatusReply::default()),
            Some(Some((ended, out, err))) => answer(describe_end(ended, out, err)),
        }
    })
}

fn describe_end(ended: WaitStatus, out: Captured, err: Captured) -> ExecStatusReply {
    // An empty stream has no member at all, unless output of it was dropped.
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
    ExecStatusReply {
        exited: true,
        exitcode,
        signal,
        out_data,
        err_data,
        out_truncated,
        err_truncated,
    }
}
