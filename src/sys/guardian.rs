//! What the guardian process needs of the system: its line and its files, inherited by number, and
//! a place where it outlives the agent.

use super::process::Announcement;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Where the kernel's control groups are mounted: version 2, and the service manager's own
/// hierarchy beside version 1.
const CGROUPS: [(&str, &str); 2] = [
    ("0::", "/sys/fs/cgroup"),
    ("name=systemd:", "/sys/fs/cgroup/systemd"),
];

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

/// Listens at `door`, where a dead predecessor may have left its own; root's alone.
///
/// # Errors
/// What unlink(2), bind(2) or chmod(2) says.
pub fn listen(door: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(door) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let listener = UnixListener::bind(door)?;
    fs::set_permissions(door, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
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
    for way_out in ways_out_of_service()? {
        way_out.make()?;
    }
    Ok(())
}

/// What a process of this service writes to move into the control group beside it.
///
/// # Errors
/// Control groups are not mounted or not writable. Being in no service is none.
pub fn ways_out_of_service() -> io::Result<Vec<Announcement>> {
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    let mut ways_out = Vec::new();
    for line in membership.lines() {
        for (prefix, mountpoint) in CGROUPS {
            // `7:name=systemd:/system.slice/x.service`, or `0::/system.slice/x.service`
            let Some(at) = line
                .find(prefix)
                .filter(|&at| at == 0 || line[..at].ends_with(':'))
            else {
                continue;
            };
            let group = Path::new(&line[at + prefix.len()..]);
            if group.extension().is_none_or(|kind| kind != "service") {
                continue;
            }
            let parent = group.parent().unwrap_or(group);
            let parent = parent.strip_prefix("/").unwrap_or(parent);
            let beside = Path::new(mountpoint).join(parent).join("qemu-ga-guardian");
            fs::create_dir_all(&beside)?;
            let processes = OpenOptions::new()
                .write(true)
                .open(beside.join("cgroup.procs"))?;
            ways_out.push(Announcement {
                fd: processes.into(),
                text: b"0".to_vec(),
            });
        }
    }
    Ok(ways_out)
}
