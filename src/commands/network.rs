//! Floor 4: the network: guest-network-get-interfaces, guest-network-get-route.
//!
//! Read-only. One netlink request (rtnetlink(7)) reads all links with their counters and one all addresses, whatever their
//! number: hosts poll this command, and getifaddrs(3) with /proc/net/dev asks the kernel for much that is thrown away. It
//! is the fallback, and a test compares both.

use std::collections::HashMap;
use std::io;

use nix::libc;
use serde::Serialize;

use super::{Class, Command, answer, probe_error};
use crate::probe::System;
use crate::probe::interfaces::{self, Interface, InterfaceEntry, ip_text, ipv6_text};
use crate::probe::netdev::{self, LinkCounters};
use crate::probe::route::{self, Ipv4Route, Ipv6Route};
use crate::probe::rtnetlink;
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::error::CommandError;
use crate::sys::netdevice::{self, NetDevices};
use crate::sys::strerror;

pub(super) const COMMANDS: &[Command] = &[
    Command::now(
        22,
        "guest-network-get-interfaces",
        Class::Query,
        |_, arguments| {
            let NoArguments {} = decode(arguments)?;
            answer(get_interfaces(&System::host())?)
        },
    ),
    Command::now(
        43,
        "guest-network-get-route",
        Class::Query,
        |_, arguments| {
            let NoArguments {} = decode(arguments)?;
            answer(get_route(&System::host())?)
        },
    ),
];

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct NetworkInterface {
    name: String,
    hardware_address: Option<String>,
    ip_addresses: Option<Vec<IpAddress>>,
    /// Only of interfaces with addresses, as in the original.
    statistics: Option<Statistics>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct IpAddress {
    ip_address: String,
    ip_address_type: &'static str,
    prefix: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Statistics {
    rx_bytes: u64,
    rx_packets: u64,
    rx_errs: u64,
    rx_dropped: u64,
    tx_bytes: u64,
    tx_packets: u64,
    tx_errs: u64,
    tx_dropped: u64,
}

fn get_interfaces(system: &System) -> Result<Vec<NetworkInterface>, CommandError> {
    let (interfaces, counters) = read_by_netlink().or_else(|error| {
        tracing::debug!(
            "cannot read interfaces by netlink: {}; using getifaddrs(3)",
            strerror(&error)
        );
        read_by_getifaddrs(system)
    })?;
    Ok(describe(interfaces, &counters))
}

type InterfacesAndCounters = (Vec<Interface>, HashMap<String, LinkCounters>);

fn read_by_netlink() -> io::Result<InterfacesAndCounters> {
    let links = rtnetlink::parse_counters(&netdevice::read_counters()?);
    let addresses = rtnetlink::parse_addresses(&netdevice::read_addresses()?);
    let devices = NetDevices::open()?;
    let mut names: HashMap<u32, String> = HashMap::with_capacity(links.len());
    let mut counters = HashMap::with_capacity(links.len());
    let mut entries = Vec::with_capacity(links.len() + addresses.len());
    for (index, counted) in links {
        let (name, address) = match devices.name_and_address(index) {
            Ok(found) => found,
            // Removed since the list was read.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
            Err(error) => return Err(error),
        };
        names.insert(index, name.clone());
        counters.insert(name.clone(), counted);
        entries.push((name, InterfaceEntry::Link(address)));
    }
    for found in addresses {
        // An alias (eth0:1) is an interface of its own in the original's reply, and only its label has that name.
        let label = found.label.or_else(|| names.get(&found.index).cloned());
        if let Some(name) = label {
            entries.push((name, InterfaceEntry::Address(found.address, found.prefix)));
        }
    }
    Ok((interfaces::group(entries), counters))
}

/// For kernels before 4.7, which do not have RTM_GETSTATS.
fn read_by_getifaddrs(system: &System) -> Result<InterfacesAndCounters, CommandError> {
    let interfaces = interfaces::read().map_err(|error| {
        CommandError::generic(format!("getifaddrs failed: {}", strerror(&error)))
    })?;
    // Without /proc there are no counters, and interfaces without counters are better than an error.
    let counters = netdev::read(system).unwrap_or_else(|error| {
        tracing::debug!("cannot read interface statistics: {error}; leaving them out");
        HashMap::new()
    });
    Ok((interfaces, counters))
}

fn describe(
    interfaces: Vec<Interface>,
    counters: &HashMap<String, LinkCounters>,
) -> Vec<NetworkInterface> {
    let one = |interface: Interface| {
        let with_address = !interface.addresses.is_empty();
        let statistics = counters.get(&interface.name).filter(|_| with_address);
        let addresses = interface
            .addresses
            .iter()
            .map(|(address, prefix)| IpAddress {
                ip_address: ip_text(address),
                ip_address_type: if address.is_ipv4() { "ipv4" } else { "ipv6" },
                prefix: *prefix,
            });
        NetworkInterface {
            hardware_address: interface.hardware_address.map(format_mac_address),
            ip_addresses: with_address.then(|| addresses.collect()),
            statistics: statistics.map(Statistics::from),
            name: interface.name,
        }
    };
    interfaces.into_iter().map(one).collect()
}

fn format_mac_address([a, b, c, d, e, f]: interfaces::HardwareAddress) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

impl From<&LinkCounters> for Statistics {
    fn from(found: &LinkCounters) -> Self {
        Self {
            rx_bytes: found.rx_bytes,
            rx_packets: found.rx_packets,
            rx_errs: found.rx_errs,
            rx_dropped: found.rx_dropped,
            tx_bytes: found.tx_bytes,
            tx_packets: found.tx_packets,
            tx_errs: found.tx_errs,
            tx_dropped: found.tx_dropped,
        }
    }
}

/// Gateway to irtt are IPv4's, desprefixlen to nexthop IPv6's.
#[derive(Debug, Default, Serialize)]
struct NetworkRoute {
    iface: String,
    destination: String,
    metric: i64,
    version: i64,
    gateway: Option<String>,
    mask: Option<String>,
    mtu: Option<i64>,
    window: Option<i64>,
    irtt: Option<i64>,
    flags: u64,
    refcnt: i64,
    #[serde(rename = "use")]
    uses: i64,
    desprefixlen: Option<String>,
    source: Option<String>,
    srcprefixlen: Option<String>,
    nexthop: Option<String>,
}

fn get_route(system: &System) -> Result<Vec<NetworkRoute>, CommandError> {
    let (ipv4, ipv6) = (
        system.text("/proc/net/route"),
        system.text("/proc/net/ipv6_route"),
    );
    // A kernel may lack one of the protocols, or have it disabled: it has no routes then.
    let (ipv4, ipv6) = match (ipv4, ipv6) {
        (Ok(ipv4), Err(error)) if error.is_missing() => (ipv4, String::new()),
        (Err(error), Ok(ipv6)) if error.is_missing() => (String::new(), ipv6),
        (ipv4, ipv6) => (ipv4.map_err(probe_error)?, ipv6.map_err(probe_error)?),
    };
    let ipv4 = route::parse_ipv4(&ipv4).into_iter().map(NetworkRoute::from);
    let ipv6 = route::parse_ipv6(&ipv6).into_iter().map(NetworkRoute::from);
    Ok(ipv4.chain(ipv6).collect())
}

impl From<Ipv4Route> for NetworkRoute {
    fn from(found: Ipv4Route) -> Self {
        Self {
            iface: found.interface,
            destination: found.destination.to_string(),
            metric: found.metric.into(),
            version: 4,
            gateway: Some(found.gateway.to_string()),
            mask: Some(found.mask.to_string()),
            mtu: Some(found.mtu.into()),
            window: Some(found.window.into()),
            irtt: Some(found.irtt.into()),
            flags: found.flags.into(),
            refcnt: found.refcnt.into(),
            uses: found.uses.into(),
            ..Self::default()
        }
    }
}

impl From<Ipv6Route> for NetworkRoute {
    fn from(found: Ipv6Route) -> Self {
        Self {
            iface: found.interface,
            destination: ipv6_text(&found.destination),
            metric: found.metric.into(),
            version: 6,
            flags: found.flags.into(),
            refcnt: found.refcnt.into(),
            uses: found.uses.into(),
            desprefixlen: Some(found.destination_prefix.to_string()),
            source: Some(ipv6_text(&found.source)),
            srcprefixlen: Some(found.source_prefix.to_string()),
            nexthop: Some(ipv6_text(&found.next_hop)),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::reply_line;
    use crate::probe::interfaces::group;
    use std::fs;

    #[test]
    fn interfaces_on_the_wire() {
        let entries = [
            ("lo", InterfaceEntry::Link([0; 6])),
            (
                "dummy0",
                InterfaceEntry::Link([0xae, 0xc1, 0xc7, 0x4f, 0x54, 0xa6]),
            ),
            (
                "lo",
                InterfaceEntry::Address("127.0.0.1".parse().unwrap(), 8),
            ),
            (
                "lo:1",
                InterfaceEntry::Address("127.0.0.2".parse().unwrap(), 32),
            ),
            ("lo", InterfaceEntry::Address("::1".parse().unwrap(), 128)),
        ];
        let interfaces = group(entries.map(|(name, entry)| (name.to_owned(), entry)));
        let counters = netdev::parse(
            "lo: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\ndummy0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n",
        );
        assert_eq!(
            reply_line(describe(interfaces, &counters)),
            "{\"return\": [{\"name\": \"lo\", \"ip-addresses\": [\
             {\"ip-address-type\": \"ipv4\", \"ip-address\": \"127.0.0.1\", \"prefix\": 8}, \
             {\"ip-address-type\": \"ipv6\", \"ip-address\": \"::1\", \"prefix\": 128}], \
             \"statistics\": {\"tx-packets\": 6, \"tx-errs\": 7, \"rx-bytes\": 1, \
             \"rx-dropped\": 4, \"rx-packets\": 2, \"rx-errs\": 3, \"tx-bytes\": 5, \
             \"tx-dropped\": 8}, \"hardware-address\": \"00:00:00:00:00:00\"}, \
             {\"name\": \"dummy0\", \"hardware-address\": \"ae:c1:c7:4f:54:a6\"}, \
             {\"name\": \"lo:1\", \"ip-addresses\": [\
             {\"ip-address-type\": \"ipv4\", \"ip-address\": \"127.0.0.2\", \"prefix\": 32}], \
             \"hardware-address\": \"00:00:00:00:00:00\"}]}\n"
        );
    }

    #[test]
    fn the_live_interfaces_have_statistics() {
        let interfaces = get_interfaces(&System::host()).unwrap();
        assert!(interfaces.iter().any(|interface| interface.name == "lo"));
        for interface in interfaces.iter().filter(|i| !i.name.contains(':')) {
            let addressed = interface.ip_addresses.is_some();
            assert_eq!(interface.statistics.is_some(), addressed, "{interface:?}");
        }
    }

    #[test]
    fn both_ways_find_the_same() {
        let (quick, quick_counters) = read_by_netlink().unwrap();
        let (plain, plain_counters) = read_by_getifaddrs(&System::host()).unwrap();
        assert_eq!(quick, plain);
        let names = |counters: &HashMap<String, LinkCounters>| {
            let mut names: Vec<_> = counters.keys().cloned().collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&quick_counters), names(&plain_counters));
    }

    fn routes(ipv4: Option<&str>, ipv6: Option<&str>) -> Result<String, CommandError> {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("proc/net");
        fs::create_dir_all(&directory).unwrap();
        for (name, text) in [("route", ipv4), ("ipv6_route", ipv6)] {
            if let Some(text) = text {
                fs::write(directory.join(name), text).unwrap();
            }
        }
        get_route(&System::at(root.path()).unwrap()).map(reply_line)
    }

    #[test]
    fn routes_on_the_wire() {
        let gateway = format!("{:08X}", u32::from_ne_bytes([192, 0, 2, 1]));
        let ipv4 =
            format!("heading\neth0\t00000000\t{gateway}\t0003\t0\t0\t0\t00000000\t0\t0\t0\n");
        let zero = "0".repeat(32);
        let one = "0".repeat(31) + "1";
        let ipv6 =
            format!("{one} 80 {zero} 00 {zero} ffffffff 00000002 00000000 80200001       lo\n");
        let fourth = "{\"flags\": 3, \"metric\": 0, \"refcnt\": 0, \"window\": 0, \"version\": 4, \
             \"iface\": \"eth0\", \"destination\": \"0.0.0.0\", \"irtt\": 0, \
             \"gateway\": \"192.0.2.1\", \"use\": 0, \"mtu\": 0, \"mask\": \"0.0.0.0\"}";
        // Flags and metric are unsigned, which the original gets wrong.
        let sixth = "{\"flags\": 2149580801, \"source\": \"::\", \"metric\": 4294967295, \
             \"refcnt\": 2, \"version\": 6, \"nexthop\": \"::\", \"iface\": \"lo\", \
             \"destination\": \"::1\", \"desprefixlen\": \"128\", \"srcprefixlen\": \"0\", \
             \"use\": 0}";
        let both = routes(Some(&ipv4), Some(&ipv6)).unwrap();
        assert_eq!(both, format!("{{\"return\": [{fourth}, {sixth}]}}\n"));
        let fourth_alone = routes(Some(&ipv4), None).unwrap();
        assert_eq!(fourth_alone, format!("{{\"return\": [{fourth}]}}\n"));
        let sixth_alone = routes(None, Some(&ipv6)).unwrap();
        assert_eq!(sixth_alone, format!("{{\"return\": [{sixth}]}}\n"));
        assert_eq!(
            routes(None, None).unwrap_err().desc,
            "open(\"/proc/net/route\"): No such file or directory"
        );
    }
}
