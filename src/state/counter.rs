//! Floor 2: the counter for file handles, `qga.state`. It survives a restart of the agent, so that an old handle is
//! refused and does not refer to another file. The file is a key file in the format of QEMU's agent. The number is the
//! next handle, written before the handle below it is returned to a client.

use super::{FIRST_HANDLE, StateDir, read, reason, replace};
use crate::keyfile::{self, Line};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;

const GROUP: &str = "global";
const KEY: &str = "fd_counter";

/// Larger numbers are treated as damage: a JSON number above 2^53 is not exact in JavaScript.
const TOO_LARGE: i64 = 1 << 53;

impl StateDir {
    pub(super) fn counter(&self) -> PathBuf {
        self.path().join("qga.state")
    }

    pub fn next_handle(&self) -> i64 {
        match self.read_counter() {
            Ok(next) => next.unwrap_or(FIRST_HANDLE),
            Err(why) => self.unused_handle(&why),
        }
    }

    pub(super) fn read_counter(&self) -> Result<Option<i64>, String> {
        match read(&self.counter()) {
            Ok(content) => content.map(|content| parse(&content)).transpose(),
            Err(error) => Err(reason(&error)),
        }
    }

    /// A handle that was never used, for a file without a valid number. Handles count up from 1000, so the upper half
    /// of the range of QEMU's agent (31 bits) is free. The position in it is random, because this may happen again; the
    /// clock may be wrong at boot.
    pub(super) fn unused_handle(&self, why: &str) -> i64 {
        let next = (1 << 30) | (RandomState::new().hash_one(0) >> 35) as i64;
        tracing::warn!(
            "cannot read {}: {why}; file handles go on from {next}",
            self.counter().display()
        );
        next
    }

    /// Replaces the file atomically and syncs it: after a power failure an empty file would make handles repeat.
    pub fn set_next_handle(&self, next: i64) -> io::Result<()> {
        let content = format!("[global]\nfd_counter={next}\n");
        replace(&self.counter(), content.as_bytes(), 0o666, true)
    }
}

/// The last counter if there are several. A missing one, or one in an incomplete line, is an error.
fn parse(text: &[u8]) -> Result<i64, String> {
    // The number in a line without its end may have been cut.
    let incomplete = text.split(|&byte| byte == b'\n').count();
    let (mut next, mut is_global) = (None, false);
    for (number, _, line) in keyfile::lines(text) {
        match line {
            Line::Group(name) => is_global = name == GROUP,
            Line::Entry(entry) if is_global && entry.key == KEY => {
                let value = entry.string().ok().filter(|_| number != incomplete);
                next = value.and_then(|value| parse_number(value.trim()));
            }
            // Neither another key nor an invalid line changes the counter.
            Line::Entry(_) | Line::Invalid(_) => {}
        }
    }
    next.ok_or_else(|| "it has no line fd_counter=NUMBER in [global]".to_owned())
}

fn parse_number(value: &str) -> Option<i64> {
    match value.parse().ok()? {
        number @ 0..TOO_LARGE => Some(number),
        // QEMU's agent stores 32 bits, so its 2^31st handle reads as a negative number.
        number => i32::try_from(number)
            .ok()
            .map(|wrapped| i64::from(wrapped as u32)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_the_file_says() {
        for (text, next) in [
            (&b"# c\n\n[global]\r\nx=y\n fd_counter = 1234\r\n"[..], 1234),
            (b"[global]\nfd_counter=1\n[a]\n[global]\nfd_counter=7\n", 7),
            (b"[global]\nfd_counter=1\nnonsense\n=5", 1),
            (b"[global]\nfd_counter=2147483648\n", 2_147_483_648),
            (b"[global]\nfd_counter=-2147483648\n", 2_147_483_648),
            (b"[global]\nfd_counter=-1\n", 4_294_967_295),
        ] {
            assert_eq!(parse(text), Ok(next), "{}", text.escape_ascii());
        }
        for text in [
            &b""[..],
            b"\0\0\0\0",
            b"[global]\n",
            b"[global]\nfd_counter=12",
            b"[global]\nfd_counter=abc\n",
            b"[global]\nfd_counter=\n",
            b"[global]\nfd_counter=-9999999999\n",
            b"[global]\nfd_counter=9223372036854775807\n",
            b"[other]\nfd_counter=5\n",
            b"fd_counter=5\n",
        ] {
            parse(text).unwrap_err();
        }
    }

    #[test]
    fn is_replaced_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        assert_eq!(state.next_handle(), 1000);
        state.set_next_handle(1001).unwrap();
        assert_eq!(state.next_handle(), 1001);
        let file = fs::read_to_string(dir.path().join("qga.state")).unwrap();
        assert_eq!(file, "[global]\nfd_counter=1001\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(dir.path().join("qga.state"), "junk\n").unwrap();
        let other = state.next_handle();
        assert!(other > 1 << 30 && other < 1 << 31);
        assert_ne!(state.next_handle(), other);
        let gone = StateDir::new(dir.path().join("none"));
        assert!(gone.set_next_handle(1).is_err());
    }
}
