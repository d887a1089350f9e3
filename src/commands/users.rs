//! Floor 4: logged-in users and the time zone: guest-get-users, guest-get-timezone.
//!
//! Read-only, and nothing is cached. Users are the logins of utmp(5) and the sessions of systemd-logind, which may be built
//! without utmp.

use std::collections::HashMap;
use std::ffi::c_long;
use std::time::SystemTime;

use serde::Serialize;

use super::{Class, Command, answer, probe_error};
use crate::probe::utmp::{self, Login};
use crate::probe::{System, logind};
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::error::CommandError;
use crate::protocol::text::from_os_bytes;
use crate::sys::localtime;

pub(super) const COMMANDS: &[Command] = &[
    Command::now(34, "guest-get-users", Class::Query, |_, arguments| {
        let NoArguments {} = decode(arguments)?;
        answer(get_users(&System::host())?)
    }),
    Command::now(35, "guest-get-timezone", Class::Query, |_, arguments| {
        let NoArguments {} = decode(arguments)?;
        // A value that is not UTF-8 names no zone; the C library uses UTC then, too.
        let name = std::env::var("TZ").ok();
        answer(get_timezone(&System::host(), name.as_deref())?)
    }),
];

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    user: String,
    /// Seconds since the epoch, with microseconds.
    login_time: f64,
}

/// Each user once, with the earliest login of utmp and logind, which record most logins both.
fn get_users(system: &System) -> Result<Vec<User>, CommandError> {
    let mut logins = utmp::read(system).map_err(probe_error)?;
    logins.extend(logind::read(system));
    Ok(earliest_logins(logins))
}

fn earliest_logins(logins: Vec<Login>) -> Vec<User> {
    let mut users: Vec<User> = Vec::new();
    // Keeps the order of the first login of each, as the original lists them.
    let mut index_of: HashMap<Vec<u8>, usize> = HashMap::new();
    for login in logins {
        // Exact: a double holds microseconds since 1970 until the year 2255 (2^53 microseconds).
        let login_time = login.seconds as f64 + login.microseconds as f64 / 1e6;
        let known = index_of
            .get(&login.user)
            .and_then(|&index| users.get_mut(index));
        if let Some(user) = known {
            user.login_time = user.login_time.min(login_time);
            continue;
        }
        users.push(User {
            user: from_os_bytes(&login.user),
            login_time,
        });
        index_of.insert(login.user, users.len() - 1);
    }
    users
}

#[derive(Debug, Serialize)]
struct Timezone {
    /// As of now, such as `CEST`.
    zone: Option<String>,
    /// Seconds east of UTC.
    offset: c_long,
}

/// `name` is the value of the variable `TZ`.
fn get_timezone(system: &System, name: Option<&str>) -> Result<Timezone, CommandError> {
    // The C library uses an unknown name as an abbreviation of UTC; clients would see a zone that does not exist.
    if name.is_some_and(|name| !is_known_zone(system, name)) {
        return Ok(Timezone {
            zone: Some("UTC".into()),
            offset: 0,
        });
    }
    let (zone, offset) = localtime::zone(SystemTime::now())
        .ok_or_else(|| CommandError::generic("Couldn't retrieve local timezone"))?;
    Ok(Timezone {
        zone: (!zone.is_empty()).then_some(zone),
        offset,
    })
}

/// Whether tzset(3) finds a zone file of that name, or a rule such as `CET-1CEST`.
fn is_known_zone(system: &System, name: &str) -> bool {
    let name = name.strip_prefix(':').unwrap_or(name);
    // An absolute name replaces the directory, as tzset(3) has it.
    let file = localtime::zone_directory().join(name);
    name.is_empty() || name.contains(|c: char| c.is_ascii_digit()) || system.path(file).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::reply_line;
    use crate::probe::logind::tests::session;
    use crate::probe::utmp::{Layout, tests::record};
    use std::fs;

    #[test]
    fn each_user_once_with_the_earliest_login() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path()).unwrap();
        assert_eq!(
            reply_line(get_users(&system).unwrap()),
            "{\"return\": []}\n"
        );
        let file = [
            (7, &b"root"[..], (1_600_000_100, 0)),
            (7, b"alice", (1_700_000_100, 1)),
            (8, b"bob", (1, 0)),
            (7, b"root", (1_600_000_000, 5)),
            (7, b"root", (1_600_000_000, 6)),
        ]
        .map(|(kind, user, time)| record(Layout::NATIVE, kind, user, time))
        .concat();
        fs::create_dir_all(root.path().join("var/run")).unwrap();
        fs::write(root.path().join("var/run/utmp"), file).unwrap();
        assert_eq!(
            reply_line(get_users(&system).unwrap()),
            "{\"return\": [{\"login-time\": 1600000000.000005, \"user\": \"root\"}, \
             {\"login-time\": 1700000100.000001, \"user\": \"alice\"}]}\n"
        );
        // alice logged in earlier, root again, carol without a terminal.
        let sessions = root.path().join("run/systemd/sessions");
        fs::create_dir_all(&sessions).unwrap();
        for (id, user, started) in [
            ("1", "alice", 1_700_000_099_999_999),
            ("2", "root", 1_600_000_000_000_006),
            ("3", "carol", 1_500_000_000_000_000),
        ] {
            fs::write(sessions.join(id), session(user, "user", "active", started)).unwrap();
        }
        let merged = "{\"return\": [{\"login-time\": 1600000000.000005, \"user\": \"root\"}, \
             {\"login-time\": 1700000099.999999, \"user\": \"alice\"}, \
             {\"login-time\": 1500000000, \"user\": \"carol\"}]}\n";
        assert_eq!(reply_line(get_users(&system).unwrap()), merged);
        fs::write(sessions.join("4"), "# cut").unwrap();
        assert_eq!(reply_line(get_users(&system).unwrap()), merged);
    }

    #[test]
    fn an_unknown_zone_is_utc() {
        let root = tempfile::tempdir().unwrap();
        let zones = root.path().join("usr/share/zoneinfo/Area");
        fs::create_dir_all(&zones).unwrap();
        fs::write(zones.join("City"), "").unwrap();
        let system = System::at(root.path()).unwrap();
        for known in [
            "",
            ":",
            "CET-1CEST",
            "Area/City",
            ":Area/City",
            "/usr/share/zoneinfo/Area/City",
        ] {
            assert!(is_known_zone(&system, known), "{known}");
        }
        for unknown in ["Area/Town", "Area", "Nonsense"] {
            assert!(!is_known_zone(&system, unknown), "{unknown}");
        }
        assert_eq!(
            reply_line(get_timezone(&system, Some("Nonsense")).unwrap()),
            "{\"return\": {\"zone\": \"UTC\", \"offset\": 0}}\n"
        );
        assert!(get_timezone(&system, None).unwrap().zone.is_some());
    }
}
