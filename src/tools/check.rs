//! `qemu-ga check`: whether the next freeze will succeed, and whether the last one did. A finding always has a remedy.
//! Mount points are opened as a freeze opens them, devices are not opened, and nothing is written.

pub(super) mod files;
mod filesystems;
pub(super) mod hooks;
mod last_run;
mod system;

use super::args::{JSON, ParsedArgs, Tool, ToolError};
use super::context::{self, ToolContext};
use super::output::{self, Style, count, message};
use crate::cli::Usage;
use crate::config::Config;
use crate::diagnostic::Diagnostic;
use crate::freeze::plan::{self, Plan, Survey};
use crate::freeze::policy::{FreezeMode, FreezePolicy};
use crate::probe::System;
use crate::probe::mountinfo::Mount;
use crate::sys::strerror;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Severity {
    Ok,
    /// A freeze succeeds all the same.
    Note,
    Finding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Subject {
    Configuration,
    Rights,
    Filesystems,
    HookMaster,
    Hooks,
    Settings,
    HookLog,
    Log,
    State,
    Marker,
    LateThaw,
    Agent,
    Reports,
    LastRun,
    Channel,
    GracePeriods,
    Commands,
    #[serde(rename = "selinux")]
    SeLinux,
    #[serde(rename = "apparmor")]
    AppArmor,
    Service,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Rights => "rights",
            Self::Filesystems => "filesystems",
            Self::HookMaster => "hook master",
            Self::Hooks => "hooks",
            Self::Settings => "settings",
            Self::HookLog => "hook log",
            Self::Log => "log",
            Self::State => "state",
            Self::Marker => "marker",
            Self::LateThaw => "late thaw",
            Self::Agent => "agent",
            Self::Reports => "reports",
            Self::LastRun => "last run",
            Self::Channel => "channel",
            Self::GracePeriods => "grace periods",
            Self::Commands => "commands",
            Self::SeLinux => "SELinux",
            Self::AppArmor => "AppArmor",
            Self::Service => "service",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct CheckResult {
    kind: Severity,
    about: Subject,
    /// The remedy is empty unless there is something to do.
    #[serde(flatten)]
    text: Diagnostic,
}

impl CheckResult {
    fn ok(about: Subject, what: impl Into<String>) -> Self {
        Self::new(Severity::Ok, about, Diagnostic::new(what, "", ""))
    }

    fn note(about: Subject, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Severity::Note, about, Diagnostic::new(what, why, ""))
    }

    fn finding(
        about: Subject,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Finding, about, Diagnostic::new(what, why, remedy))
    }

    fn new(kind: Severity, about: Subject, text: Diagnostic) -> Self {
        Self { kind, about, text }
    }
}

pub(super) struct CheckContext<'a> {
    config: &'a Config,
    mounts: &'a [Mount],
    survey: &'a Survey,
    plan: &'a Plan,
}

pub const TOOL: Tool = Tool {
    usage: Usage {
        name: "check",
        summary: "what would make a freeze fail, and what to do about it",
        about: "Looks for what would make a freeze fail: hooks and their owners, the log, the state \
                directory, the device, a stale marker, the configuration, the service; and whether \
                the last freeze succeeded. Every finding says what to do. Nothing is changed.",
        operand: None,
        options: &[&[JSON], context::OPTIONS],
        exit: &[(0, "no problems found"), (1, "there are findings")],
    },
    subcommands: &[],
    run,
};

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    let results = match ToolContext::of(args) {
        Ok(context) => check_all(&context),
        Err(error) => vec![CheckResult::finding(
            Subject::Configuration,
            "the agent does not start",
            error,
            "correct the configuration",
        )],
    };
    Ok(report(&results, args.has("--json")))
}

pub(super) fn report(results: &[CheckResult], as_json: bool) -> u8 {
    let status = if as_json {
        output::print_json_list("results", &results)
    } else {
        output::print(&render(results, Style::of_stdout()))
    };
    let has_finding = results
        .iter()
        .any(|result| result.kind == Severity::Finding);
    status.max(u8::from(has_finding))
}

/// What depends on other results comes after them.
fn check_all(context: &ToolContext) -> Vec<CheckResult> {
    let config = &context.config;
    let mut results = vec![CheckResult::ok(
        Subject::Configuration,
        context.origin.to_string(),
    )];
    results.extend(config.warnings.iter().map(|warning| {
        let remedy = "correct that line or option";
        CheckResult::finding(Subject::Configuration, warning, "", remedy)
    }));
    if !nix::unistd::geteuid().is_root() {
        let why = "what only root can read or run is reported as missing";
        results.push(CheckResult::note(Subject::Rights, "not run as root", why));
    }
    let mounts = match System::host().mounts() {
        Ok(mounts) => mounts,
        Err(error) => {
            let what = "cannot read the mount table";
            let finding =
                CheckResult::finding(Subject::Filesystems, what, strerror(&error), "mount /proc");
            results.push(finding);
            return results;
        }
    };
    let survey = Survey::read(&System::host(), &mounts);
    let plan = check_plan(&survey, &config.policy, &mut results);
    let context = CheckContext {
        config,
        mounts: &mounts,
        survey: &survey,
        plan: &plan,
    };
    results.extend(filesystems::check(&context));
    results.extend(hooks::check(&context));
    results.extend(files::check(&context));
    results.extend(system::check(&context));
    results
}

/// Without a plan, every filesystem is a target.
fn check_plan(survey: &Survey, policy: &FreezePolicy, results: &mut Vec<CheckResult>) -> Plan {
    let about = Subject::Filesystems;
    match plan::make(survey, policy, None) {
        Ok(plan) => {
            let number = count(plan.targets.len(), "filesystem");
            results.push(match (plan.targets.is_empty(), policy.freeze) {
                (true, FreezeMode::All) => CheckResult::finding(
                    about,
                    "a freeze finds nothing to freeze",
                    "",
                    "see qemu-ga plan --all, and fsfreeze-include and fsfreeze-exclude",
                ),
                (true, mode) => {
                    let why = format!("fsfreeze-mode is {}", mode.name());
                    CheckResult::note(about, "a freeze freezes no filesystem", why)
                }
                (false, _) => {
                    CheckResult::ok(about, format!("{number} would be frozen: see qemu-ga plan"))
                }
            });
            let notes = plan.notes.iter();
            results.extend(notes.map(|note| CheckResult::note(about, note, "")));
            plan
        }
        Err(cycle) => {
            let remedy = "exclude one of them: fsfreeze-exclude in [qemu-ga-rs]";
            let what = "every freeze fails";
            results.push(CheckResult::finding(about, what, cycle.to_string(), remedy));
            Plan {
                targets: plan::everything(survey),
                ..Plan::default()
            }
        }
    }
}

fn render(results: &[CheckResult], style: Style) -> String {
    let mut shown = String::new();
    for result in results {
        let mark = match result.kind {
            Severity::Ok => style.good("ok     "),
            Severity::Note => style.warning("note   "),
            Severity::Finding => style.bad("FINDING"),
        };
        let name = result.about.name();
        let (first, arrow) = match style.is_narrow() {
            true => (format!("{mark}  {name}: "), "    -> ".to_owned()),
            false => (format!("{mark}  {name:<13}  "), format!("{:24}-> ", "")),
        };
        // The remedy has a line of its own, so that it can be found and copied.
        let Diagnostic { what, why, remedy } = &result.text;
        let text = Diagnostic::new(what, why, "").to_string();
        shown += &style.wrap(&first, &message(&text));
        if !remedy.is_empty() {
            shown += &style.wrap(&arrow, &message(remedy));
        }
    }
    let found = results
        .iter()
        .filter(|r| r.kind == Severity::Finding)
        .count();
    shown += &match found {
        0 => style.good("no problems found\n"),
        _ => style.bad(&format!("{}\n", count(found, "finding"))),
    };
    shown
}

#[cfg(test)]
pub(super) fn sample() -> serde_json::Value {
    use Subject::*;
    let subjects = [
        Configuration,
        Rights,
        Filesystems,
        HookMaster,
        Hooks,
        Settings,
        HookLog,
        Log,
        State,
        Marker,
        LateThaw,
        Agent,
        Reports,
        LastRun,
        Channel,
        GracePeriods,
        Commands,
        SeLinux,
        AppArmor,
        Service,
    ];
    let kinds = [Severity::Ok, Severity::Note, Severity::Finding];
    let results = subjects.iter().zip(kinds.iter().cycle());
    let results =
        results.map(|(&about, &kind)| CheckResult::new(kind, about, Diagnostic::default()));
    output::named("results", &results.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_a_remedy() {
        let why = "a ".repeat(60);
        let results = [
            CheckResult::ok(Subject::Channel, "there"),
            CheckResult::finding(Subject::Log, "not writable", why.trim(), "move it"),
        ];
        let text = render(&results, Style::default());
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.contains("ok       channel        there\n"));
        assert!(text.contains("FINDING  log            not writable: a a"));
        assert!(text.contains(&format!("{:24}-> move it\n1 finding\n", "")));
        let json = output::value(&results);
        assert_eq!(json[1]["what"], "not writable");
        assert_eq!(json[1]["remedy"], "move it");
        assert_eq!(json[0]["kind"], "ok");
    }

    #[test]
    fn a_plan_without_filesystems_is_a_finding_unless_the_mode_asks_for_it() {
        let mut results = Vec::new();
        let plan = check_plan(&Survey::default(), &FreezePolicy::default(), &mut results);
        assert!(plan.targets.is_empty());
        assert_eq!(results[0].kind, Severity::Finding);
        let off = FreezePolicy {
            freeze: FreezeMode::HooksOnly,
            ..FreezePolicy::default()
        };
        check_plan(&Survey::default(), &off, &mut results);
        assert_eq!(results[1].kind, Severity::Note);
    }
}
