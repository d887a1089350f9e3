//! What the last freeze that has ended was worth, and what to do if that was less than it should be.

use super::CheckResult;
use crate::freeze::policy::FreezeMode;
use crate::freeze::report::{Applications, Level, Report};
use crate::state::Expiry;
use crate::tools::output::{Style, message, moment};
use crate::tools::report::{describe_level, status};

const ABOUT: &str = "last run";
/// Most culprits that are named; how many more there are is said.
const MAX_CULPRITS: usize = 3;

/// Judges it; `mode` is what freezes do here.
pub fn check_level(report: &Report, mode: FreezeMode) -> CheckResult {
    let level = report.level.name();
    let text = format!(
        "{level}, {}: {}",
        moment(report.started),
        describe_level(report)
    );
    let is_good = match report.level {
        Level::Application => true,
        Level::Filesystem => report.applications == Applications::Untouched,
        Level::Crash | Level::None => false,
    };
    if is_good {
        return CheckResult::fine(ABOUT, text);
    }
    let (culprits, advice) = culprits(report);
    let text = match culprits.len() {
        0 => text,
        count => {
            let more = match count.saturating_sub(MAX_CULPRITS) {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            let named = &culprits[..count.min(MAX_CULPRITS)];
            format!("{text}; {}{more}", named.join(", "))
        }
    };
    if mode != FreezeMode::All && report.level == Level::Crash {
        let note = format!("{text} (fsfreeze-mode is {})", mode.name());
        return CheckResult::note(ABOUT, note);
    }
    CheckResult::finding(ABOUT, text, advice)
}

/// What kept it from its level, and the remedy.
fn culprits(report: &Report) -> (Vec<String>, String) {
    let again = "then take the snapshot again";
    let hooks = report.hooks.iter().filter(|hook| !hook.is_success());
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let named: Vec<String> = hooks
        .clone()
        .map(|hook| {
            let how = status(hook, Style::default());
            format!("hook {} {}: {how}", name(&hook.path), hook.phase.as_str())
        })
        .collect();
    let filesystems = report
        .filesystems
        .iter()
        .filter(|filesystem| !filesystem.is_held() && !filesystem.optional);
    let filesystems: Vec<String> = filesystems
        .filter_map(|filesystem| filesystem.detail.as_deref().map(message))
        .collect();
    match (report.ended_because.as_deref(), hooks.clone().next()) {
        (Some(Expiry::HOLD_LIMIT), _) => (
            vec![message(Expiry::HOLD_LIMIT)],
            format!("find out why the host did not thaw, or raise fsfreeze-hold-limit, {again}"),
        ),
        (Some(why), _) => (vec![message(why)], "take the snapshot again".into()),
        (None, Some(hook)) if report.level != Level::Crash => {
            let name = name(&hook.path);
            (
                named,
                format!("qemu-ga log --hook {name}, qemu-ga hook try {name}, {again}"),
            )
        }
        _ if !filesystems.is_empty() => (
            filesystems,
            format!("fix or exclude it (fsfreeze-exclude, fsfreeze-optional), {again}"),
        ),
        _ if report.errors.is_empty() => (
            report
                .level_reasons
                .iter()
                .map(|why| message(why))
                .collect(),
            format!("qemu-ga check and qemu-ga report say more, {again}"),
        ),
        _ => (
            report.errors.iter().map(|error| message(error)).collect(),
            format!("qemu-ga report and qemu-ga log --failed say more, {again}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ResultKind;
    use super::*;
    use crate::hooks::{HookRecord, HookStatus, Phase};

    fn report(level: Level, applications: Applications) -> Report {
        Report {
            level,
            applications,
            ..Report::default()
        }
    }

    #[test]
    fn a_level_below_what_should_be_is_a_finding_with_its_culprits() {
        let kind = |level, applications, mode| check_level(&report(level, applications), mode).kind;
        let all = FreezeMode::All;
        assert_eq!(
            kind(Level::None, Applications::Untouched, all),
            ResultKind::Finding
        );
        assert_eq!(
            kind(Level::Crash, Applications::Quiet, all),
            ResultKind::Finding
        );
        assert_eq!(
            kind(Level::Crash, Applications::Quiet, FreezeMode::HooksOnly),
            ResultKind::Note
        );
        assert_eq!(
            kind(Level::Filesystem, Applications::Untouched, all),
            ResultKind::Fine
        );
        assert_eq!(
            kind(Level::Filesystem, Applications::Failed, all),
            ResultKind::Finding
        );
        assert_eq!(
            kind(Level::Application, Applications::Quiet, all),
            ResultKind::Fine
        );

        let mut report = report(Level::Filesystem, Applications::Failed);
        for number in 1..=5 {
            let path = format!("/h/{number}-db");
            let status = HookStatus::Exited(number);
            report
                .hooks
                .push(HookRecord::new(path, Phase::Freeze, status));
        }
        let result = check_level(&report, all);
        let all_named = "hook 1-db freeze: status 1, hook 2-db freeze: status 2, hook 3-db freeze: status 3, and 2 more";
        assert!(result.text.ends_with(all_named), "{}", result.text);
        assert!(result.advice.unwrap().contains("qemu-ga hook try 1-db"));
        report.level = Level::Crash;
        report.ended_because = Some(Expiry::HOLD_LIMIT.into());
        assert!(
            check_level(&report, all)
                .advice
                .unwrap()
                .contains("fsfreeze-hold-limit")
        );
    }
}
