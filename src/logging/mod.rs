//! The agent's log (floor 2): log lines, audit lines, and holding both back while filesystems are frozen.
//!
//! Code logs through `tracing`'s macros; [`init`] installs a subscriber that writes
//! `<seconds>.<microseconds>: <level>: <text>` to standard error or to the log file. Events with the target
//! [`crate::AUDIT`] go to the system log, whatever the verbosity. Between [`hold_lines`] and [`release_lines`] nothing
//! is written anywhere, because the log may be on a frozen filesystem: lines are kept in bounded memory and written
//! later, in order and with the time at which they were made. A message is always one line of bounded length. The tools
//! have no log: for them all of this does nothing.

mod held;
mod line;
mod subscriber;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;
use std::{fmt, io};

use crate::sys::strerror;
use writer::LogWriter;

/// Sends an audit line, made at the given time, to the system log. It never blocks: the error is `WouldBlock` if the
/// line cannot be accepted now.
pub(crate) type AuditSink = Box<dyn FnMut(SystemTime, &str) -> io::Result<()> + Send>;

/// Sends a line to the journal with its fields (`KEY=value` and a line end each): priority as in syslog(3), time, text,
/// fields. It never blocks; after an error the line goes where it goes without a journal.
pub(crate) type JournalSink = Box<dyn FnMut(u8, SystemTime, &str, &str) -> io::Result<()> + Send>;

#[derive(Default)]
pub(crate) struct LogOptions {
    /// Is appended to; `None`: standard error.
    pub logfile: Option<PathBuf>,
    /// Everything instead of warnings and errors.
    pub verbose: bool,
    /// The agent starts while filesystems are frozen: lines are held back from the start, and the log file is opened
    /// when they are released.
    pub frozen: bool,
    /// `None`: audit lines go nowhere.
    pub audit: Option<AuditSink>,
    /// For lines with fields, if standard error is the journal; `None`: fields are dropped.
    pub journal: Option<JournalSink>,
}

#[derive(Debug)]
pub(crate) enum LogError {
    Open { path: PathBuf, error: io::Error },
    AlreadyStarted,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The beginning, up to the reason, is the text of QEMU's agent.
            LogError::Open { path, error } => write!(
                f,
                "unable to open specified log file: {} ('{}'); create its directory, or choose \
                 another file with --logfile",
                strerror(error),
                path.display()
            ),
            LogError::AlreadyStarted => f.write_str("cannot set up the log: it was set up before"),
        }
    }
}

impl std::error::Error for LogError {}

static WRITER: OnceLock<Arc<LogWriter>> = OnceLock::new();

pub(crate) fn init(options: LogOptions) -> Result<(), LogError> {
    let verbose = options.verbose;
    let writer = Arc::new(LogWriter::open(options)?);
    let subscriber = subscriber::LogSubscriber::new(Arc::clone(&writer), verbose);
    // Both fail only on a second call; the error of the first one would say nothing else.
    WRITER.set(writer).map_err(|_| LogError::AlreadyStarted)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadyStarted)
}

/// From the return of this call on nothing is written, and no write is in progress. The memory for held lines is
/// allocated here. Does nothing if lines are held already.
pub(crate) fn hold_lines() {
    if let Some(writer) = WRITER.get() {
        writer.hold_lines();
    }
}

/// Writes the held lines and how many were dropped, and writes new lines directly again. Opens the log file if it was
/// not opened at the start. Does nothing if no lines are held.
pub(crate) fn release_lines() {
    if let Some(writer) = WRITER.get() {
        writer.release_lines();
    }
}
