//! Routing tables: /proc/net/route (IPv4, the main table) and /proc/net/ipv6_route (every table; proc_pid_net(5)).
//! Floor 1.
//!
//! Lines that cannot be understood are left out.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A line of `/proc/net/route`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv4Route {
    pub(crate) interface: String,
    pub(crate) destination: Ipv4Addr,
    pub(crate) mask: Ipv4Addr,
    /// Zeros for none.
    pub(crate) gateway: Ipv4Addr,
    pub(crate) flags: u32,
    /// Always 0 on present kernels (fib_route_seq_show in net/ipv4/fib_trie.c), as is `uses`.
    pub(crate) refcnt: i32,
    pub(crate) uses: u32,
    pub(crate) metric: u32,
    /// 0: that of the interface.
    pub(crate) mtu: i32,
    /// Of TCP; 0: the default.
    pub(crate) window: u32,
    pub(crate) irtt: u32,
}

/// A line of `/proc/net/ipv6_route`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv6Route {
    pub(crate) interface: String,
    pub(crate) destination: Ipv6Addr,
    pub(crate) destination_prefix: u8,
    pub(crate) source: Ipv6Addr,
    pub(crate) source_prefix: u8,
    /// `::` for none.
    pub(crate) next_hop: Ipv6Addr,
    pub(crate) metric: u32,
    pub(crate) refcnt: u32,
    pub(crate) uses: u32,
    /// The upper half is internal to the kernel.
    pub(crate) flags: u32,
}

/// Parses `/proc/net/route`, whose first line is a heading.
pub fn parse_ipv4(text: &str) -> Vec<Ipv4Route> {
    text.lines().skip(1).filter_map(ipv4_line).collect()
}

/// Parses `/proc/net/ipv6_route`.
pub fn parse_ipv6(text: &str) -> Vec<Ipv6Route> {
    text.lines().filter_map(ipv6_line).collect()
}

/// `IFACE DESTINATION GATEWAY FLAGS REFCNT USE METRIC MASK MTU WINDOW IRTT`
fn ipv4_line(line: &str) -> Option<Ipv4Route> {
    let mut words = line.split_ascii_whitespace();
    let interface = words.next()?.to_owned();
    let destination = ipv4(words.next()?)?;
    let gateway = ipv4(words.next()?)?;
    let flags = hexadecimal(words.next()?)?;
    let refcnt = signed(words.next());
    let uses = unsigned(words.next());
    let metric = unsigned(words.next());
    let mask = ipv4(words.next()?)?;
    Some(Ipv4Route {
        interface,
        destination,
        mask,
        gateway,
        flags,
        refcnt,
        uses,
        metric,
        mtu: signed(words.next()),
        window: unsigned(words.next()),
        irtt: unsigned(words.next()),
    })
}

/// 0 if the number is missing or wrong: a route without its MTU is of more use than no route.
fn signed(word: Option<&str>) -> i32 {
    word.and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// As [`signed`], for the kernel's unsigned values. Kernels before 6.18 print a metric of 2^31 or more as a negative
/// number (net/ipv4/fib_trie.c, fib_route_seq_show).
fn unsigned(word: Option<&str>) -> u32 {
    word.and_then(|word| word.parse().ok())
        .unwrap_or_else(|| u32::from_ne_bytes(signed(word).to_ne_bytes()))
}

/// `DESTINATION LENGTH SOURCE LENGTH NEXT-HOP METRIC REFCNT USE FLAGS IFACE`, in hexadecimal but for the last.
fn ipv6_line(line: &str) -> Option<Ipv6Route> {
    let mut words = line.split_ascii_whitespace();
    let destination = ipv6(words.next()?)?;
    let destination_prefix = u8::from_str_radix(words.next()?, 16).ok()?;
    let source = ipv6(words.next()?)?;
    let source_prefix = u8::from_str_radix(words.next()?, 16).ok()?;
    let next_hop = ipv6(words.next()?)?;
    let metric = hexadecimal(words.next()?)?;
    let refcnt = hexadecimal(words.next()?)?;
    let uses = hexadecimal(words.next()?)?;
    let flags = hexadecimal(words.next()?)?;
    // A route without a device has an empty name.
    let interface = words.next().unwrap_or_default().to_owned();
    Some(Ipv6Route {
        interface,
        destination,
        destination_prefix,
        source,
        source_prefix,
        next_hop,
        metric,
        refcnt,
        uses,
        flags,
    })
}

fn hexadecimal(word: &str) -> Option<u32> {
    u32::from_str_radix(word, 16).ok()
}

/// The kernel prints the four bytes in memory as one number of the machine's byte order.
fn ipv4(word: &str) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(hexadecimal(word)?.to_ne_bytes()))
}

fn ipv6(word: &str) -> Option<Ipv6Addr> {
    (word.len() == 32).then_some(())?;
    Some(Ipv6Addr::from(u128::from_str_radix(word, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_routes() {
        let gateway = format!("{:08X}", u32::from_ne_bytes([192, 0, 2, 1]));
        let text = format!(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT  \n\
             eth0\t00000000\t{gateway}\t0003\t0\t0\t100\t00000000\t1400\t5\t6   \n\
             *\t000000x0\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth0\t00000000\n"
        );
        assert_eq!(
            parse_ipv4(&text),
            [Ipv4Route {
                interface: "eth0".into(),
                destination: Ipv4Addr::UNSPECIFIED,
                mask: Ipv4Addr::UNSPECIFIED,
                gateway: Ipv4Addr::new(192, 0, 2, 1),
                flags: 3,
                refcnt: 0,
                uses: 0,
                metric: 100,
                mtu: 1400,
                window: 5,
                irtt: 6,
            }]
        );
        assert_eq!(parse_ipv4(""), []);
    }

    #[test]
    fn a_number_out_of_range_does_not_lose_the_route() {
        let route = |metric: &str, mtu: &str| {
            let text = format!("head\neth0\t0\t0\t1\t0\t0\t{metric}\t0\t{mtu}\t0\t0\n");
            let routes = parse_ipv4(&text);
            (routes.len(), routes[0].metric, routes[0].mtu)
        };
        assert_eq!(route("2147483648", "1500"), (1, 1 << 31, 1500));
        assert_eq!(route("-2147483648", "1500"), (1, 1 << 31, 1500));
        assert_eq!(route("4294967295", "4294967295"), (1, u32::MAX, 0));
        assert_eq!(route("x", "1500"), (1, 0, 1500));
        assert_eq!(parse_ipv4("head\neth0 0 0 1 0 0 5 0\n").len(), 1);
    }

    #[test]
    fn ipv6_routes() {
        let zero = "0".repeat(32);
        let text = format!(
            "20010db8000000000000000000000000 40 {zero} 00 fe800000000000000000000000000001 \
             00000400 00000001 00000002 80200001     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n\
             {zero} 00 {zero} 00 {zero} 00000000 00000000 00000000 00000000\n\
             short 00 {zero} 00 {zero} 00000000 00000000 00000000 00000000 lo\n"
        );
        let routes = parse_ipv6(&text);
        assert_eq!(routes.len(), 3);
        assert_eq!(
            routes[0],
            Ipv6Route {
                interface: "eth0".into(),
                destination: "2001:db8::".parse().unwrap(),
                destination_prefix: 64,
                source: Ipv6Addr::UNSPECIFIED,
                source_prefix: 0,
                next_hop: "fe80::1".parse().unwrap(),
                metric: 1024,
                refcnt: 1,
                uses: 2,
                flags: 0x8020_0001,
            }
        );
        assert_eq!(
            (routes[1].metric, routes[1].interface.as_str()),
            (u32::MAX, "lo")
        );
        assert_eq!(routes[2].interface, "");
    }
}
