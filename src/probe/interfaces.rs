//! Network interfaces with their addresses, by getifaddrs(3). Floor 1.
//!
//! The list has every link in kernel order, then every address under its own name. An IPv4 address may have a label
//! (`eth0:1`), which is an interface of its own here, as for ifconfig and QEMU's agent. guest-network-get-interfaces
//! uses this where it cannot use [`crate::sys::netdevice`].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::SockaddrStorage;

/// The first six bytes of a link-level address; zeros where a link has none.
pub type HardwareAddress = [u8; 6];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// `None` if no link of that name is known.
    pub hardware_address: Option<HardwareAddress>,
    /// With prefix lengths, in kernel order; of a point-to-point link the local ones.
    pub addresses: Vec<(IpAddr, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterfaceEntry {
    Link(HardwareAddress),
    /// With its prefix length.
    Address(IpAddr, u32),
    /// The first one of a name is a link without an address.
    Other,
}

pub fn read() -> io::Result<Vec<Interface>> {
    Ok(group(getifaddrs()?.map(|found| {
        let entry = entry(&found);
        (found.interface_name, entry)
    })))
}

pub fn group(entries: impl IntoIterator<Item = (String, InterfaceEntry)>) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut index_of: HashMap<String, usize> = HashMap::new();
    for (name, entry) in entries {
        // The map keeps the cost linear: container hosts have thousands of interfaces.
        let index = match index_of.get(&name) {
            Some(&index) => index,
            None => {
                let link = label_owner(&name).and_then(|owner| index_of.get(owner));
                let owner = link.and_then(|&link| interfaces.get(link));
                let hardware_address = match entry {
                    // A link without an address, such as a tunnel's.
                    InterfaceEntry::Other => Some(HardwareAddress::default()),
                    _ => owner.and_then(|owner| owner.hardware_address),
                };
                interfaces.push(Interface {
                    name: name.clone(),
                    hardware_address,
                    addresses: Vec::new(),
                });
                index_of.insert(name, interfaces.len() - 1);
                interfaces.len() - 1
            }
        };
        let Some(interface) = interfaces.get_mut(index) else {
            continue;
        };
        match entry {
            InterfaceEntry::Link(address) => interface.hardware_address = Some(address),
            InterfaceEntry::Address(address, prefix) => interface.addresses.push((address, prefix)),
            InterfaceEntry::Other => {}
        }
    }
    interfaces
}

/// Returns `eth0` for the label `eth0:1`.
fn label_owner(name: &str) -> Option<&str> {
    name.split_once(':').map(|(owner, _)| owner)
}

fn entry(found: &InterfaceAddress) -> InterfaceEntry {
    let Some(address) = &found.address else {
        return InterfaceEntry::Other;
    };
    if let Some(link) = address.as_link_addr() {
        return InterfaceEntry::Link(link.addr().unwrap_or_default());
    }
    match ip(address) {
        Some(address) => {
            let ones = |mask| match mask {
                IpAddr::V4(mask) => mask.to_bits().count_ones(),
                IpAddr::V6(mask) => mask.to_bits().count_ones(),
            };
            let mask = found.netmask.as_ref().and_then(ip);
            InterfaceEntry::Address(address, mask.map_or(0, ones))
        }
        None => InterfaceEntry::Other,
    }
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// As inet_ntop(3), unlike `Display`, writes it: the last four bytes of an address in `::/96` as IPv4.
pub fn ip_text(address: &IpAddr) -> String {
    match address {
        IpAddr::V6(v6) => ipv6_text(v6),
        IpAddr::V4(v4) => v4.to_string(),
    }
}

pub fn ipv6_text(address: &Ipv6Addr) -> String {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            format!("::{a}.{b}.{c}.{d}")
        }
        _ => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, prefix: u32) -> InterfaceEntry {
        InterfaceEntry::Address(text.parse().unwrap(), prefix)
    }

    #[test]
    fn links_first_then_labels() {
        let entries = [
            ("lo", InterfaceEntry::Link([0; 6])),
            ("eth0", InterfaceEntry::Link([2, 0, 0, 0, 0, 1])),
            ("odd0", InterfaceEntry::Other),
            ("lo", address("127.0.0.1", 8)),
            ("eth0", address("192.0.2.2", 24)),
            ("eth0:1", address("192.0.2.3", 32)),
            ("eth0", address("fe80::1", 64)),
            ("eth0:1", address("192.0.2.4", 32)),
            ("gone:1", address("192.0.2.5", 0)),
        ];
        let found = group(entries.map(|(name, entry)| (name.to_owned(), entry)));
        let summary: Vec<_> = found
            .iter()
            .map(|i| {
                let addresses: Vec<_> = i
                    .addresses
                    .iter()
                    .map(|(a, p)| format!("{}/{p}", ip_text(a)))
                    .collect();
                (
                    i.name.as_str(),
                    i.hardware_address.map(|a| a[5]),
                    addresses.join(" "),
                )
            })
            .collect();
        let expected = [
            ("lo", Some(0), "127.0.0.1/8"),
            ("eth0", Some(1), "192.0.2.2/24 fe80::1/64"),
            ("odd0", Some(0), ""),
            ("eth0:1", Some(1), "192.0.2.3/32 192.0.2.4/32"),
            ("gone:1", None, "192.0.2.5/0"),
        ];
        assert_eq!(
            summary,
            expected.map(|(name, mac, text)| (name, mac, text.to_owned()))
        );
    }

    #[test]
    fn the_loopback_link_is_there() {
        let interfaces = read().unwrap();
        let lo = interfaces.iter().find(|i| i.name == "lo").unwrap();
        assert_eq!(lo.hardware_address, Some([0; 6]));
    }

    #[test]
    fn addresses_as_inet_ntop_writes_them() {
        for text in [
            "::",
            "::1",
            "::ffff",
            "::1.2.3.4",
            "::1.0.0.0",
            "::ffff:1.2.3.4",
            "2001:db8::1",
            "2001:db8:0:1::1",
            "fe80::",
            "10.0.0.1",
        ] {
            assert_eq!(ip_text(&text.parse().unwrap()), text);
        }
        assert_eq!(ip_text(&"::0:102:0304".parse().unwrap()), "::1.2.3.4");
        assert_eq!(ip_text(&"1:0:0:1:0:0:0:1".parse().unwrap()), "1:0:0:1::1");
        assert_eq!(
            ip_text(&"1:0:2:3:4:5:6:7".parse().unwrap()),
            "1:0:2:3:4:5:6:7"
        );
    }
}
