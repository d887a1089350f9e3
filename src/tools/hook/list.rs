//! `qemu-ga hook list`: the hooks that a freeze would run, found by the master's own code. Nothing is started.

use super::{OPTIONS, find_place};
use crate::adapters;
use crate::cli::Usage;
use crate::diagnostic::Diagnostic;
use crate::hooks::locate;
use crate::hooks::settings::{HookConfig, HookSettings};
use crate::hooks::task::{CommandLine, Eligibility, HookTask, batches};
use crate::tools::args::{JSON, ParsedArgs, Tool, ToolError};
use crate::tools::output::{self, Style, escape_control, file_name};
use serde::Serialize;

pub(super) const TOOL: Tool = Tool {
    usage: Usage {
        name: "hook list",
        summary: "the hooks that would run, their order and settings",
        about: "Shows every hook in the order of the freeze (the thaw is in the reverse order): what \
                it is started as, each setting that is not the default and where it comes from, and \
                which hooks are skipped and why. Nothing is started.",
        operand: None,
        options: &[&OPTIONS, &[JSON]],
        exit: &[
            (0, "the hooks are shown"),
            (
                1,
                "no hook would be run, because other users could have changed one",
            ),
        ],
    },
    subcommands: &[],
    run,
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct HookListView {
    directory: String,
    configuration: String,
    /// In seconds; 0: no limit.
    total_timeout: f64,
    leaves_filesystems: bool,
    /// In the order of the freeze, then those that are disabled.
    hooks: Vec<HookView>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct HookView {
    path: String,
    /// Empty for a hook of the directory.
    source: String,
    state: HookState,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Diagnostic>,
    parallel: bool,
    /// That of a holding hook runs until the thaw.
    #[serde(skip_serializing_if = "Option::is_none")]
    freeze: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thaw: Option<String>,
    /// Only those that differ from the defaults.
    settings: Vec<Setting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum HookState {
    Runs,
    Skipped,
    /// It cannot be run, which fails the freeze if its settings say so.
    Unfit,
    Disabled,
}

#[derive(Debug, Serialize)]
struct Setting {
    key: &'static str,
    value: String,
    /// `group`, `script` or `adapter`.
    from: &'static str,
    name: String,
}

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    let (dir, conf) = find_place(args);
    let master = dir.with_extension("");
    let (mut found, rules) =
        adapters::discover(&dir, &conf).map_err(|refusal| refusal.to_string())?;
    if master.is_file() && !locate::is_our_master(&master) {
        let text = format!("{}: {}", master.display(), locate::FOREIGN_MASTER);
        found.warnings.push(text);
    }
    let mut hooks = Vec::new();
    for batch in batches(found.tasks) {
        let tasks = batch.iter().enumerate();
        hooks.extend(tasks.map(|(index, task)| HookView::of(task, &rules, index > 0)));
    }
    let disabled = found.disabled.iter();
    hooks.extend(disabled.map(|task| HookView::of(task, &rules, false)));
    let view = HookListView {
        directory: dir.display().to_string(),
        configuration: conf.display().to_string(),
        total_timeout: rules.total_timeout.unwrap_or_default().as_secs_f64(),
        leaves_filesystems: found.leaves_filesystems,
        hooks,
        warnings: found.warnings,
    };
    Ok(if args.has("--json") {
        output::print_json(&view)
    } else {
        output::print(&view.render(Style::of_stdout()))
    })
}

impl HookState {
    fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Skipped => "skipped",
            Self::Unfit => "cannot be run",
            Self::Disabled => "disabled",
        }
    }
}

impl HookView {
    fn of(task: &HookTask, rules: &HookConfig, parallel: bool) -> HookView {
        let command_line = |call: &CommandLine| {
            let mut words = call.program.display().to_string();
            for arg in &call.args {
                words += " ";
                words += &arg.to_string_lossy();
            }
            words
        };
        let state = match &task.eligibility {
            _ if !task.policy.enabled => HookState::Disabled,
            Eligibility::Fit => HookState::Runs,
            Eligibility::Skipped(_) => HookState::Skipped,
            Eligibility::Unfit { .. } => HookState::Unfit,
        };
        HookView {
            path: task.name.clone(),
            source: task.source.clone(),
            state,
            reason: match state {
                HookState::Disabled => Some(Diagnostic::new("", "enabled is no", "")),
                _ => task.eligibility.refusal().cloned(),
            },
            parallel,
            freeze: task.freeze.as_ref().map(command_line),
            thaw: task.thaw.as_ref().map(command_line),
            settings: settings(task, rules),
        }
    }

    fn render(&self, mark: &str, style: Style) -> String {
        let name = style.bold(&escape_control(file_name(&self.path)));
        let mut head = format!("{mark:>3}  {name}");
        if !self.source.is_empty() {
            head += &format!("  ({})", self.source);
        }
        if self.parallel {
            head += "  in parallel with the previous one";
        }
        let mut text = head + "\n";
        if let Some(reason) = &self.reason {
            let first = format!("       {}: ", style.warning(self.state.name()));
            text += &style.wrap(&first, &escape_control(&reason.to_string()));
        } else if !self.source.is_empty() {
            for (phase, words) in [("freeze", &self.freeze), ("thaw", &self.thaw)] {
                let words = words.as_deref().unwrap_or("nothing");
                text += &style.wrap(&format!("       {phase}: "), &escape_control(words));
            }
        }
        for setting in &self.settings {
            text += &style.wrap("       ", &escape_control(&setting.text()));
        }
        text
    }
}

impl Setting {
    fn text(&self) -> String {
        let Setting {
            key,
            value,
            from,
            name,
        } = self;
        let from = match *from {
            "group" => format!("[{name}]"),
            "script" => "in the script".to_owned(),
            _ => format!("default of {name}"),
        };
        format!("{key} = {value} ({from})")
    }
}

fn settings(task: &HookTask, rules: &HookConfig) -> Vec<Setting> {
    let keys_of = |group: &str| {
        let mut keys = Vec::new();
        rules.each(group, &mut |key, _| {
            keys.push(key.to_owned());
            Ok(())
        });
        keys
    };
    let own = match &task.source[..] {
        "" => format!("hook {}", file_name(&task.name)),
        source => source.to_owned(),
    };
    let groups = [own.as_str(), "hooks"].map(|group| (group, keys_of(group)));
    let defaults = HookSettings::default().settings();
    let odd = task.policy.settings().into_iter().zip(defaults);
    odd.filter(|(setting, default)| setting != default)
        .map(|((key, value), _)| {
            let is_in = |(_, keys): &&(&str, Vec<String>)| keys.iter().any(|k| k == key);
            // A script's own line has precedence over [hooks], and the hook's group over both.
            let (from, name) = match groups.iter().find(is_in) {
                Some((group, _)) if *group == own || is_default(rules, key, &value) => {
                    ("group", (*group).to_owned())
                }
                _ if task.source.is_empty() => ("script", String::new()),
                _ => ("adapter", task.source.to_owned()),
            };
            Setting {
                key,
                value,
                from,
                name,
            }
        })
        .collect()
}

fn is_default(rules: &HookConfig, key: &'static str, value: &str) -> bool {
    rules.defaults.settings().contains(&(key, value.to_owned()))
}

impl HookListView {
    fn render(&self, style: Style) -> String {
        let heading = format!("Hooks of {}, in the order of the freeze", self.directory);
        let mut text = style.wrap("", &style.bold(&escape_control(&heading)));
        text += &style.wrap("  settings: ", &escape_control(&self.configuration));
        if self.total_timeout > 0.0 {
            text += &format!("  total-timeout = {}\n", self.total_timeout);
        }
        if self.leaves_filesystems {
            let line = "an adapter's settings ask that no filesystem be frozen";
            text += &style.wrap("  ", line);
        }
        text.push('\n');
        if self.hooks.is_empty() {
            text += "  none\n";
        }
        let mut number = 0;
        for hook in &self.hooks {
            let mark = match hook.state {
                HookState::Runs => {
                    number += 1;
                    number.to_string()
                }
                HookState::Skipped | HookState::Unfit | HookState::Disabled => "-".to_owned(),
            };
            text += &hook.render(&mark, style);
        }
        if !self.warnings.is_empty() {
            text += &format!("\n{}\n", style.bold("To be fixed"));
            for warning in &self.warnings {
                let first = format!("  {} ", style.bad("-"));
                text += &style.wrap(&first, &escape_control(warning));
            }
        }
        text
    }
}

#[cfg(test)]
pub(super) fn sample() -> serde_json::Value {
    let text = || "x".to_owned();
    output::value(&HookListView {
        directory: text(),
        configuration: text(),
        total_timeout: 1.0,
        leaves_filesystems: false,
        hooks: vec![HookView {
            path: text(),
            source: "azure".into(),
            state: HookState::Unfit,
            reason: Some(Diagnostic::default()),
            parallel: true,
            freeze: Some(text()),
            thaw: Some(text()),
            settings: vec![Setting {
                key: "timeout",
                value: text(),
                from: "group",
                name: text(),
            }],
        }],
        warnings: vec![text()],
    })
}
