//! The sessions of logged-in users: the files of systemd-logind in /run/systemd/sessions. Floor 1.
//!
//! Distributions without utmp (Debian 13) record logins there alone. What the members mean is documented for the calls of
//! sd-login(3) that return them: sd_session_get_username(3), sd_session_get_start_time(3), sd_session_get_class(3) and
//! sd_session_get_state(3). A file that is cut short, foreign or unreadable is left out. guest-get-users calls this.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

use super::System;
use super::envfile::assignments;
use super::utmp::Login;

const DIRECTORY: &str = "/run/systemd/sessions";

/// In bytes. logind writes about 500.
const MAX_FILE_SIZE: u64 = 64 * 1024;

/// The classes of pam_systemd(8) that stand for a user who has logged in. The others are greeters, lock screens, cron jobs
/// and the users' service managers; `user-incomplete` has no home directory yet.
const USER_CLASSES: [&str; 4] = ["user", "user-early", "user-light", "user-early-light"];

/// Sorted by time. None without logind.
pub(crate) fn read(system: &System) -> Vec<Login> {
    let names = system.names(Path::new(DIRECTORY)).unwrap_or_default();
    // Session ids are letters and digits; beside them are a FIFO for each session and files that are being written.
    let ids = names
        .iter()
        .filter_map(|name| name.to_str())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let paths = ids.map(|id| system.path(DIRECTORY).join(id));
    let mut logins: Vec<Login> = paths.filter_map(|path| parse(&read_file(&path)?)).collect();
    logins.sort_by(|a, b| {
        (a.seconds, a.microseconds, &a.user).cmp(&(b.seconds, b.microseconds, &b.user))
    });
    logins
}

/// `None` if it is not a regular file, has ended meanwhile, or is longer than [`MAX_FILE_SIZE`].
fn read_file(path: &Path) -> Option<Vec<u8>> {
    // Without O_NONBLOCK opening a FIFO would wait for a writer.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut content = Vec::new();
    file.take(MAX_FILE_SIZE + 1)
        .read_to_end(&mut content)
        .ok()?;
    (content.len() as u64 <= MAX_FILE_SIZE).then_some(content)
}

/// The login of one session; `None` if it is not a user's, is closing, or lacks a member.
pub fn parse(content: &[u8]) -> Option<Login> {
    // A line without its end may be cut off in the middle of a name or number.
    let end = content.iter().rposition(|&byte| byte == b'\n')?;
    let (mut user, mut class, mut state, mut started) = (None, None, None, None);
    for (key, value) in assignments(&content[..end]) {
        match key {
            "USER" => user = Some(value),
            "CLASS" => class = Some(value),
            "STATE" => state = Some(value),
            "REALTIME" => started = value.parse::<u64>().ok(),
            _ => {}
        }
    }
    let user = user.filter(|user| !user.is_empty())?;
    // The user of a closing session has logged out; it waits for the end of its processes.
    if !USER_CLASSES.contains(&class?.as_str()) || state? == "closing" {
        return None;
    }
    let started = i64::try_from(started?).ok()?;
    Some(Login {
        user: user.into_bytes(),
        seconds: started / 1_000_000,
        microseconds: started % 1_000_000,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs;

    /// As systemd 257 writes it, without what is not read here.
    pub fn session(user: &str, class: &str, state: &str, started: u64) -> String {
        format!(
            "# This is private data. Do not parse.\nUID=1000\nUSER={user}\nACTIVE=1\nSTATE={state}\nREMOTE=1\n\
             TYPE=tty\nCLASS={class}\nSCOPE=session-7.scope\nTTY=pts/0\nLEADER=832\nREALTIME={started}\nMONOTONIC=7\n"
        )
    }

    fn login(user: &str, seconds: i64, microseconds: i64) -> Login {
        Login {
            user: user.into(),
            seconds,
            microseconds,
        }
    }

    #[test]
    fn sessions_of_users_that_are_not_closing() {
        let read = |class: &str, state: &str| {
            parse(session("alice", class, state, 4_300_000_000_000_001).as_bytes())
        };
        for class in USER_CLASSES {
            for state in ["active", "online"] {
                assert_eq!(read(class, state), Some(login("alice", 4_300_000_000, 1)));
            }
            assert_eq!(read(class, "closing"), None);
        }
        for class in [
            "user-incomplete",
            "greeter",
            "lock-screen",
            "background",
            "background-light",
            "manager",
            "manager-early",
            "none",
            "",
        ] {
            assert_eq!(read(class, "active"), None, "{class}");
        }
    }

    #[test]
    fn a_name_that_had_to_be_quoted() {
        let text = session("\"D\\\\jo do\"", "user", "active", 1);
        assert_eq!(parse(text.as_bytes()), Some(login("D\\jo do", 0, 1)));
    }

    #[test]
    fn a_file_that_is_cut_short_or_damaged_is_no_login() {
        let whole = session("alice", "user", "active", 1_700_000_000_000_000);
        let needed = whole.find("\nMONOTONIC").unwrap() + 1;
        for length in 0..needed {
            assert_eq!(parse(&whole.as_bytes()[..length]), None, "{length}");
        }
        assert!(parse(&whole.as_bytes()[..needed]).is_some());
        for (from, to) in [
            ("REALTIME=", "REALTIME=-"),
            ("REALTIME=", "REALTIME=99999999999999999999"),
            ("USER=alice", "USER="),
            ("USER=alice", "USER=\"\""),
            ("STATE=", "state="),
        ] {
            assert_eq!(parse(whole.replace(from, to).as_bytes()), None, "{to}");
        }
        let mut foreign = whole.clone().into_bytes();
        foreign.splice(0..0, *b"\xff\x00\n=\n");
        assert_eq!(parse(&foreign), parse(whole.as_bytes()));
    }

    #[test]
    fn what_is_no_session_file_is_left_out_and_waited_for_by_nobody() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path()).unwrap();
        assert_eq!(read(&system), []);
        let directory = root.path().join(&DIRECTORY[1..]);
        fs::create_dir_all(directory.join("9")).unwrap();
        let put = |name: &str, content: &str| fs::write(directory.join(name), content).unwrap();
        put("2", &session("bob", "user", "active", 2_000_000));
        put("c1", &session("alice", "user-early", "online", 1_000_000));
        put("3", "");
        put("4", &"x".repeat(MAX_FILE_SIZE as usize + 1));
        put(".#5abc", &session("written", "user", "active", 1));
        std::os::unix::fs::symlink(directory.join("2"), directory.join("6")).unwrap();
        for fifo in ["2.ref", "7"] {
            nix::unistd::mkfifo(&directory.join(fifo), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        assert_eq!(read(&system), [login("alice", 1, 0), login("bob", 2, 0)]);
    }
}
