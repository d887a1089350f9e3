//! `qemu-ga selftest`: a real freeze and thaw, on filesystems made for it. Nothing of the machine is frozen or changed.
//!
//! In a private mount namespace ([`sandbox`]) a [`rig`] mounts two loop-backed ext4 filesystems and starts the agent
//! with two hooks, and a [`writer`] writes all the time. The steps of [`script`] freeze and thaw through a [`client`].

mod client;
mod rig;
mod sandbox;
mod script;
mod transcript;
mod writer;

use super::args::{ParsedArgs, Tool, ToolError};
use crate::cli::{Arg, OptionSpec, Usage};
use anyhow::Context;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use transcript::Transcript;

pub const TOOL: Tool = Tool {
    usage: Usage {
        name: "selftest",
        summary: "freeze and thaw filesystems made for the purpose",
        about: "Freezes and thaws two loop-mounted filesystems of its own in a private mount \
                namespace, with a real agent, two hooks and a writer; nothing of this machine is \
                frozen. Needs root and mkfs.ext4.",
        operand: None,
        options: &[&[
            OptionSpec::switch(
                "json",
                "write one JSON object to standard output, and progress to standard error",
            ),
            OptionSpec::new(
                "run",
                Arg::Program("COMMAND..."),
                "enter the namespace and run COMMAND there instead; what it changes is discarded",
            ),
        ]],
        exit: &[(0, "passed"), (1, "failed")],
    },
    subcommands: &[],
    run,
};

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    if args.has("--run") {
        let error = match run_inside(&args.operands) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        return Err(ToolError::Failed(format!("{error:#}")));
    }
    let mut transcript = Transcript::new(args.has("--json"));
    if let Err(error) = script::run(&mut transcript) {
        transcript.fail(&error);
    }
    Ok(transcript.finish())
}

fn run_inside(command: &[OsString]) -> anyhow::Result<std::convert::Infallible> {
    sandbox::enter(command.first().map(Path::new))?;
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    Err(error).with_context(|| format!("cannot run {}", command[0].to_string_lossy()))
}

#[cfg(test)]
pub(super) use transcript::sample;
