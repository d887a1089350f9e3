//! `qemu-ga selftest`: a real freeze and thaw, on filesystems made for it.
//!
//! In a private mount namespace ([`sandbox`]) a [`rig`] mounts two loop-backed ext4 filesystems and starts the agent with
//! two hooks, and a [`writer`] writes all the time. The steps of [`script`] freeze and thaw through a [`client`];
//! [`transcript`] prints the results. Nothing of the machine is frozen or changed. [`crate::app`] calls [`cli`].

mod client;
mod rig;
mod sandbox;
mod script;
mod transcript;
mod writer;

use anyhow::Context;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use transcript::Transcript;

/// The help of this tool.
pub const USAGE: &str = "\
Usage: qemu-ga selftest [--json]
       qemu-ga selftest --run COMMAND [ARGUMENT…]
Freezes and thaws two loop-mounted filesystems of its own in a private mount namespace, with a
real agent, two hooks and a writer; nothing of this machine is frozen. Needs root and mkfs.ext4.
  --json  one JSON object on standard output; progress goes to standard error
  --run   enter the namespace and run COMMAND there instead; what it changes is thrown away
Exit status: 0 passed, 1 failed, 2 a mistake in this command.
";

/// Runs `qemu-ga selftest` with the arguments behind that word; returns the exit status.
#[allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an operator's command"
)]
pub fn cli(args: &[OsString]) -> u8 {
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or("")).collect();
    let json = match words.as_slice() {
        [] => false,
        ["--json"] => true,
        ["--help" | "-h"] => {
            print!("{USAGE}");
            return 0;
        }
        ["--run", _, ..] => {
            let error = match run_inside(&args[1..]) {
                Ok(never) => match never {},
                Err(error) => error,
            };
            eprintln!("qemu-ga selftest: {error:#}");
            return 1;
        }
        _ => {
            eprint!(
                "qemu-ga selftest: unexpected argument '{}'\n{USAGE}",
                words.join(" ")
            );
            return 2;
        }
    };
    let mut transcript = Transcript::new(json);
    if let Err(error) = script::run(&mut transcript) {
        transcript.fail(&error);
    }
    transcript.finish()
}

/// Replaces this process by `command`, in the namespace.
fn run_inside(command: &[OsString]) -> anyhow::Result<std::convert::Infallible> {
    sandbox::enter()?;
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    Err(error).with_context(|| format!("cannot run {}", command[0].to_string_lossy()))
}

#[cfg(test)]
pub(super) use transcript::sample;
