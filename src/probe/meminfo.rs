//! The kernel's figures of memory: /proc/meminfo (proc_meminfo(5)). Floor 1.
//!
//! The freeze flushes until little is to be written back, because FIFREEZE writes the rest while writers wait.
//! x-guest-get-memory returns others.

use super::System;
use std::fs;
use std::io;

/// The sum of `Dirty` and `Writeback`.
pub(crate) fn dirty_bytes(system: &System) -> io::Result<u64> {
    parse(&fs::read_to_string(system.path("/proc/meminfo"))?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no Dirty: or Writeback:"))
}

/// [`dirty_bytes`] of a text; `None` if a line is missing, or if the sum overflows.
pub fn parse(text: &str) -> Option<u64> {
    field(text, "Dirty")?.checked_add(field(text, "Writeback")?)
}

/// In bytes; `None` if the line is missing or invalid.
pub fn field(text: &str, name: &str) -> Option<u64> {
    let value = |line: &str| {
        let kib = line.strip_prefix(name)?.strip_prefix(':')?;
        kib.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    text.lines().find_map(value)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_add_up_and_nothing_else_counts() {
        let text = "MemTotal: 8 kB\nDirty:               120 kB\nWriteback:             8 kB\n\
                    WritebackTmp:          3 kB\n";
        assert_eq!(parse(text), Some(128 * 1024));
        for text in ["", "Dirty: 1 kB\n", "Dirty: x kB\nWriteback: 1 kB\n"] {
            assert_eq!(parse(text), None);
        }
        assert_eq!(
            parse("Dirty: 18446744073709551615 kB\nWriteback: 1 kB\n"),
            None
        );
        assert!(dirty_bytes(&System::host()).is_ok());
    }
}
