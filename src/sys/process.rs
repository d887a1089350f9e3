//! Child processes (floor 1): what runs between fork and exec, waiting without reaping, and
//! signals that cannot hit a stranger who got a dead process's number.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

use super::fds;

/// Gives this process the name by which lists of processes show it, at most 15 bytes; without, it is
/// that of the path that was executed, `exe` for /proc/self/exe.
pub fn set_process_name(name: &CStr) {
    // The kernel knows no failure of this but a bad address.
    nix::sys::prctl::set_name(name).ok();
}

/// What a child leaves its parent's family for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A session of its own, setsid(2): no controlling terminal.
    Session,
    /// A process group of its own in the caller's session, setpgid(2).
    Group,
}

/// Bytes that a child writes to a descriptor just before it becomes its program. Of a socket,
/// whoever reads them knows that the program runs, whatever has become of the parent; `0` written
/// to the list of a control group's processes moves the child there.
#[derive(Debug)]
pub struct PreExecWrite {
    /// Where to; open until the spawn.
    pub fd: OwnedFd,
    /// What, in one write(2).
    pub text: Vec<u8>,
}

impl PreExecWrite {
    /// Writes it, from this very process. Whoever is at the other end of a socket may have gone, or have
    /// stopped to read: that neither ends this process with SIGPIPE nor blocks it.
    ///
    /// # Errors
    /// send(2)'s or write(2)'s.
    pub fn write(&self) -> io::Result<()> {
        let (fd, text) = (self.fd.as_raw_fd(), self.text.as_ptr().cast());
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the descriptor is owned, and the pointer and length are those of the vector.
        let mut written = unsafe { libc::send(fd, text, self.text.len(), flags) };
        if written < 0 && nix::errno::Errno::last() == nix::errno::Errno::ENOTSOCK {
            // SAFETY: as above.
            written = unsafe { libc::write(fd, text, self.text.len()) };
        }
        if written < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

/// This very program, to be started once more for a part of its work; it is the one that runs, also
/// when its file was replaced meanwhile.
///
/// # Errors
/// In the library's own tests, which are no qemu-ga: they would run themselves, without end.
pub fn self_exe() -> io::Result<Command> {
    if cfg!(test) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0("qemu-ga");
    Ok(command)
}

/// Prepares `command` so that its child starts in its own `family`, with no signal blocked, with
/// SIGPIPE at its default, SIGHUP and SIGCHLD too, which whoever started the agent may have had
/// ignored, and with every descriptor from 3 up closed at exec but those of `keep`,
/// whose numbers must stay open until the spawn. An announcement that cannot be made stops nothing.
pub fn prepare(
    command: &mut Command,
    family: Family,
    keep: Vec<RawFd>,
    announcements: Vec<PreExecWrite>,
) {
    let hook = move || {
        join(family)?;
        for announcement in &announcements {
            announcement.write().ok();
        }
        reset_signals()?;
        fds::restore_limit();
        close_at_exec_from(3)?;
        for &fd in &keep {
            // SAFETY: fcntl with F_SETFD takes an integer; a bad number is an error answer.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec of a program that may have threads. It calls
    // only async-signal-safe functions and bare system calls, allocates nothing (its vector was
    // filled before), takes no lock, and cannot panic.
    unsafe { command.pre_exec(hook) };
}

pub(super) fn join(family: Family) -> io::Result<()> {
    // SAFETY: both calls take integers only and act on the calling process.
    let done = unsafe {
        match family {
            Family::Session => libc::setsid(),
            Family::Group => libc::setpgid(0, 0),
        }
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub(super) fn reset_signals() -> io::Result<()> {
    // SAFETY: the set is initialised by sigemptyset before it is used; SIG_DFL is a valid handler.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        if libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGCHLD] {
            if libc::signal(signal, libc::SIG_DFL) == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Sets close-on-exec on every descriptor from `first` up.
pub(super) fn close_at_exec_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: three integers; nothing is closed now, and a kernel without the call says ENOSYS
    // (before 5.9) or EINVAL (without the flag, before 5.11).
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        return Ok(());
    }
    // Older kernels. The agent opens everything close-on-exec, so this only has to catch what it
    // was itself given at its start: low numbers.
    for fd in first..1024 {
        // SAFETY: integers only; EBADF for a number that is not open is what most answer.
        unsafe { libc::fcntl(fd as RawFd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// True if the child `pid` has ended; it stays a zombie, so that its number stays its own.
///
/// # Errors
/// ECHILD if `pid` is no child of this process or was reaped already.
pub fn has_ended(pid: i32) -> io::Result<bool> {
    let id = libc::id_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ECHILD))?;
    loop {
        // SAFETY: all-zero is a valid siginfo_t, and the pointer is good for the call. With WNOHANG
        // the kernel leaves si_pid 0 where the child has not ended.
        let (done, pid_of) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOWAIT | libc::WNOHANG;
            let done = libc::waitid(libc::P_PID, id, &mut info, flags);
            (done, info.si_pid())
        };
        if done == 0 {
            return Ok(pid_of != 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// What /proc tells of a process.
#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    /// It has neither exited nor been killed. One that has is there until it is reaped, and until its last thread
    /// has left the kernel; its descriptors stay open until then.
    pub is_running: bool,
    /// A signal or a debugger has stopped it.
    pub is_stopped: bool,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// When it was started, in clock ticks since boot: with its number it is that very process.
    pub start: u64,
}

/// Reads /proc/PID/stat; None if it cannot be seen.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether a signal has stopped the process.
pub fn is_stopped(pid: i32) -> bool {
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

/// Fields 3 to 6 and 22 of proc_pid_stat(5); the name before them may hold anything, `)` included.
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    let name_end = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(text.get(name_end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let mut number = || fields.next()?.parse().ok();
    Some(Stat {
        is_running: !matches!(state, "Z" | "X" | "x"),
        is_stopped: matches!(state, "T" | "t"),
        parent: number()?,
        group: number()?,
        session: number()?,
        start: fields.nth(15)?.parse().ok()?,
    })
}

/// A descriptor that stands for one process and becomes readable when it ends.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process `pid`, pidfd_open(2).
    ///
    /// # Errors
    /// ESRCH if there is none; ENOSYS before Linux 5.3.
    pub fn open(pid: i32) -> io::Result<PidFd> {
        // SAFETY: integers only; the descriptor that comes back is new and ours alone, and the
        // kernel sets close-on-exec on it.
        unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            match RawFd::try_from(fd) {
                Ok(fd) if fd >= 0 => Ok(PidFd(OwnedFd::from_raw_fd(fd))),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    /// Sends `signal` to that very process, pidfd_send_signal(2).
    ///
    /// # Errors
    /// ESRCH if it has ended and was reaped; EPERM.
    pub fn send(&self, signal: i32) -> io::Result<()> {
        // SAFETY: the descriptor is open as long as self lives; a null siginfo is allowed.
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl std::os::fd::AsFd for PidFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// kill(2): a signal by number, for kernels without pidfd and for whole groups (negative `pid`).
///
/// # Errors
/// As kill(2) says: ESRCH, EPERM.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // 0 and -1 would reach our own group or everybody.
    if pid == 0 || pid == -1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: integers only.
    if unsafe { libc::kill(pid, signal) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_lines() {
        let rest = "1 70 60 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99 11 12";
        for (state, is_running) in [("S", true), ("Z", false)] {
            let line = format!("77 (a) S 1) R) {state} {rest}");
            let stat = Stat {
                is_stopped: false,
                is_running,
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
