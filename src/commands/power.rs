//! Floor 4: guest-shutdown, guest-suspend-disk, -ram and -hybrid.
//!
//! Success is not answered: the guest shuts down, or suspends before the reply could be sent. The system's own programs do
//! the work; they run on a worker thread, and the output of one that fails is the error text. Nothing here decides whether
//! the guest may go down while frozen: the dispatcher does.

use super::{Answer, Class, Command, CommandFuture, Context, run_helper, worker};
use crate::child::{self, Child, ChildStatus};
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::error::CommandError;
use crate::protocol::value::Dict;
use crate::sys::strerror;
use nix::unistd::{AccessFlags, access};
use serde::Deserialize;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

pub(super) const COMMANDS: &[Command] = &[
    Command::later(7, "guest-shutdown", Class::Power, shutdown).without_reply(),
    Command::later(19, "guest-suspend-disk", Class::Power, |_, arguments| {
        suspend(&DISK, arguments)
    })
    .without_reply(),
    Command::later(20, "guest-suspend-ram", Class::Power, |_, arguments| {
        suspend(&RAM, arguments)
    })
    .without_reply(),
    Command::later(21, "guest-suspend-hybrid", Class::Power, |_, arguments| {
        suspend(&HYBRID, arguments)
    })
    .without_reply(),
];

#[derive(Deserialize)]
struct Shutdown {
    mode: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct ShutdownMode {
    /// Run without arguments.
    program: &'static str,
    /// What shutdown(8) needs for the same.
    flag: &'static str,
}

fn shutdown(_: &mut Context, arguments: Dict) -> CommandFuture<'_> {
    Box::pin(async move {
        let Shutdown { mode } = decode(arguments)?;
        let mode = mode.as_deref();
        tracing::info!(
            target: crate::AUDIT,
            "guest-shutdown called, mode: {}",
            mode.unwrap_or("(null)")
        );
        let mode = parse_mode(mode)?;
        worker::run(worker::SLOW_COMMAND_TIMEOUT, move || {
            run_shutdown(mode, Path::new("/sbin"))
        })
        .await?;
        Ok(Answer::NoReply)
    })
}

fn parse_mode(mode: Option<&str>) -> Result<ShutdownMode, CommandError> {
    let (program, flag) = match mode {
        None | Some("powerdown") => ("poweroff", "-P"),
        Some("halt") => ("halt", "-H"),
        Some("reboot") => ("reboot", "-r"),
        Some(_) => {
            return Err(CommandError::generic(
                // The bracket is not closed in the original, either.
                "mode is invalid (valid values are: halt|powerdown|reboot",
            ));
        }
    };
    Ok(ShutdownMode { program, flag })
}

/// Runs the mode's own program in the directory `sbin`, or where it is not executable, `shutdown`.
fn run_shutdown(mode: ShutdownMode, sbin: &Path) -> Result<(), CommandError> {
    let direct = sbin.join(mode.program);
    let child = if access(&direct, AccessFlags::X_OK).is_ok() {
        Child::new(direct)
    } else {
        let message = "hypervisor initiated shutdown";
        Child::new(sbin.join("shutdown")).args(["-h", mode.flag, "+0", message])
    };
    run_helper(child, "shutdown")
}

#[derive(Debug)]
struct SuspendMode {
    unit: &'static str,
    verb: &'static str,
    pm_flag: &'static str,
    pm_program: &'static str,
    /// The word for /sys/power/state (Documentation/ABI/testing/sysfs-power); the kernel has none for hybrid.
    state: Option<&'static str>,
}

const DISK: SuspendMode = SuspendMode {
    unit: "systemd-hibernate",
    verb: "hibernate",
    pm_flag: "--hibernate",
    pm_program: "pm-hibernate",
    state: Some("disk"),
};

const RAM: SuspendMode = SuspendMode {
    unit: "systemd-suspend",
    verb: "suspend",
    pm_flag: "--suspend",
    pm_program: "pm-suspend",
    state: Some("mem"),
};

const HYBRID: SuspendMode = SuspendMode {
    unit: "systemd-hybrid-sleep",
    verb: "hybrid-sleep",
    pm_flag: "--suspend-hybrid",
    pm_program: "pm-suspend-hybrid",
    state: None,
};

fn suspend(mode: &'static SuspendMode, arguments: Dict) -> CommandFuture<'static> {
    Box::pin(async move {
        let NoArguments {} = decode(arguments)?;
        worker::run(worker::SLOW_COMMAND_TIMEOUT, move || {
            suspend_guest(mode, &Child::new, Path::new("/sys/power/state"))
        })
        .await
        .map(|()| Answer::NoReply)
    })
}

/// Tries systemd, then pm-utils, then the kernel itself, until one works.
fn suspend_guest(
    mode: &SuspendMode,
    program: &dyn Fn(&'static str) -> Child,
    state: &Path,
) -> Result<(), CommandError> {
    let mut failed = None;
    let status = exit_status(program("systemctl").args(["status", mode.unit]));
    // 0: the unit is active, so the system is suspending already; 4: there is no such unit (systemctl(1)).
    if matches!(status, Some(1..=3)) {
        match run_helper(program("systemctl").arg(mode.verb), "suspend") {
            Ok(()) => return Ok(()),
            Err(error) => failed = Some(error),
        }
    }
    if exit_status(program("pm-is-supported").arg(mode.pm_flag)) == Some(0) {
        match run_helper(program(mode.pm_program), "suspend") {
            Ok(()) => return Ok(()),
            Err(error) => failed = Some(error),
        }
    }
    match (mode.state, failed) {
        (Some(word), _) if kernel_supports(state, word) => write_state(state, word),
        (_, None) => Err(CommandError::generic(
            "the requested suspend mode is not supported by the guest",
        )),
        // The original's text, whatever went wrong before.
        (None, Some(_)) => Err(CommandError::generic("unknown guest suspend mode")),
        (Some(_), Some(error)) => Err(error),
    }
}

/// `None` if the program could not be executed or was killed.
fn exit_status(child: Child) -> Option<i32> {
    match child.run() {
        Ok(child::ChildOutcome {
            status: ChildStatus::Exited(status),
            exec_errno: None,
            ..
        }) => Some(status),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!("cannot check how to suspend: {error}");
            None
        }
    }
}

fn kernel_supports(state: &Path, word: &str) -> bool {
    let mut text = Vec::new();
    // A word anywhere in the first 31 bytes, as in the original.
    File::open(state)
        .and_then(|file| file.take(31).read_to_end(&mut text))
        .is_ok_and(|_| text.windows(word.len()).any(|part| part == word.as_bytes()))
}

/// The write returns after the guest has resumed.
fn write_state(state: &Path, word: &str) -> Result<(), CommandError> {
    OpenOptions::new()
        .write(true)
        .open(state)
        .and_then(|mut file| file.write_all(word.as_bytes()))
        .map_err(|e| {
            CommandError::generic(format!(
                "suspend: cannot write to '{}': {}",
                state.display(),
                strerror(&e)
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// Each stub appends its name and arguments to the file `seen`.
    struct Stubs(tempfile::TempDir);

    impl Stubs {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn put(&self, name: &str, script: &str) {
            let path = self.0.path().join(name);
            let seen = self.0.path().join("seen");
            let log = format!("echo {name} \"$*\" >>{}", seen.display());
            fs::write(&path, format!("#!/bin/sh\n{log}\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn seen(&self) -> String {
            let seen = self.0.path().join("seen");
            let text = fs::read_to_string(&seen).unwrap_or_default();
            fs::write(seen, "").unwrap();
            text
        }

        fn run_shutdown(&self, mode: Option<&str>) -> Result<(), String> {
            run_shutdown(parse_mode(mode).unwrap(), self.0.path()).map_err(|e| e.desc)
        }

        fn sleep(&self, mode: &SuspendMode) -> Result<(), String> {
            let program = |name| Child::new(self.0.path().join(name));
            suspend_guest(mode, &program, &self.0.path().join("state")).map_err(|e| e.desc)
        }
    }

    #[test]
    fn shutdown_is_told_how_where_its_modes_have_no_programs() {
        let stubs = Stubs::new();
        stubs.put("shutdown", "");
        for (mode, program, flag) in [
            (None, "poweroff", "-P"),
            (Some("powerdown"), "poweroff", "-P"),
            (Some("halt"), "halt", "-H"),
            (Some("reboot"), "reboot", "-r"),
        ] {
            let by_shutdown = format!("shutdown -h {flag} +0 hypervisor initiated shutdown\n");
            assert_eq!(stubs.run_shutdown(mode), Ok(()));
            assert_eq!(stubs.seen(), by_shutdown);
            stubs.put(program, "");
            assert_eq!(stubs.run_shutdown(mode), Ok(()));
            assert_eq!(stubs.seen(), format!("{program} \n"));
            let program = stubs.0.path().join(program);
            fs::set_permissions(program, fs::Permissions::from_mode(0o644)).unwrap();
            assert_eq!(stubs.run_shutdown(mode), Ok(()));
            assert_eq!(stubs.seen(), by_shutdown, "not executable");
        }
        for odd in ["", "Halt", "powerdown "] {
            assert_eq!(
                parse_mode(Some(odd)).unwrap_err().desc,
                "mode is invalid (valid values are: halt|powerdown|reboot"
            );
        }
    }

    #[test]
    fn a_shutdown_that_fails_says_why() {
        let stubs = Stubs::new();
        let text = "child process has failed to shutdown: ";
        let missing = stubs.0.path().join("shutdown");
        assert_eq!(
            stubs.run_shutdown(None),
            Err(format!(
                "{text}failed to exec '{}': No such file or directory\n",
                missing.display()
            ))
        );
        stubs.put("shutdown", "exit 3");
        assert_eq!(
            stubs.run_shutdown(Some("reboot")),
            Err(format!("{text}exit status 3"))
        );
        stubs.put("reboot", "echo busy; exit 1");
        assert_eq!(
            stubs.run_shutdown(Some("reboot")),
            Err(format!("{text}busy\n")),
            "and shutdown is not tried, too"
        );
    }

    #[test]
    fn the_first_means_that_works_ends_it() {
        let stubs = Stubs::new();
        let unsupported =
            Err("the requested suspend mode is not supported by the guest".to_owned());
        assert_eq!(stubs.sleep(&RAM), unsupported);
        fs::write(stubs.0.path().join("state"), "freeze disk\n").unwrap();
        assert_eq!(stubs.sleep(&RAM), unsupported);
        assert_eq!(stubs.sleep(&HYBRID), unsupported);
        assert_eq!(stubs.sleep(&DISK), Ok(()));
        let state = || fs::read_to_string(stubs.0.path().join("state")).unwrap();
        assert_eq!(state(), "diskze disk\n");
        stubs.put("pm-is-supported", "");
        stubs.put("pm-suspend-hybrid", "");
        assert_eq!(stubs.sleep(&HYBRID), Ok(()));
        assert_eq!(
            stubs.seen(),
            "pm-is-supported --suspend-hybrid\npm-suspend-hybrid \n"
        );
        stubs.put("systemctl", "test $1 = status && exit 3; exit 0");
        assert_eq!(stubs.sleep(&RAM), Ok(()));
        assert_eq!(
            stubs.seen(),
            "systemctl status systemd-suspend\nsystemctl suspend\n"
        );
        // No such unit, or active: not by systemd.
        for status in [0, 4] {
            stubs.put("systemctl", &format!("exit {status}"));
            assert_eq!(stubs.sleep(&HYBRID), Ok(()));
            assert!(stubs.seen().ends_with("pm-suspend-hybrid \n"));
        }
    }

    #[test]
    fn the_last_means_tells_what_went_wrong() {
        let stubs = Stubs::new();
        stubs.put(
            "systemctl",
            "test $1 = status && exit 3; echo no swap; exit 1",
        );
        assert_eq!(
            stubs.sleep(&HYBRID),
            Err("unknown guest suspend mode".to_owned())
        );
        assert_eq!(
            stubs.sleep(&DISK),
            Err("child process has failed to suspend: no swap\n".to_owned())
        );
        fs::create_dir(stubs.0.path().join("state")).unwrap();
        assert!(!kernel_supports(&stubs.0.path().join("state"), "disk"));
        let full = Path::new("/dev/full");
        assert_eq!(
            write_state(full, "disk").unwrap_err().desc,
            "suspend: cannot write to '/dev/full': No space left on device"
        );
    }
}
