//! `qemu-ga hook freeze|thaw`: the hook master as a command. The master script calls it for the agent, and an operator
//! by hand to try the hooks. `list`, `check`, `try` and `dismiss` are in `src/tools`.

use std::ffi::OsString;
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
use crate::cli::{Arg, Operand, OptionSpec, ParsedArgs, Usage, ValueKind};
use crate::sys::process;

pub const DIR: OptionSpec = OptionSpec::new(
    "dir",
    Arg::Value("DIR", ValueKind::Directory),
    "the hooks' directory",
)
.default("fsfreeze-hook.d in /etc/qemu or /etc/qemu-ga");
pub const CONF: OptionSpec = OptionSpec::new(
    "conf",
    Arg::Value("FILE", ValueKind::File),
    "the hooks' settings",
)
.default("fsfreeze-hook.conf next to DIR");

pub const LOG: OptionSpec = OptionSpec::new(
    "log",
    Arg::Value("FILE", ValueKind::File),
    "the log of the hooks",
)
.default(DEFAULT_PATH);

pub const USAGE: Usage = Usage {
    name: "hook",
    summary: "the freeze hooks: list, check, try one, or call them all",
    about: "Called with freeze, runs every executable of DIR with the argument freeze, in the order of \
            their names. Called with thaw, runs them with the argument thaw, in the reverse order. The \
            scripts of other systems that FILE enables are run, too.",
    operand: Some(Operand {
        name: "freeze|thaw",
        kind: ValueKind::Words(&["freeze", "thaw"]),
        help: "the argument of the hooks",
        required: true,
        max: 1,
    }),
    options: &[&[
        DIR,
        CONF,
        OptionSpec {
            help: "the log of the hooks; - is the terminal",
            ..LOG
        },
        OptionSpec::new(
            "state",
            Arg::Value("DIR", ValueKind::Directory),
            "where the freeze records for the thaw which hooks were called",
        )
        .default("the agent's state directory, or /run"),
    ]],
    exit: &[
        (
            0,
            "the hooks were called; see the log for their own exit status",
        ),
        (
            1,
            "a failure is to abort the freeze, nothing was run because other users could have changed \
             a hook, or the master was stopped by a signal",
        ),
    ],
};

/// Arguments with which a master starts its own helper processes.
const HOLD: &str = "hold";
const DRAIN: &str = "drain";

#[derive(Debug, PartialEq, Eq)]
struct MasterArgs {
    phase: Phase,
    dir: PathBuf,
    conf: PathBuf,
    log: PathBuf,
    state: PathBuf,
}

/// Runs a helper process of the master; None: the arguments after `hook` do not ask for one.
pub fn helper(args: &[OsString]) -> Option<u8> {
    match args.first()?.to_str()? {
        HOLD => Some(holder::cli()),
        DRAIN => {
            let room = args.get(1).and_then(|room| room.to_str()?.parse().ok());
            Some(exec::drain_cli(room.unwrap_or_default()))
        }
        _ => None,
    }
}

pub fn run_master(given: &ParsedArgs, adapters: &'static [Adapter]) -> u8 {
    process::set_process_name(c"qga-hook");
    let args = MasterArgs::new(given);
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

/// Empty if an operator calls the master by hand.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// A thaw by hand has no reason and is an ordinary one.
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

/// An error is ignored because no place is left for the message; the exit status still shows the failure.
fn print(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

impl MasterArgs {
    fn new(given: &ParsedArgs) -> Self {
        let path = |name: &str| given.value(name).map(PathBuf::from);
        let dir = path("--dir").unwrap_or_else(locate::default_dir);
        let from_environment = || std::env::var_os(STATE_ENV).map(PathBuf::from);
        let is_freeze = given.operands.first().is_some_and(|word| word == "freeze");
        Self {
            phase: if is_freeze {
                Phase::Freeze
            } else {
                Phase::Thaw
            },
            conf: path("--conf").unwrap_or_else(|| locate::conf_beside(&dir)),
            dir,
            log: path("--log").unwrap_or_else(|| PathBuf::from(DEFAULT_PATH)),
            state: path("--state")
                .or_else(from_environment)
                .unwrap_or_else(|| PathBuf::from(journal::DEFAULT_DIR)),
        }
    }
}

/// Blocks SIGTERM, SIGINT and SIGHUP and returns a signalfd for them, so that a running hook is ended before the master
/// exits. None if that fails: the signals then kill the master.
pub fn stop_signals() -> Option<OwnedFd> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    let fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok()?;
    signals.thread_block().ok()?;
    Some(fd.into())
}

/// The agent's record file, opened again by its number: the copy is close-on-exec, so hooks inherit neither.
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
