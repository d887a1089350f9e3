//! One run as text: its level, timeline, filesystems and hooks.

use super::runs::is_whole;
use crate::freeze::report::{
    Applications, FilesystemOutcome, FilesystemRecord, Hold, Level, Report, RunEnd,
};
use crate::hooks::{HookRecord, HookStatus, MAX_TAIL_BYTES, Phase, Verdict};
use crate::tools::live::RunAtWork;
use crate::tools::output::{
    self, Style, escape_control, file_name, message, moment, span, span_or_none,
};

/// The stage, its duration and the blanks.
const TIMELINE_TEXT_WIDTH: usize = 32;
const MAX_OUTPUT_LINES: usize = 5;

fn describe_end(report: &Report) -> &'static str {
    match report.end {
        None => "at work",
        Some(RunEnd::Thaw) => "the host thawed",
        Some(RunEnd::Failure) => "the freeze failed, and the host got the error",
        Some(RunEnd::Nothing) => "there was nothing to freeze",
        Some(RunEnd::Expiry) => "ended early",
        Some(RunEnd::Recovery) => "thawed by a later agent",
    }
}

pub(in crate::tools) fn describe_level(report: &Report) -> &'static str {
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
            "all filesystems were held; unknown what the hooks did"
        }
        (Level::Filesystem, _) => "all filesystems were held; no hook quiesced applications",
        (Level::Crash, _) => "as after a power cut: not everything was held until the thaw",
        (Level::None, _) => "the host got an error: nothing was frozen",
    }
}

pub(super) fn show(report: &Report, work: Option<&RunAtWork>, all: bool, style: Style) -> String {
    let work_text = work.map_or(String::new(), |work| work.render("Now     ", style));
    let id = format!("Run {}", escape_control(&report.id));
    if !is_whole(report) {
        let head = style.bold(&id) + ": at work\n";
        return head + &work_text + &hooks(report, style);
    }
    let ended = match (work, report.end) {
        (None, None) => "still frozen",
        _ => describe_end(report),
    };
    let mut text = style.wrap("", &format!("{id}, {}: {ended}", moment(report.started)));
    text = text.replacen(&id, &style.bold(&id), 1);
    if let Some(why) = &report.ended_because {
        text += &style.wrap("Because ", &message(why));
    }
    text += &work_text;
    text += &summary(report, style);
    text.push('\n');
    text += &timeline(report, style);
    text += &filesystems(report, style);
    text += &left_out(report, all, style);
    text += &hooks(report, style);
    if !report.errors.is_empty() {
        text += &format!("\n{}\n", style.bold("What went wrong"));
        for error in &report.errors {
            text += &style.wrap("  - ", &message(error));
        }
    }
    text
}

fn summary(report: &Report, style: Style) -> String {
    let so_far = match report.end {
        None => "so far: ",
        Some(_) => "",
    };
    let name = report.level.name();
    let line = format!("{name}: {so_far}{}", describe_level(report));
    let mut text = style.wrap("Level   ", &line);
    text = text.replacen(name, &output::level(report.level, name, style), 1);
    for reason in &report.level_reasons {
        text += &style.wrap("        - ", &message(reason));
    }
    if !report.tags.is_empty() {
        text += &style.wrap("Tags    ", &escape_control(&report.tags.join(", ")));
    }
    let applications = match report.applications {
        Applications::Untouched => "applications were not quiesced".to_owned(),
        _ => format!("applications {}", span(report.applications_seconds)),
    };
    let frozen = match report.filesystems_seconds > 0.0 {
        true => format!("filesystems {}", span(report.filesystems_seconds)),
        false => "no filesystem was frozen".to_owned(),
    };
    text += &style.wrap("Still   ", &format!("{so_far}{applications}, {frozen}"));
    if let Some(names) = &report.requested {
        text += &style.wrap("Asked   ", &escape_control(&names.join(", ")));
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
    let width = style.width() - TIMELINE_TEXT_WIDTH;
    let mut from = 0.0;
    let row = |(name, seconds): (&str, f64)| {
        let bar = style.bar(from, from + seconds, whole, width);
        from += seconds;
        vec![name.to_owned(), span_or_none(seconds), bar]
    };
    style.table("  ", &[1], &stages.map(row)).concat()
}

fn filesystems(report: &Report, style: Style) -> String {
    let heading = style.bold("Filesystems, in the order of freezing");
    let mut text = format!("\n{heading}\n");
    if report.filesystems.is_empty() {
        text += "  none\n";
    }
    let row = |filesystem: &FilesystemRecord| {
        vec![
            escape_control(&filesystem.mountpoint),
            escape_control(&filesystem.fstype),
            escape_control(&filesystem.device),
            outcome(filesystem, style),
            span_or_none(filesystem.freeze_seconds),
        ]
    };
    let rows: Vec<_> = report.filesystems.iter().map(row).collect();
    let lines = style.table("  ", &[4], &rows);
    for (line, filesystem) in lines.iter().zip(&report.filesystems) {
        text += line;
        if let Some(why) = &filesystem.detail {
            text += &style.wrap("      ", &message(why));
        }
    }
    text
}

fn outcome(filesystem: &FilesystemRecord, style: Style) -> String {
    match filesystem.outcome {
        FilesystemOutcome::Untouched => style.warning("not touched"),
        FilesystemOutcome::Frozen => style.good("frozen"),
        FilesystemOutcome::Thawed => style.good("thawed"),
        FilesystemOutcome::ThawedByOthers => style.bad("thawed by others"),
        FilesystemOutcome::Skipped => match filesystem.held {
            Some(Hold::Unchanged) => style.good("unchanged"),
            Some(_) => style.good("read-only"),
            None => style.warning("skipped"),
        },
        FilesystemOutcome::Failed => style.bad("FAILED"),
    }
}

fn left_out(report: &Report, all: bool, style: Style) -> String {
    match report.skipped.len() {
        0 => String::new(),
        number if !all => {
            let count = output::count(number, "mount");
            style.wrap("  ", &format!("{count} left out: --all names them"))
        }
        _ => {
            let entries = report.skipped.iter().map(|f| {
                let reason = f.detail.as_deref().unwrap_or("unknown reason");
                (f.mountpoint.as_str(), reason)
            });
            format!("\n{}\n", style.bold("Left out")) + &style.left_out(entries)
        }
    }
}

fn hooks(report: &Report, style: Style) -> String {
    let mut text = format!("\n{}\n", style.bold("Hooks, in the order of running"));
    if report.hooks.is_empty() {
        text += match report.applications {
            Applications::Untouched => "  none\n",
            _ => "  unknown (not our hook master)\n",
        };
    }
    let row = |hook: &HookRecord| {
        let source = match hook.source.as_str() {
            "" => String::new(),
            source => format!(" ({source})"),
        };
        vec![
            hook.phase.as_str().to_owned(),
            escape_control(&(file_name(&hook.path).to_owned() + &source)),
            status(hook, style),
            match hook.status {
                HookStatus::Skipped(_) => String::new(),
                _ => span(hook.elapsed),
            },
        ]
    };
    let rows: Vec<_> = report.hooks.iter().map(row).collect();
    let lines = style.table("  ", &[3], &rows);
    for (line, hook) in lines.iter().zip(&report.hooks) {
        text += line;
        text += &hook_details(hook, style);
    }
    text
}

fn hook_details(hook: &HookRecord, style: Style) -> String {
    let mut text = String::new();
    // The thaw skips a hook for the same reason as the freeze.
    if let (_, HookStatus::NotRun { reason, .. }) | (Phase::Freeze, HookStatus::Skipped(reason)) =
        (hook.phase, &hook.status)
    {
        text += &style.wrap("      ", &message(reason));
    }
    if let Some(error) = &hook.error {
        text += &style.wrap("      error: ", &message(error));
    }
    if hook.lost {
        text += "      it did not hold until the thaw\n";
    }
    let (lines, is_whole) = last_lines(&hook.output);
    if !is_whole {
        let name = file_name(&hook.path);
        let before = format!("[more before this: qemu-ga log --hook {name}]");
        text += &style.wrap("      | ", &escape_control(&before));
    }
    for line in lines {
        // Output keeps its own lines, so that tables in it stay readable.
        text += &format!("      | {}\n", escape_control(line));
    }
    text
}

/// Shows the verdict where the number alone would be misread.
pub(in crate::tools) fn status(hook: &HookRecord, style: Style) -> String {
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

fn last_lines(output: &str) -> (Vec<&str>, bool) {
    let lines: Vec<&str> = output.lines().collect();
    let is_whole = lines.len() <= MAX_OUTPUT_LINES && output.len() < MAX_TAIL_BYTES;
    let first = lines.len().saturating_sub(MAX_OUTPUT_LINES);
    (lines[first..].to_vec(), is_whole)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::tools::report) fn report() -> Report {
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
    fn a_run_is_shown_in_80_columns() {
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
    fn stages_that_did_not_happen_have_no_time_and_messages_are_one_line() {
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
    fn tries_verdicts_lost_holders_and_names_of_adapters() {
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
}
