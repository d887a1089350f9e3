//! The consistency of the last run that has ended, and the remedy if it was lower than it should be.

use super::{CheckResult, Subject};
use crate::freeze::policy::FreezeMode;
use crate::freeze::report::{Applications, Level, Report};
use crate::state::Expiry;
use crate::tools::output::{Style, message, moment};
use crate::tools::report::{describe_level, status};

const ABOUT: Subject = Subject::LastRun;
const MAX_CAUSES: usize = 3;

/// `mode` is what freezes do now.
pub(super) fn check_level(report: &Report, mode: FreezeMode) -> CheckResult {
    let level = report.level.name();
    let what = format!(
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
        return CheckResult::ok(ABOUT, what);
    }
    let (causes, remedy) = find_causes(report);
    let named = &causes[..causes.len().min(MAX_CAUSES)];
    let mut why = named.join(", ");
    if causes.len() > MAX_CAUSES {
        why += &format!(", and {} more", causes.len() - MAX_CAUSES);
    }
    if mode != FreezeMode::All && report.level == Level::Crash {
        return CheckResult::note(ABOUT, what, format!("fsfreeze-mode is {}", mode.name()));
    }
    CheckResult::finding(ABOUT, what, why, remedy)
}

fn find_causes(report: &Report) -> (Vec<String>, String) {
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
                format!("see qemu-ga log --hook {name}, qemu-ga hook try {name}, {again}"),
            )
        }
        _ if !filesystems.is_empty() => (
            filesystems,
            format!("correct or exclude it (fsfreeze-exclude, fsfreeze-optional), {again}"),
        ),
        _ if report.errors.is_empty() => (
            report
                .level_reasons
                .iter()
                .map(|why| message(why))
                .collect(),
            format!("see qemu-ga check and qemu-ga report, {again}"),
        ),
        _ => (
            report.errors.iter().map(|error| message(error)).collect(),
            format!("see qemu-ga report and qemu-ga log --failed, {again}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
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
    fn a_level_that_is_too_low_is_a_finding_with_its_causes() {
        let kind = |level, applications, mode| check_level(&report(level, applications), mode).kind;
        let all = FreezeMode::All;
        assert_eq!(
            kind(Level::None, Applications::Untouched, all),
            Severity::Finding
        );
        assert_eq!(
            kind(Level::Crash, Applications::Quiet, all),
            Severity::Finding
        );
        assert_eq!(
            kind(Level::Crash, Applications::Quiet, FreezeMode::HooksOnly),
            Severity::Note
        );
        assert_eq!(
            kind(Level::Filesystem, Applications::Untouched, all),
            Severity::Ok
        );
        assert_eq!(
            kind(Level::Filesystem, Applications::Failed, all),
            Severity::Finding
        );
        assert_eq!(
            kind(Level::Application, Applications::Quiet, all),
            Severity::Ok
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
        assert_eq!(result.text.why, all_named);
        assert!(result.text.remedy.contains("qemu-ga hook try 1-db"));
        report.level = Level::Crash;
        report.ended_because = Some(Expiry::HOLD_LIMIT.into());
        assert!(
            check_level(&report, all)
                .text
                .remedy
                .contains("fsfreeze-hold-limit")
        );
    }
}
