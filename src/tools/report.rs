//! `qemu-ga report`: what a freeze did, as a timeline, and whether the last one was good enough.

mod require;
mod runs;

use super::args::{self, JSON, ParsedArgs, Tool, ToolError};
use super::context::{self, ToolContext};
use super::live::RunAtWork;
use super::output::{
    self, Style, escape_control, message, moment, span, span_or_none, table, wrap,
};
use crate::cli::{Arg, Operand, OptionSpec, Usage, ValueKind};
use crate::freeze::report::{
    Applications, FilesystemOutcome, FilesystemRecord, Hold, Level, Report, RunEnd,
};
use crate::hooks::{HookRecord, HookStatus, MAX_TAIL_BYTES, Phase, Verdict};
use crate::state::Expiry;
use runs::{Runs, is_whole};

const REQUIRE: &str = "--require";
const MAX_AGE: &str = "--max-age";

/// Columns of a bar.
const TIMELINE_WIDTH: usize = 48;

/// `qemu-ga report`.
pub const TOOL: Tool = Tool {
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
                    "with --require: the run must not have been requested longer ago",
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
                "there is no such run, or the state directory cannot be read",
            ),
            (3, "with --require: the level was not reached"),
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

fn run(given: &ParsedArgs) -> Result<u8, ToolError> {
    let mistake = |text: &str| Err(ToolError::Mistake(text.into()));
    let number = match given.operands.first() {
        None => 1,
        Some(_) if given.value(REQUIRE).is_some() => {
            return mistake("--require judges the last run, without N");
        }
        Some(_) if given.has("--list") => {
            return mistake("--list shows every run, without N");
        }
        Some(word) => args::number("N", word).map_err(ToolError::Mistake)?,
    };
    let required = given.value(REQUIRE).map(require::level).transpose();
    let required = required.map_err(ToolError::Mistake)?;
    if required.is_some() && given.has("--list") {
        return mistake("--require judges the last run, without --list");
    }
    let max_age = given.value(MAX_AGE);
    let max_age = max_age.map(|age| args::seconds(MAX_AGE, age)).transpose();
    let max_age = max_age.map_err(ToolError::Mistake)?;
    if max_age.is_some() && required.is_none() {
        return mistake("--max-age goes with --require");
    }
    let config = ToolContext::of(given)?.config;
    let style = Style::of_stdout();
    if let Some(required) = required {
        let judged = require::check_requirement(&config.statedir, required, max_age)?;
        return Ok(judged.show(given.has("--json"), style));
    }
    let runs = Runs::find(&config.statedir, config.limits.step)?;
    if given.has("--list") {
        return Ok(if given.has("--json") {
            let numbers = 0..runs.reports.len();
            output::print_json(&numbers.map(|at| runs.value(at)).collect::<Vec<_>>())
        } else {
            output::print(&list(&runs.reports, style))
        });
    }
    let Some(report) = runs.reports.get(number - 1) else {
        let (count, path) = (runs.reports.len(), config.statedir.display());
        return Err(ToolError::Failed(format!(
            "{} kept in {path}, so there is no run {number}; qemu-ga report --list shows them",
            output::count(count, "run")
        )));
    };
    Ok(if given.has("--json") {
        output::print_json(&runs.value(number - 1))
    } else {
        let work = runs.work.as_ref().filter(|_| number == 1);
        output::print(&show(report, work, given.has("--all"), style))
    })
}

/// A run as people see it.
pub fn render(report: &Report) -> String {
    show(report, None, true, Style::default())
}

fn list(reports: &[Report], style: Style) -> String {
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
            end(report).0.to_owned(),
            format!("{held}/{}", report.filesystems.len()),
            hooks,
        ]);
    }
    table("", &[0, 2, 5], &rows)
}

fn level(report: &Report, style: Style) -> String {
    output::level(report.level, report.level.name(), style)
}

/// How it ended, in a word and in a sentence.
fn end(report: &Report) -> (&'static str, &'static str) {
    match (report.end, report.ended_because.as_deref()) {
        (None, _) => ("at work", "at work"),
        (Some(RunEnd::Thaw), _) => ("thaw", "the host thawed"),
        (Some(RunEnd::Failure), _) => ("failure", "the freeze failed, and the host was told so"),
        (Some(RunEnd::Nothing), _) => ("nothing", "there was nothing to freeze"),
        (Some(RunEnd::Expiry), Some(why)) => {
            let word = match why {
                Expiry::HOLD_LIMIT => "hold limit",
                Expiry::OPERATOR => "operator",
                Expiry::SHUTDOWN => "shutdown",
                _ => "guardian",
            };
            (word, "ended early")
        }
        (Some(RunEnd::Expiry), None) => ("early", "ended early"),
        (Some(RunEnd::Recovery), _) => ("recovery", "thawed by an agent that came after"),
    }
}

/// What the level means for this run.
pub(super) fn describe_level(report: &Report) -> &'static str {
    match (report.level, report.applications) {
        (Level::Application, _) => "hooks ran and succeeded, all filesystems were held",
        (Level::Filesystem, Applications::Failed) if report.hooks.iter().any(|h| h.lost) => {
            "all filesystems were held, but a hook did not hold until the thaw"
        }
        (Level::Filesystem, Applications::Failed) => {
            "all filesystems were held, but a freeze hook failed"
        }
        (Level::Filesystem, Applications::Skipped) => {
            "all filesystems were held, but a hook was not called"
        }
        (Level::Filesystem, Applications::Unknown) => {
            "all filesystems were held; what the hooks did is not known"
        }
        (Level::Filesystem, _) => "all filesystems were held; no hook made applications quiet",
        (Level::Crash, _) => "as after a power cut: not everything was held until the thaw",
        (Level::None, _) => "the host was told that nothing is frozen",
    }
}

fn show(report: &Report, work: Option<&RunAtWork>, all: bool, style: Style) -> String {
    let mut text = style.bold(&format!("Run {}", escape_control(&report.id)));
    if !is_whole(report) {
        text += ": at work\n";
        text += &work.map_or(String::new(), |work| work.render("Now     "));
        return text + &hooks(report, style);
    }
    let ended = match (work, report.end) {
        (None, None) => "still frozen",
        _ => end(report).1,
    };
    text += &format!(", {}: {ended}\n", moment(report.started));
    if let Some(why) = &report.ended_because {
        text += &wrap("Because ", &message(why));
    }
    text += &work.map_or(String::new(), |work| work.render("Now     "));
    let so_far = match report.end {
        None => "so far: ",
        Some(_) => "",
    };
    text += &wrap(
        "Level   ",
        &format!(
            "{}: {so_far}{}",
            report.level.name(),
            describe_level(report)
        ),
    )
    .replacen(report.level.name(), &level(report, style), 1);
    for reason in &report.level_reasons {
        text += &wrap("        - ", &message(reason));
    }
    if !report.tags.is_empty() {
        text += &wrap("Tags    ", &escape_control(&report.tags.join(", ")));
    }
    let still = match report.applications {
        Applications::Untouched => "applications were not quiesced".to_owned(),
        _ => format!("applications {}", span(report.applications_seconds)),
    };
    let frozen = match report.filesystems_seconds > 0.0 {
        true => format!("filesystems {}", span(report.filesystems_seconds)),
        false => "no filesystem was frozen".to_owned(),
    };
    text += &format!("Still   {so_far}{still}, {frozen}\n");
    if let Some(names) = &report.requested {
        text += &wrap("Asked   ", &escape_control(&names.join(", ")));
    }
    text.push('\n');
    text += &timeline(report, style);
    text += &filesystems(report, all, style);
    text += &hooks(report, style);
    if !report.errors.is_empty() {
        text += &format!("\n{}\n", style.bold("What went wrong"));
        for error in &report.errors {
            text += &wrap("  - ", &message(error));
        }
    }
    text
}

fn timeline(report: &Report, style: Style) -> String {
    let stages = &report.stages;
    let stages = [
        ("flush", stages.flush),
        ("freeze hooks", stages.freeze_hooks),
        ("flush again", stages.flush_again),
        ("freeze", stages.freeze),
        ("held", stages.held),
        ("thaw", stages.thaw),
        ("thaw hooks", stages.thaw_hooks),
    ];
    let whole: f64 = stages.iter().map(|(_, seconds)| seconds).sum();
    let mut from = 0.0;
    let row = |(name, seconds): (&str, f64)| {
        let bar = style.bar(from, from + seconds, whole, TIMELINE_WIDTH);
        from += seconds;
        vec![name.to_owned(), span_or_none(seconds), bar]
    };
    table("  ", &[1], &stages.map(row))
}

fn filesystems(report: &Report, all: bool, style: Style) -> String {
    let mut text = format!(
        "\n{}\n",
        style.bold("Filesystems, in the order of freezing")
    );
    if report.filesystems.is_empty() {
        text += "  none\n";
    }
    let outcome = |filesystem: &FilesystemRecord| {
        let (word, paint): (_, fn(Style, &str) -> String) = match filesystem.outcome {
            FilesystemOutcome::Untouched => ("not touched", Style::warning),
            FilesystemOutcome::Frozen => ("frozen", Style::good),
            FilesystemOutcome::Thawed => ("thawed", Style::good),
            FilesystemOutcome::ThawedByOthers => ("thawed by others", Style::bad),
            FilesystemOutcome::Skipped => match filesystem.held {
                Some(Hold::Unchanged) => ("unchanged", Style::good),
                Some(_) => ("read-only", Style::good),
                None => ("skipped", Style::warning),
            },
            FilesystemOutcome::Failed => ("FAILED", Style::bad),
        };
        paint(style, word)
    };
    let row = |filesystem: &FilesystemRecord| {
        vec![
            escape_control(&filesystem.mountpoint),
            escape_control(&filesystem.fstype),
            escape_control(&filesystem.device),
            outcome(filesystem),
            span_or_none(filesystem.freeze_seconds),
        ]
    };
    let rows: Vec<_> = report.filesystems.iter().map(row).collect();
    let lines = table("  ", &[4], &rows);
    for (line, filesystem) in lines.lines().zip(&report.filesystems) {
        text += line;
        text.push('\n');
        if let Some(why) = &filesystem.detail {
            text += &wrap("      ", &message(why));
        }
    }
    let skipped = report.skipped.iter();
    if all && !report.skipped.is_empty() {
        text += &format!("\n{}\n", style.bold("Left out"));
        let entries = skipped.map(|f| {
            let reason = f.detail.as_deref().unwrap_or("no reason is known");
            (f.mountpoint.as_str(), reason)
        });
        text += &output::left_out(entries);
    } else if !report.skipped.is_empty() {
        let count = output::count(report.skipped.len(), "mount");
        text += &format!("  {count} left out: --all names them\n");
    }
    text
}

fn hooks(report: &Report, style: Style) -> String {
    let mut text = format!("\n{}\n", style.bold("Hooks, in the order of running"));
    if report.hooks.is_empty() {
        text += match report.applications {
            Applications::Untouched => "  none\n",
            _ => "  the hook master does not tell of single hooks\n",
        };
    }
    let row = |hook: &HookRecord| {
        let name = hook.path.rsplit('/').next().unwrap_or(&hook.path);
        let source = match hook.source.as_str() {
            "" => String::new(),
            source => format!(" ({source})"),
        };
        vec![
            hook.phase.as_str().to_owned(),
            escape_control(&(name.to_owned() + &source)),
            status(hook, style),
            match hook.status {
                HookStatus::Skipped(_) => String::new(),
                _ => span(hook.elapsed),
            },
        ]
    };
    let rows: Vec<_> = report.hooks.iter().map(row).collect();
    for (line, hook) in table("  ", &[3], &rows).lines().zip(&report.hooks) {
        text += line;
        text.push('\n');
        // What was passed over at the freeze is so at the thaw for the same reason.
        if let (_, HookStatus::NotRun { reason, .. })
        | (Phase::Freeze, HookStatus::Skipped(reason)) = (hook.phase, &hook.status)
        {
            text += &wrap("      ", &message(reason));
        }
        if let Some(error) = &hook.error {
            text += &wrap("      error: ", &message(error));
        }
        if hook.lost {
            text += "      it did not hold until the thaw\n";
        }
        let (lines, is_whole) = last_lines(&hook.output);
        if !is_whole {
            let name = hook.path.rsplit('/').next().unwrap_or(&hook.path);
            let before = format!("[more before this: qemu-ga log --hook {name}]");
            text += &format!("      | {}\n", escape_control(&before));
        }
        for line in lines {
            text += &format!("      | {}\n", escape_control(line));
        }
    }
    text
}

/// How a hook ended, and what that means where the number does not say it.
pub(super) fn status(hook: &HookRecord, style: Style) -> String {
    let mut word = match &hook.status {
        HookStatus::Exited(status) => format!("status {status}"),
        HookStatus::Signaled(signal) => format!("signal {signal}"),
        HookStatus::NotRun { status, .. } => format!("not run ({status})"),
        HookStatus::Skipped(_) => return style.warning("skipped"),
        HookStatus::TimedOut => "timed out".to_owned(),
        HookStatus::Cancelled => "cancelled".to_owned(),
    };
    word += match hook.verdict {
        _ if hook.lost => ", LOST",
        Some(Verdict::NotApplicable) => ", not applicable",
        Some(Verdict::Success) => ", success",
        Some(Verdict::Failure) => ", failure",
        None => "",
    };
    if let Some(tries) = hook.tries {
        word += &format!(", {tries} tries");
    }
    match hook.is_success() {
        _ if hook.verdict == Some(Verdict::NotApplicable) => style.warning(&word),
        true => style.good(&word),
        false => style.bad(&word),
    }
}

/// The end of a hook's output, as much as belongs into an overview, and whether that is all of it.
fn last_lines(output: &str) -> (Vec<&str>, bool) {
    const MOST: usize = 5;
    let lines: Vec<&str> = output.lines().collect();
    let is_whole = lines.len() <= MOST && output.len() < MAX_TAIL_BYTES;
    (lines[lines.len().saturating_sub(MOST)..].to_vec(), is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let filesystem = |mountpoint: &str, outcome, detail: Option<&str>| FilesystemRecord {
            device: "/dev/vda1".into(),
            outcome,
            detail: detail.map(str::to_owned),
            freeze_seconds: 0.0015,
            ..FilesystemRecord::new(mountpoint.as_bytes(), "ext4")
        };
        let path = "/etc/qemu/fsfreeze-hook.d/10-db".to_owned();
        let mut hook = HookRecord::new(path, Phase::Freeze, HookStatus::Signaled(9));
        hook.elapsed = 0.5;
        hook.output = "1\n2\n3\n4\n5\n\x1b[2Jlast\n".into();
        let mut report = Report {
            id: "r1".into(),
            filesystems: vec![
                filesystem("/data", FilesystemOutcome::Thawed, None),
                filesystem("/", FilesystemOutcome::Skipped, Some("it could not")),
            ],
            skipped: vec![filesystem(
                "/proc",
                FilesystemOutcome::Skipped,
                Some("pseudo"),
            )],
            hooks: vec![hook],
            applications: Applications::Failed,
            ..Report::default()
        };
        report.stages.freeze_hooks = 1.0;
        report.stages.held = 1.0;
        report.end(RunEnd::Thaw);
        report
    }

    #[test]
    fn a_run_reads_well_in_a_console() {
        let text = show(&report(), None, false, Style::default());
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        for line in [
            "Level   crash: as after a power cut: not everything was held until the thaw",
            "Still   applications 2.00 s, filesystems 1.00 s",
            "  freeze hooks  1.00 s  ########################",
            "  held          1.00 s                          ########################",
            "  /data  ext4  /dev/vda1  thawed   1.5 ms",
            "      it could not",
            "  freeze  10-db  signal 9  500.0 ms",
            "      | ?[2Jlast",
            "  1 mount left out: --all names them",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in:\n{text}");
        }
        assert!(!text.contains("| 1\n") && !text.contains('\x1b'));
        assert!(show(&report(), None, true, Style::default()).contains("  pseudo\n      /proc\n"));
    }

    #[test]
    fn what_has_not_happened_has_no_time_and_texts_have_no_foreign_line_ends() {
        let mut report = report();
        report.errors = vec!["hook failed: no\nserver\n".into()];
        report.end = None;
        report.started = 1.0;
        report.compute_level();
        let text = show(&report, None, false, Style::default());
        for line in [
            "  thaw               -",
            "  thaw hooks         -",
            "  - hook failed: no server",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in:\n{text}");
        }
        assert!(text.lines().next().unwrap().ends_with(": still frozen"));
        assert!(text.contains("Still   so far: applications"), "{text}");
        assert!(!text.contains("server?"), "{text}");
    }

    #[test]
    fn who_ended_a_freeze_early_is_named() {
        let mut report = report();
        report.end(RunEnd::Expiry);
        let word = |why: Option<&str>| {
            report.ended_because = why.map(str::to_owned);
            end(&report).0
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
            ["early", "operator", "hold limit", "shutdown", "guardian"]
        );
    }

    #[test]
    fn tries_verdicts_lost_holders_and_the_words_of_adapters() {
        let mut report = report();
        report.filesystems.pop();
        let hook = |name: &str, phase, status| HookRecord::new(format!("/h/{name}"), phase, status);
        let mut none = hook("none", Phase::Freeze, HookStatus::Exited(77));
        none.verdict = Some(Verdict::NotApplicable);
        let mut iris = hook("iris", Phase::Freeze, HookStatus::Exited(5));
        (iris.verdict, iris.tries) = (Some(Verdict::Success), Some(3));
        let mut lock = hook("lock", Phase::Thaw, HookStatus::Exited(0));
        lock.lost = true;
        lock.verdict = Some(Verdict::Failure);
        let mut pre = hook("pre.sh", Phase::Freeze, HookStatus::Exited(1));
        pre.source = "azure".into();
        pre.error = Some("FSFreezeFailed".into());
        report.hooks = vec![none, iris, pre, lock];
        report.compute_level();
        report.tags = vec!["FileSystemConsistent".into()];
        let text = show(&report, None, false, Style::default());
        for line in [
            "Level   filesystem: all filesystems were held, but a hook did not hold until the",
            "Tags    FileSystemConsistent",
            "  freeze  none            status 77, not applicable   0.0 ms",
            "  freeze  iris            status 5, success, 3 tries  0.0 ms",
            "  freeze  pre.sh (azure)  status 1                    0.0 ms",
            "      error: FSFreezeFailed",
            "  thaw    lock            status 0, LOST              0.0 ms",
            "      it did not hold until the thaw",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in:\n{text}");
        }
    }

    #[test]
    fn the_list_has_one_line_a_run() {
        let text = list(&[report(), Report::default()], Style::default());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("1  ") && lines[1].ends_with("thaw      1/2  1, 1 failed"));
        assert!(lines.iter().all(|line| line.len() <= 80), "{text}");
    }
}
