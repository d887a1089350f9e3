//! A client of systemd's journal (floor 1): entries with fields, in its native protocol
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! It never blocks, as [`super::syslog`]. Lines without fields need no such client: what is written to standard error or
//! sent to /dev/log arrives in the journal, too.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::SystemTime;

use super::localtime::format_local;

const SOCKET: &str = "/run/systemd/journal/socket";
/// "user", as in [`super::syslog`].
const FACILITY: u8 = 1;

/// `text` is one line; `fields` are `KEY=value` and a line end each. The errors are those of sendto(2): no journal
/// (ENOENT, ECONNREFUSED), or its queue is full (`WouldBlock`).
pub(crate) fn send(
    identifier: &str,
    priority: u8,
    when: SystemTime,
    text: &str,
    fields: &str,
) -> io::Result<()> {
    send_to(
        Path::new(SOCKET),
        &entry(identifier, priority, when, text, fields),
    )
}

fn send_to(path: &Path, entry: &str) -> io::Result<()> {
    // A few entries for each freeze: no descriptor is kept for them.
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to(entry.as_bytes(), path).map(drop)
}

/// With the fields that the journal makes of a message to /dev/log.
fn entry(identifier: &str, priority: u8, when: SystemTime, text: &str, fields: &str) -> String {
    let date = format_local(when, c"%b %e %H:%M:%S");
    format!(
        "MESSAGE={text}\nPRIORITY={priority}\nSYSLOG_FACILITY={FACILITY}\n\
         SYSLOG_IDENTIFIER={identifier}\nSYSLOG_TIMESTAMP={date} \n{fields}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let when = SystemTime::UNIX_EPOCH;
        let entry = entry("qemu-ga", 6, when, "info: x", "RUN_ID=1\nLEVEL=crash\n");
        assert!(send_to(&path, &entry).is_err());
        let journal = UnixDatagram::bind(&path).unwrap();
        send_to(&path, &entry).unwrap();
        let mut buffer = [0; 1000];
        let length = journal.recv(&mut buffer).unwrap();
        let date = format_local(when, c"%b %e %H:%M:%S");
        let expected = format!(
            "MESSAGE=info: x\nPRIORITY=6\nSYSLOG_FACILITY=1\nSYSLOG_IDENTIFIER=qemu-ga\n\
             SYSLOG_TIMESTAMP={date} \nRUN_ID=1\nLEVEL=crash\n"
        );
        assert_eq!(
            std::str::from_utf8(&buffer[..length]),
            Ok(expected.as_str())
        );
    }
}
