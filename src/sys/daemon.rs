//! Becoming a daemon (daemon(7), the traditional steps).

use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, chdir, fork, setsid};
use std::io;

/// Which side of the fork this is.
#[derive(Debug, PartialEq, Eq)]
pub enum Side {
    /// The process that was started; it has nothing left to do.
    Parent,
    /// The daemon.
    Child,
}

/// Forks. Call it before any thread is started.
///
/// # Errors
/// EAGAIN, ENOMEM: no further process can be made.
pub fn fork_daemon() -> io::Result<Side> {
    // SAFETY: the process is single-threaded here, so the child may run any code.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => Ok(Side::Parent),
        ForkResult::Child => Ok(Side::Child),
    }
}

/// The child's part: umask 0077, a session of its own, `/` as directory, /dev/null as standard
/// descriptors.
///
/// # Errors
/// Any step's, /dev/null's included.
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
