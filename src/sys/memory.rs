//! Keeps the agent's pages resident while filesystems are frozen: a page fault may need memory
//! that only a write to a frozen filesystem would free (mlockall(2)). And gives memory back that
//! the C library would keep.

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};
use std::io;
use std::ops::Range;

/// Keeps the pages that the process has resident until [`unlock_all`], and those that it comes to use;
/// those of the program and its libraries are made resident now, for to read one later may need memory
/// that is not to be had.
///
/// Stacks and heap are not filled up: freezing has touched what thawing will touch, and a filled main
/// stack alone is 130 kB that an idle agent keeps for good.
///
/// # Errors
/// EPERM or ENOMEM: not allowed, or over RLIMIT_MEMLOCK.
pub fn lock_all() -> io::Result<()> {
    let all = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
    let on_fault = MlockAllFlags::from_bits_retain(MCL_ONFAULT);
    match mlockall(all | on_fault) {
        // Before Linux 4.4.
        Err(Errno::EINVAL) => return Ok(mlockall(all)?),
        done => done?,
    }
    for mapping in file_mappings(&std::fs::read_to_string("/proc/self/maps")?) {
        let address = std::ptr::with_exposed_provenance(mapping.start);
        // SAFETY: mlock(2) changes no content and takes any address; one that is no longer mapped is an
        // error.
        if unsafe { nix::libc::mlock(address, mapping.len()) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// `MCL_ONFAULT` of mlockall(2); musl does not name it.
const MCL_ONFAULT: nix::libc::c_int = 4;

/// Undoes [`lock_all`].
///
/// # Errors
/// None that the kernel documents for this call.
pub fn unlock_all() -> io::Result<()> {
    Ok(munlockall()?)
}

/// Gives the heap's free pages back to the system. glibc keeps tens of megabytes after large blocks
/// (malloc_trim(3)); other C libraries do not.
pub fn release_free_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: an integer; the call takes the heap's own locks and touches free blocks only.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Empties the calling thread's cache of free blocks, which [`release_free_heap`] does not reach: glibc keeps
/// up to seven of each small size, and each keeps a page of the heap that is free otherwise. A thread that
/// ends returns its own; so this one takes all that are cached, and another one frees them.
pub fn empty_thread_cache() {
    #[cfg(target_env = "gnu")]
    {
        let sizes = (24..=1032).step_by(16);
        let blocks: Vec<Vec<u8>> = sizes
            .flat_map(|size| (0..7).map(move |_| Vec::with_capacity(size)))
            .collect();
        let freed = std::thread::Builder::new()
            .name("free".into())
            .stack_size(64 * 1024)
            .spawn(move || drop(blocks));
        freed.ok().and_then(|thread| thread.join().ok());
    }
}

/// Has all threads share one heap. glibc gives each new thread a heap of its own, which stays when the
/// thread has ended (mallopt(3), M_ARENA_MAX); a thread here lives for one freeze. Call it before the
/// first thread starts.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: two integers; only the calling thread exists.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Lets go of pages that can be read again from their files: [`lock_all`] makes all of the program and
/// its libraries resident, where a fraction is ever used. Pages that are needed come back from the page
/// cache one by one.
///
/// # Errors
/// /proc/self/smaps cannot be read, or a madvise(2) fails; some pages then stay.
pub fn release_file_pages() -> io::Result<()> {
    for mapping in clean_file_mappings(&std::fs::read_to_string("/proc/self/smaps")?) {
        let address = std::ptr::with_exposed_provenance_mut(mapping.start);
        // SAFETY: the mapping is private, of a file, cannot be written, and has no page that differs
        // from the file: what comes back at the next access is the same content.
        let done = unsafe { nix::libc::madvise(address, mapping.len(), nix::libc::MADV_DONTNEED) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The address ranges of a maps listing (proc_pid_maps(5)) that map a file and cannot be written.
fn file_mappings(maps: &str) -> Vec<Range<usize>> {
    maps.lines().filter_map(file_mapping).collect()
}

/// The address range of one line of it.
fn file_mapping(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let range = range(words.next()?)?;
    let is_read_only = matches!(words.next(), Some("r--p" | "r-xp"));
    let has_file = words.nth(3).is_some_and(|name| name.starts_with('/'));
    (is_read_only && has_file).then_some(range)
}

/// The address ranges of an smaps listing (proc_pid_smaps(5)) that map a file, cannot be written, and
/// have no page of their own: a relocated one, say.
fn clean_file_mappings(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if range(first).is_some() {
            current = file_mapping(line);
        } else if line.split_ascii_whitespace().eq(["Anonymous:", "0", "kB"]) {
            found.extend(current.take());
        }
    }
    found
}

/// `55d0c8a00000-55d0c8a21000`
fn range(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_without_pages_of_ones_own_are_let_go() {
        let smaps = "\
1000-3000 r--p 00000000 fe:00 12 /usr/sbin/qemu-ga (deleted)
Size: 8 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
3000-4000 r--p 00002000 fe:00 12 /usr/sbin/qemu-ga
Anonymous:             4 kB
4000-5000 rw-p 00003000 fe:00 12 /usr/sbin/qemu-ga
Anonymous:             0 kB
5000-6000 r-xp 00003000 fe:00 12 /usr/lib/libc.so.6
Anonymous:             0 kB
6000-7000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
7000-8000 r--s 00000000 fe:00 13 /shared
Anonymous:             0 kB
8000-9000 r--p 00000000 00:00 0
Anonymous:             0 kB
";
        assert_eq!(clean_file_mappings(smaps), [0x1000..0x3000, 0x5000..0x6000]);
        // This very process goes on after it.
        release_file_pages().unwrap();
    }
}
