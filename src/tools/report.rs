//! `qemu-ga report`: what a freeze did, and what a snapshot taken meanwhile is worth. It shows the reports that the
//! agent stores, and the run in progress as its guardian reports it.

mod monitor;
mod prometheus;
mod require;
mod runs;
#[cfg(test)]
mod samples;
mod show;

use super::args::{self, JSON, ParsedArgs, Tool, ToolError};
use super::context::{self, ToolContext};
use super::output::{self, Style, span_or_none};
use crate::cli::{Arg, Operand, OptionSpec, Usage, ValueKind};
use crate::freeze::report::{Level, Report, RunEnd};
use crate::state::Expiry;
mod restored;

pub(super) use runs::report_value;
use runs::{Runs, is_whole};
#[cfg(test)]
pub(super) use samples::{full_report, samples};
use show::show;
pub(super) use show::{describe_level, status};

const REQUIRE: &str = "--require";
const MAX_AGE: &str = "--max-age";
const CHECK: &str = "--check";
const FORMAT: &str = "--format";
const RESTORED: &str = "--restored";

pub(crate) const TOOL: Tool = Tool {
    usage: Usage {
        name: "report",
        summary: "what the last freezes did, as a timeline",
        about: "Shows what the last freeze did, or another run: when each step was, each \
                filesystem, each hook, and what a snapshot taken meanwhile is worth. A run in \
                progress comes first, as far as it is.",
        operand: Some(Operand {
            name: "N",
            kind: ValueKind::Number,
            help: "the run to show: 1 is the last, 2 the one before",
            required: false,
            max: 1,
        }),
        options: &[
            &[
                OptionSpec::switch("list", "show one line for each run that is kept"),
                OptionSpec::new(
                    "require",
                    Arg::Value(
                        "LEVEL",
                        ValueKind::Words(&["crash", "filesystem", "application"]),
                    ),
                    "say in one line whether the last finished run reached this level (crash, \
                     filesystem or application); for monitoring",
                ),
                OptionSpec::new(
                    "max-age",
                    Arg::Value("SECONDS", ValueKind::Seconds),
                    "with --require or --check: the run must not have been requested longer ago",
                ),
                OptionSpec::switch(
                    "check",
                    "one line with performance data and the exit status of a Nagios plugin: 0 OK, 1 \
                     WARNING (filesystem where application is required), 2 CRITICAL, 3 UNKNOWN; \
                     without --require, filesystem is required",
                ),
                OptionSpec::new(
                    "format",
                    Arg::Value("FORMAT", ValueKind::Words(&["prometheus"])),
                    "prometheus: metrics of the last finished run, for node_exporter's textfile collector",
                ),
                OptionSpec::switch(
                    "restored",
                    "show the run from whose copy this machine was started, and its restore hooks",
                ),
                OptionSpec::switch("all", "also name what was left out"),
                JSON,
            ],
            context::OPTIONS,
        ],
        exit: &[
            (0, "the run is shown; with --require, it reached the level"),
            (
                1,
                "there is no such run, the state directory cannot be read, or, with --restored, this \
                 machine was not started from a copy; with --check: WARNING",
            ),
            (
                3,
                "with --require: the level was not reached; with --check: UNKNOWN",
            ),
            (4, "with --require: no run is kept"),
            (
                5,
                "with --require: the level was reached, but longer ago than --max-age",
            ),
        ],
    },
    subcommands: &[],
    run,
};

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    let request = Request::of(args)?;
    let config = ToolContext::of(args)?.config;
    let style = Style::of_stdout();
    let as_json = args.has("--json");
    if let Request::Restored = request {
        return restored::run(&config, as_json, args.has("--all"), style);
    }
    if let Request::Require { level, max_age } = request {
        let result = require::check_requirement(&config.statedir, level, max_age)?;
        return Ok(result.show(as_json, style));
    }
    if let Request::Check { level, max_age } = request {
        return Ok(monitor::check(&config.statedir, level, max_age));
    }
    if let Request::Prometheus = request {
        return Ok(output::print(&prometheus::metrics(&config.statedir)?));
    }
    let runs = Runs::find(&config.statedir, config.limits.step)?;
    let Request::Show(number) = request else {
        return Ok(if as_json {
            let numbers = 0..runs.reports.len();
            let values: Vec<_> = numbers.map(|index| runs.value(index)).collect();
            output::print_json_list("runs", &values)
        } else {
            output::print(&list(&runs.reports, style))
        });
    };
    let Some(report) = runs.reports.get(number - 1) else {
        let (count, path) = (runs.reports.len(), config.statedir.display());
        return Err(ToolError::Failed(format!(
            "cannot show run {number}: {} kept in {path}; see qemu-ga report --list",
            output::count(count, "run")
        )));
    };
    Ok(if as_json {
        output::print_json(&runs.value(number - 1))
    } else {
        let work = runs.work.as_ref().filter(|_| number == 1);
        output::print(&show(report, work, args.has("--all"), style))
    })
}

enum Request {
    Restored,
    Show(usize),
    List,
    Require { level: Level, max_age: Option<f64> },
    Check { level: Level, max_age: Option<f64> },
    Prometheus,
}

impl Request {
    fn of(args: &ParsedArgs) -> Result<Self, ToolError> {
        let number = args.operands.first();
        let forms = ["--list", RESTORED, CHECK, FORMAT].map(|name| (name, given(args, name)));
        let mut forms = forms.into_iter().filter(|(_, is_given)| *is_given);
        let form = forms.next().map(|(name, _)| name);
        if let (Some(form), Some((other, _))) = (form, forms.next()) {
            return Err(ToolError::Mistake(format!(
                "{form} and {other} exclude each other"
            )));
        }
        let is_judged = args.value(REQUIRE).is_some() || form == Some(CHECK);
        let mistake = match form {
            _ if args.value(MAX_AGE).is_some() && !is_judged => {
                "--max-age is only valid with --require or --check".into()
            }
            Some(form) if number.is_some() => format!("{form} takes no N"),
            Some(form) if form != CHECK && is_judged => {
                format!("--require checks the last run, without {form}")
            }
            Some(form) if [CHECK, FORMAT].contains(&form) && args.has("--json") => {
                format!("{form} is not JSON")
            }
            None if is_judged && number.is_some() => {
                "--require checks the last run, without N".into()
            }
            _ => return Self::find(args, form).map_err(ToolError::Mistake),
        };
        Err(ToolError::Mistake(mistake))
    }

    /// For arguments that go together.
    fn find(args: &ParsedArgs, form: Option<&str>) -> Result<Self, String> {
        let level = args.value(REQUIRE).map(require::level).transpose()?;
        let max_age = args.value(MAX_AGE).map(|age| args::seconds(MAX_AGE, age));
        let max_age = max_age.transpose()?;
        Ok(match (form, level) {
            (Some(CHECK), level) => Self::Check {
                level: level.unwrap_or(Level::Filesystem),
                max_age,
            },
            (Some(FORMAT), _) => match args.value(FORMAT) {
                Some(word) if word == "prometheus" => Self::Prometheus,
                word => {
                    let word = word.unwrap_or_default().to_string_lossy();
                    return Err(format!("--format: expected prometheus, got '{word}'"));
                }
            },
            (Some(RESTORED), _) => Self::Restored,
            (Some(_), _) => Self::List,
            (None, Some(level)) => Self::Require { level, max_age },
            (None, None) => match args.operands.first() {
                None => Self::Show(1),
                Some(word) => Self::Show(args::number("N", word)?),
            },
        })
    }
}

fn given(args: &ParsedArgs, name: &str) -> bool {
    args.has(name) || args.value(name).is_some()
}

/// One run, in full.
pub(super) fn show_run(report: &Report, style: Style) -> String {
    show(report, None, true, style)
}

/// For the fuzz tests.
pub fn render(report: &Report) -> String {
    show_run(report, Style::default())
}

fn list(reports: &[Report], style: Style) -> String {
    if style.is_narrow() {
        return narrow_list(reports, style);
    }
    let head = ["N", "STARTED", "FROZEN", "LEVEL", "ENDED BY", "FS", "HOOKS"];
    let mut rows = vec![head.map(|cell| style.bold(cell)).to_vec()];
    for (index, report) in reports.iter().enumerate() {
        let held = report.filesystems.iter().filter(|f| f.is_held()).count();
        let failed = report.hooks.iter().filter(|h| !h.is_success()).count();
        let mut hooks = report.hooks.len().to_string();
        if failed > 0 {
            hooks += &style.bad(&format!(", {failed} failed"));
        }
        let (started, level) = match is_whole(report) {
            true => (output::short_moment(report.started), level(report, style)),
            false => ("-".into(), "-".into()),
        };
        rows.push(vec![
            (index + 1).to_string(),
            started,
            span_or_none(report.filesystems_seconds),
            level,
            ended_by(report).unwrap_or("at work").replace('-', " "),
            format!("{held}/{}", report.filesystems.len()),
            hooks,
        ]);
    }
    style.table("", &[0, 2, 5], &rows).concat()
}

fn narrow_list(reports: &[Report], style: Style) -> String {
    let line = |(index, report): (usize, &Report)| {
        let held = report.filesystems.iter().filter(|f| f.is_held()).count();
        let failed = report.hooks.iter().filter(|h| !h.is_success()).count();
        let text = match is_whole(report) {
            true => format!(
                "{}: {}, frozen {}, ended by {}, {held} of {} held, {}, {failed} failed",
                output::short_moment(report.started),
                report.level.name(),
                span_or_none(report.filesystems_seconds),
                ended_by(report).unwrap_or("nothing yet"),
                output::count(report.filesystems.len(), "filesystem"),
                output::count(report.hooks.len(), "hook"),
            ),
            false => "at work".to_owned(),
        };
        style.wrap(&format!("{}  ", index + 1), &text)
    };
    reports.iter().enumerate().map(line).collect()
}

fn level(report: &Report, style: Style) -> String {
    output::level(report.level, report.level.name(), style)
}

/// `None`: the run is in progress.
pub(super) fn ended_by(report: &Report) -> Option<&'static str> {
    Some(match (report.end?, report.ended_because.as_deref()) {
        (RunEnd::Thaw, _) => "thaw",
        (RunEnd::Failure, _) => "failure",
        (RunEnd::Nothing, _) => "nothing",
        (RunEnd::Expiry, Some(why)) => early_end_word(why),
        (RunEnd::Expiry, None) => "early",
        (RunEnd::Recovery, _) => "recovery",
    })
}

pub(super) fn early_end_word(reason: &str) -> &'static str {
    match reason {
        Expiry::HOLD_LIMIT => "hold-limit",
        Expiry::OPERATOR => "operator",
        Expiry::SHUTDOWN => "shutdown",
        _ => "guardian",
    }
}

#[cfg(test)]
mod tests {
    use super::show::tests::report;
    use super::*;

    #[test]
    fn an_early_end_has_a_word() {
        let mut report = report();
        report.end(RunEnd::Expiry);
        let word = |why: Option<&str>| {
            report.ended_because = why.map(str::to_owned);
            ended_by(&report).unwrap()
        };
        let reasons = [
            None,
            Some(Expiry::OPERATOR),
            Some(Expiry::HOLD_LIMIT),
            Some(Expiry::SHUTDOWN),
            Some("the agent died"),
        ];
        let words = reasons.map(word);
        assert_eq!(
            words,
            ["early", "operator", "hold-limit", "shutdown", "guardian"]
        );
    }

    #[test]
    fn the_list_has_one_line_for_each_run() {
        let text = list(&[report(), Report::default()], Style::default());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("1  ") && lines[1].ends_with("thaw      1/2  1, 1 failed"));
        assert!(lines.iter().all(|line| line.len() <= 80), "{text}");
    }
}
