//! Counters of network interfaces: /proc/net/dev (proc_pid_net(5)). Floor 1.
//!
//! The file tells 64-bit counters of every interface of the network namespace at once, so it is
//! read once for however many interfaces are asked for.

use std::collections::HashMap;

use super::{Error, System};

/// What went over one interface since it came up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Damaged packets received.
    pub rx_errs: u64,
    /// Received packets that were dropped for want of room.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Errors while sending.
    pub tx_errs: u64,
    /// Packets dropped on the way out.
    pub tx_dropped: u64,
}

/// Columns after the name; the first eight are of reception.
const COLUMNS: usize = 16;

/// Reads `/proc/net/dev`: counters by interface name.
///
/// # Errors
/// It can't be read.
pub fn read(system: &System) -> Result<HashMap<String, Counters>, Error> {
    Ok(parse(&system.text("/proc/net/dev")?))
}

/// Counters by interface name; lines that are none (the two of the heading) are left out.
pub fn parse(text: &str) -> HashMap<String, Counters> {
    text.lines().filter_map(parse_line).collect()
}

/// `NAME: COLUMN…`; old kernels have no space after the colon.
fn parse_line(line: &str) -> Option<(String, Counters)> {
    let (name, rest) = line.split_once(':')?;
    let mut columns = [0_u64; COLUMNS];
    let mut words = rest.split_ascii_whitespace();
    for column in &mut columns {
        *column = words.next()?.parse().ok()?;
    }
    let [
        rx_bytes,
        rx_packets,
        rx_errs,
        rx_dropped,
        _,
        _,
        _,
        _,
        sent @ ..,
    ] = columns;
    let [tx_bytes, tx_packets, tx_errs, tx_dropped, ..] = sent;
    let counters = Counters {
        rx_bytes,
        rx_packets,
        rx_errs,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errs,
        tx_dropped,
    };
    Some((name.trim_start().to_owned(), counters))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
  eth0: 18446744073709551615 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
old0:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
short0: 1 2 3
odd0: 1 2 3 4 5 6 7 8 9 10 11 x 13 14 15 16
";

    #[test]
    fn columns_by_name() {
        let table = parse(TABLE);
        let mut names: Vec<_> = table.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["eth0", "lo", "old0"]);
        assert_eq!(table["lo"], Counters::default());
        assert_eq!(
            table["eth0"],
            Counters {
                rx_bytes: u64::MAX,
                rx_packets: 2,
                rx_errs: 3,
                rx_dropped: 4,
                tx_bytes: 9,
                tx_packets: 10,
                tx_errs: 11,
                tx_dropped: 12,
            }
        );
        assert_eq!(table["old0"].rx_bytes, 1);
    }

    #[test]
    fn a_missing_table_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = read(&System::at(root.path()).unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("open(\"/proc/net/dev\"): "));
    }
}
