//! Where lines go: the one place that writes, behind one lock.
//!
//! Whatever cannot be written is told on the other way that is left: lines for a log file that
//! fails go to standard error, audit lines that are lost are counted in the log.

use std::io::{self, Write};
use std::mem;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::kept::{BOUNDS, Bounds, Dropped, Kept, Kind};
use super::line::{self, Level};
use super::{AuditSink, LogError, LogOptions};
use crate::sys::logfile::open_to_append;
use crate::sys::strerror;
use nix::sys::stat::fstat;

/// How often, and after what pause each time, a full system log is tried again when the gate
/// opens: its queue may be short, and what was kept comes all at once.
const AUDIT_RETRIES: u32 = 100;
const AUDIT_RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// Where log lines go.
pub(super) enum Target {
    /// To standard error.
    Console,
    /// To an open file, falling back to standard error; `failing` since its last error.
    File {
        path: PathBuf,
        file: Box<dyn Write + Send>,
        failing: bool,
    },
    /// To a file that is opened when the gate opens.
    Deferred(PathBuf),
}

/// Everything that is written to, and what stands in for it in tests.
pub(super) struct Outputs {
    pub target: Target,
    pub console: Box<dyn Write + Send>,
    /// Whether the console is the journal, which takes a line's priority from its begin (sd-daemon(3)).
    pub is_journal: bool,
    pub audit: Option<AuditSink>,
    pub clock: Box<dyn Fn() -> SystemTime + Send>,
    pub pause: Box<dyn Fn(Duration) + Send>,
}

struct State {
    outputs: Outputs,
    /// `Some` while the gate is shut.
    kept: Option<Kept>,
    bounds: Bounds,
    audit_lost: u64,
    scratch: Vec<u8>,
}

/// Mode of a new log, less the umask.
const NEW_FILE_MODE: u32 = 0o666;

/// Whether standard error is the journal's stream: systemd passes its device and inode (systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    fstat(io::stderr()).is_ok_and(|data| stream == format!("{}:{}", data.st_dev, data.st_ino))
}

/// The log behind its lock.
pub(super) struct Core(Mutex<State>);

pub(super) fn open_file(path: &Path) -> Result<Target, LogError> {
    let opened = open_to_append(path, NEW_FILE_MODE, 0);
    match opened {
        Ok(file) => Ok(Target::File {
            path: path.into(),
            file: Box::new(file),
            failing: false,
        }),
        Err(error) => Err(LogError::Open {
            path: path.into(),
            error,
        }),
    }
}

impl Core {
    pub fn new(options: LogOptions) -> Result<Core, LogError> {
        let target = match options.logfile {
            None => Target::Console,
            Some(path) if options.frozen => Target::Deferred(path),
            Some(path) => open_file(&path)?,
        };
        let outputs = Outputs {
            target,
            console: Box::new(io::stderr()),
            is_journal: is_journal(),
            audit: options.audit,
            clock: Box::new(SystemTime::now),
            pause: Box::new(std::thread::sleep),
        };
        Ok(Core::with(outputs, BOUNDS, options.frozen))
    }

    /// With everything injected.
    pub fn with(outputs: Outputs, bounds: Bounds, shut: bool) -> Core {
        let core = Core(Mutex::new(State {
            outputs,
            kept: None,
            bounds,
            audit_lost: 0,
            scratch: Vec::with_capacity(line::MAX_TEXT + 128),
        }));
        if shut {
            core.shut();
        }
        core
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves nothing half-done that a next line could not stand.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs one line.
    pub fn log(&self, level: Level, text: &str) {
        let text = line::escape_control(text);
        let mut state = self.state();
        let now = (state.outputs.clock)();
        match &mut state.kept {
            Some(kept) => kept.push(Kind::Log(level), now, &text),
            None => state.write(level, now, &text),
        }
    }

    /// Sends one audit line.
    pub fn audit(&self, message: &str) {
        let text = format!("info: {}", line::escape_control(message));
        let mut state = self.state();
        let now = (state.outputs.clock)();
        match &mut state.kept {
            Some(kept) => kept.push(Kind::Audit, now, &text),
            None => state.send(now, &text, &mut 0),
        }
    }

    pub fn is_shut(&self) -> bool {
        self.state().kept.is_some()
    }

    pub fn shut(&self) {
        let mut state = self.state();
        if state.kept.is_none() {
            let mut kept = Kept::new(state.bounds);
            kept.reserve();
            state.kept = Some(kept);
        }
    }

    pub fn open(&self) {
        let mut state = self.state();
        let Some(kept) = state.kept.take() else {
            return;
        };
        state.open_deferred();
        let mut retries = AUDIT_RETRIES;
        for (kind, when, text) in kept.iter() {
            match kind {
                Kind::Log(level) => state.write(level, when, text),
                Kind::Audit => state.send(when, text, &mut retries),
            }
        }
        state.log_dropped(kept.dropped(), &mut retries);
    }
}

impl State {
    fn open_deferred(&mut self) {
        let Target::Deferred(path) = &self.outputs.target else {
            return;
        };
        match open_file(path) {
            Ok(file) => self.outputs.target = file,
            Err(error) => {
                self.outputs.target = Target::Console;
                let now = (self.outputs.clock)();
                let text =
                    format!("{error}; until the agent is restarted the log goes to standard error");
                self.write(Level::Critical, now, &line::escape_control(&text));
            }
        }
    }

    fn log_dropped(&mut self, dropped: Dropped, retries: &mut u32) {
        if dropped == Dropped::default() {
            return;
        }
        let now = (self.outputs.clock)();
        let text = format!(
            "the memory for log lines was full while filesystems were frozen: {} log lines and {} \
             audit lines are missing",
            dropped.log, dropped.audit
        );
        self.write(Level::Warning, now, &text);
        if dropped.audit > 0 {
            let text = format!(
                "info: {} lines from the time of the freeze are missing",
                dropped.audit
            );
            self.send(now, &text, retries);
        }
    }

    fn write(&mut self, level: Level, when: SystemTime, text: &str) {
        line::format(&mut self.scratch, level, when, text);
        if let Target::File {
            path,
            file,
            failing,
        } = &mut self.outputs.target
        {
            match file.write_all(&self.scratch) {
                Ok(()) => {
                    *failing = false;
                    return;
                }
                Err(error) if !mem::replace(failing, true) => {
                    let text = format!(
                        "cannot write to the log file '{}': {}; lines go to standard error while \
                         this lasts",
                        path.display(),
                        strerror(&error)
                    );
                    let mut notice = Vec::new();
                    line::format(
                        &mut notice,
                        Level::Critical,
                        when,
                        &line::escape_control(&text),
                    );
                    self.print(Level::Critical, &notice);
                }
                Err(_) => {}
            }
        }
        let line = mem::take(&mut self.scratch);
        self.print(level, &line);
        self.scratch = line;
    }

    /// Writes a line to standard error.
    fn print(&mut self, level: Level, line: &[u8]) {
        let console = &mut self.outputs.console;
        // There is no other place for the report of a failed write.
        let _ = if self.outputs.is_journal {
            // One write for the whole line, which other processes may not cut.
            let prefix = format!("<{}>", level.priority());
            console.write_all(&[prefix.as_bytes(), line].concat())
        } else {
            console.write_all(line)
        };
    }

    /// Sends an audit line; of each run of lost ones the first and, at its end, their number are
    /// logged.
    fn send(&mut self, when: SystemTime, text: &str, retries: &mut u32) {
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
        let lost = match result {
            Ok(()) => mem::take(&mut self.audit_lost),
            Err(error) => {
                self.audit_lost += 1;
                if self.audit_lost == 1 {
                    let text = format!(
                        "the system log takes no audit lines: {}; lost: {text}",
                        strerror(&error)
                    );
                    self.write(Level::Warning, when, &line::escape_control(&text));
                }
                return;
            }
        };
        if lost > 1 {
            let text = format!("the system log takes audit lines again; {lost} were lost");
            self.write(Level::Warning, when, &text);
        }
    }
}
