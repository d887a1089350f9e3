//! `qemu-ga hook freeze|thaw`: the hook master as a command. The master script calls it for the
//! agent, and an operator calls it by hand to try the hooks.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::log::{DEFAULT_PATH, HookLog};
use super::runner::{self, Options};
use super::{Phase, RECORDS_ENV, RECORDS_HEAD, find};

/// The help of `qemu-ga hook`.
pub const USAGE: &str = "\
Usage: qemu-ga hook freeze|thaw [--dir DIR] [--log FILE]
Runs every executable of DIR with the argument freeze, in the order of their names, or with the
argument thaw, in the reverse order.
  --dir DIR   default: fsfreeze-hook.d in /etc/qemu or /etc/qemu-ga
  --log FILE  default: /var/log/qga-fsfreeze-hook.log; - is the terminal
Exit status: 0, whatever the hooks' own (see the log); 1 if nothing was run because others could
have changed a hook, or if stopped by a signal; 2 for a mistake in this command.
";

#[derive(Debug, PartialEq, Eq)]
enum Call {
    Run {
        phase: Phase,
        dir: PathBuf,
        log: PathBuf,
    },
    Help,
}

/// Runs `qemu-ga hook` with the arguments behind that word; returns the exit status.
pub fn cli(args: &[OsString]) -> u8 {
    let (phase, dir, log) = match parse(args) {
        Ok(Call::Run { phase, dir, log }) => (phase, dir, log),
        Ok(Call::Help) => return u8::from(io::stdout().write_all(USAGE.as_bytes()).is_err()),
        Err(mistake) => {
            say(&format!("qemu-ga hook: {mistake}\n{USAGE}"));
            return 2;
        }
    };
    let options = Options {
        dir,
        log: HookLog::new(&log),
        deadline: None,
        stop: stop_signals(),
        records: records(),
    };
    match runner::run(phase, options) {
        Err(refusal) => {
            say(&format!("qemu-ga hook: {refusal}\n"));
            1
        }
        Ok(summary) => {
            if summary.lost_lines > 0 {
                let lost = summary.lost_lines;
                let log = log.display();
                say(&format!(
                    "qemu-ga hook: {lost} lines lost: neither {log} nor the system log takes them\n"
                ));
            }
            if summary.stopped {
                say("qemu-ga hook: stopped by a signal\n");
            }
            u8::from(summary.stopped)
        }
    }
}

/// stderr is all there is to complain to; if it fails, the exit status still tells.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn parse(args: &[OsString]) -> Result<Call, String> {
    let (mut phase, mut dir, mut log) = (None, None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let shown = arg.to_string_lossy();
        let (name, inline) = match shown.split_once('=') {
            Some((name, _)) if name.starts_with("--") => (name, Some(value_of(arg))),
            _ => (&*shown, None),
        };
        let mut value = || match &inline {
            Some(value) => Ok(value.clone()),
            None => args
                .next()
                .cloned()
                .ok_or_else(|| format!("{name} needs a path")),
        };
        match name {
            "-h" | "--help" if inline.is_none() => return Ok(Call::Help),
            "--dir" => dir = Some(path_in(name, value()?)?),
            "--log" => log = Some(path_in(name, value()?)?),
            "freeze" if phase.is_none() => phase = Some(Phase::Freeze),
            "thaw" if phase.is_none() => phase = Some(Phase::Thaw),
            "freeze" | "thaw" => return Err("give freeze or thaw once".to_owned()),
            _ => return Err(format!("unknown argument '{shown}'")),
        }
    }
    Ok(Call::Run {
        phase: phase.ok_or("say freeze or thaw")?,
        dir: dir.unwrap_or_else(find::default_dir),
        log: log.unwrap_or_else(|| PathBuf::from(DEFAULT_PATH)),
    })
}

/// What stands behind the first `=`, byte for byte.
fn value_of(arg: &OsStr) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = arg.as_bytes().splitn(2, |&byte| byte == b'=').nth(1);
    OsString::from_vec(bytes.unwrap_or_default().to_vec())
}

fn path_in(name: &str, value: OsString) -> Result<PathBuf, String> {
    if value.is_empty() {
        Err(format!("{name} needs a path"))
    } else {
        Ok(value.into())
    }
}

/// Readable when we are told to end, so that a running hook can be ended first. None: we just die.
fn stop_signals() -> Option<OwnedFd> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    let fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok()?;
    signals.thread_block().ok()?;
    Some(fd.into())
}

/// Opened anew by number, so that our copy is closed at exec; hooks get neither.
fn records() -> Option<File> {
    let number: u32 = std::env::var(RECORDS_ENV).ok()?.parse().ok()?;
    let path = format!("/proc/self/fd/{number}");
    let file = OpenOptions::new()
        .append(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    // Only a memory file is the agent's; a pipe could block us.
    let mut file = file.metadata().ok()?.is_file().then_some(file)?;
    file.write_all(RECORDS_HEAD.as_bytes()).ok()?;
    Some(file)
}
