//! Floor 2: the counter behind file handles, `qga.state`. It outlives the agent so that a handle
//! from before a restart is refused instead of meaning another file.
//!
//! The file is a key file with one key, shared with the original agent. The number on disk is the
//! next handle, and it is on disk before that handle's predecessor is given out.

use super::{FIRST_HANDLE, StateDir, StateError, reason};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

const GROUP: &[u8] = b"global";
const KEY: &[u8] = b"fd_counter";

impl StateDir {
    fn counter(&self) -> PathBuf {
        self.path().join("qga.state")
    }

    /// The number of the next file handle, as the file has it: at least 0.
    ///
    /// # Errors
    /// The file cannot be read or is no key file.
    pub fn next_handle(&self) -> Result<i64, StateError> {
        let path = self.counter();
        let fail = |reason: String| StateError {
            text: format!(
                "error loading persistent state from path: {}, {reason} (correct or delete the file)",
                path.display()
            ),
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(FIRST_HANDLE.into()),
            Err(e) => return Err(fail(reason(&e))),
        };
        parse(&text).map_err(fail)
    }

    /// Replaces the file, by temporary file and rename, with one that says `next`.
    ///
    /// # Errors
    /// The directory cannot be written; the old file stays.
    pub fn set_next_handle(&self, next: i64) -> io::Result<()> {
        let path = self.counter();
        let temporary = path.with_extension("state.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o666)
            .open(&temporary)?;
        file.write_all(format!("[global]\nfd_counter={next}\n").as_bytes())?;
        // A power cut after the rename must not leave an empty file: handles would repeat.
        file.sync_data()?;
        fs::rename(&temporary, &path)
    }
}

/// The counter of a key file; [`FIRST_HANDLE`] if it has none, 0 if it is no number. The last of
/// several counts.
fn parse(text: &[u8]) -> Result<i64, String> {
    let mut next = i64::from(FIRST_HANDLE);
    let mut group: Option<&[u8]> = None;
    for (line, number) in text.split(|&byte| byte == b'\n').zip(1..) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let header = line
            .strip_prefix(b"[")
            .and_then(|rest| rest.strip_suffix(b"]"));
        if let Some(name) = header.filter(|name| !name.is_empty()) {
            group = Some(name);
            continue;
        }
        let equals = line.iter().position(|&byte| byte == b'=');
        let (Some(group), Some(equals @ 1..)) = (group, equals) else {
            return Err(format!(
                "line {number} is neither a group, a key with a value nor a comment"
            ));
        };
        if group == GROUP && line[..equals].trim_ascii_end() == KEY {
            next = meaning(line[equals + 1..].trim_ascii_start());
        }
    }
    Ok(next)
}

fn meaning(value: &[u8]) -> i64 {
    let number: Option<i64> = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
    match number {
        Some(number @ 0..) => number,
        // The original keeps 32 bits, so its 2^31st handle reads as a negative number.
        Some(number) => i32::try_from(number).map_or(0, |wrapped| i64::from(wrapped as u32)),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_says() {
        for (text, next) in [
            (&b""[..], 1000),
            (b"[global]\n", 1000),
            (b"[other]\nfd_counter=5\n", 1000),
            (b"# c\n\n[global]\r\nx=y\n fd_counter = 1234\r\n", 1234),
            (b"[global]\nfd_counter=1\n[a]\n[global]\nfd_counter=7", 7),
            (b"[global]\nfd_counter=abc\n", 0),
            (b"[global]\nfd_counter=\n", 0),
            (b"[global]\nfd_counter=2147483648\n", 2_147_483_648),
            (b"[global]\nfd_counter=-2147483648\n", 2_147_483_648),
            (b"[global]\nfd_counter=-1\n", 4_294_967_295),
            (b"[global]\nfd_counter=-9999999999\n", 0),
        ] {
            assert_eq!(parse(text), Ok(next), "{}", text.escape_ascii());
        }
        for text in [
            &b"fd_counter=5\n"[..],
            b"[global]\nnonsense\n",
            b"[global]\n=5",
            b"[]\n",
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                error.contains(" is neither a group, a key with a value nor a comment"),
                "{error}"
            );
        }
    }

    #[test]
    fn is_replaced_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        assert_eq!(state.next_handle().unwrap(), 1000);
        state.set_next_handle(1001).unwrap();
        assert_eq!(state.next_handle().unwrap(), 1001);
        let file = fs::read_to_string(dir.path().join("qga.state")).unwrap();
        assert_eq!(file, "[global]\nfd_counter=1001\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(dir.path().join("qga.state"), "junk\n").unwrap();
        let error = state.next_handle().unwrap_err().text;
        assert!(
            error.starts_with("error loading persistent state from path: "),
            "{error}"
        );
        let gone = StateDir::new(dir.path().join("none"));
        assert!(gone.set_next_handle(1).is_err());
    }
}
