//! `qemu-ga check`: whether a freeze will go well here, before one is asked for, and whether the last one did.
//! Every finding says what to do. It opens mountpoints as a freeze does, but no device, and writes nothing.

pub(super) mod files;
mod filesystems;
pub(super) mod hooks;
mod last_run;
mod system;

use super::args::{JSON, ParsedArgs, Tool, ToolError};
use super::context::{self, ToolContext};
use super::output::{self, Style, count, message, wrap};
use crate::cli::Usage;
use crate::config::Config;
use crate::freeze::plan::{self, Plan, Survey};
use crate::freeze::policy::{FreezeMode, FreezePolicy};
use crate::probe::System;
use crate::probe::mountinfo::Mount;
use crate::sys::strerror;
use serde::Serialize;

/// How serious it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ResultKind {
    /// As it should be.
    Fine,
    /// Good to know.
    Note,
    /// To be mended.
    Finding,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct CheckResult {
    kind: ResultKind,
    /// What was looked at.
    about: &'static str,
    /// How it is.
    text: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl CheckResult {
    fn fine(about: &'static str, text: impl Into<String>) -> Self {
        Self::new(ResultKind::Fine, about, text.into(), None)
    }

    fn note(about: &'static str, text: impl Into<String>) -> Self {
        Self::new(ResultKind::Note, about, text.into(), None)
    }

    fn finding(about: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(ResultKind::Finding, about, text.into(), Some(advice.into()))
    }

    fn new(kind: ResultKind, about: &'static str, text: String, advice: Option<String>) -> Self {
        Self {
            kind,
            about,
            text,
            advice,
        }
    }
}

/// What the checks look at.
pub(super) struct CheckContext<'a> {
    config: &'a Config,
    mounts: &'a [Mount],
    survey: &'a Survey,
    plan: &'a Plan,
}

/// `qemu-ga check`.
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

fn run(given: &ParsedArgs) -> Result<u8, ToolError> {
    let results = match ToolContext::of(given) {
        Ok(setting) => all(&setting),
        Err(error) => vec![CheckResult::finding(
            "configuration",
            error,
            "correct the file: the agent does not start with it",
        )],
    };
    Ok(report(&results, given.has("--json")))
}

/// Shows the results; returns the exit status.
pub(super) fn report(results: &[CheckResult], as_json: bool) -> u8 {
    let told = if as_json {
        output::print_json(&results)
    } else {
        output::print(&render(results, Style::of_stdout()))
    };
    let found = results
        .iter()
        .any(|result| result.kind == ResultKind::Finding);
    told.max(u8::from(found))
}

/// Every check, in the order of reading.
fn all(setting: &ToolContext) -> Vec<CheckResult> {
    let config = &setting.config;
    let mut results = vec![CheckResult::fine("configuration", setting.origin.clone())];
    results.extend(config.warnings.iter().map(|warning| {
        CheckResult::finding("configuration", warning, "correct that line or option")
    }));
    if !nix::unistd::geteuid().is_root() {
        let text = "not run as root: what the agent may do and you may not is told as missing";
        results.push(CheckResult::note("rights", text));
    }
    let mounts = match System::host().mounts() {
        Ok(mounts) => mounts,
        Err(error) => {
            let text = format!("the mount table cannot be read: {}", strerror(&error));
            results.push(CheckResult::finding("filesystems", text, "mount /proc"));
            return results;
        }
    };
    let survey = Survey::read(&System::host(), &mounts);
    let plan = planned(&survey, &config.policy, &mut results);
    let scene = CheckContext {
        config,
        mounts: &mounts,
        survey: &survey,
        plan: &plan,
    };
    results.extend(filesystems::check(&scene));
    results.extend(hooks::check(&scene));
    results.extend(files::check(&scene));
    results.extend(system::check(&scene));
    results
}

/// What a freeze would take; where there is no plan, everything counts as frozen.
fn planned(survey: &Survey, policy: &FreezePolicy, results: &mut Vec<CheckResult>) -> Plan {
    match plan::make(survey, policy, None) {
        Ok(plan) => {
            let number = count(plan.targets.len(), "filesystem");
            results.push(match (plan.targets.is_empty(), policy.freeze) {
                (true, FreezeMode::All) => CheckResult::finding(
                    "filesystems",
                    "a freeze finds nothing to freeze",
                    "see qemu-ga plan --all, and fsfreeze-include and fsfreeze-exclude",
                ),
                (true, mode) => {
                    CheckResult::note("filesystems", format!("fsfreeze-mode is {}", mode.name()))
                }
                (false, _) => CheckResult::fine(
                    "filesystems",
                    format!("{number} would be frozen: see qemu-ga plan"),
                ),
            });
            let notes = plan.notes.iter();
            results.extend(notes.map(|note| CheckResult::note("filesystems", note)));
            plan
        }
        Err(circle) => {
            let advice = "leave one of them out: fsfreeze-exclude in [qemu-ga-rs]";
            results.push(CheckResult::finding(
                "filesystems",
                circle.to_string(),
                advice,
            ));
            Plan {
                targets: plan::everything(survey),
                ..Plan::default()
            }
        }
    }
}

fn render(results: &[CheckResult], style: Style) -> String {
    let mut text = String::new();
    for result in results {
        let mark = match result.kind {
            ResultKind::Fine => style.good("ok     "),
            ResultKind::Note => style.warning("note   "),
            ResultKind::Finding => style.bad("FINDING"),
        };
        let first = format!("{mark}  {:<13}  ", result.about);
        text += &wrap(&first, &message(&result.text));
        if let Some(advice) = &result.advice {
            text += &wrap(&format!("{:24}-> ", ""), &message(advice));
        }
    }
    let found = results
        .iter()
        .filter(|r| r.kind == ResultKind::Finding)
        .count();
    text += &match found {
        0 => style.good("no problems found\n"),
        _ => style.bad(&format!("{}\n", count(found, "finding"))),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_says_what_to_do() {
        let results = [
            CheckResult::fine("device", "there"),
            CheckResult::finding("log", "a ".repeat(60), "move it"),
        ];
        let text = render(&results, Style::default());
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.contains("ok       device         there\n"));
        assert!(text.contains(&format!("{:24}-> move it\n1 finding\n", "")));
    }

    #[test]
    fn a_circle_is_a_finding_and_everything_counts_as_frozen() {
        let mut results = Vec::new();
        let plan = planned(&Survey::default(), &FreezePolicy::default(), &mut results);
        assert!(plan.targets.is_empty());
        assert_eq!(results[0].kind, ResultKind::Finding);
        let off = FreezePolicy {
            freeze: FreezeMode::HooksOnly,
            ..FreezePolicy::default()
        };
        planned(&Survey::default(), &off, &mut results);
        assert_eq!(results[1].kind, ResultKind::Note);
    }
}
