//! Starting a program (floor 1): the one place where helpers, hooks and the programs of guest-exec are
//! forked. Environment, search list, user and family are given together, which posix_spawn(3) and
//! `std::process` cannot express. The child gets three descriptors and those that are named.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::fcntl::OFlag;
use nix::libc;
use nix::unistd::pipe2;

use super::fds;
use super::identity::Identity;
use super::process::{self, Family, PreExecWrite};

const SHELL: &CStr = c"/bin/sh";

/// A program to start.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// The files to try, in this order: one, or the program's name in each directory of PATH.
    pub candidates: &'a [CString],
    /// Its arguments; the first is its name.
    pub argv: &'a [CString],
    /// Its whole environment; None: ours.
    pub env: Option<&'a [CString]>,
    /// Its standard input, output and error. None of the three may be numbered 0, 1 or 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// What it leaves our family for; None: nothing.
    pub family: Option<Family>,
    /// Descriptors that stay open in it, under their numbers.
    pub keep: &'a [RawFd],
    /// What it writes before it is executed; one that cannot be written stops nothing.
    pub announcements: &'a [PreExecWrite],
    /// Whom it becomes; None: nobody else.
    pub user: Option<&'a Identity>,
}

/// Why there is no child.
#[derive(Debug)]
pub enum SpawnError {
    /// No pipe or no process to be had.
    Fork(io::Error),
    /// No candidate could be executed.
    Exec(io::Error),
}

/// Starts `program` in our directory and with our umask, with no signal blocked and SIGPIPE, SIGHUP and
/// SIGCHLD at their defaults; returns its process id. Whoever calls this reaps it.
///
/// A file that the kernel cannot execute (ENOEXEC) is run by /bin/sh. A candidate that is not
/// there or may not be executed is passed over.
///
/// # Errors
/// The last candidate's, or EACCES if any may not be executed. There is no child then.
pub fn spawn(program: &Program<'_>) -> Result<i32, SpawnError> {
    let (told, tell) = pipe2(OFlag::O_CLOEXEC).map_err(|e| SpawnError::Fork(e.into()))?;
    let argv = pointers(program.argv);
    let env = program.env.map(pointers);
    // `/bin/sh FILE ARGUMENT…`, the file filled in by the child.
    let mut shell = vec![SHELL.as_ptr(), ptr::null()];
    shell.extend_from_slice(argv.get(1..).unwrap_or(&[ptr::null()]));
    let groups = program.user.map_or(&[][..], |user| &user.groups);
    let groups: Vec<libc::gid_t> = groups.iter().map(|group| group.as_raw()).collect();
    let prepared = Prepared {
        program,
        argv: &argv,
        env: env.as_deref(),
        groups: &groups,
        tell: tell.as_raw_fd(),
    };
    // SAFETY: the child calls only async-signal-safe functions on memory that was filled before,
    // and leaves by exec or _exit: no destructor, lock or allocator is touched in it.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(SpawnError::Fork(io::Error::last_os_error()));
    }
    if pid == 0 {
        // SAFETY: this is the child of fork.
        unsafe { prepared.run(&mut shell) }
    }
    drop(tell);
    match verdict(told) {
        None => Ok(pid),
        Some(errno) => {
            // It ends at once; no status is wanted.
            reap(pid).ok();
            Err(SpawnError::Exec(io::Error::from_raw_os_error(errno)))
        }
    }
}

/// The error number that the child sends, or None: the exec closed the pipe.
fn verdict(told: OwnedFd) -> Option<i32> {
    let mut errno = [0; 4];
    File::from(told).read_exact(&mut errno).ok()?;
    Some(i32::from_ne_bytes(errno))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let null = std::iter::once(ptr::null());
    strings.iter().map(|s| s.as_ptr()).chain(null).collect()
}

struct Prepared<'a> {
    program: &'a Program<'a>,
    argv: &'a [*const libc::c_char],
    env: Option<&'a [*const libc::c_char]>,
    groups: &'a [libc::gid_t],
    tell: RawFd,
}

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

impl Prepared<'_> {
    /// The child's part.
    ///
    /// # Safety
    /// Only right after fork, in the child. The arrays of pointers end in null.
    unsafe fn run(&self, shell: &mut [*const libc::c_char]) -> ! {
        let errno = match self.settle() {
            // SAFETY: as promised by the caller.
            Ok(()) => unsafe { self.execute(shell) },
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
        let bytes = errno.to_ne_bytes();
        // SAFETY: the buffer outlives the call; _exit takes an integer and does not return. A
        // parent that is gone needs no answer.
        unsafe {
            libc::write(self.tell, bytes.as_ptr().cast(), bytes.len());
            libc::_exit(127)
        }
    }

    fn settle(&self) -> io::Result<()> {
        let program = self.program;
        for (to, from) in program.stdio.iter().enumerate() {
            // SAFETY: integers only. The copy has no close-on-exec flag.
            check(unsafe { libc::dup2(from.as_raw_fd(), to as RawFd) })?;
        }
        program.family.map_or(Ok(()), process::join)?;
        for announcement in program.announcements {
            announcement.write().ok();
        }
        process::reset_signals()?;
        fds::restore_limit();
        process::close_at_exec_from(3)?;
        for &fd in program.keep {
            // SAFETY: F_SETFD takes an integer; a bad number is an error answer.
            check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
        }
        if let Some(user) = program.user {
            // Last, for the rest needs the rights that this takes away.
            // SAFETY: integers, and a pointer to as many group numbers as are announced; there is no
            // other thread in this child whose identity the C library would change too.
            unsafe {
                check(libc::setgroups(
                    self.groups.len() as _,
                    self.groups.as_ptr(),
                ))?;
                check(libc::setgid(user.gid.as_raw()))?;
                check(libc::setuid(user.uid.as_raw()))?;
            }
        }
        Ok(())
    }

    /// Returns only if nothing could be executed: the error number.
    ///
    /// # Safety
    /// As for [`Self::run`].
    unsafe fn execute(&self, shell: &mut [*const libc::c_char]) -> i32 {
        let mut refused = None;
        let mut last = libc::ENOENT;
        // SAFETY: our own environment is a null-terminated array; in the child nobody changes it.
        let env = self.env.map_or(unsafe { environ }, <[_]>::as_ptr);
        for file in self.program.candidates {
            // SAFETY: the strings end in NUL and the arrays in null, and all outlive the call.
            unsafe { libc::execve(file.as_ptr(), self.argv.as_ptr(), env) };
            last = errno();
            if last == libc::ENOEXEC {
                if let Some(place) = shell.get_mut(1) {
                    *place = file.as_ptr();
                }
                // SAFETY: as above.
                unsafe { libc::execve(SHELL.as_ptr(), shell.as_ptr(), env) };
                return errno();
            }
            match last {
                libc::EACCES => refused = Some(last),
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                _ => return last,
            }
        }
        refused.unwrap_or(last)
    }
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

/// How a child that was [`spawn`]ed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

/// Reaps the child `pid` if it has ended; None if it runs.
///
/// # Errors
/// ECHILD: it is no child of ours, or somebody else has reaped it.
pub fn try_reap(pid: i32) -> io::Result<Option<Ended>> {
    wait(pid, libc::WNOHANG)
}

/// Waits until the child `pid` has ended, and reaps it.
///
/// # Errors
/// As [`try_reap`].
pub fn reap(pid: i32) -> io::Result<Ended> {
    wait(pid, 0).map(|ended| ended.unwrap_or(Ended::Exited(0)))
}

fn wait(pid: i32, flags: libc::c_int) -> io::Result<Option<Ended>> {
    let mut status = 0;
    loop {
        // SAFETY: the pointer is good for the call.
        match unsafe { libc::waitpid(pid, &mut status, flags) } {
            0 => return Ok(None),
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            _ if libc::WIFSIGNALED(status) => {
                return Ok(Some(Ended::Signaled(libc::WTERMSIG(status))));
            }
            _ => return Ok(Some(Ended::Exited(libc::WEXITSTATUS(status)))),
        }
    }
}

/// The files that a program's name may mean: the name itself if it has a slash, else in each of the
/// directories of `path`, with `:` between.
pub fn candidates(name: &[u8], path: &[u8]) -> Vec<CString> {
    if name.is_empty() || name.contains(&b'/') {
        return CString::new(name).into_iter().collect();
    }
    path.split(|&byte| byte == b':')
        .filter_map(|directory| {
            let mut file = directory.to_vec();
            // An empty entry is the working directory.
            if !file.is_empty() {
                file.push(b'/');
            }
            file.extend_from_slice(name);
            CString::new(file).ok()
        })
        .collect()
}

/// A descriptor above the standard three that will be closed at exec, for `fd`.
///
/// # Errors
/// No descriptor is free.
pub fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // SAFETY: the descriptor is open; what comes back is new and ours alone.
    unsafe {
        match libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) {
            -1 => Err(io::Error::last_os_error()),
            copy => Ok(OwnedFd::from_raw_fd(copy)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn run(files: &[&str], argv: &[&str], env: Option<&[&str]>) -> Result<(Ended, String), i32> {
        let strings = |list: &[&str]| -> Vec<CString> {
            list.iter().map(|s| CString::new(*s).unwrap()).collect()
        };
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let null: OwnedFd = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap()
            .into();
        let env = env.map(strings);
        let spawned = spawn(&Program {
            candidates: &strings(files),
            argv: &strings(argv),
            env: env.as_deref(),
            stdio: [null.as_fd(), write.as_fd(), null.as_fd()],
            family: None,
            keep: &[],
            announcements: &[],
            user: None,
        });
        drop(write);
        let pid = match spawned {
            Ok(pid) => pid,
            Err(SpawnError::Exec(error)) => return Err(error.raw_os_error().unwrap()),
            Err(SpawnError::Fork(error)) => panic!("{error}"),
        };
        let mut output = String::new();
        File::from(read).read_to_string(&mut output).unwrap();
        loop {
            if let Some(ended) = try_reap(pid).unwrap() {
                assert!(try_reap(pid).is_err());
                return Ok((ended, output));
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_environment_is_what_is_given() {
        let env = ["A=1", "A=2", "odd"];
        let (ended, output) = run(&["/usr/bin/env"], &["env"], Some(&env)).unwrap();
        assert_eq!(
            (ended, output.as_str()),
            (Ended::Exited(0), "A=1\nA=2\nodd\n")
        );
        let (_, output) = run(&["/usr/bin/env"], &["env"], None).unwrap();
        assert!(output.contains("PATH="), "{output}");
    }

    #[test]
    fn candidates_are_tried_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        let script = script.to_str().unwrap();
        // Made by another process: no thread that forks meanwhile keeps it open for writing.
        let made = std::process::Command::new("sh")
            .args([
                "-c",
                r#"echo 'echo "$0 $*"; kill -9 $$' >"$0"; chmod 644 "$0""#,
                script,
            ])
            .status();
        assert!(made.unwrap().success());
        let missing = "/nonexistent/x";
        assert_eq!(run(&[], &["x"], None), Err(libc::ENOENT));
        assert_eq!(run(&[missing], &["x"], None), Err(libc::ENOENT));
        assert_eq!(run(&[script, missing], &["x"], None), Err(libc::EACCES));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(script, mode).unwrap();
        assert_eq!(
            run(&[missing, "/etc/passwd", script], &["x", "a b", "c"], None),
            Ok((Ended::Signaled(9), format!("{script} a b c\n")))
        );
    }

    #[test]
    fn no_descriptor_but_three_and_no_signal_off() {
        let list = "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status";
        let (_, output) = run(&["/bin/sh"], &["sh", "-c", list], None).unwrap();
        let lines: Vec<&str> = output.lines().collect();
        // The fourth is the directory that ls reads.
        assert_eq!(&lines[..4], ["0", "1", "2", "3"]);
        // Whoever runs the tests may ignore other signals; SIGPIPE is what Rust ignores.
        let bits = |line: &str| u64::from_str_radix(line.split('\t').next_back().unwrap(), 16);
        assert_eq!(bits(lines[4]), Ok(0), "{output}");
        assert_eq!(bits(lines[5]).unwrap() >> (libc::SIGPIPE - 1) & 1, 0);
    }
}
