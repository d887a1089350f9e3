//! The agent's log (floor 5): log lines, audit lines, and the gate that holds both while frozen.
//!
//! The code logs through `tracing`'s macros; [`init`] installs a small subscriber of our own that
//! writes `<seconds>.<microseconds>: <level>: <text>` to standard error or to the log file.
//! What the host did is told to the system log, whatever the verbosity, by events whose target is
//! [`crate::AUDIT`]. While the
//! [`Gate`] is shut nothing is written anywhere, because the log may stand on a filesystem that is
//! frozen: lines are kept in bounded memory and written, in order and with the time at which they
//! were made, when the gate opens. What is written is always one line per message, never over-long.

mod core;
mod kept;
mod line;
mod subscriber;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;
use std::{fmt, io};

use self::core::Core;
use crate::sys::strerror;

/// Sends an audit line, made at that time, to the system log, without ever blocking: an error of
/// the kind `WouldBlock` when it cannot be taken now.
pub type AuditSink = Box<dyn FnMut(SystemTime, &str) -> io::Result<()> + Send>;

/// How to log.
#[derive(Default)]
pub struct LogOptions {
    /// Append to this file; `None`: standard error.
    pub logfile: Option<PathBuf>,
    /// Log everything instead of warnings and errors.
    pub verbose: bool,
    /// The agent starts while filesystems are frozen: the gate starts shut, and the log file is
    /// opened when it opens.
    pub frozen: bool,
    /// Where audit lines go; `None`: nowhere.
    pub audit: Option<AuditSink>,
}

/// Why the log cannot be set up.
#[derive(Debug)]
pub enum LogError {
    /// The log file cannot be opened.
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// [`init`] was called before.
    Started,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Open { path, error } => write!(
                f,
                "unable to open specified log file: {} ('{}'): its directory must exist and be \
                 writable, or choose another file with --logfile",
                strerror(error),
                path.display()
            ),
            LogError::Started => write!(f, "the log was set up already: set it up only once"),
        }
    }
}

impl std::error::Error for LogError {}

static CORE: OnceLock<Arc<Core>> = OnceLock::new();

/// Sets up the log of this process and returns its gate.
///
/// # Errors
/// The log file cannot be opened, or the log was set up before.
pub fn init(options: LogOptions) -> Result<Gate, LogError> {
    let verbose = options.verbose;
    let core = Arc::new(Core::new(options)?);
    CORE.set(Arc::clone(&core)).map_err(|_| LogError::Started)?;
    let subscriber = subscriber::LogSubscriber::new(Arc::clone(&core), verbose);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Started)?;
    Ok(Gate(Some(core)))
}

/// The gate of this process's log. Before [`init`] it has nothing to hold back.
pub fn gate() -> Gate {
    Gate(CORE.get().cloned())
}

/// Holds the log back while filesystems are frozen. Clones are handles of the same gate.
#[derive(Clone)]
pub struct Gate(Option<Arc<Core>>);

impl Gate {
    /// From the return of this call on nothing is written, and no write is under way. Memory for
    /// the lines to keep is set aside here. Does nothing when shut already.
    pub fn shut(&self) {
        if let Some(core) = &self.0 {
            core.shut();
        }
    }

    /// Writes what was kept, and how much could not be kept, and lets lines through again. Opens
    /// the log file if it was not opened at the start. Does nothing when open already.
    pub fn open(&self) {
        if let Some(core) = &self.0 {
            core.open();
        }
    }

    /// Whether lines are held back.
    pub fn is_shut(&self) -> bool {
        self.0.as_ref().is_some_and(|core| core.is_shut())
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("shut", &self.is_shut())
            .finish()
    }
}
