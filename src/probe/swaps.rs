//! What the kernel swaps to (proc_swaps(5)). Floor 1.

use super::System;
use super::mountinfo::unescape;

/// One swap area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// The file or device, as the kernel names it.
    pub path: Vec<u8>,
    /// A file of a filesystem rather than a device.
    pub is_file: bool,
}

/// The swap areas of `/proc/swaps`; none if it can't be read, for a kernel without swap has no such
/// file.
pub fn read(system: &System) -> Vec<Swap> {
    std::fs::read(system.path("/proc/swaps"))
        .map(|table| parse(&table))
        .unwrap_or_default()
}

/// Reads the table: a heading, then `PATH TYPE SIZE USED PRIORITY` a line, the path escaped.
pub fn parse(table: &[u8]) -> Vec<Swap> {
    let line = |line: &[u8]| {
        let mut fields = line
            .split(u8::is_ascii_whitespace)
            .filter(|field| !field.is_empty());
        let path = unescape(fields.next()?);
        let kind = fields.next()?;
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
