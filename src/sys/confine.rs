//! What this process gives up for good, and what it notes of it (floor 1): capabilities, and system calls by a filter.
//!
//! A refused system call fails with EPERM, and its number is kept until [`take_refused`] is asked: the signal handler that
//! does this may run while filesystems are frozen or a lock is held, so it writes no log. The profile `backup` uses this.

use nix::libc;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// _LINUX_CAPABILITY_VERSION_3 in linux/capability.h: two words for each set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// prctl(2) reads five arguments of this width.
const NONE: libc::c_ulong = 0;

/// Gives up all capabilities but these bits, of those that the process has; also the bounding and the ambient set.
pub(crate) fn keep_capabilities(keep: u64) -> io::Result<()> {
    for number in 0..u64::BITS {
        if (keep >> number) & 1 == 0 {
            // EINVAL: the kernel knows no capability of this number. EPERM: without CAP_SETPCAP the set stays, and a
            // process without that right executes nothing that has more.
            // SAFETY: the arguments are integers.
            unsafe {
                libc::prctl(
                    libc::PR_CAPBSET_DROP,
                    libc::c_ulong::from(number),
                    NONE,
                    NONE,
                    NONE,
                )
            };
        }
    }
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong;
    // SAFETY: the arguments are integers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, NONE, NONE, NONE) };
    let mut header = Header {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    // SAFETY: the pointers are valid during the call, and this version has two words for each set (capget(2)).
    let read = unsafe { libc::syscall(libc::SYS_capget, &mut header, sets.as_mut_ptr()) };
    super::process::check_result(read as libc::c_int)?;
    for (sets, keep) in sets.iter_mut().zip([keep as u32, (keep >> 32) as u32]) {
        sets.permitted &= keep;
        sets.effective = sets.permitted;
        sets.inheritable = 0;
    }
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_capset, &mut header, sets.as_ptr()) };
    super::process::check_result(set as libc::c_int)
}

/// One bit for each system call; numbers are below 512 on the architectures that are supported.
static REFUSED: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

/// The numbers of system calls that were refused since the last call, each once in the life of the process.
pub(crate) fn take_refused() -> Vec<u32> {
    static TAKEN: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
    let mut found = Vec::new();
    for (word, (refused, taken)) in (0u32..).zip(REFUSED.iter().zip(&TAKEN)) {
        let refused = refused.load(Ordering::Relaxed);
        let new = refused & !taken.fetch_or(refused, Ordering::Relaxed);
        let bits = (0..u64::BITS).filter(|bit| (new >> bit) & 1 == 1);
        found.extend(bits.map(|bit| word * u64::BITS + bit));
    }
    found
}

/// Lets a system call that a filter answers with SECCOMP_RET_TRAP (seccomp(2)) fail with EPERM. Threads must not block
/// SIGSYS: the kernel would kill the process.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) fn note_refused() -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sigaction; the handler has the type that SA_SIGINFO asks for and calls only what
    // is async-signal-safe; the pointers are valid during the call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_refused as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_RESTART;
        super::process::check_result(libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()))
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
extern "C" fn on_refused(
    _signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a ucontext_t of this thread (SA_SIGINFO in sigaction(2)), which nothing else uses now.
    let number = unsafe { fail_call(&mut *context.cast()) };
    if let Some(word) = REFUSED.get(number / 64) {
        word.fetch_or(1 << (number % 64), Ordering::Relaxed);
    }
}

/// Returns the number of the system call that was to be made, and sets its result.
#[cfg(target_arch = "x86_64")]
fn fail_call(context: &mut libc::ucontext_t) -> usize {
    // The kernel has restored the registers of before the call.
    let result = &mut context.uc_mcontext.gregs[libc::REG_RAX as usize];
    let number = std::mem::replace(result, (-libc::EPERM).into());
    number as usize
}

/// Returns the number of the system call that was to be made, and sets its result.
#[cfg(target_arch = "aarch64")]
fn fail_call(context: &mut libc::ucontext_t) -> usize {
    let registers = &mut context.uc_mcontext.regs;
    registers[0] = i64::from(-libc::EPERM) as u64;
    registers[8] as usize
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
    use std::collections::BTreeMap;

    /// A filter applies to its thread alone.
    #[test]
    fn a_refused_call_fails_and_is_kept_once() {
        let thread = std::thread::spawn(|| {
            let rules = BTreeMap::from([(libc::SYS_sethostname, Vec::new())]);
            let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
            let (trap, allow) = (SeccompAction::Trap, SeccompAction::Allow);
            let filter = SeccompFilter::new(rules, allow, trap, arch).unwrap();
            note_refused().unwrap();
            let program: BpfProgram = filter.try_into().unwrap();
            apply_filter(&program).unwrap();
            let name = b"x";
            // SAFETY: pointer and length are those of an array. The call is refused.
            let call = || unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
            for _ in 0..2 {
                assert_eq!(call(), -1);
                let error = io::Error::last_os_error();
                assert_eq!(error.raw_os_error(), Some(libc::EPERM));
            }
        });
        thread.join().unwrap();
        let number = u32::try_from(libc::SYS_sethostname).unwrap();
        assert!(take_refused().contains(&number));
        assert!(!take_refused().contains(&number));
    }
}
