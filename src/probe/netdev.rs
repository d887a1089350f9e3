//! Counters of network interfaces: /proc/net/dev (proc_pid_net(5)). Floor 1.
//!
//! One read has those of all interfaces of the network namespace. guest-network-get-interfaces uses this where it
//! cannot use [`super::rtnetlink`].

use std::collections::HashMap;

use super::{Error, System};

/// Since the interface came up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    pub(crate) rx_bytes: u64,
    pub(crate) rx_packets: u64,
    pub(crate) rx_errs: u64,
    pub(crate) rx_dropped: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_errs: u64,
    pub(crate) tx_dropped: u64,
}

const COLUMNS: usize = 16;

pub(crate) fn read(system: &System) -> Result<HashMap<String, LinkCounters>, Error> {
    Ok(parse(&system.text("/proc/net/dev")?))
}

/// Counters by interface name. The two lines of the heading do not have this form and are left out.
pub fn parse(text: &str) -> HashMap<String, LinkCounters> {
    text.lines().filter_map(parse_line).collect()
}

/// `NAME: COLUMN…`; old kernels have no space after the colon.
fn parse_line(line: &str) -> Option<(String, LinkCounters)> {
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
    let counters = LinkCounters {
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
        assert_eq!(table["lo"], LinkCounters::default());
        assert_eq!(
            table["eth0"],
            LinkCounters {
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
