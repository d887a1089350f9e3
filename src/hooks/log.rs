//! The hook log, in the format that operators search with grep.
//!
//! The file is only appended to. If it cannot be written, the same lines go to the system log without their date, as
//! with QEMU's fsfreeze-hook script. The file is opened for the first line, so without hooks there is none.
//!
//! Output is written in whole lines. A line of output that looks like a line of the master, which begins with a date,
//! gets a [`QUOTE`] before it. So a hook cannot fake its own success.

mod line;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use crate::protocol::text::escape_hidden;
use crate::sys::localtime::{DATE, format_local};
use crate::sys::logfile::open_to_append;
use crate::sys::strerror;
use crate::sys::syslog::{Severity, Syslog};
pub use line::{EndNote, LogLine};
use line::{looks_like_one, split_date};

pub const DEFAULT_PATH: &str = "/var/log/qga-fsfreeze-hook.log";
pub const TAG: &str = "qemu-ga-freeze-hook";
const QUOTE: &[u8] = b"| ";
/// Longer lines of output are written in pieces, so that output without line ends does not grow in memory.
const MAX_LINE_BYTES: usize = 4096;
/// Output of hooks may be confidential.
const LOG_FILE_MODE: u32 = 0o600;
const BUSY_TRIES: u32 = 50;
const BUSY_RETRY_INTERVAL: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct HookLog {
    path: PathBuf,
    target: Target,
    lines: Lines,
    lost: u64,
}

#[derive(Debug)]
enum Target {
    Closed,
    File(File),
    System(Syslog),
}

impl HookLog {
    /// `-` is stdout. Nothing is opened yet.
    pub fn new(path: &Path) -> HookLog {
        HookLog {
            path: path.to_owned(),
            target: Target::Closed,
            lines: Lines::default(),
            lost: 0,
        }
    }

    #[cfg(test)]
    pub fn to_system(syslog: Syslog) -> HookLog {
        HookLog {
            path: PathBuf::new(),
            target: Target::System(syslog),
            lines: Lines::default(),
            lost: 0,
        }
    }

    pub fn line(&mut self, text: &str) {
        self.open();
        let date = format_local(SystemTime::now(), DATE);
        if let Target::File(file) = &mut self.target {
            // The text may contain file names, which may contain line ends.
            let text = escape_hidden(text).replace('\n', "\\n");
            match file.write_all(format!("{date}: {text}\n").as_bytes()) {
                Ok(()) => return,
                Err(error) => self.leave_file(&error),
            }
        }
        self.system(text);
    }

    pub fn hook_line(&mut self, line: LogLine<'_>) {
        self.line(&line.to_string());
    }

    /// None if the lines go to the system log.
    pub fn file(&mut self) -> Option<File> {
        self.open();
        match &self.target {
            Target::File(file) => file.try_clone().ok(),
            _ => None,
        }
    }

    pub fn output(&mut self, bytes: &[u8]) {
        let ready = self.lines.take(bytes);
        self.write_output(&ready);
    }

    pub fn end_output(&mut self) {
        let ready = self.lines.end();
        self.write_output(&ready);
    }

    fn write_output(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.open();
        let escaped;
        let bytes = match self.path == Path::new("-") {
            // This is stdout, which may be a terminal: escape sequences of a hook must not reach it.
            true => {
                escaped = escape_hidden(&String::from_utf8_lossy(bytes));
                escaped.as_bytes()
            }
            false => bytes,
        };
        if let Target::File(file) = &mut self.target {
            match file.write_all(bytes) {
                Ok(()) => return,
                Err(error) => self.leave_file(&error),
            }
        }
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            for part in line.chunks(MAX_LINE_BYTES) {
                let part = part.strip_suffix(b"\n").unwrap_or(part);
                self.system(&String::from_utf8_lossy(part));
            }
        }
    }

    /// Lines that neither the file nor the system log accepted.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn open(&mut self) {
        if !matches!(self.target, Target::Closed) {
            return;
        }
        match open(&self.path) {
            Ok(log) => self.target = Target::File(log),
            Err(error) => self.leave_file(&error),
        }
    }

    fn leave_file(&mut self, error: &io::Error) {
        self.target = Target::System(Syslog::connect(TAG));
        self.system(&format!(
            "cannot write to {}: {}; logging here",
            self.path.display(),
            strerror(error)
        ));
    }

    fn system(&mut self, text: &str) {
        let Target::System(syslog) = &mut self.target else {
            return;
        };
        for _ in 0..BUSY_TRIES {
            match syslog.send(Severity::Notice, text) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(BUSY_RETRY_INTERVAL);
                }
                Err(_) => break,
            }
        }
        self.lost += 1;
    }
}

/// Collects output into whole lines and quotes those that look like lines of the master.
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line whose end has not arrived.
    rest: Vec<u8>,
    /// The beginning of the current line is already written, so it cannot be quoted any more.
    is_continued: bool,
}

impl Lines {
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(bytes);
        let end = self.rest.iter().rposition(|&byte| byte == b'\n');
        let end = match end.map_or(0, |at| at + 1) {
            end if self.rest.len() - end < MAX_LINE_BYTES => end,
            _ => self.rest.len(),
        };
        let mut ready = Vec::with_capacity(end);
        for line in self.rest[..end].split_inclusive(|&byte| byte == b'\n') {
            // Programs may print dates themselves. Only texts with which the master's own lines about hooks
            // begin are quoted.
            let text = String::from_utf8_lossy(line);
            let dated = split_date(&text).filter(|_| !self.is_continued);
            if dated.is_some_and(|(_, text)| looks_like_one(text)) {
                ready.extend_from_slice(QUOTE);
            }
            ready.extend_from_slice(line);
            self.is_continued = !line.ends_with(b"\n");
        }
        self.rest.drain(..end);
        ready
    }

    pub fn end(&mut self) -> Vec<u8> {
        match self.rest.is_empty() && !self.is_continued {
            true => Vec::new(),
            false => self.take(b"\n"),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    if path == Path::new("-") {
        return Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?));
    }
    let file = open_to_append(path, LOG_FILE_MODE, libc::O_NONBLOCK)?;
    let data = file.metadata()?;
    // On a FIFO or socket without a reader a hook that writes would block.
    if !data.is_file() && !data.file_type().is_char_device() {
        return Err(io::Error::other("not a regular file"));
    }
    // O_NONBLOCK is for open(2) only. Hooks inherit the descriptor and expect writes to block.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_written_in_lines_that_are_none_of_ours() {
        let mut lines = Lines::default();
        let date = "Thu Nov 23 13:38:05 MSK 2023: ";
        assert_eq!(
            lines.take(b"plain: at 13:38:05\nThu Nov 23 "),
            b"plain: at 13:38:05\n"
        );
        assert_eq!(lines.take(b"13:38:05 MSK 2023"), b"");
        let quoted = format!("| {date}/x\n");
        assert_eq!(lines.take(b": /x\n"), quoted.as_bytes());
        assert_eq!(lines.end(), b"");
        lines.take(date.as_bytes());
        assert_eq!(lines.end(), format!("{date}\n").as_bytes());
        // A line that is too long is written in pieces; the second piece is not quoted.
        assert_eq!(lines.take(&[b'x'; 5000]).len(), 5000);
        assert_eq!(lines.take(format!("{date}y").as_bytes()), b"");
        assert_eq!(lines.end(), format!("{date}y\n").as_bytes());
        assert!(split_date(&quoted).is_none() && split_date(&quoted[2..]).is_some());
    }
}
