//! `qemu-ga plan`: what a freeze would do. It only looks.

use super::args::{JSON, ParsedArgs, Tool, ToolError};
use super::context::{self, ToolContext};
use super::grace_periods::GracePeriods;
use super::output::{self, Style, escape_control, span, table, wrap};
use crate::cli::{Operand, OptionSpec, Usage, ValueKind};
use crate::config::Config;
use crate::freeze::plan::{self, Excluded, Plan, Survey, Target};
use crate::freeze::policy::FreezeMode;
use crate::freeze::report::Hold;
pub use crate::hooks::locate::dir_of as hooks_of;
use crate::hooks::task::{Eligibility, HookTask, batches};
use crate::hooks::{locate, sources};
use crate::probe::System;
use crate::probe::write_counters::WriteCounters;
use crate::sys::strerror;
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The plan, in the members of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct PlanView {
    configuration: String,
    mode: &'static str,
    hold_limit: Option<f64>,
    step_limit: Option<f64>,
    /// Whether RCU grace periods are expedited while freezing.
    grace_periods: &'static str,
    /// Why they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_periods_reason: Option<String>,
    /// The same for people.
    #[serde(skip)]
    grace_periods_text: String,
    hook_master: Option<PathBuf>,
    /// Paths in the order of running.
    freeze_hooks: Vec<String>,
    thaw_hooks: Vec<String>,
    /// What is passed over, and why.
    hooks_left_out: Vec<SkippedHook>,
    /// Why no hook would be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    hooks_refused: Option<String>,
    filesystems: Vec<Filesystem>,
    skipped: Vec<Skipped>,
    notes: Vec<String>,
    /// Why nothing would be frozen.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct SkippedHook {
    path: String,
    reason: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Filesystem {
    mountpoint: String,
    fstype: String,
    device: String,
    stands_on: Vec<String>,
    optional: bool,
    /// What is expected to keep it from changing; none: nothing.
    held: Option<Hold>,
    /// Those of one batch are frozen side by side, lower ones before higher ones.
    batch: usize,
}

#[derive(Debug, Serialize)]
struct Skipped {
    mountpoint: String,
    fstype: String,
    reason: String,
    /// It is on a local disk and can be written: the level is `crash`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    writable: bool,
}

/// `qemu-ga plan`.
pub const TOOL: Tool = Tool {
    usage: Usage {
        name: "plan",
        summary: "what a freeze would do now; nothing is changed",
        about: "Shows what a freeze would do now: which hooks run and in which order, which \
                filesystems are frozen and in which order, what is left out and why. With mount \
                points: what it would do if the host named these. Nothing is changed.",
        operand: Some(Operand {
            name: "MOUNTPOINT",
            kind: ValueKind::MountPoint,
            help: "a mount point that the host would name",
            required: false,
            max: usize::MAX,
        }),
        options: &[
            &[
                OptionSpec::switch("all", "also name the pseudo filesystems"),
                JSON,
            ],
            context::OPTIONS,
        ],
        exit: &[(0, "the plan is shown"), (1, "a freeze would be refused")],
    },
    subcommands: &[],
    run,
};

fn run(given: &ParsedArgs) -> Result<u8, ToolError> {
    let setting = ToolContext::of(given)?;
    let mounts = System::host().mounts().map_err(|error| {
        let why = strerror(&error);
        format!("the mount table cannot be read: {why}; mount /proc")
    })?;
    let survey = Survey::read(&System::host(), &mounts);
    let names: Vec<Vec<u8>> = given
        .operands
        .iter()
        .map(|w| w.as_bytes().to_vec())
        .collect();
    let only = (!names.is_empty()).then_some(names.as_slice());
    let plan = plan::make(&survey, &setting.config.policy, only);
    let shown = PlanView::of(&setting, plan.map_err(|circle| circle.to_string()));
    let told = if given.has("--json") {
        output::print_json(&shown)
    } else {
        output::print(&shown.render(given.has("--all"), Style::of_stdout()))
    };
    Ok(told.max(u8::from(shown.is_refused())))
}

impl PlanView {
    fn of(setting: &ToolContext, plan: Result<Plan, String>) -> Self {
        let Config {
            policy,
            limits,
            warnings,
            ..
        } = &setting.config;
        let master = setting.config.hook().map(Path::to_owned);
        let grace_periods = GracePeriods::find(policy, Path::new("/sys"));
        let (plan, error) = match plan {
            Ok(plan) => (plan, None),
            Err(circle) => (Plan::default(), Some(circle)),
        };
        let mut this = Self {
            configuration: setting.origin.clone(),
            mode: policy.freeze.name(),
            hold_limit: limits.hold.as_ref().map(Duration::as_secs_f64),
            step_limit: limits.step.as_ref().map(Duration::as_secs_f64),
            grace_periods: grace_periods.name(),
            grace_periods_reason: grace_periods.reason().map(ToOwned::to_owned),
            grace_periods_text: grace_periods.text(),
            freeze_hooks: Vec::new(),
            thaw_hooks: Vec::new(),
            hooks_left_out: Vec::new(),
            hooks_refused: None,
            filesystems: plan.targets.iter().map(Filesystem::of).collect(),
            skipped: plan.skipped.iter().map(Skipped::of).collect(),
            notes: warnings.iter().chain(&plan.notes).cloned().collect(),
            error,
            hook_master: master,
        };
        let idle = match policy.freeze {
            FreezeMode::Off => Some("fsfreeze-mode is off: a freeze does nothing"),
            FreezeMode::All if this.filesystems.is_empty() && this.error.is_none() => {
                Some("nothing is chosen, so no hook runs either")
            }
            FreezeMode::All | FreezeMode::HooksOnly => None,
        };
        this.add_hooks();
        if let Some(why) = idle {
            this.freeze_hooks.clear();
            this.thaw_hooks.clear();
            this.notes.push(why.into());
        }
        this
    }

    fn add_hooks(&mut self) {
        let Some(master) = self.hook_master.clone() else {
            return;
        };
        if let Err(error) = std::fs::metadata(&master) {
            let (master, why) = (master.display(), strerror(&error));
            self.hooks_refused = Some(format!(
                "{master}: {why}; install the hook master, or correct the path behind -F"
            ));
            return;
        }
        if !locate::is_our_master(&master) {
            self.notes.push(locate::FOREIGN_MASTER.into());
        }
        let dir = hooks_of(&master);
        let found = match sources::read(&dir, &locate::conf_beside(&dir), "") {
            Ok((found, _)) => found,
            Err(refusal) => {
                self.hooks_refused = Some(refusal.0);
                return;
            }
        };
        self.notes.extend(found.warnings);
        if found.leaves_filesystems {
            self.filesystems.clear();
            self.notes
                .push("an adapter's settings ask that no filesystem be frozen".into());
        }
        let steps: Vec<HookTask> = batches(found.tasks).into_iter().flatten().collect();
        for step in &steps {
            match &step.eligibility {
                Eligibility::Fit if step.freeze.is_some() => {
                    self.freeze_hooks.push(step.name.clone())
                }
                Eligibility::Fit => (),
                Eligibility::Skipped(reason) | Eligibility::Unfit { reason, .. } => {
                    self.hooks_left_out.push(SkippedHook {
                        path: step.name.clone(),
                        reason: reason.clone(),
                    });
                }
            }
        }
        let fit = steps
            .iter()
            .rev()
            .filter(|s| s.eligibility == Eligibility::Fit);
        self.thaw_hooks.extend(fit.map(|step| step.name.clone()));
    }

    fn is_refused(&self) -> bool {
        self.error.is_some() || self.hooks_refused.is_some()
    }

    fn render(&self, all: bool, style: Style) -> String {
        let mut text = format!(
            "{}\n",
            style.bold("What a freeze would do now; nothing was touched")
        );
        text += &wrap("  configuration  ", &self.configuration);
        let hold = match self.hold_limit {
            Some(limit) => format!("thawed after {} at the latest", span(limit)),
            None => "held until the host thaws, however long that takes".into(),
        };
        let step = self.step_limit.map_or("no limit".into(), span);
        let limits = format!("{hold}; each step at a filesystem: {step}");
        text += &wrap("  limits         ", &limits);
        text += &wrap(
            "  grace periods  ",
            &escape_control(&self.grace_periods_text),
        );
        if self.mode != FreezeMode::All.name() {
            text += &format!("  fsfreeze-mode  {}\n", style.warning(self.mode));
        }
        text += &format!("\n{}\n", style.bold("1. Hooks, called with freeze"));
        text += &self.render_hooks(style);
        text += &format!(
            "\n{}\n",
            style.bold("2. Filesystems, frozen in this order, equal numbers side by side")
        );
        text += &self.render_filesystems(style);
        text += &format!(
            "\n{}\n",
            style.bold("3. Thaw: the same filesystems in the reverse order, then hooks")
        );
        text += &names(&self.thaw_hooks);
        text += &self.render_skipped(all, style);
        if !self.notes.is_empty() {
            text += &format!("\n{}\n", style.bold("Notes"));
            for note in &self.notes {
                text += &wrap("  - ", &escape_control(note));
            }
        }
        text
    }

    fn render_hooks(&self, style: Style) -> String {
        let Some(master) = &self.hook_master else {
            return wrap(
                "  ",
                "none: the agent runs without -F, and no fsfreeze-hook is configured",
            );
        };
        let mut text = format!("  by {}\n", escape_control(&master.display().to_string()));
        if let Some(why) = &self.hooks_refused {
            text += &wrap(&format!("  {}  ", style.bad("FAILS")), &escape_control(why));
        } else {
            text += &names(&self.freeze_hooks);
        }
        for left_out in &self.hooks_left_out {
            let name = name(&left_out.path);
            let first = format!("  {}  ", style.warning("skipped"));
            text += &wrap(
                &first,
                &escape_control(&format!("{name}: {}", left_out.reason)),
            );
        }
        text
    }

    fn render_filesystems(&self, style: Style) -> String {
        if let Some(why) = &self.error {
            return wrap(&format!("  {}  ", style.bad("FAILS")), &escape_control(why));
        }
        if self.filesystems.is_empty() {
            return "  none\n".into();
        }
        let row = |f: &Filesystem| {
            let how = match f.held {
                Some(Hold::Frozen) => "",
                Some(Hold::ReadOnly) => "read-only",
                Some(Hold::Unchanged) => "flushed and watched",
                None => "NOT HELD",
            };
            let optional = if f.optional { "may fail" } else { how };
            let cells = [&f.mountpoint, &f.fstype, &f.device].map(|cell| escape_control(cell));
            let mut row = vec![format!("{}", f.batch + 1)];
            row.extend(cells);
            row.push(style.warning(optional));
            row
        };
        let rows: Vec<_> = self.filesystems.iter().map(row).collect();
        let mut text = String::new();
        for (line, filesystem) in table("  ", &[0], &rows).lines().zip(&self.filesystems) {
            text += line;
            text.push('\n');
            // The device itself is in the line; only what is below it is news.
            if filesystem.stands_on.len() > 1 {
                let layers = filesystem.stands_on.join(", ");
                text += &wrap("       depends on ", &escape_control(&layers));
            }
        }
        text
    }

    fn render_skipped(&self, all: bool, style: Style) -> String {
        if self.skipped.is_empty() {
            return String::new();
        }
        let mut text = format!("\n{}\n", style.bold("Not frozen"));
        let pseudo = crate::probe::filesystems::SkipReason::Pseudo.to_string();
        let is_shown = |skipped: &&Skipped| all || skipped.reason != pseudo;
        let shown = self.skipped.iter().filter(is_shown);
        text += &output::left_out(shown.map(|s| (s.mountpoint.as_str(), s.reason.as_str())));
        let hidden = self.skipped.iter().filter(|s| !is_shown(s)).count();
        if hidden > 0 {
            let count = output::count(hidden, "pseudo filesystem");
            text += &format!("  {count}: --all names them\n");
        }
        text
    }
}

impl Filesystem {
    fn of(target: &Target) -> Self {
        Self {
            mountpoint: String::from_utf8_lossy(&target.filesystem.mountpoint).into_owned(),
            fstype: target.filesystem.fstype.clone(),
            device: target.device.clone(),
            stands_on: target.depends_on.clone(),
            optional: target.optional,
            held: expected_hold(target),
            batch: target.batch,
        }
    }
}

impl Skipped {
    fn of(left_out: &Excluded) -> Self {
        Self {
            mountpoint: String::from_utf8_lossy(&left_out.mountpoint).into_owned(),
            fstype: left_out.fstype.clone(),
            reason: left_out.reason.clone(),
            writable: left_out.writable,
        }
    }
}

/// What is expected to keep it from changing while it is to be frozen.
pub(super) fn expected_hold(target: &Target) -> Option<Hold> {
    let hold = target.expected_hold();
    let counts = || WriteCounters::open(&System::host(), target.filesystem.device()).is_some();
    (hold != Hold::Unchanged || counts()).then_some(hold)
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The file names, numbered.
fn names(paths: &[String]) -> String {
    if paths.is_empty() {
        return "  none\n".into();
    }
    let row =
        |(index, path): (usize, &String)| vec![(index + 1).to_string(), escape_control(name(path))];
    let rows: Vec<_> = paths.iter().enumerate().map(row).collect();
    table("  ", &[0], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> PlanView {
        let setting = ToolContext {
            config: Config::default(),
            origin: "of the test".into(),
        };
        let left_out = |mountpoint: &[u8], reason: &str| Excluded {
            mountpoint: mountpoint.to_vec(),
            fstype: "x".into(),
            reason: reason.into(),
            writable: false,
        };
        let pseudo = crate::probe::filesystems::SkipReason::Pseudo.to_string();
        let plan = Plan {
            skipped: vec![left_out(b"/proc", &pseudo), left_out(b"/nfs", "network")],
            ..Plan::default()
        };
        PlanView::of(&setting, Ok(plan))
    }

    #[test]
    fn what_is_left_out_is_told_by_reason() {
        let text = shown().render(false, Style::default());
        assert!(
            text.contains("  network\n      /nfs\n  1 pseudo filesystem: --all"),
            "{text}"
        );
        assert!(
            !text.contains("/proc") && shown().render(true, Style::default()).contains("/proc")
        );
        assert!(text.contains("nothing is chosen") && text.contains("thawed after 15 min 0 s"));
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn what_applies_to_grace_periods_is_shown() {
        let mut setting = ToolContext {
            config: Config::default(),
            origin: String::new(),
        };
        setting.config.policy.normal_rcu = true;
        let normal = PlanView::of(&setting, Ok(Plan::default()));
        let json = serde_json::to_value(&normal).unwrap();
        // On a machine where they are expedited all the time the setting has no effect.
        if json["grace-periods"] == "normal" {
            assert_eq!(json["grace-periods-reason"], "fsfreeze-normal-rcu is set");
            let text = normal.render(false, Style::default());
            let line = "\n  grace periods  normal: fsfreeze-normal-rcu is set\n";
            assert!(text.contains(line), "{text}");
        } else {
            assert_eq!(json["grace-periods"], "already-expedited");
        }
    }

    #[test]
    fn a_circle_or_a_missing_master_is_a_refusal() {
        assert!(!shown().is_refused());
        let mut setting = ToolContext {
            config: Config::default(),
            origin: String::new(),
        };
        let circle = PlanView::of(&setting, Err("a circle".into()));
        assert!(circle.is_refused());
        assert!(
            circle
                .render(false, Style::default())
                .contains("FAILS  a circle")
        );
        setting.config.fsfreeze_hook = Some("/nonexistent/hook".into());
        let missing = PlanView::of(&setting, Ok(Plan::default()));
        assert!(missing.is_refused());
        let text = missing.render(false, Style::default());
        assert!(
            text.contains("/nonexistent/hook: No such file or directory; install"),
            "{text}"
        );
    }
}
