//! Counters of block devices: /proc/diskstats (proc_diskstats(5)). Floor 1.
//!
//! The kernel's lines grew over time: 14 columns, 18 since 4.18 (discard), 20 since 5.5 (flush),
//! and 7 for partitions of very old ones. Every line is told, partitions and idle devices, too.

/// One line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Major device number.
    pub major: u64,
    /// Minor device number.
    pub minor: u64,
    /// The kernel's name of the device.
    pub name: String,
    /// What the kernel counted.
    pub counters: Counters,
}

/// Requests, merged requests, sectors of 512 bytes, and milliseconds since the start; `None` for
/// what the kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads done.
    pub read_ios: Option<u64>,
    /// Reads that were joined to another.
    pub read_merges: Option<u64>,
    /// Sectors read.
    pub read_sectors: Option<u64>,
    /// Time that reads took.
    pub read_ticks: Option<u64>,
    /// Writes done.
    pub write_ios: Option<u64>,
    /// Writes that were joined to another.
    pub write_merges: Option<u64>,
    /// Sectors written.
    pub write_sectors: Option<u64>,
    /// Time that writes took.
    pub write_ticks: Option<u64>,
    /// Requests at work now.
    pub ios_in_progress: Option<u64>,
    /// Time with any request at work.
    pub total_ticks: Option<u64>,
    /// Time weighted by the number of requests at work.
    pub weight_ticks: Option<u64>,
    /// Discards done.
    pub discard_ios: Option<u64>,
    /// Discards that were joined to another.
    pub discard_merges: Option<u64>,
    /// Sectors discarded.
    pub discard_sectors: Option<u64>,
    /// Time that discards took.
    pub discard_ticks: Option<u64>,
    /// Flushes done.
    pub flush_ios: Option<u64>,
    /// Time that flushes took.
    pub flush_ticks: Option<u64>,
}

/// Columns before the counters: major, minor and name.
const HEADING: usize = 3;
/// Columns of a partition before Linux 2.6.25.
const SHORT: usize = 7;

/// The devices in file order; lines that can't be understood are left out.
pub fn parse(text: &str) -> Vec<DiskStats> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<DiskStats> {
    let mut words = line.split_ascii_whitespace();
    let major = words.next()?.parse().ok()?;
    let minor = words.next()?.parse().ok()?;
    let name = words.next()?.to_owned();
    let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
    let counters = match numbers.len() + HEADING {
        SHORT => Counters {
            read_ios: numbers.first().copied(),
            read_sectors: numbers.get(1).copied(),
            write_ios: numbers.get(2).copied(),
            write_sectors: numbers.get(3).copied(),
            ..Counters::default()
        },
        14.. => long(&numbers),
        _ => return None,
    };
    Some(DiskStats {
        major,
        minor,
        name,
        counters,
    })
}

fn long(numbers: &[u64]) -> Counters {
    // A group is told as a whole or not at all.
    let complete = match numbers.len() + HEADING {
        20.. => 17,
        18.. => 15,
        _ => 11,
    };
    let at = |index: usize| numbers.get(..complete)?.get(index).copied();
    Counters {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Counters {
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
            Counters {
                read_ios: Some(1),
                read_sectors: Some(2),
                write_ios: Some(3),
                write_sectors: Some(4),
                ..Counters::default()
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
