//! `qemu-ga report --require`: one line for monitors, and an exit status of its own for each result. The last run that
//! has ended counts; one in progress is ignored.

use super::runs::none_kept;
use crate::freeze::history;
use crate::freeze::report::{Level, Report};
use crate::state::StateDir;
use crate::tools::output::{self, Style, moment, serialize_optional_time, span};
use serde::Serialize;
use std::ffi::OsStr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// 0, 1 and 2 are as in all tools.
const NOT_REACHED: u8 = 3;
const NONE_KEPT: u8 = 4;
const TOO_OLD: u8 = 5;

/// In rising order.
const LEVELS: [Level; 4] = [
    Level::None,
    Level::Crash,
    Level::Filesystem,
    Level::Application,
];

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Requirement {
    #[serde(skip)]
    status: u8,
    met: bool,
    pub result: &'static str,
    required: &'static str,
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<&'static str>,
    #[serde(
        serialize_with = "serialize_optional_time",
        skip_serializing_if = "Option::is_none"
    )]
    started: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<f64>,
}

pub(super) fn level(name: &OsStr) -> Result<Level, String> {
    let mut levels = LEVELS.into_iter().skip(1);
    levels.find(|level| name == level.name()).ok_or_else(|| {
        let shown = name.to_string_lossy();
        format!("--require: expected crash, filesystem or application, got '{shown}'")
    })
}

/// From 0, `none`, to 3, `application`.
pub(super) fn rank(name: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.name() == name)
}

pub(super) fn check_requirement(
    statedir: &Path,
    required: Level,
    max_age: Option<f64>,
) -> Result<Requirement, String> {
    let state = StateDir::new(statedir);
    let (reports, error) = history::read(&state);
    if let Some(why) = error {
        return Err(why);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs_f64();
    Ok(match reports.first() {
        Some(report) => check_run(report, required, max_age, now),
        None => Requirement {
            status: NONE_KEPT,
            met: false,
            result: "none-kept",
            required: required.name(),
            text: none_kept(&state),
            run: None,
            level: None,
            started: None,
            age: None,
        },
    })
}

pub(super) fn check_run(
    report: &Report,
    required: Level,
    max_age: Option<f64>,
    now: f64,
) -> Requirement {
    let rank = |of: Level| rank(of.name());
    // The clock may have been set back.
    let age = (now - report.started).max(0.0);
    let (status, why) = match max_age {
        _ if rank(report.level) < rank(required) => {
            (NOT_REACHED, format!("{} is required", required.name()))
        }
        Some(most) if age > most => (TOO_OLD, format!("the limit is {}", span(most))),
        _ => (0, String::new()),
    };
    let (level, when) = (report.level.name(), moment(report.started));
    let mut text = format!("{level}: the last freeze, at {when}, {} ago", span(age));
    if !why.is_empty() {
        text += "; ";
        text += &why;
    }
    Requirement {
        status,
        met: status == 0,
        result: match status {
            NOT_REACHED => "not-reached",
            TOO_OLD => "too-old",
            _ => "reached",
        },
        required: required.name(),
        text,
        run: Some(report.id.clone()),
        level: Some(level),
        started: Some(report.started),
        age: Some(age),
    }
}

impl Requirement {
    pub(super) fn show(&self, as_json: bool, style: Style) -> u8 {
        let printed = if as_json {
            output::print_json(self)
        } else {
            let mark = match self.met {
                true => style.good("ok"),
                false => style.bad("FAILED"),
            };
            output::print(&style.wrap(&(mark + "  "), &self.text))
        };
        printed.max(self.status)
    }
}

#[cfg(test)]
pub(super) fn sample() -> serde_json::Value {
    let report = super::full_report();
    output::value(&check_run(&report, Level::Application, None, 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_result_has_its_own_status() {
        let report = Report {
            started: 1000.0,
            level: Level::Filesystem,
            ..Report::default()
        };
        let status = |required, max_age, now| check_run(&report, required, max_age, now).status;
        assert_eq!(status(Level::Crash, None, 1e9), 0);
        assert_eq!(status(Level::Filesystem, Some(60.0), 1060.0), 0);
        assert_eq!(status(Level::Filesystem, Some(60.0), 1061.0), TOO_OLD);
        assert_eq!(status(Level::Filesystem, Some(0.0), 900.0), 0);
        assert_eq!(status(Level::Application, Some(0.0), 1061.0), NOT_REACHED);
        assert_eq!(level("application".as_ref()), Ok(Level::Application));
        for wrong in ["", "none", "Crash"] {
            assert!(level(wrong.as_ref()).is_err(), "{wrong}");
        }
    }
}
