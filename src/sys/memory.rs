//! Memory of the agent: resident while filesystems are frozen (mlockall(2)), small when idle.
//!
//! A page fault during a freeze may need memory that only a write to a frozen filesystem would free, and then nobody
//! thaws. After the freeze, everything that it made resident is given back, including what the C library would keep: an
//! idle agent's memory has a budget (`tests/budgets`). Agent, guardian and `qemu-ga thaw` call these.

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};
use std::io;
use std::ops::Range;

/// Keeps the pages that the process has, and those that it touches from now on, resident until [`unlock_all`]. Pages of
/// the program and its libraries are read now, because reading one later may need memory that is not available. Stacks
/// and heap are not filled: freezing has touched what thawing will touch, and a filled main stack alone is 130 kB that
/// an idle agent would keep. EPERM, ENOMEM: no CAP_IPC_LOCK, or over RLIMIT_MEMLOCK.
pub fn lock_all() -> io::Result<()> {
    let all = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
    let on_fault = MlockAllFlags::from_bits_retain(MCL_ONFAULT);
    match mlockall(all | on_fault) {
        // Before Linux 4.4, which has introduced the flag: everything is filled.
        Err(Errno::EINVAL) => return Ok(mlockall(all)?),
        done => done?,
    }
    // MCL_ONFAULT does not read anything by itself, unlike mlock(2) of a address_range.
    for mapping in file_mappings(&std::fs::read_to_string("/proc/self/maps")?) {
        let address = std::ptr::with_exposed_provenance(mapping.start);
        // SAFETY: mlock(2) changes no content, and for a address_range that is not mapped any more it fails with ENOMEM.
        if unsafe { nix::libc::mlock(address, mapping.len()) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// mlockall(2); the libc crate does not have it for musl.
const MCL_ONFAULT: nix::libc::c_int = 4;

pub fn unlock_all() -> io::Result<()> {
    Ok(munlockall()?)
}

/// After large blocks were freed, glibc keeps tens of megabytes (M_MMAP_THRESHOLD in mallopt(3)); musl does not.
pub fn release_free_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the argument is an integer; the call takes the heap's own locks and affects free blocks only.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// [`release_free_heap`] does not affect the calling thread's cache: glibc keeps up to seven free blocks of each small
/// size there (glibc.malloc.tcache_count in its manual), each of which keeps a page resident. A thread that ends
/// returns its cache; so this thread allocates all cached blocks, and another one frees them.
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
        // Without another thread the blocks were freed into this cache again, which only costs memory.
        let _ = freed.map(std::thread::JoinHandle::join);
    }
}

/// glibc gives new threads heaps of their own, which remain after them (M_ARENA_MAX in mallopt(3)); here most threads
/// exist for one freeze only. Call it before the first thread starts.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the arguments are integers, and no other thread uses the heap yet.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Releases pages that can be read from their files again: [`lock_all`] makes all of the program and its libraries
/// resident, of which a fraction is used. Needed pages come back from the page cache.
pub fn release_file_pages() -> io::Result<()> {
    for mapping in clean_file_mappings(&std::fs::read_to_string("/proc/self/smaps")?) {
        let address = std::ptr::with_exposed_provenance_mut(mapping.start);
        // SAFETY: the mapping is private, of a file, not writable, and has no page that differs from the file, so the
        // next access reads the same content.
        let result =
            unsafe { nix::libc::madvise(address, mapping.len(), nix::libc::MADV_DONTNEED) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The address ranges in proc_pid_maps(5) that map a file and are not writable.
fn file_mappings(maps: &str) -> Vec<Range<usize>> {
    maps.lines().filter_map(file_mapping).collect()
}

fn file_mapping(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let range = parse_range(words.next()?)?;
    let is_read_only = matches!(words.next(), Some("r--p" | "r-xp"));
    let has_file = words.nth(3).is_some_and(|name| name.starts_with('/'));
    (is_read_only && has_file).then_some(range)
}

/// The address ranges in proc_pid_smaps(5) that map a file, are not writable, and have no anonymous page. The dynamic
/// linker has changed such pages before it made them read-only (RELRO): dropping them would undo the relocation.
fn clean_file_mappings(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if parse_range(first).is_some() {
            current = file_mapping(line);
        } else if line.split_ascii_whitespace().eq(["Anonymous:", "0", "kB"]) {
            found.extend(current.take());
        }
    }
    found
}

/// `55d0c8a00000-55d0c8a21000`
fn parse_range(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_without_anonymous_pages_are_released() {
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
