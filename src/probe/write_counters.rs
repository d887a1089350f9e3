//! How much was written to a block device: /sys/dev/block/M:N/stat and inflight (Documentation/block/stat.rst). Floor 1.
//!
//! The files stay open, so that another reading opens and allocates nothing: the engine reads them while filesystems are
//! frozen, to prove that nothing was written.

use super::System;
use super::mountinfo::DeviceNumber;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct WriteCounters {
    stat: File,
    inflight: File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Writes and discards, since the device appeared.
    pub ended: u64,
    pub in_flight: u64,
}

impl WriteCounters {
    /// `None` if the device has no such files or does not count: queue/iostats is 0, or not a single read or write of a
    /// mounted filesystem was counted (before Linux 6.11 none is counted at the head of an NVMe multipath device).
    pub fn open(system: &System, device: DeviceNumber) -> Option<Self> {
        let dir = PathBuf::from(format!("/sys/dev/block/{}:{}", device.0, device.1));
        // A partition uses the queue of its disk.
        let counts = |queue: &str| {
            let value = system.attribute(&dir.join(queue).join("iostats"));
            value.trim() == "1"
        };
        if !counts("queue") && !counts("../queue") {
            return None;
        }
        let open = |name: &Path| File::open(system.path(dir.join(name))).ok();
        let counters = Self {
            stat: open(Path::new("stat"))?,
            inflight: open(Path::new("inflight"))?,
        };
        let stat = read_numbers(&counters.stat)?;
        (counters.read().is_some() && (stat[0] > 0 || stat[4] > 0)).then_some(counters)
    }

    /// `None` if the device has disappeared.
    pub fn read(&self) -> Option<Written> {
        let stat = read_numbers(&self.stat)?;
        let inflight = read_numbers(&self.inflight)?;
        // Linux counts discards since 4.18; before that the number is 0.
        // Fields 5 and 12 (writes, discards); reads do not change the disk.
        let ended = stat[4].checked_add(stat[11])?;
        Some(Written {
            ended,
            in_flight: inflight[1],
        })
    }
}

/// 0 for those that the kernel does not have. Does not allocate.
fn read_numbers(file: &File) -> Option<[u64; 17]> {
    let mut text = [0; 512];
    let length = file
        .read_at(&mut text, 0)
        .ok()
        .filter(|&length| length > 0)?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    let mut numbers = [0; 17];
    for (number, word) in numbers.iter_mut().zip(text.split_ascii_whitespace()) {
        *number = word.parse().ok()?;
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn writes_and_discards_count_if_the_queue_counts_them() {
        let root = tempfile::tempdir().unwrap();
        let disk = root.path().join("sys/dev/block/8:0");
        fs::create_dir_all(disk.join("queue")).unwrap();
        fs::write(
            disk.join("stat"),
            " 1 2 3 4 50 6 7 8 9 10 11 30 13 14 15 16 17\n",
        )
        .unwrap();
        fs::write(disk.join("inflight"), "       4        2\n").unwrap();
        let system = System::at(root.path()).unwrap();
        assert!(WriteCounters::open(&system, (8, 0)).is_none());
        fs::write(disk.join("queue/iostats"), "0\n").unwrap();
        assert!(WriteCounters::open(&system, (8, 0)).is_none());
        fs::write(disk.join("queue/iostats"), "1\n").unwrap();
        let counters = WriteCounters::open(&system, (8, 0)).unwrap();
        let expected = Written {
            ended: 80,
            in_flight: 2,
        };
        assert_eq!(counters.read(), Some(expected));
        fs::write(disk.join("stat"), " 1 2 3 4 51 6 7 8 9 10 11\n").unwrap();
        assert_eq!(counters.read().unwrap().ended, 51);
        assert!(WriteCounters::open(&system, (8, 1)).is_none());
        fs::write(disk.join("stat"), " 0 0 0 0 0 0 0 0 0 0 0\n").unwrap();
        assert!(WriteCounters::open(&system, (8, 0)).is_none());
    }
}
