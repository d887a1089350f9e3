//! Starts the program of a guest-exec. Floor 4.
//!
//! Decides where the program is looked for and what its three descriptors are; [`spawn`] does the rest. A child has
//! /dev/null where a stream is not wanted, never a descriptor of the agent.

use super::CaptureMode;
use crate::protocol::error::CommandError;
use crate::protocol::text;
use crate::sys::spawn::{self, Program, SpawnError, above_stdio, candidates};
use crate::sys::strerror;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// If PATH is not set, as in the original.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin:.";

#[derive(Debug)]
pub struct Started {
    pub pid: i32,
    pub input: Option<OwnedFd>,
    pub out: Option<OwnedFd>,
    pub err: Option<OwnedFd>,
}

/// `words[0]` is the program, `env` the whole environment (`None`: the agent's). Without `input`, stdin is /dev/null.
/// After an error there is no child.
pub fn launch(
    words: &[&str],
    env: Option<&[String]>,
    input: bool,
    mode: CaptureMode,
) -> Result<Started, CommandError> {
    let path = words.first().copied().unwrap_or_default();
    let argv: Vec<CString> = words.iter().map(|word| c_string(word)).collect();
    let env: Option<Vec<CString>> = env.map(|env| env.iter().map(|v| c_string(v)).collect());
    let candidates = program_candidates(path, env.as_deref());

    // Above 2, because the child's own descriptors take those numbers one after the other.
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = above_stdio(null.map_err(pipe_error)?.into()).map_err(pipe_error)?;
    let stdin = create_pipe(input).map_err(pipe_error)?;
    let stdout = create_pipe(!matches!(mode, CaptureMode::None | CaptureMode::Stderr))
        .map_err(pipe_error)?;
    let stderr = create_pipe(matches!(mode, CaptureMode::Stderr | CaptureMode::Separated))
        .map_err(pipe_error)?;

    // Merged: both ends write to one pipe, so that the order of lines is kept.
    let error = if mode == CaptureMode::Merged {
        &stdout
    } else {
        &stderr
    };
    let program = Program {
        candidates: &candidates,
        argv: &argv,
        env: env.as_deref(),
        stdio: [
            stdin
                .as_ref()
                .map_or(null.as_fd(), |pipe| pipe.read.as_fd()),
            write_end(&stdout, &null),
            write_end(error, &null),
        ],
        family: None,
        keep: &[],
        announcements: &[],
        user: None,
    };
    let pid = spawn::spawn(&program).map_err(|error| spawn_error(path, &error))?;
    Ok(Started {
        pid,
        input: stdin.map(|pipe| pipe.write),
        out: stdout.map(|pipe| pipe.read),
        err: stderr.map(|pipe| pipe.read),
    })
}

fn pipe_error(error: io::Error) -> CommandError {
    CommandError::generic(format!(
        "Failed to create pipe for communicating with child process ({})",
        strerror(&error)
    ))
}

fn spawn_error(path: &str, error: &SpawnError) -> CommandError {
    CommandError::generic(match error {
        SpawnError::Fork(error) => format!("Failed to fork ({})", strerror(error)),
        SpawnError::Exec(error) => format!(
            "Failed to execute child process \u{201C}{path}\u{201D} ({})",
            strerror(error)
        ),
    })
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

fn create_pipe(wanted: bool) -> io::Result<Option<Pipe>> {
    if !wanted {
        return Ok(None);
    }
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    Ok(Some(Pipe {
        read: above_stdio(read)?,
        write: above_stdio(write)?,
    }))
}

fn write_end<'a>(pipe: &'a Option<Pipe>, null: &'a OwnedFd) -> BorrowedFd<'a> {
    pipe.as_ref()
        .map_or(null.as_fd(), |pipe| pipe.write.as_fd())
}

/// A NUL of the wire's text is C0 80 to the system ([`text::to_os_bytes`]), so the conversion cannot fail.
fn c_string(text: &str) -> CString {
    CString::new(text::to_os_bytes(text)).unwrap_or_default()
}

/// In the PATH of the child or, if its environment has none, in the agent's.
fn program_candidates(name: &str, env: Option<&[CString]>) -> Vec<CString> {
    let given = env.and_then(|env| {
        env.iter()
            .find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="))
    });
    let ours = std::env::var_os("PATH");
    let path = given
        .or(ours.as_ref().map(|path| path.as_bytes()))
        .unwrap_or(DEFAULT_PATH);
    candidates(&text::to_os_bytes(name), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_name_is_looked_for() {
        let list = |name: &str, env: Option<&[&str]>| -> Vec<String> {
            let env: Option<Vec<CString>> = env.map(|e| e.iter().map(|v| c_string(v)).collect());
            program_candidates(name, env.as_deref())
                .into_iter()
                .map(|file| file.into_string().unwrap())
                .collect()
        };
        assert_eq!(list("./x", Some(&["PATH=/a"])), ["./x"]);
        assert_eq!(list("", Some(&["PATH=/a"])), [""]);
        assert_eq!(
            list("x", Some(&["A=1", "PATH=/a::/b/", "PATH=/c"])),
            ["/a/x", "x", "/b//x"]
        );
        let ours = list("x", None);
        assert!(ours.contains(&"/usr/bin/x".to_owned()), "{ours:?}");
        assert_eq!(list("x", Some(&["A=1"])), ours);
    }
}
