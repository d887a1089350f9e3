//! Local time as text (floor 1), by localtime_r(3) and strftime(3), for logs and reports.
//!
//! The standard library has no time zones. The program never calls setlocale(3), so the names of days and months are those
//! of the C locale.

use std::ffi::CStr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::libc;

/// The format of date(1) in the C locale.
pub const DATE: &CStr = c"%a %b %e %H:%M:%S %Z %Y";

unsafe extern "C" {
    fn tzset();
}

/// In the zone of `TZ` or /etc/localtime. Empty: the result has more than 255 bytes, or the time has no calendar date.
pub fn format_local(time: SystemTime, format: &CStr) -> String {
    let Some(fields) = broken_down(time) else {
        return String::new();
    };
    let mut text = [0u8; 256];
    // SAFETY: the length is that of the buffer, the format ends in a NUL, and `fields` was filled by localtime_r(3).
    let length = unsafe {
        libc::strftime(
            text.as_mut_ptr().cast(),
            text.len(),
            format.as_ptr(),
            &fields,
        )
    };
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// [`format_local`] of seconds since the epoch from a file, which may be any number.
pub fn format_seconds(seconds: f64, format: &CStr) -> String {
    let since = Duration::try_from_secs_f64(seconds).ok();
    let time = since.and_then(|since| UNIX_EPOCH.checked_add(since));
    let text = time.map_or(String::new(), |time| format_local(time, format));
    if text.is_empty() {
        return "an unknown time".into();
    }
    text
}

/// The abbreviation of the zone at `time`, and its seconds east of UTC; `None` if the time has no calendar date.
pub fn zone(time: SystemTime) -> Option<(String, libc::c_long)> {
    let offset = broken_down(time)?.tm_gmtoff;
    Some((format_local(time, c"%Z"), offset))
}

/// The directory in which tzset(3) looks for zone files: TZDIR, or the C library's own.
pub fn zone_directory() -> PathBuf {
    std::env::var_os("TZDIR").map_or_else(|| "/usr/share/zoneinfo".into(), PathBuf::from)
}

/// Makes a zone file known that is found in TZDIR alone: glibc looks there by itself; musl knows only the directories
/// compiled into it, but takes an absolute path. Call it once, before any thread is started.
pub fn apply_tzdir() {
    if !cfg!(target_env = "musl") || std::env::var_os("TZDIR").is_none() {
        return;
    }
    let Some(zone) = std::env::var("TZ").ok().filter(|zone| !zone.is_empty()) else {
        return;
    };
    let path = zone_directory().join(zone.strip_prefix(':').unwrap_or(&zone));
    if path.is_file() {
        // SAFETY: called before any other thread exists, so nobody reads the environment.
        unsafe { std::env::set_var("TZ", path) };
    }
}

/// `None` if the year does not fit.
fn broken_down(time: SystemTime) -> Option<libc::tm> {
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            // Round down: half a second before the epoch is in second -1.
            let gone = before.duration();
            let whole = i64::try_from(gone.as_secs()).unwrap_or(i64::MAX);
            -whole - i64::from(gone.subsec_nanos() > 0)
        }
    };
    let seconds = super::c_time(seconds)?;
    // SAFETY: all-zero bytes are a valid value of this C struct of integers and a nullable pointer.
    let mut fields: libc::tm = unsafe { std::mem::zeroed() };
    // localtime_r(3) need not read TZ and /etc/localtime itself, and the zone may have changed since the start.
    // SAFETY: tzset has no arguments; both pointers are valid during the call.
    let result = unsafe {
        tzset();
        libc::localtime_r(&seconds, &mut fields)
    };
    if result.is_null() {
        return None;
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn is_what_date_prints() {
        for seconds in [0, 951_782_400, 1_700_735_885] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            let out = Command::new("date")
                .env("LC_ALL", "C")
                .args(["-d", &format!("@{seconds}")])
                .output()
                .expect("date runs");
            let said = String::from_utf8(out.stdout).expect("text");
            assert_eq!(format_local(time, DATE), said.trim_end());
        }
    }

    #[test]
    fn the_zone_is_what_date_prints() {
        let out = Command::new("date")
            .arg("+%Z %z")
            .output()
            .expect("date runs");
        let said = String::from_utf8(out.stdout).expect("text");
        let (zone, offset) = zone(SystemTime::now()).expect("a zone");
        let sign = if offset < 0 { '-' } else { '+' };
        let minutes = offset.abs() / 60;
        let formatted = format!("{zone} {sign}{:02}{:02}", minutes / 60, minutes % 60);
        assert_eq!(formatted, said.trim_end());
    }

    #[test]
    fn times_before_the_epoch_and_beyond_the_calendar() {
        let before = UNIX_EPOCH - Duration::from_millis(500);
        assert_eq!(format_local(before, c"%s"), "-1");
        assert_eq!(format_local(UNIX_EPOCH, c""), "");
    }

    #[test]
    fn seconds_of_any_size_are_formatted_or_unknown() {
        assert!(format_seconds(1.7e9, DATE).ends_with(" 2023"));
        for seconds in [-1.0, 9e18, 1e19, 1e308, f64::INFINITY, f64::NAN] {
            assert_eq!(format_seconds(seconds, DATE), "an unknown time");
        }
    }
}
