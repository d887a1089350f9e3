//! Processes (floor 1): what runs between fork and exec, waiting without reaping, and signals that cannot reach another
//! process to which the number of an ended one was given.
//!
//! [`crate::child`] and [`super::spawn`] are built on this; the guardian, the hook master and the tools look at other
//! processes by it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;

use super::fds;

/// At most 15 bytes. Without it a process that was started by /proc/self/exe is listed as `exe`.
pub(crate) fn set_process_name(name: &CStr) {
    // PR_SET_NAME fails only for an invalid address.
    let _ = nix::sys::prctl::set_name(name);
}

/// What a child gets of its own, so that all its processes can be killed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// By setsid(2): no controlling terminal.
    Session,
    /// By setpgid(2), in the caller's session.
    Group,
}

/// A child writes this right before execve(2): to a socket, to show its reader that the program runs, even if the
/// parent has ended; or `0` to a control group's cgroup.procs, to move there.
#[derive(Debug)]
pub struct PreExecWrite {
    pub(crate) fd: OwnedFd,
    /// Written in one call.
    pub(crate) text: Vec<u8>,
}

impl PreExecWrite {
    /// Writes from this process, without SIGPIPE for a closed socket, and does not wait for a peer that does not read.
    pub(crate) fn write(&self) -> io::Result<()> {
        let (fd, text) = (self.fd.as_raw_fd(), self.text.as_ptr().cast());
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // This may run between fork and exec: bare system calls only.
        // SAFETY: the descriptor is open, and pointer and length are those of the vector.
        let mut written = unsafe { libc::send(fd, text, self.text.len(), flags) };
        if written < 0 && nix::errno::Errno::last() == nix::errno::Errno::ENOTSOCK {
            // SAFETY: as above.
            written = unsafe { libc::write(fd, text, self.text.len()) };
        }
        check_result(written as libc::c_int)
    }
}

/// In a child before execve(2): moves to the `family`; unblocks all signals, and sets SIGPIPE, SIGHUP and SIGCHLD,
/// which the agent or its parent may ignore, to their default; restores the limit of open files; marks every descriptor
/// from 3 up but those of `keep` close-on-exec. A failed announcement is no error.
///
/// Threads of the parent may have held any lock at the fork. So this calls only async-signal-safe functions and bare
/// system calls, allocates nothing, takes no lock, and does not panic.
pub(super) fn prepare_exec(
    family: Option<Family>,
    keep: &[RawFd],
    announcements: &[PreExecWrite],
) -> io::Result<()> {
    if let Some(family) = family {
        // SAFETY: the arguments are integers; both act on the calling process.
        check_result(unsafe {
            match family {
                Family::Session => libc::setsid(),
                Family::Group => libc::setpgid(0, 0),
            }
        })?;
    }
    for announcement in announcements {
        // Whoever waits for it sees the end of the socket instead.
        let _ = announcement.write();
    }
    reset_signals(&[libc::SIGPIPE, libc::SIGHUP, libc::SIGCHLD])?;
    fds::restore_limit();
    close_at_exec_from(3)?;
    for &fd in keep {
        // SAFETY: the arguments are integers; EBADF for a descriptor that is not open.
        check_result(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
    }
    Ok(())
}

/// Does not allocate.
pub(super) fn check_result(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Unblocks all signals, and sets these to their defaults. Does not allocate.
fn reset_signals(defaults: &[libc::c_int]) -> io::Result<()> {
    // SAFETY: the set is initialized by sigemptyset before it is used; SIG_DFL is a valid handler.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        check_result(libc::sigprocmask(
            libc::SIG_SETMASK,
            &none,
            std::ptr::null_mut(),
        ))?;
        for &signal in defaults {
            if libc::signal(signal, libc::SIG_DFL) == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Undoes what the starter of this process may have left: blocked signals, which would never arrive, and an ignored
/// SIGCHLD, with which the kernel discards the exit status of children (wait(2)). SIGPIPE stays ignored.
pub fn restore_signals() -> io::Result<()> {
    reset_signals(&[libc::SIGCHLD])
}

fn close_at_exec_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: the arguments are integers; nothing is closed now. The call fails with ENOSYS before Linux 5.9, and with
    // EINVAL before 5.11, which has introduced the flag.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        return Ok(());
    }
    // The agent opens everything with close-on-exec, so only descriptors that it has inherited itself are left: low
    // numbers.
    for fd in first..1024 {
        // SAFETY: the arguments are integers; for most of them the call fails with EBADF.
        unsafe { libc::fcntl(fd as RawFd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Does not reap the child, so that its number is not given to another process. ECHILD: no child, or reaped.
pub(crate) fn has_ended(pid: i32) -> io::Result<bool> {
    let id = libc::id_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ECHILD))?;
    loop {
        // With WNOHANG the kernel sets si_pid to 0 if the child has not ended (waitid(2)).
        // SAFETY: all-zero bytes are a valid siginfo_t, and the pointer is valid during the call.
        let (result, ended) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOWAIT | libc::WNOHANG;
            let result = libc::waitid(libc::P_PID, id, &mut info, flags);
            (result, info.si_pid())
        };
        if result == 0 {
            return Ok(ended != 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The kernel's include/linux/sched.h.
const PF_EXITING: u32 = 4;

/// A part of proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    /// It has neither exited nor been killed. After that it is in /proc until it is reaped, and until its last thread
    /// has left the kernel; its descriptors stay open until then.
    pub is_running: bool,
    /// It exits. Its descriptors are closed after this is set, so whoever sees them closed sees this, too.
    pub(crate) is_exiting: bool,
    /// By a signal or a debugger.
    pub(crate) is_stopped: bool,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// In clock ticks since boot. Together with its number this identifies a process.
    pub start: u64,
}

/// None if there is no such process, or none that this one may see (hidepid in proc(5)).
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

pub(crate) fn is_stopped(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| stat.is_stopped)
}

/// Finds a process that stays stopped: a short stop, as by a debugger, is no reason to kill it.
#[derive(Debug, Default)]
pub struct StopCheck {
    was_stopped: bool,
}

impl StopCheck {
    /// Whether this check and the one before it have found the process stopped.
    pub fn stays_stopped(&mut self, pid: i32) -> bool {
        let is_stopped = is_stopped(pid);
        std::mem::replace(&mut self.was_stopped, is_stopped) && is_stopped
    }
}

/// Parses the content of /proc/PID/stat.
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    // Fields 3 to 6, 9 and 22. The name in field 2 may contain anything, also `)`.
    let name_end = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(text.get(name_end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let mut number = || fields.next()?.parse().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    let flags: u32 = fields.nth(2)?.parse().ok()?;
    Some(Stat {
        is_running: !matches!(state, "Z" | "X" | "x"),
        is_exiting: flags & PF_EXITING != 0,
        is_stopped: matches!(state, "T" | "t"),
        parent,
        group,
        session,
        start: fields.nth(12)?.parse().ok()?,
    })
}

/// A descriptor of a process, readable when the process has ended (pidfd_open(2)).
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// ESRCH: there is no such process; ENOSYS before Linux 5.3.
    pub fn open(pid: i32) -> io::Result<PidFd> {
        // SAFETY: the arguments are integers; the returned descriptor is new, with close-on-exec, and has no other owner.
        unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            match RawFd::try_from(fd) {
                Ok(fd) if fd >= 0 => Ok(PidFd(OwnedFd::from_raw_fd(fd))),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    /// Signals this process and no other, even if its number was reused (pidfd_send_signal(2)). ESRCH: it was reaped.
    pub fn send(&self, signal: i32) -> io::Result<()> {
        // SAFETY: the descriptor is open as long as self exists; a null siginfo is allowed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        check_result(result as libc::c_int)
    }
}

impl std::os::fd::AsFd for PidFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// kill(2), for kernels without pidfd and for groups (negative `pid`). EINVAL for 0 and -1, which mean many processes.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // 0 is the group of this process, -1 all processes: a mistake that root must not make.
    if pid == 0 || pid == -1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the arguments are integers.
    check_result(unsafe { libc::kill(pid, signal) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn reads_stat_lines() {
        for (state, flags, is_running) in [("S", 4194560, true), ("Z", 4194564, false)] {
            let rest = format!("1 70 60 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 1 0 99 11 12");
            let line = format!("77 (a) S 1) R) {state} {rest}");
            let stat = Stat {
                is_stopped: false,
                is_running,
                is_exiting: !is_running,
                parent: 1,
                group: 70,
                session: 60,
                start: 99,
            };
            assert_eq!(parse_stat(line.as_bytes()), Some(stat));
        }
        assert_eq!(parse_stat(b"77 (x"), None);
        assert_eq!(parse_stat(b"77 (x) S 1"), None);
    }

    #[test]
    fn a_process_that_was_not_reaped_does_not_run() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        while !has_ended(pid).unwrap() {
            std::thread::yield_now();
        }
        let is_running = |pid| stat(pid).map(|stat| stat.is_running);
        assert_eq!(is_running(pid), Some(false));
        child.wait().unwrap();
        let ours = i32::try_from(std::process::id()).unwrap();
        assert_eq!((is_running(ours), is_running(i32::MAX)), (Some(true), None));
    }
}
