//! Network interfaces by index (floor 1): routing netlink (rtnetlink(7)) for lists, netdevice(7) for one interface.
//!
//! Only what is cheap for the kernel is requested: its list of links with all properties takes ten times as long as the
//! list of their counters. [`crate::probe::rtnetlink`] parses the messages; guest-network-get-interfaces uses both.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

// linux/rtnetlink.h and linux/netlink.h
const RTM_GETADDR: u16 = 22;
const RTM_GETSTATS: u16 = 94;
const LINK_STATS_64: u32 = 1;
/// The list changed while it was sent.
const NLM_F_DUMP_INTR: u16 = 0x10;
const HEADER_SIZE: usize = 16;
/// The kernel sends at most this much at once (netlink_dump in net/netlink/af_netlink.c).
const BUFFER_SIZE: usize = 32 * 1024;
const MAX_TRIES: u32 = 4;

/// `RTM_NEWSTATS` messages for every link, in kernel order. EOPNOTSUPP before Linux 4.7.
pub(crate) fn read_counters() -> io::Result<Vec<u8>> {
    // `struct if_stats_msg`: no family, no index (all interfaces), and the mask of the wanted counters.
    let [a, b, c, d] = LINK_STATS_64.to_ne_bytes();
    dump(RTM_GETSTATS, &[0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
}

/// `RTM_NEWADDR` messages for every address, in kernel order.
pub(crate) fn read_addresses() -> io::Result<Vec<u8>> {
    dump(RTM_GETADDR, &[0; 8])
}

fn dump(kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut messages = Vec::new();
    // After the last try the list may lack an interface that has just appeared, which is better than no list.
    for _ in 0..MAX_TRIES {
        messages.clear();
        if dump_once(kind, body, &mut messages)? {
            break;
        }
    }
    Ok(messages)
}

/// Returns false if the list changed meanwhile, so that an entry may be missing.
fn dump_once(kind: u16, body: &[u8], messages: &mut Vec<u8>) -> io::Result<bool> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let length = u32::try_from(HEADER_SIZE + body.len()).map_err(io::Error::other)?;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut request = Vec::with_capacity(HEADER_SIZE + body.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER_SIZE];
    let mut is_whole = true;
    loop {
        let count = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            count => count?,
        };
        let datagram = buffer.get(..count).unwrap_or_default();
        if append_messages(datagram, messages, &mut is_whole)? {
            return Ok(is_whole);
        }
    }
}

/// Returns true for the last datagram, or the kernel's error. `is_whole` becomes false if the list changed meanwhile.
pub fn append_messages(
    mut rest: &[u8],
    messages: &mut Vec<u8>,
    is_whole: &mut bool,
) -> io::Result<bool> {
    while let Some((message, next)) = split_message(rest) {
        *is_whole &= message.flags & NLM_F_DUMP_INTR == 0;
        match i32::from(message.kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let number = message.body.first_chunk();
                let number = number.map_or(0, |n| i32::from_ne_bytes(*n));
                return Err(io::Error::from_raw_os_error(number.wrapping_neg()));
            }
            _ => messages.extend_from_slice(message.whole),
        }
        rest = next;
    }
    Ok(false)
}

#[derive(Debug, Clone, Copy)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
    whole: &'a [u8],
}

fn split_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
    let body = bytes.get(HEADER_SIZE..length)?;
    let (whole, next) = bytes.split_at(length.next_multiple_of(4).min(bytes.len()));
    Some((
        Message {
            kind,
            flags,
            body,
            whole,
        },
        next,
    ))
}

mod ioctl {
    use nix::libc;
    nix::ioctl_readwrite_bad!(name, 0x8910, libc::ifreq);
    nix::ioctl_readwrite_bad!(hardware_address, 0x8927, libc::ifreq);
}

#[derive(Debug)]
pub(crate) struct NetDevices(OwnedFd);

impl NetDevices {
    /// Any kind of socket is good for the ioctls.
    pub fn open() -> io::Result<Self> {
        let (family, kind) = (AddressFamily::Unix, SockType::Datagram);
        Ok(Self(socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?))
    }

    /// The first six bytes of the link-level address; zeros if there is none. ENODEV: the interface has disappeared.
    pub fn name_and_address(&self, index: u32) -> io::Result<(String, [u8; 6])> {
        // SAFETY: all-zero bytes are a valid value of this C struct.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_ifindex =
            i32::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
        // SAFETY: `request` has the layout that both ioctls read and write. The first (SIOCGIFNAME) fills in the name,
        // which the second (SIOCGIFHWADDR) reads; after that the union holds a link-level address.
        let (name, address) = unsafe {
            ioctl::name(self.0.as_raw_fd(), &mut request)?;
            let name = request.ifr_name;
            ioctl::hardware_address(self.0.as_raw_fd(), &mut request)?;
            (name, request.ifr_ifru.ifru_hwaddr.sa_data)
        };
        let name: Vec<u8> = name
            .iter()
            .map(|&byte| byte as u8)
            .take_while(|&byte| byte != 0)
            .collect();
        let [a, b, c, d, e, f, ..] = address.map(|byte| byte as u8);
        Ok((
            String::from_utf8_lossy(&name).into_owned(),
            [a, b, c, d, e, f],
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_link() {
        let devices = NetDevices::open().unwrap();
        assert_eq!(
            devices.name_and_address(1).unwrap(),
            ("lo".to_owned(), [0; 6])
        );
        let error = devices.name_and_address(u32::MAX).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn dumps_are_whole_messages() {
        for messages in [read_counters().unwrap(), read_addresses().unwrap()] {
            let mut rest = &messages[..];
            while let Some((_, next)) = split_message(rest) {
                rest = next;
            }
            assert_eq!((rest.len(), messages.is_empty()), (0, false));
        }
        let error = dump(u16::MAX, &[0; 8]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    }
}
