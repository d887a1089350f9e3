//! Floor 4: files of the guest: guest-file-open, -close, -read, -write, -seek, -flush.
//!
//! A handle is a number from a counter on disk: after a restart of the agent no new file gets the handle of an old one,
//! which a client may still hold. Handles belong to the agent and not to a connection. Each is a [`Stream`] with the
//! buffering of stdio, which clients of the original see. These handlers run within the session's task, because they block
//! no longer than the original's.

mod open;
mod stream;
#[cfg(test)]
mod tests;

use super::{Answer, Class, Command, CommandResult, Context, answer, empty};
use crate::protocol::arguments::decode;
use crate::protocol::base64;
use crate::protocol::error::CommandError;
use crate::protocol::value::{Dict, Value};
use crate::state::StateDir;
use crate::sys::strerror;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{self, SeekFrom};
use stream::{ReadEnd, Stream, TransferError};

pub(super) const COMMANDS: &[Command] = &[
    Command::now(8, "guest-file-open", Class::File, |context, arguments| {
        let FileOpen { path, mode } = decode(arguments)?;
        answer(context.files.open(&path, mode.as_deref())?)
    }),
    Command::now(9, "guest-file-close", Class::File, |context, arguments| {
        let Handle { handle } = decode(arguments)?;
        context.files.close(handle)?;
        empty()
    }),
    Command::now(10, "guest-file-read", Class::File, read),
    Command::now(11, "guest-file-write", Class::File, write),
    Command::now(12, "guest-file-seek", Class::File, seek),
    Command::now(13, "guest-file-flush", Class::File, |context, arguments| {
        let Handle { handle } = decode(arguments)?;
        let flushed = context.files.find(handle)?.flush();
        flushed.map_err(|e| file_error("flush", &e))?;
        empty()
    }),
];

#[derive(Deserialize)]
struct FileOpen {
    path: String,
    mode: Option<String>,
}

#[derive(Deserialize)]
struct Handle {
    handle: i64,
}

#[derive(Deserialize)]
struct FileRead {
    handle: i64,
    count: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FileWrite {
    handle: i64,
    buf_b64: String,
    count: Option<i64>,
}

#[derive(Deserialize)]
struct FileSeek {
    handle: i64,
    offset: i64,
    whence: GuestFileWhence,
}

/// The schema's name, which error texts contain.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum GuestFileWhence {
    Set,
    Cur,
    End,
    Integer(i64),
}

#[derive(Serialize)]
struct Written {
    count: i64,
    eof: bool,
}

#[derive(Serialize)]
struct Position {
    position: u64,
    eof: bool,
}

/// As the schema has it.
const DEFAULT_COUNT: i64 = 4096;
/// As in the original. The reply is a third longer, in base64.
const MAX_COUNT: i64 = 48 << 20;
/// A multiple of 3, so that base64 has no padding inside, and of the block size.
const CHUNK_BYTES: usize = 48 << 10;

#[derive(Debug)]
pub struct Files {
    state: StateDir,
    /// `None` until the counter was read.
    next: Option<i64>,
    open: HashMap<i64, Stream>,
}

impl Files {
    pub fn new(state: StateDir) -> Self {
        Self {
            state,
            next: None,
            open: HashMap::new(),
        }
    }

    fn find(&mut self, handle: i64) -> Result<&mut Stream, CommandError> {
        self.open
            .get_mut(&handle)
            .ok_or_else(|| unknown_handle(handle))
    }

    fn open(&mut self, path: &str, mode: Option<&str>) -> Result<i64, CommandError> {
        let mode = mode.unwrap_or("r");
        tracing::info!(target: crate::AUDIT, "guest-file-open called, filepath: {path}, mode: {mode}");
        let stream = open::open(path, mode)?;
        let handle = self.allocate_handle().map_err(|e| {
            tracing::error!(
                "failed to write persistent state to {}: {}",
                self.state.path().display(),
                strerror(&e)
            );
            CommandError::generic("failed to commit persistent state to disk")
        })?;
        self.open.insert(handle, stream);
        tracing::info!(target: crate::AUDIT, "guest-file-open, handle: {handle}");
        Ok(handle)
    }

    /// The successor is on disk before a handle is used: a crash must not make two files share one.
    fn allocate_handle(&mut self) -> io::Result<i64> {
        let number = match self.next {
            Some(number) => number,
            None => self.state.next_handle(),
        };
        let next = number + 1;
        self.state.set_next_handle(next)?;
        self.next = Some(next);
        Ok(number)
    }

    fn close(&mut self, handle: i64) -> Result<(), CommandError> {
        tracing::info!(target: crate::AUDIT, "guest-file-close called, handle: {handle}");
        let stream = self.open.remove(&handle);
        let stream = stream.ok_or_else(|| unknown_handle(handle))?;
        stream
            .close()
            .map_err(|e| CommandError::generic(format!("failed to close handle: {}", strerror(&e))))
    }
}

impl Drop for Files {
    /// As stdio does at exit.
    fn drop(&mut self) {
        for (handle, stream) in self.open.drain() {
            if let Err(e) = stream.close() {
                tracing::warn!(
                    "cannot write the data of file handle {handle} on exit: {}; it is lost",
                    strerror(&e)
                );
            }
        }
    }
}

fn unknown_handle(handle: i64) -> CommandError {
    CommandError::generic(format!("handle '{handle}' has not been found"))
}

fn bad_count(count: i64) -> CommandError {
    CommandError::generic(format!("value '{count}' is invalid for argument count"))
}

fn file_error(what: &str, error: &io::Error) -> CommandError {
    CommandError::generic(format!("failed to {what} file: {}", strerror(error)))
}

/// Also writes the audit line.
fn transfer_failed(handle: i64, what: &str, failure: &TransferError) -> CommandError {
    let (what, error) = match failure {
        TransferError::Flush(error) => ("flush", error),
        TransferError::Seek(error) => ("seek", error),
        TransferError::Transfer(error) => {
            // The original writes this line for reads, too.
            tracing::info!(target: crate::AUDIT, "guest-file-write failed, handle: {handle}");
            (what, error)
        }
    };
    file_error(what, error)
}

fn read(context: &mut Context, arguments: Dict) -> CommandResult {
    let FileRead { handle, count } = decode(arguments)?;
    let stream = context.files.find(handle)?;
    let count = count.unwrap_or(DEFAULT_COUNT);
    if !(0..=MAX_COUNT).contains(&count) {
        return Err(bad_count(count));
    }
    stream
        .prepare_read()
        .map_err(|failure| transfer_failed(handle, "read", &failure))?;
    let mut left = usize::try_from(count).map_err(|_| bad_count(count))?;
    let mut piece = vec![0; left.min(CHUNK_BYTES)];
    let mut text = String::new();
    let mut total = 0;
    let mut eof = false;
    while left > 0 {
        let wanted = left.min(CHUNK_BYTES);
        let (length, end) = stream.read(&mut piece[..wanted]);
        base64::encode_onto(&mut text, &piece[..length]);
        total += length as i64;
        left -= length;
        match end {
            ReadEnd::Full => {}
            ReadEnd::Eof => {
                eof = true;
                break;
            }
            ReadEnd::Failed(error) if total == 0 => {
                return Err(transfer_failed(
                    handle,
                    "read",
                    &TransferError::Transfer(error),
                ));
            }
            // A pipe that is empty now, or a bad sector: what was read before it is returned, and an error that persists
            // is that of the next read.
            ReadEnd::Failed(_) => break,
        }
    }
    // Not by `answer`, which copies: the text may have 64 MiB.
    let mut reply = Dict::new();
    reply.insert("count", total);
    reply.insert("buf-b64", text);
    reply.insert("eof", eof);
    Ok(Answer::Value(Value::Object(reply)))
}

fn write(context: &mut Context, arguments: Dict) -> CommandResult {
    let FileWrite {
        handle,
        buf_b64,
        count,
    } = decode(arguments)?;
    let stream = context.files.find(handle)?;
    let bytes = base64::decode(&buf_b64)?;
    let bytes = match count {
        None => &bytes[..],
        Some(count) => usize::try_from(count)
            .ok() // a negative count is as invalid as one beyond the data
            .and_then(|length| bytes.get(..length))
            .ok_or_else(|| bad_count(count))?,
    };
    stream.write(bytes).map_err(|failure| match failure {
        TransferError::Transfer(_) => transfer_failed(handle, "write to", &failure),
        _ => transfer_failed(handle, "write", &failure),
    })?;
    answer(Written {
        count: bytes.len() as i64,
        eof: false,
    })
}

fn seek(context: &mut Context, arguments: Dict) -> CommandResult {
    let FileSeek {
        handle,
        offset,
        whence,
    } = decode(arguments)?;
    let stream = context.files.find(handle)?;
    let to = match whence {
        GuestFileWhence::Integer(0) | GuestFileWhence::Set => {
            // As lseek(2): a negative offset becomes a huge one here, and the kernel returns EINVAL for it.
            SeekFrom::Start(offset as u64)
        }
        GuestFileWhence::Integer(1) | GuestFileWhence::Cur => SeekFrom::Current(offset),
        GuestFileWhence::Integer(2) | GuestFileWhence::End => SeekFrom::End(offset),
        GuestFileWhence::Integer(code) => {
            return Err(CommandError::generic(format!("invalid whence code {code}")));
        }
    };
    let position = stream.seek(to).map_err(|e| file_error("seek", &e))?;
    answer(Position {
        position,
        eof: false,
    })
}
