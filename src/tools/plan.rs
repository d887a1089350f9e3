//! `qemu-ga plan`: what a freeze would do now. It makes the plan with the engine's own code and finds the hooks with
//! the master's, so it shows what would happen. It changes nothing.

use super::args::{JSON, ParsedArgs, Tool, ToolError};
use super::context::{self, ToolContext};
use super::grace_periods::GracePeriods;
use super::output::{self, Style, escape_control, file_name, span};
use crate::adapters;
use crate::cli::{Operand, OptionSpec, Usage, ValueKind};
use crate::config::Config;
use crate::diagnostic::Diagnostic;
use crate::freeze::plan::{self, Cycle, Excluded, Plan, Survey, Target};
use crate::freeze::policy::FreezeMode;
use crate::freeze::report::Hold;
use crate::hooks::locate;
pub(super) use crate::hooks::locate::dir_of as hooks_of;
use crate::hooks::task::{Eligibility, HookTask, batches};
use crate::probe::System;
use crate::probe::write_counters::WriteCounters;
use crate::sys::strerror;
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct PlanView {
    configuration: String,
    configuration_source: &'static str,
    mode: &'static str,
    /// In seconds; `None`: no limit.
    hold_limit: Option<f64>,
    step_limit: Option<f64>,
    grace_periods: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_periods_reason: Option<String>,
    #[serde(skip)]
    grace_periods_text: String,
    hook_master: Option<PathBuf>,
    /// Paths in the order of running.
    freeze_hooks: Vec<String>,
    thaw_hooks: Vec<String>,
    hooks_left_out: Vec<SkippedHook>,
    /// Then a freeze fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    hooks_refused: Option<Diagnostic>,
    /// In freeze order.
    filesystems: Vec<PlannedFilesystem>,
    skipped: Vec<SkippedMount>,
    notes: Vec<String>,
    /// Why there is no order of freezing; then a freeze fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct SkippedHook {
    path: String,
    /// `skipped`, or `unfit`: then a freeze fails if the hook's settings say so.
    state: &'static str,
    why: String,
    remedy: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct PlannedFilesystem {
    mountpoint: String,
    fstype: String,
    device: String,
    /// From its own device down.
    depends_on: Vec<String>,
    optional: bool,
    /// `None`: nothing is expected to keep it from changing.
    held: Option<Hold>,
    /// Filesystems of one batch are frozen in parallel, lower batches before higher ones.
    batch: usize,
}

#[derive(Debug, Serialize)]
struct SkippedMount {
    mountpoint: String,
    fstype: String,
    reason: String,
    /// It is on a local disk and writable, so the level is `crash`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    writable: bool,
}

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

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    let context = ToolContext::of(args)?;
    let mounts = System::host().mounts().map_err(|error| {
        let why = strerror(&error);
        format!("cannot read the mount table: {why}; mount /proc")
    })?;
    let survey = Survey::read(&System::host(), &mounts);
    let names: Vec<Vec<u8>> = args
        .operands
        .iter()
        .map(|w| w.as_bytes().to_vec())
        .collect();
    let only = (!names.is_empty()).then_some(names.as_slice());
    let plan = plan::make(&survey, &context.config.policy, only);
    let view = PlanView::of(&context, plan);
    let status = if args.has("--json") {
        output::print_json(&view)
    } else {
        output::print(&view.render(args.has("--all"), Style::of_stdout()))
    };
    Ok(status.max(u8::from(view.is_refused())))
}

impl PlanView {
    fn of(context: &ToolContext, plan: Result<Plan, Cycle>) -> Self {
        let Config {
            policy,
            limits,
            warnings,
            ..
        } = &context.config;
        let master = context.config.hook().map(Path::to_owned);
        let grace_periods = GracePeriods::find(policy, Path::new("/sys"));
        let (plan, error) = match plan {
            Ok(plan) => (plan, None),
            Err(cycle) => (Plan::default(), Some(cycle.to_string())),
        };
        let mut this = Self {
            configuration: context.origin.to_string(),
            configuration_source: context.origin.name(),
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
            filesystems: plan.targets.iter().map(PlannedFilesystem::of).collect(),
            skipped: plan.skipped.iter().map(SkippedMount::of).collect(),
            notes: warnings.iter().chain(&plan.notes).cloned().collect(),
            error,
            hook_master: master,
        };
        let idle = match policy.freeze {
            FreezeMode::Off => Some("fsfreeze-mode is off: a freeze does nothing"),
            FreezeMode::All if this.filesystems.is_empty() && this.error.is_none() => {
                Some("no filesystem to freeze, so no hook runs either")
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
            self.hooks_refused = Some(Diagnostic::new(
                format!("cannot run {}", master.display()),
                strerror(&error),
                "install the hook master, or correct the path of -F",
            ));
            return;
        }
        if !locate::is_our_master(&master) {
            self.notes.push(locate::FOREIGN_MASTER.into());
        }
        let dir = hooks_of(&master);
        let found = match adapters::discover(&dir, &locate::conf_beside(&dir)) {
            Ok((found, _)) => found,
            Err(refusal) => {
                self.hooks_refused = Some(refusal);
                return;
            }
        };
        self.notes.extend(found.warnings);
        if found.leaves_filesystems {
            self.filesystems.clear();
            self.notes
                .push("an adapter's settings ask that no filesystem be frozen".into());
        }
        let tasks: Vec<HookTask> = batches(found.tasks).into_iter().flatten().collect();
        for task in &tasks {
            match task.eligibility.refusal().cloned() {
                None if task.freeze.is_some() => self.freeze_hooks.push(task.name.clone()),
                None => (),
                Some(Diagnostic { why, remedy, .. }) => self.hooks_left_out.push(SkippedHook {
                    path: task.name.clone(),
                    state: match task.eligibility {
                        Eligibility::Unfit { .. } => "unfit",
                        Eligibility::Fit | Eligibility::Skipped(_) => "skipped",
                    },
                    why,
                    remedy,
                }),
            }
        }
        let fit = tasks
            .iter()
            .rev()
            .filter(|task| task.eligibility == Eligibility::Fit);
        self.thaw_hooks.extend(fit.map(|task| task.name.clone()));
    }

    fn is_refused(&self) -> bool {
        self.error.is_some() || self.hooks_refused.is_some()
    }

    fn render(&self, all: bool, style: Style) -> String {
        let heading = "What a freeze would do now; nothing was touched";
        let mut text = style.wrap("", &style.bold(heading));
        text += &style.wrap("  configuration  ", &escape_control(&self.configuration));
        let hold = match self.hold_limit {
            Some(limit) => format!("thawed after {} at the latest", span(limit)),
            None => "held until the host thaws, without limit".into(),
        };
        let step = self.step_limit.map_or("no limit".into(), span);
        let limits = format!("{hold}; each step at a filesystem: {step}");
        text += &style.wrap("  limits         ", &limits);
        text += &style.wrap(
            "  grace periods  ",
            &escape_control(&self.grace_periods_text),
        );
        if self.mode != FreezeMode::All.name() {
            text += &style.wrap("  fsfreeze-mode  ", &style.warning(self.mode));
        }
        let heading = |text: &str| format!("\n{}", style.wrap("", &style.bold(text)));
        text += &heading("1. Hooks, called with freeze");
        text += &self.render_hooks(style);
        text += &heading("2. Filesystems, frozen in this order, equal numbers side by side");
        text += &self.render_filesystems(style);
        text += &heading("3. Thaw: the same filesystems in the reverse order, then hooks");
        text += &names(&self.thaw_hooks, style);
        text += &self.render_skipped(all, style);
        if !self.notes.is_empty() {
            text += &heading("Notes");
            for note in &self.notes {
                text += &style.wrap("  - ", &escape_control(note));
            }
        }
        text
    }

    fn render_hooks(&self, style: Style) -> String {
        let Some(master) = &self.hook_master else {
            let why = "none: the agent runs without -F, and no fsfreeze-hook is configured";
            return style.wrap("  ", why);
        };
        let by = format!("by {}", master.display());
        let mut text = style.wrap("  ", &escape_control(&by));
        if let Some(why) = &self.hooks_refused {
            let first = format!("  {}  ", style.bad("FAILS"));
            text += &style.wrap(&first, &escape_control(&why.to_string()));
        } else {
            text += &names(&self.freeze_hooks, style);
        }
        for skipped in &self.hooks_left_out {
            let name = file_name(&skipped.path);
            let line = Diagnostic::new(name, &skipped.why, &skipped.remedy).to_string();
            let first = format!("  {}  ", style.warning("skipped"));
            text += &style.wrap(&first, &escape_control(&line));
        }
        text
    }

    fn render_filesystems(&self, style: Style) -> String {
        if let Some(why) = &self.error {
            return style.wrap(&format!("  {}  ", style.bad("FAILS")), &escape_control(why));
        }
        if self.filesystems.is_empty() {
            return "  none\n".into();
        }
        let row = |f: &PlannedFilesystem| {
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
        let lines = style.table("  ", &[0], &rows);
        let mut text = String::new();
        for (line, filesystem) in lines.iter().zip(&self.filesystems) {
            text += line;
            // The first entry is its own device, which the line has.
            if filesystem.depends_on.len() > 1 {
                let layers = filesystem.depends_on.join(", ");
                text += &style.wrap("       depends on ", &escape_control(&layers));
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
        let is_shown = |skipped: &&SkippedMount| all || skipped.reason != pseudo;
        let shown = self.skipped.iter().filter(is_shown);
        text += &style.left_out(shown.map(|s| (s.mountpoint.as_str(), s.reason.as_str())));
        let hidden = self.skipped.iter().filter(|s| !is_shown(s)).count();
        if hidden > 0 {
            let count = output::count(hidden, "pseudo filesystem");
            text += &style.wrap("  ", &format!("{count}: --all names them"));
        }
        text
    }
}

impl PlannedFilesystem {
    fn of(target: &Target) -> Self {
        Self {
            mountpoint: String::from_utf8_lossy(&target.filesystem.mountpoint).into_owned(),
            fstype: target.filesystem.fstype.clone(),
            device: target.device.clone(),
            depends_on: target.depends_on.clone(),
            optional: target.optional,
            held: expected_hold(target),
            batch: target.batch,
        }
    }
}

impl SkippedMount {
    fn of(excluded: &Excluded) -> Self {
        Self {
            mountpoint: String::from_utf8_lossy(&excluded.mountpoint).into_owned(),
            fstype: excluded.fstype.clone(),
            reason: excluded.reason.clone(),
            writable: excluded.writable,
        }
    }
}

/// `None`: it can only be flushed and watched, and writes to its device are not counted.
pub(super) fn expected_hold(target: &Target) -> Option<Hold> {
    let hold = target.expected_hold();
    let counts = || WriteCounters::open(&System::host(), target.filesystem.device()).is_some();
    (hold != Hold::Unchanged || counts()).then_some(hold)
}

fn names(paths: &[String], style: Style) -> String {
    if paths.is_empty() {
        return "  none\n".into();
    }
    let row = |(index, path): (usize, &String)| {
        vec![(index + 1).to_string(), escape_control(file_name(path))]
    };
    let rows: Vec<_> = paths.iter().enumerate().map(row).collect();
    style.table("  ", &[0], &rows).concat()
}

#[cfg(test)]
pub(super) fn sample() -> serde_json::Value {
    let text = || "x".to_owned();
    output::value(&PlanView {
        configuration: text(),
        configuration_source: "agent",
        mode: FreezeMode::All.name(),
        hold_limit: Some(900.0),
        step_limit: None,
        grace_periods: "normal",
        grace_periods_reason: Some(text()),
        grace_periods_text: text(),
        hook_master: None,
        freeze_hooks: vec![text()],
        thaw_hooks: vec![text()],
        hooks_left_out: vec![SkippedHook {
            path: text(),
            state: "unfit",
            why: text(),
            remedy: text(),
        }],
        hooks_refused: Some(Diagnostic::default()),
        filesystems: vec![PlannedFilesystem {
            mountpoint: text(),
            fstype: text(),
            device: text(),
            depends_on: vec![text()],
            optional: true,
            held: Some(Hold::Frozen),
            batch: 0,
        }],
        skipped: vec![SkippedMount {
            mountpoint: text(),
            fstype: text(),
            reason: text(),
            writable: true,
        }],
        notes: vec![text()],
        error: Some(text()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> PlanView {
        let context = ToolContext::built_in();
        let excluded = |mountpoint: &[u8], reason: &str| Excluded {
            mountpoint: mountpoint.to_vec(),
            fstype: "x".into(),
            reason: reason.into(),
            writable: false,
        };
        let pseudo = crate::probe::filesystems::SkipReason::Pseudo.to_string();
        let plan = Plan {
            skipped: vec![excluded(b"/proc", &pseudo), excluded(b"/nfs", "network")],
            ..Plan::default()
        };
        PlanView::of(&context, Ok(plan))
    }

    #[test]
    fn skipped_mounts_are_grouped_by_reason() {
        let text = view().render(false, Style::default());
        assert!(
            text.contains("  network\n      /nfs\n  1 pseudo filesystem: --all"),
            "{text}"
        );
        assert!(!text.contains("/proc") && view().render(true, Style::default()).contains("/proc"));
        assert!(
            text.contains("no filesystem to freeze") && text.contains("thawed after 15 min 0 s")
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn what_applies_to_grace_periods_is_view() {
        let mut context = ToolContext::built_in();
        context.config.policy.normal_rcu = true;
        let normal = PlanView::of(&context, Ok(Plan::default()));
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
    fn a_cycle_or_a_missing_master_is_a_refusal() {
        assert!(!view().is_refused());
        let mut context = ToolContext::built_in();
        let members = vec![("/a".into(), vec!["loop0".into()])];
        let cycle = PlanView::of(&context, Err(Cycle { members }));
        assert!(cycle.is_refused());
        let text = cycle.render(false, Style::default());
        assert!(text.contains("FAILS  filesystems depend on"), "{text}");
        context.config.fsfreeze_hook = Some("/nonexistent/hook".into());
        let missing = PlanView::of(&context, Ok(Plan::default()));
        assert!(missing.is_refused());
        let text = missing.render(false, Style::default());
        let line = "cannot run /nonexistent/hook: No such file or directory; install";
        assert!(text.contains(line), "{text}");
    }
}
