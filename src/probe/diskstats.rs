//! Counters of block devices: /proc/diskstats (proc_diskstats(5)). Floor 1.
//!
//! A line has 14 columns, 18 since Linux 4.18 (discards) and 20 since 5.5 (flushes); QEMU's agent also reads the 7
//! columns that partitions had before 2.6.25.

/// A line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskStats {
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) name: String,
    pub(crate) counters: DiskCounters,
}

/// Requests, sectors of 512 bytes, and milliseconds since boot, in the kernel's order; `None` if the kernel has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskCounters {
    pub read_ios: Option<u64>,
    pub read_merges: Option<u64>,
    pub read_sectors: Option<u64>,
    pub read_ticks: Option<u64>,
    pub write_ios: Option<u64>,
    pub write_merges: Option<u64>,
    pub write_sectors: Option<u64>,
    pub write_ticks: Option<u64>,
    pub ios_in_progress: Option<u64>,
    /// Time with any request in progress.
    pub total_ticks: Option<u64>,
    /// The same, weighted by the number of requests.
    pub weight_ticks: Option<u64>,
    pub discard_ios: Option<u64>,
    pub discard_merges: Option<u64>,
    pub discard_sectors: Option<u64>,
    pub discard_ticks: Option<u64>,
    pub flush_ios: Option<u64>,
    pub flush_ticks: Option<u64>,
}

/// The devices in file order; lines that cannot be understood are left out.
pub fn parse(text: &str) -> Vec<DiskStats> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<DiskStats> {
    let mut words = line.split_ascii_whitespace();
    let major = words.next()?.parse().ok()?;
    let minor = words.next()?.parse().ok()?;
    let name = words.next()?.to_owned();
    let mut numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
    // Groups of counters were added as a whole, so a part of one is damage.
    let complete = match numbers.len() {
        17.. => 17,
        15.. => 15,
        11.. => 11,
        4 => 4,
        _ => return None,
    };
    numbers.truncate(complete);
    let at = |index: usize| numbers.get(index).copied();
    let counters = match complete {
        4 => DiskCounters {
            read_ios: at(0),
            read_sectors: at(1),
            write_ios: at(2),
            write_sectors: at(3),
            ..DiskCounters::default()
        },
        _ => DiskCounters {
            read_ios: at(0),
            read_merges: at(1),
            read_sectors: at(2),
            read_ticks: at(3),
            write_ios: at(4),
            write_merges: at(5),
            write_sectors: at(6),
            write_ticks: at(7),
            ios_in_progress: at(8),
            total_ticks: at(9),
            weight_ticks: at(10),
            discard_ios: at(11),
            discard_merges: at(12),
            discard_sectors: at(13),
            discard_ticks: at(14),
            flush_ios: at(15),
            flush_ticks: at(16),
        },
    };
    Some(DiskStats {
        major,
        minor,
        name,
        counters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> DiskCounters {
        let found = parse(line);
        assert_eq!(found.len(), 1, "{line}");
        found[0].counters
    }

    #[test]
    fn kernels_of_all_times() {
        let full = one("   8       0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n");
        assert_eq!((full.read_ios, full.write_ticks), (Some(1), Some(8)));
        assert_eq!(
            (full.ios_in_progress, full.total_ticks),
            (Some(9), Some(10))
        );
        assert_eq!((full.weight_ticks, full.discard_ios), (Some(11), Some(12)));
        assert_eq!((full.discard_ticks, full.flush_ios), (Some(15), Some(16)));
        assert_eq!(full.flush_ticks, Some(17));
        let discard = one("8 0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16");
        assert_eq!((discard.discard_ticks, discard.flush_ios), (Some(15), None));
        let plain = one("8 0 sda 1 2 3 4 5 6 7 8 9 10 11");
        assert_eq!((plain.weight_ticks, plain.discard_ios), (Some(11), None));
        assert_eq!(
            one("8 1 sda1 1 2 3 4"),
            DiskCounters {
                read_ios: Some(1),
                read_sectors: Some(2),
                write_ios: Some(3),
                write_sectors: Some(4),
                ..DiskCounters::default()
            }
        );
    }

    #[test]
    fn numbers_and_names() {
        let found = parse("259 1048575 nvme0n1p1 0 0 0 0 0 0 0 0 0 0 0\n\n8 0 sda 1 2\nx y z\n");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].major, found[0].minor), (259, 1_048_575));
        assert_eq!(found[0].name, "nvme0n1p1");
    }
}
