//! Keeps the agent's pages resident while filesystems are frozen: a page fault may need memory
//! that only a write to a frozen filesystem would free (mlockall(2)). And gives memory back that
//! the C library would keep.

use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};
use std::io;

/// Makes every page of the process resident and keeps it so until [`unlock_all`].
///
/// # Errors
/// EPERM or ENOMEM: not allowed, or over RLIMIT_MEMLOCK.
pub fn lock_all() -> io::Result<()> {
    Ok(mlockall(
        MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE,
    )?)
}

/// Undoes [`lock_all`].
///
/// # Errors
/// None that the kernel documents for this call.
pub fn unlock_all() -> io::Result<()> {
    Ok(munlockall()?)
}

/// Gives the heap's free pages back to the system. glibc keeps tens of megabytes after large blocks
/// (malloc_trim(3)); other C libraries do not.
pub fn give_back_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: an integer; the call takes the heap's own locks and touches free blocks only.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
