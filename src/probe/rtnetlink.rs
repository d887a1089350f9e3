//! Messages of routing netlink (rtnetlink(7)) that [`crate::sys::netdevice`] has received: counters of links, and
//! addresses. Floor 1. What is not understood is left out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::netdev::LinkCounters;

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub(crate) index: u32,
    /// The name of this address: that of the interface, or a label such as `eth0:1`.
    pub label: Option<String>,
    /// The local one of a point-to-point link.
    pub(crate) address: IpAddr,
    pub(crate) prefix: u32,
}

// linux/rtnetlink.h
const RTM_NEWADDR: u16 = 20;
const RTM_NEWSTATS: u16 = 92;
const HEADER_SIZE: usize = 16;

/// The counters of each link in `RTM_NEWSTATS` messages, by index, added up as in `/proc/net/dev`.
pub fn parse_counters(messages: &[u8]) -> Vec<(u32, LinkCounters)> {
    const IFLA_STATS_LINK_64: u16 = 1;
    // `struct if_stats_msg`, then `struct rtnl_link_stats64` as an attribute (linux/if_link.h).
    let one = |body: &[u8]| {
        let index = u32_at(body, 4)?;
        let counters = attributes(body.get(12..)?)
            .find(|(kind, _)| *kind == IFLA_STATS_LINK_64)?
            .1;
        let at = |place: usize| {
            let bytes = counters.get(place * 8..place * 8 + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        let counters = LinkCounters {
            rx_packets: at(0)?,
            tx_packets: at(1)?,
            rx_bytes: at(2)?,
            tx_bytes: at(3)?,
            rx_errs: at(4)?,
            tx_errs: at(5)?,
            // With rx_missed_errors, as in dev_seq_printf_stats of net/core/net-procfs.c.
            rx_dropped: at(6)?.wrapping_add(at(15)?),
            tx_dropped: at(7)?,
        };
        Some((index, counters))
    };
    bodies(messages, RTM_NEWSTATS).filter_map(one).collect()
}

/// The addresses in `RTM_NEWADDR` messages, in their order.
pub fn parse_addresses(messages: &[u8]) -> Vec<InterfaceAddress> {
    bodies(messages, RTM_NEWADDR).filter_map(address).collect()
}

fn address(body: &[u8]) -> Option<InterfaceAddress> {
    // linux/if_addr.h
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_LABEL: u16 = 3;
    let prefix = u32::from(*body.get(1)?);
    let index = u32_at(body, 4)?;
    let attribute = |wanted: u16| {
        attributes(body.get(8..).unwrap_or_default())
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    // IFA_ADDRESS of a point-to-point link is the peer's; without IFA_LOCAL (IPv6) it is the local one.
    let bytes = attribute(IFA_LOCAL).or_else(|| attribute(IFA_ADDRESS))?;
    let address = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    let label = attribute(IFA_LABEL).map(|label| {
        let end = label
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(label.len());
        String::from_utf8_lossy(&label[..end]).into_owned()
    });
    Some(InterfaceAddress {
        index,
        label,
        address,
        prefix,
    })
}

fn bodies(mut messages: &[u8], wanted: u16) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32_at(messages, 0)? as usize;
        let kind = u16_at(messages, 4)?;
        let body = messages.get(HEADER_SIZE..length)?;
        // NLMSG_ALIGN.
        messages = messages
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind, body))
    })
    .filter_map(move |(kind, body)| (kind == wanted).then_some(body))
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)?;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((value.len() as u16 + 4).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((body.len() as u32 + 16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn of_interface(family: u8, prefix: u8, index: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![family, prefix, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(attributes.concat());
        message(RTM_NEWADDR, &body)
    }

    #[test]
    fn addresses_and_labels() {
        let messages = [
            of_interface(
                2,
                24,
                3,
                &[
                    attribute(1, &[192, 0, 2, 99]),
                    attribute(2, &[192, 0, 2, 1]),
                    attribute(3, b"eth0:1\0"),
                ],
            ),
            message(16, &[0; 8]),
            of_interface(10, 64, 4, &[attribute(9, &[1]), attribute(1, &[0xFE; 16])]),
            of_interface(1, 0, 5, &[attribute(1, &[1; 6])]),
            of_interface(2, 0, 6, &[]),
        ]
        .concat();
        let found = parse_addresses(&messages);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            InterfaceAddress {
                index: 3,
                label: Some("eth0:1".into()),
                address: IpAddr::from([192, 0, 2, 1]),
                prefix: 24,
            }
        );
        assert_eq!(
            (found[1].index, &found[1].label, found[1].prefix),
            (4, &None, 64)
        );
        for end in 0..messages.len() {
            assert!(parse_addresses(&messages[..end]).len() <= 2);
        }
    }

    #[test]
    fn counters_as_proc_has_them() {
        let numbers: Vec<u8> = (1..=24_u64).flat_map(u64::to_ne_bytes).collect();
        let mut body = vec![0; 4];
        body.extend(7_u32.to_ne_bytes());
        body.extend([0; 4]);
        body.extend(attribute(1, &numbers));
        let found = parse_counters(&[message(RTM_NEWSTATS, &body), vec![1, 2, 3]].concat());
        let counters = LinkCounters {
            rx_packets: 1,
            tx_packets: 2,
            rx_bytes: 3,
            tx_bytes: 4,
            rx_errs: 5,
            tx_errs: 6,
            rx_dropped: 7 + 16,
            tx_dropped: 8,
        };
        assert_eq!(found, [(7, counters)]);
    }
}
