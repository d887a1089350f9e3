//! The hooks' log, in the lines that operators grep for.
//!
//! A file that is only ever appended to. If the file cannot be written, the same lines go to the system log
//! without their date, as the stock script has it. Opened at the first line: no hooks, no file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
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
/// A line of output without end goes to the system log in pieces of this length, in bytes.
const LONGEST_LINE: usize = 4096;
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
    /// The file's last line has no end yet.
    is_open_line: bool,
    /// The system log's line that has no end yet.
    rest: Vec<u8>,
    /// Lines that neither target took.
    lost: u64,
}

#[derive(Debug)]
enum Target {
    Closed,
    File(File),
    System(Syslog),
}

impl HookLog {
    /// A log at `path`; `-` is stdout.
    pub fn new(path: &Path) -> HookLog {
        HookLog {
            path: path.to_owned(),
            target: Target::Closed,
            is_open_line: false,
            rest: Vec::new(),
            lost: 0,
        }
    }

    /// A log in `syslog` alone.
    pub fn to_system(syslog: Syslog) -> HookLog {
        HookLog {
            path: PathBuf::new(),
            target: Target::System(syslog),
            is_open_line: false,
            rest: Vec::new(),
            lost: 0,
        }
    }

    /// Writes `<date>: <text>` and a line end.
    pub fn line(&mut self, text: &str) {
        self.open();
        let date = format_local(SystemTime::now(), DATE);
        if let Target::File(file) = &mut self.target {
            match file.write_all(format!("{date}: {text}\n").as_bytes()) {
                Ok(()) => return,
                Err(error) => self.leave_file(&error),
            }
        }
        self.system(text);
    }

    /// The file, for what goes on writing after us; None: the lines go to the system log.
    pub fn file(&mut self) -> Option<File> {
        self.open();
        match &self.target {
            Target::File(file) => file.try_clone().ok(),
            _ => None,
        }
    }

    /// A piece of a hook's output, as it came.
    pub fn output(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.open();
        if let Target::File(file) = &mut self.target {
            match file.write_all(bytes) {
                Ok(()) => {
                    self.is_open_line = !bytes.ends_with(b"\n");
                    return;
                }
                Err(error) => self.leave_file(&error),
            }
        }
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            for part in piece.chunks(LONGEST_LINE) {
                self.rest.extend_from_slice(part);
                if self.rest.ends_with(b"\n") || self.rest.len() >= LONGEST_LINE {
                    self.end_output();
                }
            }
        }
    }

    /// Ends the last line of output if the hook did not.
    pub fn end_output(&mut self) {
        if std::mem::take(&mut self.is_open_line) {
            self.output(b"\n");
            return;
        }
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            let line = rest.strip_suffix(b"\n").unwrap_or(&rest);
            self.system(&String::from_utf8_lossy(line));
        }
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

fn open(path: &Path) -> io::Result<File> {
    if path == Path::new("-") {
        return Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?));
    }
    let file = open_to_append(path)?;
    let data = file.metadata()?;
    // Not a FIFO or socket that nobody reads, where a hook would hang.
    if !data.is_file() && !data.file_type().is_char_device() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
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
