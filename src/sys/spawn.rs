//! Starts a program (floor 1): the one place where helpers, hooks and the programs of guest-exec are forked.
//!
//! Environment, search list, user and family are set together, which posix_spawn(3) and `std::process` cannot do; and the
//! caller learns the errno of execve(2). The child gets three descriptors and those that are named.
//! [`crate::child`] and guest-exec call [`spawn`].

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::fcntl::OFlag;
use nix::libc;
use nix::unistd::pipe2;

use super::identity::Identity;
use super::process::{self, Family, PreExecWrite, check_result};

const SHELL: &CStr = c"/bin/sh";

#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// Tried in this order: one file, or the program's name in each directory of PATH.
    pub candidates: &'a [CString],
    pub argv: &'a [CString],
    /// The whole environment; None: the agent's.
    pub env: Option<&'a [CString]>,
    /// None may have number 0, 1 or 2: dup2(2) of one would overwrite another.
    pub stdio: [BorrowedFd<'a>; 3],
    /// None: it stays in the agent's session and group.
    pub family: Option<Family>,
    /// Descriptors that stay open in it under their numbers.
    pub keep: &'a [RawFd],
    /// A write that fails does not keep the program from starting.
    pub announcements: &'a [PreExecWrite],
    /// None: the agent's user.
    pub user: Option<&'a Identity>,
}

#[derive(Debug)]
pub enum SpawnError {
    /// pipe(2) or fork(2) failed.
    Fork(io::Error),
    /// No candidate could be executed.
    Exec(io::Error),
}

/// Starts the program in the agent's working directory and with its umask, with no signal blocked and SIGPIPE, SIGHUP
/// and SIGCHLD at their defaults. The caller reaps the returned process id. As execvp(3) does, this runs a file with an
/// unknown format (ENOEXEC) by /bin/sh, and skips candidates that do not exist or may not be executed. The errno is the
/// last candidate's, or EACCES if one may not be executed.
pub fn spawn(program: &Program<'_>) -> Result<i32, SpawnError> {
    let (pid, exec_errno) = start(program, fork).map_err(SpawnError::Fork)?;
    match exec_errno {
        None => Ok(pid),
        Some(errno) => {
            // It exits at once with a status that says nothing; an error would mean that it was reaped already.
            let _ = reap(pid);
            Err(SpawnError::Exec(io::Error::from_raw_os_error(errno)))
        }
    }
}

/// As [`spawn`], for the parent of this process: the parent reaps the returned process id, also if no candidate could be
/// executed; the errno of that is returned beside it.
pub fn spawn_sibling(program: &Program<'_>) -> io::Result<(i32, Option<i32>)> {
    start(program, fork_sibling)
}

/// Safety: as of fork(2) in a process with threads: the child must not use what another thread may have locked.
type Fork = unsafe fn() -> i32;

/// Safety: see [`Fork`].
unsafe fn fork() -> i32 {
    // SAFETY: the caller's promise.
    unsafe { libc::fork() }
}

/// Safety: see [`Fork`].
unsafe fn fork_sibling() -> i32 {
    const NONE: libc::c_long = 0;
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // The order of flags and stack; the other arguments are 0 (clone(2)).
    let [first, second] = if cfg!(target_arch = "s390x") {
        [0, flags]
    } else {
        [flags, 0]
    };
    // SAFETY: the caller's promise. Without a stack of its own the child continues on a copy of this one.
    unsafe { libc::syscall(libc::SYS_clone, first, second, NONE, NONE, NONE) as i32 }
}

/// The process id, and the errno of execve(2) if no candidate could be executed. The error is that of `fork`.
fn start(program: &Program<'_>, fork: Fork) -> io::Result<(i32, Option<i32>)> {
    let (result, report) = pipe2(OFlag::O_CLOEXEC)?;
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
        report: report.as_raw_fd(),
    };
    // SAFETY: the child calls only async-signal-safe functions on memory that was filled before, and leaves by execve
    // or _exit: no destructor runs in it, no lock is taken, nothing is allocated.
    let pid = unsafe { fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        // SAFETY: this is the child of fork.
        unsafe { prepared.run(&mut shell) }
    }
    // The child has the only writing end now.
    drop(report);
    Ok((pid, read_exec_error(result)))
}

/// None if execve(2) has closed the pipe.
fn read_exec_error(result: OwnedFd) -> Option<i32> {
    let mut errno = [0; 4];
    // The end of the file is success.
    File::from(result).read_exact(&mut errno).ok()?;
    Some(i32::from_ne_bytes(errno))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let null = std::iter::once(ptr::null());
    strings.iter().map(|s| s.as_ptr()).chain(null).collect()
}

/// The child may not allocate.
struct Prepared<'a> {
    program: &'a Program<'a>,
    argv: &'a [*const libc::c_char],
    env: Option<&'a [*const libc::c_char]>,
    groups: &'a [libc::gid_t],
    /// For the errno of a failure.
    report: RawFd,
}

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

impl Prepared<'_> {
    /// Safety: only right after fork, in the child; the arrays of pointers end in null.
    unsafe fn run(&self, shell: &mut [*const libc::c_char]) -> ! {
        let errno = match self.set_up() {
            // SAFETY: the caller's promise.
            Ok(()) => unsafe { self.execute(shell) },
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
        let bytes = errno.to_ne_bytes();
        // SAFETY: the buffer outlives the call; _exit takes an integer and does not return. A failed write means that the
        // parent has ended, and no one else reads the pipe.
        unsafe {
            libc::write(self.report, bytes.as_ptr().cast(), bytes.len());
            libc::_exit(127)
        }
    }

    fn set_up(&self) -> io::Result<()> {
        let program = self.program;
        for (to, from) in program.stdio.iter().enumerate() {
            // SAFETY: the arguments are integers. The copy does not have the flag close-on-exec.
            check_result(unsafe { libc::dup2(from.as_raw_fd(), to as RawFd) })?;
        }
        process::prepare_exec(program.family, program.keep, program.announcements)?;
        if let Some(user) = program.user {
            // Last, because the other steps may need root's rights. The groups first, because setuid(2) takes the right
            // to change them away.
            // SAFETY: integers, and a pointer with the length of its slice; the C library has no other thread to change
            // in this child.
            unsafe {
                check_result(libc::setgroups(
                    self.groups.len() as _,
                    self.groups.as_ptr(),
                ))?;
                check_result(libc::setgid(user.gid.as_raw()))?;
                check_result(libc::setuid(user.uid.as_raw()))?;
            }
        }
        Ok(())
    }

    /// Returns the errno if nothing could be executed. Safety: as for [`Self::run`].
    unsafe fn execute(&self, shell: &mut [*const libc::c_char]) -> i32 {
        let mut refused = None;
        let mut last = libc::ENOENT;
        // SAFETY: environ is an array that ends in null, and no other thread changes it in the child.
        let env = self.env.map_or(unsafe { environ }, <[_]>::as_ptr);
        for file in self.program.candidates {
            // SAFETY: the strings end in a NUL and the arrays in null, and all outlive the call.
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
            // The errors with which execvp(3) of glibc continues.
            match last {
                libc::EACCES => refused = Some(last),
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                _ => return last,
            }
        }
        refused.unwrap_or(last)
    }
}

fn errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitStatus {
    Exited(i32),
    Signaled(i32),
}

/// None if it is running. ECHILD: it is not a child of this process, or was reaped.
pub fn try_reap(pid: i32) -> io::Result<Option<WaitStatus>> {
    wait(pid, libc::WNOHANG)
}

pub fn reap(pid: i32) -> io::Result<WaitStatus> {
    // Without WNOHANG the call does not return for a running child.
    wait(pid, 0).map(|ended| ended.unwrap_or(WaitStatus::Exited(0)))
}

fn wait(pid: i32, flags: libc::c_int) -> io::Result<Option<WaitStatus>> {
    let mut status = 0;
    loop {
        // SAFETY: the pointer is valid during the call.
        match unsafe { libc::waitpid(pid, &mut status, flags) } {
            0 => return Ok(None),
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            _ if libc::WIFSIGNALED(status) => {
                return Ok(Some(WaitStatus::Signaled(libc::WTERMSIG(status))));
            }
            _ => return Ok(Some(WaitStatus::Exited(libc::WEXITSTATUS(status)))),
        }
    }
}

/// `name` itself if it has a slash, else the name in each directory of `path`, which is in the form of PATH.
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

/// `fd` under a number above 2, as [`Program::stdio`] needs it; with close-on-exec.
pub fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // SAFETY: the descriptor is open; the returned one is new and has no other owner.
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

    fn run(
        files: &[&str],
        argv: &[&str],
        env: Option<&[&str]>,
    ) -> Result<(WaitStatus, String), i32> {
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
            (WaitStatus::Exited(0), "A=1\nA=2\nodd\n")
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
            Ok((WaitStatus::Signaled(9), format!("{script} a b c\n")))
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
        assert_eq!((bits(lines[5]).unwrap() >> (libc::SIGPIPE - 1)) & 1, 0);
    }
}
