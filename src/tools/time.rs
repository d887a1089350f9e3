//! Times in JSON, as RFC 3339 in UTC, and the dates of the hook log read back. Only calendar arithmetic is here: the C
//! library's functions for UTC are not needed elsewhere, and the zone's offset is known from [`localtime`].

use crate::sys::localtime::{self, DATE, format_seconds};
use std::time::{Duration, UNIX_EPOCH};

const DAY: i64 = 86_400;
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
/// The last time with a year of four digits, 9999-12-31T23:59:59Z.
const MAX_SECONDS: f64 = 253_402_300_799.0;

/// `2026-11-29T08:45:00.120Z`; `None` before the epoch or after 9999.
pub(super) fn rfc3339(seconds: f64) -> Option<String> {
    if !(0.0..=MAX_SECONDS).contains(&seconds) {
        return None;
    }
    let millis = (seconds * 1e3).floor() as i64;
    let (whole, millis) = (millis / 1000, millis % 1000);
    let (year, month, day) = civil_from_days(whole / DAY);
    let time = whole % DAY;
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let fraction = match millis {
        0 => String::new(),
        _ => format!(".{millis:03}"),
    };
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"
    ))
}

/// `None`: the date is of another zone or locale, so the time is not known for sure.
pub(super) fn rfc3339_of_date(date: &str) -> Option<String> {
    let local = parse_date(date)?;
    let offset = |at: i64| {
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(at).ok()?))?;
        let (_, offset) = localtime::zone(time)?;
        #[allow(clippy::useless_conversion)] // not with 32 bits
        Some(i64::from(offset))
    };
    // The offset at the local time read as UTC is at most one change of the clocks away from the right one.
    let first = local - offset(local)?;
    let guesses = [first, local - offset(first)?, first - 3600, first + 3600];
    let is_it = |at: &i64| format_seconds(*at as f64, DATE) == date;
    let found = guesses.into_iter().find(is_it);
    // A log may come from a machine in UTC.
    let is_utc = || date.contains(" UTC ") || date.contains(" GMT ");
    let seconds = found.or_else(|| is_utc().then_some(local))?;
    rfc3339(seconds as f64)
}

/// `Thu Nov 23 13:38:05 MSK 2023` in seconds since the epoch, as if the zone were UTC.
fn parse_date(date: &str) -> Option<i64> {
    let words: Vec<&str> = date.split_ascii_whitespace().collect();
    let [_, month, day, clock, _, year] = words[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)?;
    let day: i64 = day.parse().ok().filter(|day| (1..=31).contains(day))?;
    let year: i64 = year
        .parse()
        .ok()
        .filter(|year| (1970..=9999).contains(year))?;
    let mut seconds = 0;
    for (part, limit) in clock.split(':').zip([24, 60, 61]) {
        let part: i64 = part.parse().ok().filter(|part| (0..limit).contains(part))?;
        seconds = seconds * 60 + part;
    }
    Some(days_from_civil(year, month as i64 + 1, day) * DAY + seconds)
}

/// Since 1970-01-01 of the Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

/// Year, month and day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days / 366;
    while days_from_civil(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 12;
    while days_from_civil(year, month, 1) > days {
        month -= 1;
    }
    (year, month, days - days_from_civil(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        for (seconds, expected) in [
            (0.0, "1970-01-01T00:00:00Z"),
            (951_782_400.0, "2000-02-29T00:00:00Z"),
            (1_700_735_885.25, "2023-11-23T10:38:05.250Z"),
            (4_107_542_399.0, "2100-02-28T23:59:59Z"),
            (MAX_SECONDS, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds).as_deref(), Some(expected));
        }
        for seconds in [-1.0, 1e300, f64::NAN] {
            assert_eq!(rfc3339(seconds), None);
        }
    }

    #[test]
    fn dates_of_the_log_are_read_back() {
        for seconds in (0..400).map(|week| 1_600_000_000 + week * 604_800) {
            let seconds = f64::from(seconds);
            let date = format_seconds(seconds, DATE);
            assert_eq!(rfc3339_of_date(&date), rfc3339(seconds), "{date}");
        }
        let utc = rfc3339_of_date("Thu Nov 23 13:38:05 UTC 2023");
        assert_eq!(utc.as_deref(), Some("2023-11-23T13:38:05Z"));
        for other in [
            "",
            "Thu 23 Nov 2023 01:38:05 PM MSK",
            "Thu Nov 23 25:38:05 UTC 2023",
            "Thu Nov 23 13:38:05 QQQ 2023",
        ] {
            assert_eq!(rfc3339_of_date(other), None, "{other}");
        }
    }
}
