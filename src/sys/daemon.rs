//! Becoming a daemon (daemon(7), the traditional steps), for the option `--daemonize`.
//!
//! `app` forks before any thread exists and calls [`detach`] in the child once the channel is open, so that whoever has
//! started the agent sees errors until then.

use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, chdir, fork, setsid};
use std::io;

#[derive(Debug, PartialEq, Eq)]
pub enum Side {
    /// It exits, so that the caller's shell continues.
    Parent,
    Child,
}

/// Call it before any thread is started.
pub fn fork_daemon() -> io::Result<Side> {
    // SAFETY: without other threads, no lock is held and no data is half-changed in the child, so it may run any code.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => Ok(Side::Parent),
        ForkResult::Child => Ok(Side::Child),
    }
}

/// The child's part: umask 0077, a session of its own, `/` as working directory, /dev/null as stdin, stdout and stderr.
pub fn detach() -> io::Result<()> {
    umask(Mode::from_bits_truncate(0o077));
    setsid()?;
    chdir("/")?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}
