//! Floor 4: guest-get-time and guest-set-time.
//!
//! Setting sets two clocks: the system's and the hardware's, one from the other, as the schema says. hwclock(8) sets the
//! hardware clock, because it knows whether that runs in local time; where hwclock cannot be executed the agent uses
//! /dev/rtc itself (newer distributions have hwclock in a package of its own). Both run on a worker thread: an RTC is read
//! at the turn of a second.

use super::{Class, Command, CommandFuture, answer, empty, worker};
use crate::child::Child;
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::error::CommandError;
use crate::protocol::value::Dict;
use crate::sys::clock::timespec;
use crate::sys::localtime::format_local;
use crate::sys::rtc::{self, Rtc};
use crate::sys::strerror;
use nix::libc;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use serde::Deserialize;
use std::ffi::OsStr;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) const COMMANDS: &[Command] = &[
    Command::now(4, "guest-get-time", Class::Query, |_, arguments| {
        let NoArguments {} = decode(arguments)?;
        answer(get_time(SystemTime::now()))
    }),
    Command::later(5, "guest-set-time", Class::Hardware, |_, arguments| {
        set_time(arguments)
    }),
];

const HWCLOCK: &str = "/sbin/hwclock";

/// Nanoseconds since the epoch, in steps of a microsecond, as the original returns it.
fn get_time(now: SystemTime) -> i64 {
    let microseconds = match now.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        // A clock before 1970: rounded down, too, so that time never seems to run backwards.
        Err(before) => {
            let nanoseconds = before.duration().as_nanos();
            i64::try_from(nanoseconds.div_ceil(1000)).map_or(i64::MIN, |before| -before)
        }
    };
    microseconds.saturating_mul(1000)
}

#[derive(Deserialize)]
struct SetTime {
    time: Option<i64>,
}

fn set_time(arguments: Dict) -> CommandFuture<'static> {
    Box::pin(async move {
        let SetTime { time } = decode(arguments)?;
        worker::run(worker::SLOW_COMMAND_TIMEOUT, move || {
            let clocks = ClockAccess {
                set: &set_system_clock,
                hwclock: HWCLOCK.as_ref(),
                use_rtc: &use_rtc,
            };
            set_clocks(time, &clocks)
        })
        .await?;
        empty()
    })
}

struct ClockAccess<'a> {
    set: &'a dyn Fn(TimeSpec) -> io::Result<()>,
    hwclock: &'a OsStr,
    /// Replaces hwclock where that cannot be executed; false if there is no hardware clock.
    use_rtc: &'a dyn Fn(ClockDirection) -> io::Result<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClockDirection {
    ToHardware,
    FromHardware,
}

/// Sets the system's clock to `time` (nanoseconds since the epoch) and the hardware's from it; without `time`, the
/// system's from the hardware's.
fn set_clocks(time: Option<i64>, clocks: &ClockAccess<'_>) -> Result<(), CommandError> {
    if let Some(time) = time {
        (clocks.set)(validate_time(time)?).map_err(|e| {
            CommandError::generic(format!("Failed to set time to guest: {}", strerror(&e)))
        })?;
    }
    // Also where the system's clock is set from the hardware's: the original has one text.
    let action = "set hardware clock to system time";
    let (direction, option) = match time {
        Some(_) => (ClockDirection::ToHardware, "-w"),
        None => (ClockDirection::FromHardware, "-s"),
    };
    let outcome = Child::new(clocks.hwclock)
        .arg(option)
        .run()
        .map_err(|e| CommandError::generic(e.text(action)))?;
    let Some(text) = outcome.failure(action) else {
        return Ok(());
    };
    // hwclock ran and failed: it knows better than this program what is wrong with the clock.
    if outcome.exec_errno.is_none() {
        return Err(CommandError::generic(text));
    }
    match (clocks.use_rtc)(direction) {
        Ok(true) => Ok(()),
        Ok(false) => Err(CommandError::generic(text)),
        Err(error) => {
            let (text, error) = (text.trim_end(), strerror(&error));
            Err(CommandError::generic(format!(
                "{text}; without it: {error}"
            )))
        }
    }
}

fn set_system_clock(time: TimeSpec) -> io::Result<()> {
    Ok(clock_settime(ClockId::CLOCK_REALTIME, time)?)
}

/// False if there is no /dev/rtc. Fails if the hardware clock runs in local time.
fn use_rtc(direction: ClockDirection) -> io::Result<bool> {
    if rtc::is_local() {
        let text = "the hardware clock runs in local time (/etc/adjtime), which needs hwclock";
        return Err(io::Error::other(text));
    }
    let Some(rtc) = Rtc::open()? else {
        return Ok(false);
    };
    match direction {
        ClockDirection::ToHardware => {
            rtc.set(|| Ok(clock_gettime(ClockId::CLOCK_REALTIME)?.into()))?;
        }
        ClockDirection::FromHardware => {
            let time = timespec(rtc.next_second()?, 0);
            set_system_clock(time.ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))?)?;
        }
    }
    Ok(true)
}

/// In whole microseconds, both parts truncated toward zero, as in the original. Fails for a year that RTCs cannot hold.
fn validate_time(time: i64) -> Result<TimeSpec, CommandError> {
    let (seconds, microseconds) = (time / 1_000_000_000, time % 1_000_000_000 / 1000);
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let instant = if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    // `None` if the C library cannot tell the year.
    let year = instant.and_then(|instant| format_local(instant, c"%Y").parse().ok());
    timespec(seconds, microseconds * 1000)
        .filter(|_| year.is_some_and(|year: i64| (1970..2070).contains(&year)))
        .ok_or_else(|| CommandError::generic("Invalid time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn time_counts_in_microseconds() {
        let at = |nanoseconds| get_time(UNIX_EPOCH + Duration::from_nanos(nanoseconds));
        assert_eq!(at(0), 0);
        assert_eq!(at(1_795_224_479_051_720_999), 1_795_224_479_051_720_000);
        assert_eq!(get_time(UNIX_EPOCH - Duration::from_nanos(1)), -1000);
        assert_eq!(get_time(UNIX_EPOCH - Duration::from_micros(1)), -1000);
        let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(get_time(far), i64::MAX);
    }

    fn nothing_else(_: ClockDirection) -> io::Result<bool> {
        panic!("hwclock could be executed");
    }

    fn run_stub(
        time: Option<i64>,
        refuse: bool,
        script: &str,
    ) -> (String, Option<TimeSpec>, String) {
        let dir = tempfile::tempdir().unwrap();
        let hwclock = dir.path().join("hwclock");
        let seen = dir.path().join("seen");
        let script = format!("#!/bin/sh\necho \"$*\" >{}\n{script}\n", seen.display());
        std::fs::write(&hwclock, script).unwrap();
        std::fs::set_permissions(&hwclock, std::fs::Permissions::from_mode(0o755)).unwrap();
        let set_to = Cell::new(None);
        let set = |time| {
            set_to.set(Some(time));
            if refuse {
                return Err(io::Error::from_raw_os_error(libc::EPERM));
            }
            Ok(())
        };
        let clocks = ClockAccess {
            set: &set,
            hwclock: hwclock.as_os_str(),
            use_rtc: &nothing_else,
        };
        let result = set_clocks(time, &clocks);
        let seen = std::fs::read_to_string(seen).unwrap_or_default();
        (
            seen,
            set_to.get(),
            result.map_or_else(|e| e.desc, |()| String::new()),
        )
    }

    #[test]
    fn both_clocks_are_set() {
        let spec = timespec;
        let good = 1_700_000_000_123_456_789;
        assert_eq!(
            run_stub(Some(good), false, ""),
            (
                "-w\n".into(),
                spec(1_700_000_000, 123_456_000),
                String::new()
            )
        );
        assert_eq!(
            run_stub(None, false, ""),
            ("-s\n".into(), None, String::new())
        );
        assert_eq!(
            run_stub(Some(good), true, "").2,
            "Failed to set time to guest: Operation not permitted"
        );
        assert_eq!(run_stub(Some(good), true, "").0, "");
        let action = "child process has failed to set hardware clock to system time: ";
        assert_eq!(
            run_stub(Some(good), false, "echo no rtc; exit 1").2,
            format!("{action}no rtc\n")
        );
        assert_eq!(
            run_stub(None, false, "exit 7").2,
            format!("{action}exit status 7")
        );
    }

    #[test]
    fn where_hwclock_cannot_be_executed_the_hardware_clock_is_asked_itself() {
        let asked = Cell::new(None);
        let try_without = |time, answer: &dyn Fn() -> io::Result<bool>| {
            let clocks = ClockAccess {
                set: &|_| Ok(()),
                hwclock: OsStr::new("/nonexistent/hwclock"),
                use_rtc: &|direction| {
                    asked.set(Some(direction));
                    answer()
                },
            };
            set_clocks(time, &clocks).map_err(|error| error.desc)
        };
        assert_eq!(try_without(Some(0), &|| Ok(true)), Ok(()));
        assert_eq!(asked.get(), Some(ClockDirection::ToHardware));
        assert_eq!(try_without(None, &|| Ok(true)), Ok(()));
        assert_eq!(asked.get(), Some(ClockDirection::FromHardware));
        let told = "child process has failed to set hardware clock to system time: failed to exec \
                    '/nonexistent/hwclock': No such file or directory";
        assert_eq!(try_without(None, &|| Ok(false)), Err(format!("{told}\n")));
        let busy = || Err(io::Error::from_raw_os_error(libc::EBUSY));
        let text = format!("{told}; without it: Device or resource busy");
        assert_eq!(try_without(None, &busy), Err(text));
    }

    #[test]
    fn only_years_that_clocks_can_hold() {
        let days = |days: i64| days * 86_400 * 1_000_000_000;
        for bad in [
            i64::MIN,
            i64::MAX,
            days(-2),
            days(36_525 + 2),
            3_155_760_000_000_000_000,
        ] {
            let (seen, set_to, text) = run_stub(Some(bad), false, "");
            assert_eq!(
                (seen.as_str(), set_to, text.as_str()),
                ("", None, "Invalid time")
            );
        }
        assert!(validate_time(days(2)).is_ok());
        // 32 bits end in 2038.
        let last = timespec(36_523 * 86_400, 0);
        assert_eq!(validate_time(days(36_523)).ok(), last);
    }
}
