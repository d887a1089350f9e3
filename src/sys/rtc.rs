//! The hardware clock (floor 1, rtc(4)), for systems without hwclock(8). It is assumed to run in UTC; guest-set-time checks
//! [`is_local`] first.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc;

const DEVICES: [&str; 2] = ["/dev/rtc0", "/dev/rtc"];
const DRIVER: &str = "/sys/class/rtc/rtc0/name";
/// See adjtime_config(5): the third line is `UTC` or `LOCAL`.
const ADJTIME: &str = "/etc/adjtime";
/// Time to wait for the next second; a clock that is stopped has none.
const TICK_TIMEOUT: Duration = Duration::from_millis(1500);
const TICK_POLL_INTERVAL: Duration = Duration::from_millis(5);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RtcTime {
    second: libc::c_int,
    minute: libc::c_int,
    hour: libc::c_int,
    day: libc::c_int,
    month: libc::c_int,
    year: libc::c_int,
    weekday: libc::c_int,
    day_of_year: libc::c_int,
    summer_time: libc::c_int,
}

const _: () = assert!(size_of::<RtcTime>() == 36);

mod request {
    nix::ioctl_read!(read, b'p', 0x09, super::RtcTime);
    nix::ioctl_write_ptr!(set, b'p', 0x0a, super::RtcTime);
}

#[derive(Debug)]
pub struct Rtc {
    device: File,
    /// The time from setting the clock to its next second.
    until_tick: Duration,
}

impl Rtc {
    /// `None` if this system has no such clock. EBUSY: another program uses it.
    pub fn open() -> io::Result<Option<Self>> {
        for path in DEVICES {
            match File::open(path) {
                // A test must not set the clock of the machine on which it runs.
                Ok(_) if cfg!(debug_assertions) => {
                    let text = "a debug build does not use the hardware clock; use a release build";
                    return Err(io::Error::other(text));
                }
                Ok(device) => {
                    let driver = fs::read_to_string(DRIVER).unwrap_or_default();
                    return Ok(Some(Self {
                        device,
                        until_tick: until_tick(&driver),
                    }));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let text = format!("{path}: {}", super::strerror(&error));
                    return Err(io::Error::new(error.kind(), text));
                }
            }
        }
        Ok(None)
    }

    /// Waits for it: the clock shows no fractions. In seconds since the epoch; EINVAL if the clock has no valid time.
    pub fn next_second(&self) -> io::Result<i64> {
        let first = self.read()?;
        let started = Instant::now();
        loop {
            sleep(TICK_POLL_INTERVAL);
            let now = self.read()?;
            if now != first || started.elapsed() > TICK_TIMEOUT {
                return Ok(now);
            }
        }
    }

    /// Sets the clock to `now`, when its seconds will begin with the system's. EINVAL for a year that does not fit.
    pub fn set(&self, now: impl Fn() -> io::Result<Duration>) -> io::Result<()> {
        sleep(until_settable(now()?, self.until_tick));
        let fields = to_fields(i64::try_from(now()?.as_secs()).unwrap_or(i64::MAX))?;
        // SAFETY: the descriptor is open, and `fields` has the layout that this request reads.
        unsafe { request::set(self.device.as_raw_fd(), &fields) }?;
        Ok(())
    }

    fn read(&self) -> io::Result<i64> {
        let mut fields = RtcTime::default();
        // SAFETY: the descriptor is open, and `fields` has the layout that this request fills.
        unsafe { request::read(self.device.as_raw_fd(), &mut fields) }?;
        Ok(to_seconds(&fields))
    }
}

/// Whether the hardware clock runs in local time, as it may on a machine with another operating system.
pub fn is_local() -> bool {
    fs::read_to_string(ADJTIME).is_ok_and(|text| says_local(&text))
}

fn says_local(adjtime: &str) -> bool {
    adjtime
        .lines()
        .nth(2)
        .is_some_and(|line| line.trim() == "LOCAL")
}

/// The MC146818 of a PC begins a second half a second after it was set (set_offset_nsec in the kernel's
/// drivers/rtc/rtc-cmos.c), others at once.
fn until_tick(driver: &str) -> Duration {
    if driver.starts_with("rtc_cmos") {
        Duration::from_millis(500)
    } else {
        Duration::ZERO
    }
}

/// The time to wait at `now` (since the epoch) so that the clock's seconds begin with the system's.
fn until_settable(now: Duration, until_tick: Duration) -> Duration {
    let second = Duration::from_secs(1);
    let into_second = Duration::from_nanos(now.subsec_nanos().into());
    let wanted = (second - until_tick).as_nanos() % second.as_nanos();
    let wanted = Duration::from_nanos(wanted as u64);
    if into_second <= wanted {
        wanted - into_second
    } else {
        second - into_second + wanted
    }
}

fn to_seconds(fields: &RtcTime) -> i64 {
    // SAFETY: all-zero bytes are a valid value of this C struct of integers and a nullable pointer.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    tm.tm_sec = fields.second;
    tm.tm_min = fields.minute;
    tm.tm_hour = fields.hour;
    tm.tm_mday = fields.day;
    tm.tm_mon = fields.month;
    tm.tm_year = fields.year;
    // SAFETY: the pointer is valid during the call; timegm(3) does not read the zone's name.
    let time: super::CTime = unsafe { libc::timegm(&mut tm) };
    time as i64
}

/// EOVERFLOW: the year does not fit.
fn to_fields(seconds: i64) -> io::Result<RtcTime> {
    let overflow = || io::Error::from_raw_os_error(libc::EOVERFLOW);
    let time = super::c_time(seconds).ok_or_else(overflow)?;
    // SAFETY: as in `to_seconds`; both pointers are valid during the call.
    let (tm, result) = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        let result = libc::gmtime_r(&time, &mut tm);
        (tm, result)
    };
    if result.is_null() {
        return Err(overflow());
    }
    Ok(RtcTime {
        second: tm.tm_sec,
        minute: tm.tm_min,
        hour: tm.tm_hour,
        day: tm.tm_mday,
        month: tm.tm_mon,
        year: tm.tm_year,
        weekday: tm.tm_wday,
        day_of_year: tm.tm_yday,
        summer_time: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_in_utc() {
        // Each with what `date -u -d @SECONDS '+%Y %m %d %H %M %S %w %j'` says.
        for (seconds, [year, month, day, hour, minute, second, weekday, day_of_year]) in [
            (0, [1970, 1, 1, 0, 0, 0, 4, 1]),
            (951_782_399, [2000, 2, 28, 23, 59, 59, 1, 59]),
            (951_782_400, [2000, 2, 29, 0, 0, 0, 2, 60]),
            (1_078_012_800, [2004, 2, 29, 0, 0, 0, 0, 60]),
            (1_719_792_000, [2024, 7, 1, 0, 0, 0, 1, 183]),
            (2_147_483_648, [2038, 1, 19, 3, 14, 8, 2, 19]),
            (3_155_673_599, [2069, 12, 30, 23, 59, 59, 1, 364]),
        ] {
            let fields = RtcTime {
                second,
                minute,
                hour,
                day,
                month: month - 1,
                year: year - 1900,
                weekday,
                day_of_year: day_of_year - 1,
                summer_time: 0,
            };
            if crate::sys::c_time(seconds).is_none() {
                to_fields(seconds).unwrap_err();
                continue;
            }
            assert_eq!(to_fields(seconds).unwrap(), fields, "{seconds}");
            assert_eq!(to_seconds(&fields), seconds);
        }
        let error = to_fields(i64::MAX).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOVERFLOW));
    }

    #[test]
    fn the_clock_s_second_begins_with_the_system_s() {
        let (zero, half) = (Duration::ZERO, Duration::from_millis(500));
        assert_eq!(until_tick("rtc_cmos 00:04\n"), half);
        assert_eq!(until_tick("rtc-pl031\n"), zero);
        for (into_second, until_tick, wait) in [
            (0, half, 500),
            (400, half, 100),
            (500, half, 0),
            (900, half, 600),
            (0, zero, 0),
            (900, zero, 100),
        ] {
            let now = Duration::from_millis(7000 + into_second);
            let wait = Duration::from_millis(wait);
            assert_eq!(until_settable(now, until_tick), wait, "{into_second}");
        }
    }

    #[test]
    fn the_third_line_says_whether_the_clock_is_local() {
        assert!(says_local("0.0 0 0.0\n0\nLOCAL\n"));
        assert!(!says_local("0.0 0 0.0\n0\nUTC\n"));
        assert!(!says_local("0.0 0 0.0\nLOCAL\n"));
    }
}
