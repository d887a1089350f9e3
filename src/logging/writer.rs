//! Writes the lines: the only place of the log that does, behind one lock.
//!
//! What cannot be written is reported where writing still works: lines for a log file that fails go to standard error,
//! and lost audit lines are counted in the log.

use std::io::{self, Write};
use std::mem;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::held::{BOUNDS, Bounds, Dropped, HeldLines, LineKind};
use super::line::{self, Level};
use super::{AuditSink, JournalSink, LogError, LogOptions};
use crate::sys::logfile::open_to_append;
use crate::sys::strerror;
use nix::sys::stat::fstat;

/// For a full system log when held lines are released: all of them come at once, and the queue of a Unix datagram
/// socket has 10 places by default (net.unix.max_dgram_qlen).
const AUDIT_RETRIES: u32 = 100;
const AUDIT_RETRY_INTERVAL: Duration = Duration::from_millis(2);

const NEW_FILE_MODE: u32 = 0o666;

pub(super) enum LogTarget {
    Console,
    File {
        path: PathBuf,
        file: Box<dyn Write + Send>,
        /// The last write failed; each such period is reported once.
        failing: bool,
    },
    /// A file that is opened when lines are released.
    Deferred(PathBuf),
}

impl LogTarget {
    fn open(path: PathBuf) -> Result<LogTarget, LogError> {
        match open_to_append(&path, NEW_FILE_MODE, 0) {
            Ok(file) => Ok(LogTarget::File {
                path,
                file: Box::new(file),
                failing: false,
            }),
            Err(error) => Err(LogError::Open { path, error }),
        }
    }
}

pub(super) struct Outputs {
    pub target: LogTarget,
    pub console: Box<dyn Write + Send>,
    /// The console is the journal, which reads a line's priority from its start (sd-daemon(3)).
    pub is_journal: bool,
    pub journal: Option<JournalSink>,
    pub audit: Option<AuditSink>,
    pub clock: Box<dyn Fn() -> SystemTime + Send>,
    pub pause: Box<dyn Fn(Duration) + Send>,
}

impl Outputs {
    /// Whether the journal has the line, with its fields.
    fn send_to_journal(
        &mut self,
        priority: u8,
        when: SystemTime,
        line: &str,
        fields: &str,
    ) -> bool {
        let journal = self.journal.as_mut();
        journal.is_some_and(|journal| journal(priority, when, line, fields).is_ok())
    }

    fn print(&mut self, level: Level, line: &[u8]) {
        // If standard error fails, no place is left to report it.
        let _ = if self.is_journal {
            // One write for the whole line, which lines of other processes cannot divide.
            let prefix = format!("<{}>", level.priority());
            self.console.write_all(&[prefix.as_bytes(), line].concat())
        } else {
            self.console.write_all(line)
        };
    }
}

/// Whether standard error is the journal's stream: systemd passes its device and inode (systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    fstat(io::stderr()).is_ok_and(|data| stream == format!("{}:{}", data.st_dev, data.st_ino))
}

struct WriterState {
    outputs: Outputs,
    held: Option<HeldLines>,
    bounds: Bounds,
    lost_audit_lines: u64,
    buffer: Vec<u8>,
}

pub(super) struct LogWriter(Mutex<WriterState>);

impl LogWriter {
    pub fn open(options: LogOptions) -> Result<LogWriter, LogError> {
        let target = match options.logfile {
            None => LogTarget::Console,
            // Opening with O_CREAT waits for the thaw of the directory's filesystem.
            Some(path) if options.frozen => LogTarget::Deferred(path),
            Some(path) => LogTarget::open(path)?,
        };
        let is_journal = is_journal();
        let outputs = Outputs {
            target,
            console: Box::new(io::stderr()),
            journal: options.journal.filter(|_| is_journal),
            is_journal,
            audit: options.audit,
            clock: Box::new(SystemTime::now),
            pause: Box::new(std::thread::sleep),
        };
        Ok(LogWriter::with_outputs(outputs, BOUNDS, options.frozen))
    }

    pub fn with_outputs(outputs: Outputs, bounds: Bounds, holds_lines: bool) -> LogWriter {
        LogWriter(Mutex::new(WriterState {
            outputs,
            held: holds_lines.then(|| HeldLines::new(bounds)),
            bounds,
            lost_audit_lines: 0,
            buffer: Vec::with_capacity(line::MAX_TEXT + 128),
        }))
    }

    fn state(&self) -> MutexGuard<'_, WriterState> {
        // After a panic in another thread at worst a part of that thread's line is missing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn log(&self, level: Level, text: &str, fields: &str) {
        let text = line::escape_control(text);
        let mut state = self.state();
        let now = (state.outputs.clock)();
        match &mut state.held {
            Some(held) => held.push(LineKind::Log(level), now, &text, fields),
            None => state.write(level, now, &text, fields),
        }
    }

    pub fn audit(&self, message: &str, fields: &str) {
        let text = format!("info: {}", line::escape_control(message));
        let mut state = self.state();
        let now = (state.outputs.clock)();
        match &mut state.held {
            Some(held) => held.push(LineKind::Audit, now, &text, fields),
            // The caller serves the host: it does not wait for the system log.
            None => state.send(now, &text, fields, &mut 0),
        }
    }

    #[cfg(test)]
    pub fn set_journal(&self, journal: JournalSink) {
        self.state().outputs.journal = Some(journal);
    }

    #[cfg(test)]
    pub fn holds_lines(&self) -> bool {
        self.state().held.is_some()
    }

    pub fn hold_lines(&self) {
        let mut state = self.state();
        if state.held.is_none() {
            state.held = Some(HeldLines::new(state.bounds));
        }
    }

    pub fn release_lines(&self) {
        let mut state = self.state();
        let Some(held) = state.held.take() else {
            return;
        };
        state.open_deferred();
        let mut retries = AUDIT_RETRIES;
        for (kind, when, text, fields) in held.iter() {
            match kind {
                LineKind::Log(level) => state.write(level, when, text, fields),
                LineKind::Audit => state.send(when, text, fields, &mut retries),
            }
        }
        state.report_dropped(held.dropped(), &mut retries);
    }
}

impl WriterState {
    fn open_deferred(&mut self) {
        let LogTarget::Deferred(path) = &self.outputs.target else {
            return;
        };
        match LogTarget::open(path.clone()) {
            Ok(file) => self.outputs.target = file,
            Err(error) => {
                self.outputs.target = LogTarget::Console;
                let now = (self.outputs.clock)();
                let text =
                    format!("{error}; logging to standard error until the agent is restarted");
                self.write(Level::Critical, now, &line::escape_control(&text), "");
            }
        }
    }

    fn report_dropped(&mut self, dropped: Dropped, retries: &mut u32) {
        if dropped == Dropped::default() {
            return;
        }
        let now = (self.outputs.clock)();
        let text = format!(
            "memory for log lines was full while filesystems were frozen: {} log lines and {} \
             audit lines were dropped",
            dropped.log, dropped.audit
        );
        self.write(Level::Warning, now, &text, "");
        if dropped.audit > 0 {
            let text = format!(
                "info: {} lines from the time of the freeze are missing",
                dropped.audit
            );
            self.send(now, &text, "", retries);
        }
    }

    fn write(&mut self, level: Level, when: SystemTime, text: &str, fields: &str) {
        line::format(&mut self.buffer, level, when, text);
        let mut notice = Vec::new();
        if let LogTarget::File {
            path,
            file,
            failing,
        } = &mut self.outputs.target
        {
            let Err(error) = file.write_all(&self.buffer) else {
                *failing = false;
                return;
            };
            if !mem::replace(failing, true) {
                let text = format!(
                    "cannot write to the log file '{}': {}; logging to standard error until writing \
                     works again",
                    path.display(),
                    strerror(&error)
                );
                let text = line::escape_control(&text);
                line::format(&mut notice, Level::Critical, when, &text);
            }
        }
        let outputs = &mut self.outputs;
        if !notice.is_empty() {
            outputs.print(Level::Critical, &notice);
        }
        let line = std::str::from_utf8(&self.buffer).unwrap_or_default();
        let is_sent = !fields.is_empty()
            && outputs.send_to_journal(level.priority(), when, line.trim_end(), fields);
        if !is_sent {
            outputs.print(level, &self.buffer);
        }
    }

    /// Of each run of lost audit lines, the first and at its end their number are logged.
    fn send(&mut self, when: SystemTime, text: &str, fields: &str, retries: &mut u32) {
        if self.outputs.audit.is_none() {
            return;
        }
        let priority = Level::Info.priority();
        // Also without fields: of its two sockets the journal reads now one, now the other first.
        if self.outputs.send_to_journal(priority, when, text, fields) {
            return;
        }
        let Some(audit) = &mut self.outputs.audit else {
            return;
        };
        let result = loop {
            match audit(when, text) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && *retries > 0 => {
                    *retries -= 1;
                    (self.outputs.pause)(AUDIT_RETRY_INTERVAL);
                }
                result => break result,
            }
        };
        let text = match result {
            Ok(()) => match mem::take(&mut self.lost_audit_lines) {
                // One lost line has been quoted already.
                0 | 1 => return,
                lost => format!("the system log accepts audit lines again; {lost} were lost"),
            },
            Err(error) => {
                self.lost_audit_lines += 1;
                if self.lost_audit_lines > 1 {
                    return;
                }
                let why = strerror(&error);
                format!("cannot send an audit line to the system log: {why}; lost: {text}")
            }
        };
        self.write(Level::Warning, when, &line::escape_control(&text), "");
    }
}
