//! `qemu-ga report --check`: the result of `--require` in the form of a Nagios plugin, which Icinga, Naemon, Zabbix and
//! others run too: one line with performance data, and an exit status of four
//! (<https://nagios-plugins.org/doc/guidelines.html>).

use super::require::{self, Requirement};
use crate::freeze::report::Level;
use crate::tools::output;
use std::path::Path;

const STATES: [&str; 4] = ["OK", "WARNING", "CRITICAL", "UNKNOWN"];
const UNKNOWN: u8 = 3;

/// Returns the exit status, which is also that of reports that cannot be read.
pub(super) fn check(statedir: &Path, required: Level, max_age: Option<f64>) -> u8 {
    let (status, line) = match require::check_requirement(statedir, required, max_age) {
        Ok(result) => judge(&result, max_age),
        Err(why) => (UNKNOWN, why),
    };
    // A bar begins the performance data.
    let state = STATES[usize::from(status)];
    match output::print(&format!("QEMU-GA {state} - {line}\n")) {
        0 => status,
        _ => UNKNOWN,
    }
}

/// The status, and the line after it.
fn judge(result: &Requirement, max_age: Option<f64>) -> (u8, String) {
    let status = match (result.result, result.level) {
        ("reached", _) => 0,
        // The snapshot can be used, but a database on it may have to recover.
        ("not-reached", Some("filesystem")) => 1,
        ("none-kept", _) => UNKNOWN,
        _ => 2,
    };
    let text = result.text.replace('|', "/");
    let limit = max_age.map_or(String::new(), |limit| limit.to_string());
    let data = match (result.age, result.level.and_then(require::rank)) {
        (Some(age), Some(rank)) => format!(" | age={age:.0}s;;{limit};0 level={rank};;;0;3"),
        _ => String::new(),
    };
    (status, text + &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::freeze::report::Report;

    #[test]
    fn each_state_has_its_status() {
        let status = |level, required, max_age, now| {
            let report = Report {
                started: 1000.0,
                level,
                ..Report::default()
            };
            let result = require::check_run(&report, required, max_age, now);
            judge(&result, max_age)
        };
        use Level::{Application, Crash, Filesystem, None as Nothing};
        let (ok, line) = status(Application, Filesystem, Some(60.0), 1060.0);
        assert_eq!(ok, 0);
        assert!(
            line.starts_with("application: the last freeze, at "),
            "{line}"
        );
        assert!(line.ends_with(" | age=60s;;60;0 level=3;;;0;3"), "{line}");
        assert_eq!(status(Filesystem, Application, None, 1060.0).0, 1);
        assert_eq!(status(Crash, Filesystem, None, 1060.0).0, 2);
        assert_eq!(status(Nothing, Crash, None, 1060.0).0, 2);
        assert_eq!(status(Application, Filesystem, Some(59.0), 1060.0).0, 2);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check(dir.path(), Crash, None), UNKNOWN);
        std::fs::write(dir.path().join("qga.reports.json"), "x").unwrap();
        assert_eq!(check(dir.path(), Crash, None), UNKNOWN);
    }
}
