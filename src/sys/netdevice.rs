//! Network interfaces by number (floor 1): routing netlink (rtnetlink(7)) for lists, netdevice(7)
//! for one interface.
//!
//! Only what costs the kernel little is asked for: its list of links with all their properties
//! takes ten times as long as the list of their counters.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// `RTM_GETADDR`.
const GET_ADDRESSES: u16 = 22;
/// `RTM_GETSTATS`.
const GET_STATS: u16 = 94;
/// The 64-bit counters of `RTM_GETSTATS`.
const LINK_STATS_64: u32 = 1;
/// `NLM_F_DUMP_INTR`: the list changed while it was told.
const INTERRUPTED: u16 = 0x10;
const HEADER: usize = 16;
/// The kernel fills at most this much at once.
const BUFFER: usize = 32 * 1024;
const TRIES: u32 = 4;

/// The messages of every link's counters, `RTM_NEWSTATS`, in kernel order.
///
/// # Errors
/// EOPNOTSUPP before Linux 4.7; no netlink.
pub fn link_counters() -> io::Result<Vec<u8>> {
    // Every interface, and which counters.
    let [a, b, c, d] = LINK_STATS_64.to_ne_bytes();
    dump(GET_STATS, &[0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
}

/// The messages of every address, `RTM_NEWADDR`, in kernel order.
///
/// # Errors
/// No netlink.
pub fn addresses() -> io::Result<Vec<u8>> {
    dump(GET_ADDRESSES, &[0; 8])
}

fn dump(kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut messages = Vec::new();
    for _ in 0..TRIES {
        messages.clear();
        if dump_once(kind, body, &mut messages)? {
            break;
        }
    }
    Ok(messages)
}

/// False if the list changed meanwhile, so that one entry may be missing.
fn dump_once(kind: u16, body: &[u8], messages: &mut Vec<u8>) -> io::Result<bool> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    let mut whole = true;
    loop {
        let count = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            count => count?,
        };
        let datagram = buffer.get(..count).unwrap_or_default();
        if append_messages(datagram, messages, &mut whole)? {
            return Ok(whole);
        }
    }
}

/// Appends the messages of a datagram; true if it is the last one. `whole` becomes false if the list
/// changed meanwhile.
///
/// # Errors
/// The kernel's, in place of an answer.
pub fn append_messages(
    mut rest: &[u8],
    messages: &mut Vec<u8>,
    whole: &mut bool,
) -> io::Result<bool> {
    while let Some((message, next)) = split(rest) {
        *whole &= message.flags & INTERRUPTED == 0;
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

/// One message of a dump.
#[derive(Debug, Clone, Copy)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
    /// With its header and padding.
    whole: &'a [u8],
}

fn split(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
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

mod request {
    use nix::libc;
    nix::ioctl_readwrite_bad!(name, 0x8910, libc::ifreq);
    nix::ioctl_readwrite_bad!(hardware_address, 0x8927, libc::ifreq);
}

/// Names and addresses of single interfaces.
#[derive(Debug)]
pub struct NetDevices(OwnedFd);

impl NetDevices {
    /// Any socket serves.
    ///
    /// # Errors
    /// No socket to be had.
    pub fn open() -> io::Result<Self> {
        let (family, kind) = (AddressFamily::Unix, SockType::Datagram);
        Ok(Self(socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?))
    }

    /// The name and the first six bytes of the link-level address of the interface with this
    /// number; zeros if it has none.
    ///
    /// # Errors
    /// ENODEV if there is no such interface (any more).
    pub fn name_and_address(&self, index: u32) -> io::Result<(String, [u8; 6])> {
        // SAFETY: all-zero is a valid value of this plain struct.
        let mut asked: libc::ifreq = unsafe { std::mem::zeroed() };
        asked.ifr_ifru.ifru_ifindex =
            i32::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
        // SAFETY: `asked` is the struct that both requests read and write; the kernel puts a name
        // with its NUL into it by the first, which the second reads, and a link-level address.
        let (name, address) = unsafe {
            request::name(self.0.as_raw_fd(), &mut asked)?;
            let name = asked.ifr_name;
            request::hardware_address(self.0.as_raw_fd(), &mut asked)?;
            (name, asked.ifr_ifru.ifru_hwaddr.sa_data)
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
        for messages in [link_counters().unwrap(), addresses().unwrap()] {
            let mut rest = &messages[..];
            while let Some((_, next)) = split(rest) {
                rest = next;
            }
            assert_eq!((rest.len(), messages.is_empty()), (0, false));
        }
        let error = dump(u16::MAX, &[0; 8]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    }
}
