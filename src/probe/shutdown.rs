//! Whether the whole system is going down. Floor 1.
//!
//! Asked while filesystems are frozen, so no program is started and nothing is written.

use super::{System, utmp};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Where systemd itself takes D-Bus messages, from root alone; no bus has to run.
const SYSTEMD: &str = "/run/systemd/private";

/// How long systemd may take for each part of its answer: it may itself wait for a frozen filesystem.
const SYSTEMD_RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Authentication as uid 0, which needs no further line: there is nothing to negotiate.
const LOGIN: &[u8] = b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n";

/// `OK`, a blank, an identifier of 32 digits, and the end of the line.
const LOGIN_ANSWER: usize = 37;

/// The call of org.freedesktop.DBus.Properties.Get for SystemState of org.freedesktop.systemd1.Manager,
/// as the D-Bus specification lays it out (little-endian, serial 1).
const QUESTION: &[u8] = b"l\x01\0\x01\x38\0\0\0\x01\0\0\0\x68\0\0\0\
    \x01\x01o\0\x19\0\0\0/org/freedesktop/systemd1\0\0\0\0\0\0\0\
    \x02\x01s\0\x1f\0\0\0org.freedesktop.DBus.Properties\0\
    \x03\x01s\0\x03\0\0\0Get\0\0\0\0\0\x08\x01g\0\x02ss\0\
    \x20\0\0\0org.freedesktop.systemd1.Manager\0\0\0\0\
    \x0b\0\0\0SystemState\0";

/// Longest message that is read; the answer has less than 200 bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Type of the messages that come unasked.
const SIGNAL: u8 = 4;

/// Whether systemd has a job to shut down, or sysvinit is in a runlevel that ends the system. What cannot
/// be found out counts as no.
pub fn is_under_way() -> bool {
    query_systemd().unwrap_or(false) || matches!(utmp::runlevel(&System::host()), Some(b'0' | b'6'))
}

fn query_systemd() -> io::Result<bool> {
    let mut systemd = UnixStream::connect(SYSTEMD)?;
    systemd.set_read_timeout(Some(SYSTEMD_RESPONSE_TIMEOUT))?;
    systemd.write_all(LOGIN)?;
    // What comes in one piece with the login systemd leaves until more comes.
    systemd.read_exact(&mut [0; LOGIN_ANSWER])?;
    systemd.write_all(QUESTION)?;
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

/// What follows the head of a message: byte order, type, flags, version; length of the body, serial,
/// length of the fields. systemd answers in its own byte order, whatever the question's. `None` for what is no
/// D-Bus, or too long to be an answer.
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
    (length <= MAX_ANSWER).then_some(length)
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
