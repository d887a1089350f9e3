//! What the guardian process needs of the system: its line and its files, inherited by number, and
//! a place where it outlives the agent.

use super::cgroup::own_groups;
use super::process::PreExecWrite;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Standard input as the line to the agent.
///
/// # Errors
/// It is no socket, or no descriptor is left.
pub fn line_from_agent() -> io::Result<UnixStream> {
    let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    line.peer_addr()?;
    // Only the copy is to keep the line open.
    let null = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(line)
}

/// Takes over an inherited descriptor.
///
/// # Errors
/// It is not open.
pub fn inherited_file(number: i32) -> io::Result<File> {
    // SAFETY: only a probe; nothing else in this process knows of the number.
    let probe = unsafe { BorrowedFd::borrow_raw(number.max(3)) };
    fcntl(probe, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open (checked above), was passed to this process by the agent, and each
    // number is taken over once.
    Ok(unsafe { File::from_raw_fd(probe.as_raw_fd()) })
}

/// The path of a listening socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketPath {
    path: PathBuf,
    /// Device and inode number, by which it is known from one that a successor has put in its place.
    id: (u64, u64),
}

impl SocketPath {
    /// Removes it, unless another one is there by now.
    pub fn remove(&self) {
        let is_it = |found: fs::Metadata| (found.dev(), found.ino()) == self.id;
        if fs::symlink_metadata(&self.path).is_ok_and(is_it) {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Listens at `path`, where a dead predecessor may have left its own; root's alone.
///
/// # Errors
/// What unlink(2), bind(2) or chmod(2) says.
pub fn bind_guardian_socket(path: &Path) -> io::Result<(UnixListener, SocketPath)> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let made = fs::symlink_metadata(path)?;
    let socket_path = SocketPath {
        path: path.to_owned(),
        id: (made.dev(), made.ino()),
    };
    Ok((listener, socket_path))
}

/// Asks the kernel to end every other process first when memory runs out.
///
/// # Errors
/// No CAP_SYS_RESOURCE.
pub fn outlive_memory_pressure() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", "-1000")
}

/// Moves this process from the control group of the agent's service into one beside it, for a
/// service manager ends all that is left in a service's group.
///
/// # Errors
/// Control groups are not mounted or not writable. Being in no service is none.
pub fn leave_service_cgroup() -> io::Result<()> {
    for way_out in service_cgroup_escape()? {
        way_out.write()?;
    }
    Ok(())
}

/// What a process of this service writes to move into the control group beside it.
///
/// # Errors
/// Control groups are not mounted or not writable. Being in no service is none.
pub fn service_cgroup_escape() -> io::Result<Vec<PreExecWrite>> {
    let mut ways_out = Vec::new();
    for group in own_groups()? {
        if group.extension().is_none_or(|kind| kind != "service") {
            continue;
        }
        let beside = group.with_file_name("qemu-ga-guardian");
        fs::create_dir_all(&beside)?;
        let processes = OpenOptions::new()
            .write(true)
            .open(beside.join("cgroup.procs"))?;
        ways_out.push(PreExecWrite {
            fd: processes.into(),
            text: b"0".to_vec(),
        });
    }
    Ok(ways_out)
}
