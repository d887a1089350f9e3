//! Whether the whole system is shutting down. Floor 1.
//!
//! The engine asks this while filesystems are frozen, so no program is started and nothing is written; that is why systemd
//! is asked over its private socket and not by systemctl or a bus daemon, which may wait for a frozen filesystem.

use super::{System, utmp};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// systemd's own socket for D-Bus messages, from root only.
const SYSTEMD_SOCKET: &str = "/run/systemd/private";

/// Time for each part of systemd's answer: it may itself wait for a frozen filesystem.
const SYSTEMD_RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Authentication as uid 0 (`30` is the digit 0 in hexadecimal), without further negotiation.
const AUTHENTICATION: &[u8] = b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n";

/// `OK`, a blank, an identifier of 32 digits, and the end of the line.
const AUTHENTICATION_REPLY_SIZE: usize = 37;

/// Properties.Get for SystemState of systemd1.Manager, in the format of the D-Bus specification: little-endian.
const PROPERTY_CALL: &[u8] = b"l\x01\0\x01\x38\0\0\0\x01\0\0\0\x68\0\0\0\
    \x01\x01o\0\x19\0\0\0/org/freedesktop/systemd1\0\0\0\0\0\0\0\
    \x02\x01s\0\x1f\0\0\0org.freedesktop.DBus.Properties\0\
    \x03\x01s\0\x03\0\0\0Get\0\0\0\0\0\x08\x01g\0\x02ss\0\
    \x20\0\0\0org.freedesktop.systemd1.Manager\0\0\0\0\
    \x0b\0\0\0SystemState\0";

/// The reply has less than 200 bytes.
const MAX_MESSAGE_SIZE: usize = 1 << 20;

const SIGNAL: u8 = 4;

/// Whether systemd is in the state `stopping`, or sysvinit in runlevel 0 or 6; false if neither can be asked.
pub fn is_in_progress() -> bool {
    // Without systemd the socket does not exist; an error of another kind is no reason to thaw early either.
    query_systemd().unwrap_or(false)
        || matches!(utmp::read_runlevel(&System::host()), Some(b'0' | b'6'))
}

fn query_systemd() -> io::Result<bool> {
    let mut systemd = UnixStream::connect(SYSTEMD_SOCKET)?;
    systemd.set_read_timeout(Some(SYSTEMD_RESPONSE_TIMEOUT))?;
    systemd.write_all(AUTHENTICATION)?;
    // systemd does not handle a message that arrives together with the authentication before more data arrives, so the
    // reply is awaited first.
    systemd.read_exact(&mut [0; AUTHENTICATION_REPLY_SIZE])?;
    systemd.write_all(PROPERTY_CALL)?;
    loop {
        let mut head = [0; 16];
        systemd.read_exact(&mut head)?;
        let mut message = vec![0; rest_length(&head).ok_or(io::ErrorKind::InvalidData)?];
        systemd.read_exact(&mut message)?;
        if head[1] != SIGNAL {
            return Ok(message.ends_with(b"stopping\0"));
        }
    }
}

/// The length of the rest of a message with this head: byte order, type, flags, version; length of the body, serial,
/// length of the header fields. systemd replies in its own byte order. `None` if this is not D-Bus, or too long.
fn rest_length(head: &[u8; 16]) -> Option<usize> {
    let number = |at| {
        let bytes = *head.get(at..)?.first_chunk()?;
        match head[0] {
            b'l' => Some(u32::from_le_bytes(bytes)),
            b'B' => Some(u32::from_be_bytes(bytes)),
            _ => None,
        }
    };
    let fields = number(12)?.checked_next_multiple_of(8)?;
    let length = fields.checked_add(number(4)?)? as usize;
    (length <= MAX_MESSAGE_SIZE).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_both_byte_orders_have_their_length() {
        let head = |order, body: [u8; 4], fields: [u8; 4]| {
            let mut head = [order, 2, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0];
            head[4..8].copy_from_slice(&body);
            head[12..].copy_from_slice(&fields);
            rest_length(&head)
        };
        assert_eq!(head(b'l', [17, 0, 0, 0], [45, 0, 0, 0]), Some(48 + 17));
        assert_eq!(head(b'B', [0, 0, 0, 17], [0, 0, 0, 45]), Some(48 + 17));
        assert_eq!(head(b'x', [0; 4], [0; 4]), None);
        for long in [[0, 0, 0, 1], [255; 4]] {
            assert_eq!(head(b'l', long, [0; 4]), None);
            assert_eq!(head(b'l', [0; 4], long), None);
            assert_eq!(head(b'l', long, long), None);
        }
    }
}
