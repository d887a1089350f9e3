//! System calls of the guardian process: its connection and files, inherited by number, its socket, and leaving the
//! agent's service, so that it survives the agent.
//!
//! The guardian and the holders of hooks call these. Each step is possible without the next: a guardian that cannot leave
//! the control group works until the service manager kills the group.

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

/// Standard input; fails if it is not a socket.
pub fn line_from_agent() -> io::Result<UnixStream> {
    let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    line.peer_addr()?;
    // Otherwise stdin would keep the connection open when the copy is closed, and the agent would not see the end.
    let null = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(line)
}

/// Fails if the number is not open.
pub fn own_inherited(number: i32) -> io::Result<File> {
    // SAFETY: used for fcntl(2) only, which fails with EBADF if it is not open, and nothing else here uses the number.
    let probe = unsafe { BorrowedFd::borrow_raw(number.max(3)) };
    fcntl(probe, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open (checked above), the agent has passed it to this process, and the caller asks once for each
    // number.
    Ok(unsafe { File::from_raw_fd(probe.as_raw_fd()) })
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketPath {
    path: PathBuf,
    /// Device and inode number. A socket that a successor has created at this path has others.
    id: (u64, u64),
}

impl SocketPath {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the socket, unless a successor's is there now.
    pub fn remove(&self) {
        let is_it = |found: fs::Metadata| (found.dev(), found.ino()) == self.id;
        if fs::symlink_metadata(&self.path).is_ok_and(is_it) {
            // A stale socket does no harm: the next guardian replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens for root only, in place of a socket that a killed predecessor has left there.
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

/// Excludes this process from the out-of-memory killer: without the guardian nothing thaws. Needs CAP_SYS_RESOURCE.
pub fn outlive_memory_pressure() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", "-1000")
}

/// Moves this process to a control group next to the service's: when the service stops, systemd kills all processes of
/// its group (KillMode= in systemd.kill(5)). Fails if the groups are not writable; outside a service it does nothing.
pub fn leave_service_cgroup() -> io::Result<()> {
    for escape in service_cgroup_escape()? {
        escape.write()?;
    }
    Ok(())
}

/// The writes by which a child of this service moves to the control group next to it.
pub fn service_cgroup_escape() -> io::Result<Vec<PreExecWrite>> {
    let mut escapes = Vec::new();
    for group in own_groups()? {
        if group.extension().is_none_or(|kind| kind != "service") {
            continue;
        }
        let sibling = group.with_file_name("qemu-ga-guardian");
        fs::create_dir_all(&sibling)?;
        let processes = OpenOptions::new()
            .write(true)
            .open(sibling.join("cgroup.procs"))?;
        escapes.push(PreExecWrite {
            fd: processes.into(),
            // The writing process itself (cgroups(7)).
            text: b"0".to_vec(),
        });
    }
    Ok(escapes)
}
