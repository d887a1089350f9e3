//! The system calls that an agent with the profile `backup` may make. Floor 5.
//!
//! Whatever is missing here is refused with EPERM and logged once. The tests of freezing run under this list, and fail if
//! anything is refused. What is on the list for another kernel, C library or architecture than that of the tests has a
//! comment. A filter of seccomp(2) sees numbers, not memory, so paths are limited by Landlock instead.

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Without conditions.
#[rustfmt::skip]
const ALLOWED: &[&[libc::c_long]] = &[
    // Memory; executable pages are in [`conditions`].
    calls![SYS_brk SYS_munmap SYS_mremap SYS_madvise SYS_mlock SYS_mlockall SYS_munlockall],
    // Threads and this process; new ones are in [`conditions`].
    calls![
        SYS_exit SYS_exit_group SYS_futex SYS_set_robust_list SYS_rseq SYS_sched_yield SYS_sched_getaffinity SYS_gettid
        SYS_getpid SYS_getppid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getrandom SYS_uname SYS_sysinfo
        SYS_prlimit64 SYS_set_tid_address SYS_membarrier SYS_getrusage
    ],
    // Signals, and the end of the guardian and of hook masters.
    calls![
        SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigtimedwait SYS_sigaltstack SYS_restart_syscall
        SYS_kill SYS_tkill SYS_tgkill SYS_pidfd_open SYS_pidfd_send_signal SYS_wait4 SYS_waitid
    ],
    // Time and waiting.
    calls![
        SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday SYS_epoll_create1
        SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_ppoll SYS_pselect6 SYS_eventfd2 SYS_timerfd_create
        SYS_timerfd_settime
    ],
    // Files: mount table, state directory, log, roots of filesystems.
    calls![
        SYS_openat SYS_openat2 SYS_close SYS_close_range SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64
        SYS_lseek SYS_fstat SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs SYS_faccessat SYS_faccessat2 SYS_readlinkat
        SYS_getdents64 SYS_getcwd SYS_fcntl SYS_dup SYS_dup3 SYS_ftruncate SYS_fsync SYS_fdatasync SYS_syncfs SYS_flock
        SYS_renameat SYS_renameat2 SYS_unlinkat SYS_pipe2 SYS_memfd_create SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr
    ],
    // The channel, the guardian, the launcher, the system log; new sockets are in [`conditions`].
    calls![
        SYS_socketpair SYS_bind SYS_listen SYS_accept4 SYS_connect SYS_getsockname SYS_getpeername SYS_getsockopt
        SYS_setsockopt SYS_sendto SYS_sendmsg SYS_recvfrom SYS_recvmsg SYS_shutdown
    ],
    // Older calls, which C libraries use where they exist.
    #[cfg(target_arch = "x86_64")]
    calls![
        SYS_open SYS_stat SYS_lstat SYS_access SYS_readlink SYS_rename SYS_unlink SYS_pipe SYS_dup2 SYS_poll SYS_select SYS_epoll_wait SYS_time
    ],
];

/// The ioctls: freeze and thaw, the mode of descriptors, and a serial port that is opened again.
#[rustfmt::skip]
const IOCTLS: [u32; 11] = [
    FIFREEZE, FITHAW,
    libc::FIONBIO as u32, libc::FIOCLEX as u32,
    libc::TCGETS as u32, libc::TCSETS as u32, TCGETS2, TCSETS2, libc::TIOCEXCL as u32, libc::TIOCNXCL as u32,
    libc::TCFLSH as u32,
];
/// linux/fs.h.
const FIFREEZE: u32 = 0xc004_5877;
const FITHAW: u32 = 0xc004_5878;
/// asm-generic/ioctls.h, with the size of struct termios2.
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;

fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: i64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    // All of them are integers of 32 bits, or flags that are.
    let value = value as u64;
    SeccompRule::new(vec![SeccompCondition::new(
        argument, Dword, operator, value,
    )?])
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that are allowed for some arguments.
fn conditions() -> Result<Rules, seccompiler::BackendError> {
    let one_of = |argument, values: &[i64]| {
        let rules = values
            .iter()
            .map(|&value| condition(argument, SeccompCmpOp::Eq, value));
        rules.collect::<Result<Vec<_>, _>>()
    };
    let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    let not_executable = || condition(2, executable.clone(), 0).map(|rule| vec![rule]);
    let ioctls = IOCTLS.map(i64::from);
    let thread = i64::from(libc::CLONE_THREAD);
    let thread = condition(0, SeccompCmpOp::MaskedEq(thread as u64), thread)?;
    Ok(BTreeMap::from([
        (libc::SYS_mmap, not_executable()?),
        (libc::SYS_mprotect, not_executable()?),
        // A thread, never a process.
        (libc::SYS_clone, vec![thread]),
        // Its flags are in memory: see [`filters`].
        (libc::SYS_clone3, Vec::new()),
        (libc::SYS_ioctl, one_of(1, &ioctls)?),
        (
            libc::SYS_socket,
            one_of(0, &[libc::AF_UNIX.into(), libc::AF_VSOCK.into()])?,
        ),
        // The names of threads and, by newer C libraries, of memory.
        (
            libc::SYS_prctl,
            one_of(0, &[libc::PR_SET_NAME.into(), PR_SET_VMA])?,
        ),
    ]))
}

/// linux/prctl.h; the libc crate does not have it for every C library.
const PR_SET_VMA: i64 = 0x5356_4d41;

fn allowed() -> Result<Rules, seccompiler::BackendError> {
    let mut rules = conditions()?;
    for &number in ALLOWED.iter().copied().flatten() {
        rules.insert(number, Vec::new());
    }
    Ok(rules)
}

/// To be installed in this order. An architecture without them is an error.
pub(super) fn filters() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    // A C library that gets ENOSYS makes threads by clone(2), whose flags a filter can see.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let older = SeccompFilter::new(clone3, SeccompAction::Allow, unknown, arch)?;
    let known = SeccompFilter::new(allowed()?, SeccompAction::Trap, SeccompAction::Allow, arch)?;
    Ok([older.try_into()?, known.try_into()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_listed_twice_and_none_that_gives_rights() {
        let mut all: Vec<_> = ALLOWED.iter().copied().flatten().copied().collect();
        all.extend(conditions().unwrap().keys());
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "a call is listed twice");
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_move_mount,
            libc::SYS_pivot_root,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_bpf,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_sethostname,
            libc::SYS_io_uring_setup,
            libc::SYS_perf_event_open,
            libc::SYS_mknodat,
            libc::SYS_linkat,
            libc::SYS_symlinkat,
            libc::SYS_setuid,
            libc::SYS_fchmod,
            libc::SYS_fchmodat,
            libc::SYS_mkdirat,
        ] {
            assert!(!all.contains(&call), "{call} is allowed");
        }
    }

    #[test]
    fn the_filters_compile() {
        let [older, known] = filters().unwrap();
        assert!(older.len() < known.len() && known.len() < 4096);
    }
}
