//! The hooks' log, in the lines that operators grep for.
//!
//! A file that is only ever appended to; hooks write their output straight into it, so what a hook
//! leaves running (a database client that holds a lock) can still write after the hook's end and
//! is not killed by SIGPIPE. If the file cannot be written, the same lines go to the system log
//! without their date, as the stock script has it. Opened at the first line: no hooks, no file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::libc;

use crate::sys::localtime::{DATE, format_local};
use crate::sys::strerror;
use crate::sys::syslog::{Severity, Syslog};

/// The log's place in every layout.
pub const DEFAULT_PATH: &str = "/var/log/qga-fsfreeze-hook.log";
/// The tag of the lines in the system log.
pub const TAG: &str = "qemu-ga-freeze-hook";
/// Mode of a log that is new: hooks may print what is not for everybody.
const MODE: u32 = 0o600;
/// Tries to hand a line to a system log that is busy, and the time between two.
const BUSY_TRIES: u32 = 50;
const BUSY_WAIT: Duration = Duration::from_millis(10);

/// The log of one run of the master.
#[derive(Debug)]
pub struct HookLog {
    path: PathBuf,
    target: Target,
    /// Lines that neither target took.
    lost: u64,
}

#[derive(Debug)]
enum Target {
    Closed,
    File(LogFile),
    System(Syslog),
}

#[derive(Debug)]
struct LogFile {
    file: File,
    /// The same file for reading, where that is allowed.
    reader: Option<File>,
    /// Its length before the running hook's output.
    mark: u64,
}

impl HookLog {
    /// A log at `path`; `-` is stdout.
    pub fn new(path: &Path) -> HookLog {
        HookLog {
            path: path.to_owned(),
            target: Target::Closed,
            lost: 0,
        }
    }

    /// A log in `syslog` alone.
    pub fn to_system(syslog: Syslog) -> HookLog {
        HookLog {
            path: PathBuf::new(),
            target: Target::System(syslog),
            lost: 0,
        }
    }

    /// Writes `<date>: <text>` and a line end.
    pub fn line(&mut self, text: &str) {
        self.open();
        let date = format_local(SystemTime::now(), DATE);
        if let Target::File(log) = &mut self.target {
            match log.file.write_all(format!("{date}: {text}\n").as_bytes()) {
                Ok(()) => return,
                Err(error) => self.leave_file(&error),
            }
        }
        self.system(text);
    }

    /// Where a hook's stdout and stderr go, or None if its output must be captured and handed to
    /// [`HookLog::output_line`].
    pub fn stdio(&mut self) -> Option<File> {
        self.open();
        let Target::File(log) = &mut self.target else {
            return None;
        };
        log.mark = log.length();
        log.file.try_clone().ok()
    }

    /// One line of captured output.
    pub fn output_line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        match &mut self.target {
            Target::File(log) => {
                let write = log
                    .file
                    .write_all(line)
                    .and_then(|()| log.file.write_all(b"\n"));
                if let Err(error) = write {
                    self.leave_file(&error);
                    self.system(&text);
                }
            }
            _ => self.system(&text),
        }
    }

    /// After a hook wrote to [`HookLog::stdio`]: ends its last line if it did not, and returns the
    /// last `most` bytes of what it wrote, as far as the log can be read back.
    pub fn end_output(&mut self, most: usize) -> Vec<u8> {
        let Target::File(log) = &mut self.target else {
            return Vec::new();
        };
        let tail = log.tail(most);
        if tail.last().is_some_and(|&last| last != b'\n')
            && let Err(error) = log.file.write_all(b"\n")
        {
            self.leave_file(&error);
        }
        tail
    }

    /// How many lines were lost because nobody took them.
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
                    std::thread::sleep(BUSY_WAIT);
                }
                Err(_) => break,
            }
        }
        self.lost += 1;
    }
}

impl LogFile {
    fn length(&self) -> u64 {
        self.file.metadata().map_or(0, |data| data.len())
    }

    fn tail(&self, most: usize) -> Vec<u8> {
        let Some(reader) = &self.reader else {
            return Vec::new();
        };
        let end = self.length();
        let start = self.mark.max(end.saturating_sub(most as u64));
        // An operator's logrotate may have truncated it meanwhile.
        let mut tail = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
        match reader.read_exact_at(&mut tail, start) {
            Ok(()) => tail,
            Err(_) => Vec::new(),
        }
    }
}

fn open(path: &Path) -> io::Result<LogFile> {
    if path == Path::new("-") {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        return Ok(LogFile {
            file,
            reader: None,
            mark: 0,
        });
    }
    let file = open_to_append(path)?;
    let data = file.metadata()?;
    // Not a FIFO or socket that nobody reads, where a hook would hang.
    if !data.is_file() && !data.file_type().is_char_device() {
        return Err(io::Error::other("not a regular file"));
    }
    // Not read-write at once: a policy may grant a log's writer appending alone.
    let reader = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .ok();
    let reader = reader.filter(|reader| {
        data.is_file()
            && reader
                .metadata()
                .is_ok_and(|same| same.dev() == data.dev() && same.ino() == data.ino())
    });
    Ok(LogFile {
        file,
        reader,
        mark: 0,
    })
}

/// A log directory may be writable by a group of lesser trust: a link there is followed only if it
/// is root's or our own.
fn open_to_append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(MODE);
    let plain = options
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match plain {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            let owner = fs::symlink_metadata(path)?.uid();
            if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
                return Err(io::Error::other(format!(
                    "a link that belongs to user {owner}"
                )));
            }
            options.custom_flags(libc::O_NONBLOCK).open(path)?
        }
        other => other?,
    };
    // Only the opening must not block; hooks inherit the descriptor and expect it to.
    nix::fcntl::fcntl(
        &file,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_APPEND),
    )?;
    Ok(file)
}
