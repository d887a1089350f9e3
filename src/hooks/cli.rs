//! `qemu-ga hook freeze|thaw`: the hook master as a command. The master script calls it for the agent, and an
//! operator calls it by hand to try the hooks.
//!
//! Arguments name directories and files; the facts of a freeze come in environment variables from the agent.
//! The help also describes `list`, `check`, `try` and `dismiss`, which are in `src/tools`.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::adapter::Adapter;
use super::discovery;
use super::journal::{self, Journal, RunInfo};
use super::log::{DEFAULT_PATH, HookLog};
use super::runner::{self, Options};
use super::settings::HookConfig;
use super::{
    DEVICES_ENV, HOLD_LIMIT_ENV, MOUNTPOINTS_ENV, ONLY_RUN_ENV, Phase, REASON_ENV, RECORDS_ENV,
    RECORDS_HEAD, RUN_ENV, STATE_ENV, ThawReason, exec, holder, locate,
};
use crate::sys::process;

/// The help of `qemu-ga hook`.
pub const USAGE: &str = "\
Usage: qemu-ga hook freeze|thaw [--dir DIR] [--conf FILE] [--log FILE] [--state DIR]
Runs every executable of DIR with the argument freeze, in the order of their names, or with the
argument thaw, in the reverse order, and the scripts of other systems that FILE asks for.
  --dir DIR    default: fsfreeze-hook.d in /etc/qemu or /etc/qemu-ga
  --conf FILE  the hooks' settings; default: fsfreeze-hook.conf beside DIR
  --log FILE   default: /var/log/qga-fsfreeze-hook.log; - is the terminal
  --state DIR  where the freeze leaves word for the thaw; default: the agent's, or /run
Exit status: 0, whatever the hooks' own (see the log); 1 if a failure is to abort the freeze, if
nothing was run because others could have changed a hook, or if stopped by a signal; 2 for a
mistake in this command.

For people, each with a --help of its own:
  qemu-ga hook list   what would run, in which order, with which settings
  qemu-ga hook check  what is wrong with the hooks, and what to do
  qemu-ga hook try    runs one hook, freeze and thaw, and freezes nothing
  qemu-ga hook dismiss  gives up the thaw of a hook that cannot be run
";

/// Arguments with which a master starts its own helper processes; see [`holder`] and [`exec`].
const HOLD: &str = "hold";
const DRAIN: &str = "drain";

#[derive(Debug, PartialEq, Eq)]
enum Subcommand {
    Run(MasterArgs),
    Help,
}

#[derive(Debug, PartialEq, Eq)]
struct MasterArgs {
    phase: Phase,
    dir: PathBuf,
    conf: PathBuf,
    log: PathBuf,
    state: PathBuf,
}

/// Runs `qemu-ga hook` with the arguments after that word and these adapters; returns the exit status.
pub fn cli(args: &[OsString], adapters: &'static [Adapter]) -> u8 {
    match args.first().and_then(|word| word.to_str()) {
        Some(HOLD) => return holder::cli(),
        Some(DRAIN) => {
            let room = args.get(1).and_then(|room| room.to_str()?.parse().ok());
            return exec::drain_cli(room.unwrap_or_default());
        }
        _ => process::set_process_name(c"qga-hook"),
    }
    match parse(args) {
        Ok(Subcommand::Run(args)) => run(args, adapters),
        Ok(Subcommand::Help) => u8::from(io::stdout().write_all(USAGE.as_bytes()).is_err()),
        Err(error) => {
            print(&format!("qemu-ga hook: {error}\n{USAGE}"));
            2
        }
    }
}

fn run(args: MasterArgs, adapters: &'static [Adapter]) -> u8 {
    let devices = variable(DEVICES_ENV);
    let (found, rules) = match discovery::read(&args.dir, &args.conf, &devices, adapters) {
        Ok((found, rules)) => (Ok(found), rules),
        Err(refusal) => (Err(refusal), HookConfig::default()),
    };
    let options = Options {
        log: HookLog::new(&args.log),
        total: rules.total_timeout,
        on_total: rules.defaults.on_failure,
        stop: stop_signals(),
        records: records(),
        memory: Journal::in_dir(&args.state),
        adapters,
        run: RunInfo {
            id: variable(RUN_ENV),
            mountpoints: variable(MOUNTPOINTS_ENV),
            hold_limit: variable(HOLD_LIMIT_ENV).parse().unwrap_or_default(),
            devices,
        },
        reason: reason(args.phase),
        only_run: variable(ONLY_RUN_ENV),
    };
    let summary = runner::run(args.phase, found, options);
    if summary.lost_lines > 0 {
        let lost = summary.lost_lines;
        let log = args.log.display();
        print(&format!(
            "qemu-ga hook: {lost} lines lost: neither {log} nor the system log takes them\n"
        ));
    }
    if summary.stopped {
        print("qemu-ga hook: stopped by a signal\n");
    }
    if let Some(failure) = &summary.failure {
        print(&format!("{failure}\n"));
    }
    u8::from(summary.stopped || summary.failure.is_some())
}

/// A variable that the agent sets; empty if an operator calls the master by hand.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// The reason of a thaw. A thaw by hand has none and is an ordinary one.
fn reason(phase: Phase) -> Option<ThawReason> {
    let value = variable(REASON_ENV);
    let reasons = [
        ThawReason::Failed,
        ThawReason::TimedOut,
        ThawReason::Recovered,
    ];
    let known = reasons.into_iter().find(|reason| reason.as_str() == value);
    (phase == Phase::Thaw).then(|| known.unwrap_or(ThawReason::Ok))
}

/// Writes to stderr. An error is ignored because there is no other place for the message; the exit status
/// still shows the failure.
fn print(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn parse(args: &[OsString]) -> Result<Subcommand, String> {
    let (mut phase, mut dir, mut conf, mut log, mut state) = (None, None, None, None, None);
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
            "-h" | "--help" if inline.is_none() => return Ok(Subcommand::Help),
            "--dir" => dir = Some(path_in(name, value()?)?),
            "--conf" => conf = Some(path_in(name, value()?)?),
            "--log" => log = Some(path_in(name, value()?)?),
            "--state" => state = Some(path_in(name, value()?)?),
            "freeze" if phase.is_none() => phase = Some(Phase::Freeze),
            "thaw" if phase.is_none() => phase = Some(Phase::Thaw),
            "freeze" | "thaw" => return Err("give freeze or thaw once".to_owned()),
            _ => return Err(format!("unknown argument '{shown}'")),
        }
    }
    let dir = dir.unwrap_or_else(locate::default_dir);
    let from_environment = || std::env::var_os(STATE_ENV).map(PathBuf::from);
    Ok(Subcommand::Run(MasterArgs {
        phase: phase.ok_or("say freeze or thaw")?,
        conf: conf.unwrap_or_else(|| locate::conf_beside(&dir)),
        dir,
        log: log.unwrap_or_else(|| PathBuf::from(DEFAULT_PATH)),
        state: state
            .or_else(from_environment)
            .unwrap_or_else(|| PathBuf::from(journal::DEFAULT_DIR)),
    }))
}

/// The part of an argument after the first `=`, as bytes: paths need not be UTF-8.
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

/// Blocks SIGTERM, SIGINT and SIGHUP and returns a signalfd for them, so that a running hook is ended before
/// the master exits. None if that fails: the signals then kill the master.
pub fn stop_signals() -> Option<OwnedFd> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    let fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok()?;
    signals.thread_block().ok()?;
    Some(fd.into())
}

/// The agent's record file, opened again by its number, so that the copy is close-on-exec and hooks inherit
/// neither.
fn records() -> Option<File> {
    let number: u32 = std::env::var(RECORDS_ENV).ok()?.parse().ok()?;
    let path = format!("/proc/self/fd/{number}");
    let file = OpenOptions::new()
        .append(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    // The agent passes a memory file, which never blocks. A pipe from someone else could.
    let mut file = file.metadata().ok()?.is_file().then_some(file)?;
    file.write_all(RECORDS_HEAD.as_bytes()).ok()?;
    Some(file)
}
