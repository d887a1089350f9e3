//! Swap areas: /proc/swaps (proc_swaps(5)). Floor 1.
//!
//! While a filesystem with swap space is frozen, a page that must be written there may block any process, so the plan notes
//! such a filesystem.

use super::System;
use super::mountinfo::unescape;

/// A swap area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    pub(crate) path: Vec<u8>,
    pub(crate) is_file: bool,
}

/// None if the file cannot be read: a kernel without swap does not have it.
pub(crate) fn read(system: &System) -> Vec<Swap> {
    std::fs::read(system.path("/proc/swaps"))
        .map(|table| parse(&table))
        .unwrap_or_default()
}

/// Lines `PATH TYPE SIZE USED PRIORITY` after a heading, the path escaped as in a mount table.
pub fn parse(table: &[u8]) -> Vec<Swap> {
    let line = |line: &[u8]| {
        let mut fields = line
            .split(u8::is_ascii_whitespace)
            .filter(|field| !field.is_empty());
        let path = unescape(fields.next()?);
        let kind = fields.next()?;
        // The heading has neither.
        (path.starts_with(b"/") && matches!(kind, b"file" | b"partition")).then(|| Swap {
            path,
            is_file: kind == b"file",
        })
    };
    table
        .split(|&byte| byte == b'\n')
        .filter_map(line)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_devices() {
        let found = parse(
            b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
              /swap\\040file                              file\t\t1048572\t\t0\t\t-2\n\
              /dev/dm-1                               partition\t999420\t\t12\t\t-3\n\
              odd\n",
        );
        let swap = |path: &[u8], is_file| Swap {
            path: path.to_vec(),
            is_file,
        };
        assert_eq!(
            found,
            [swap(b"/swap file", true), swap(b"/dev/dm-1", false)]
        );
        let root = tempfile::tempdir().unwrap();
        assert!(read(&System::at(root.path()).unwrap()).is_empty());
    }
}
