//! `qemu-ga hook list`: what would run, in which order, with which settings.

use super::{OPTIONS, file_name, place};
use crate::cli::Usage;
use crate::hooks::settings::{HookConfig, HookSettings};
use crate::hooks::task::{CommandLine, Eligibility, HookTask, batches};
use crate::hooks::{locate, sources};
use crate::tools::args::{JSON, ParsedArgs, Tool, ToolError};
use crate::tools::output::{self, Style, escape_control, wrap};
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

/// All hooks, in the members of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct HookListView {
    directory: String,
    configuration: String,
    /// Seconds for all hooks of a phase; 0: no limit.
    total_timeout: f64,
    /// Whether an adapter asks that no filesystem be frozen.
    leaves_filesystems: bool,
    /// In the order of the freeze, then those that are switched off.
    hooks: Vec<Hook>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Hook {
    path: String,
    /// The adapter that it belongs to; empty: of the directory.
    source: &'static str,
    /// `runs`, `passed-over` or `disabled`.
    state: &'static str,
    /// Why it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// It runs side by side with the one before it.
    beside: bool,
    /// What is started on freeze; a holding hook stays until the thaw.
    #[serde(skip_serializing_if = "Option::is_none")]
    freeze: Option<String>,
    /// What is started on thaw.
    #[serde(skip_serializing_if = "Option::is_none")]
    thaw: Option<String>,
    /// What differs from the defaults.
    settings: Vec<Setting>,
}

#[derive(Debug, Serialize)]
struct Setting {
    key: &'static str,
    value: String,
    /// Where it is from.
    from: String,
}

fn run(given: &ParsedArgs) -> Result<u8, ToolError> {
    let (dir, conf) = place(given);
    let master = dir.with_extension("");
    let (mut found, rules) = sources::read(&dir, &conf, "").map_err(|refusal| refusal.0)?;
    if master.is_file() && !locate::is_our_master(&master) {
        let text = format!("{}: {}", master.display(), locate::FOREIGN_MASTER);
        found.warnings.push(text);
    }
    let mut hooks = Vec::new();
    for batch in batches(found.tasks) {
        let of = |(at, step): (usize, &HookTask)| Hook::of(step, &rules, at > 0);
        hooks.extend(batch.iter().enumerate().map(of));
    }
    hooks.extend(found.disabled.iter().map(|s| Hook::of(s, &rules, false)));
    let shown = HookListView {
        directory: dir.display().to_string(),
        configuration: conf.display().to_string(),
        total_timeout: rules.total_timeout.unwrap_or_default().as_secs_f64(),
        leaves_filesystems: found.leaves_filesystems,
        hooks,
        warnings: found.warnings,
    };
    Ok(if given.has("--json") {
        output::print_json(&shown)
    } else {
        output::print(&shown.render(Style::of_stdout()))
    })
}

impl Hook {
    fn of(step: &HookTask, rules: &HookConfig, beside: bool) -> Hook {
        let words = |call: &CommandLine| {
            let mut words = call.program.display().to_string();
            for arg in &call.args {
                words += " ";
                words += &arg.to_string_lossy();
            }
            words
        };
        let (state, reason) = match &step.eligibility {
            _ if !step.policy.enabled => ("disabled", Some("enabled is no".to_owned())),
            Eligibility::Fit => ("runs", None),
            Eligibility::Skipped(why) | Eligibility::Unfit { reason: why, .. } => {
                ("passed-over", Some(why.clone()))
            }
        };
        Hook {
            path: step.name.clone(),
            source: step.source,
            state,
            reason,
            beside,
            freeze: step.freeze.as_ref().map(words),
            thaw: step.thaw.as_ref().map(words),
            settings: settings(step, rules),
        }
    }

    fn render(&self, mark: &str, style: Style) -> String {
        let mut text = format!(
            "{mark:>3}  {}",
            style.bold(&escape_control(file_name(&self.path)))
        );
        if !self.source.is_empty() {
            text += &format!("  ({})", self.source);
        }
        if self.beside {
            text += "  beside the one above";
        }
        text.push('\n');
        if let Some(reason) = &self.reason {
            let first = format!("       {}: ", style.warning(&self.state.replace('-', " ")));
            text += &wrap(&first, &escape_control(reason));
        } else if !self.source.is_empty() {
            for (phase, words) in [("freeze", &self.freeze), ("thaw", &self.thaw)] {
                let words = words.as_deref().unwrap_or("nothing");
                text += &wrap(&format!("       {phase}: "), &escape_control(words));
            }
        }
        for Setting { key, value, from } in &self.settings {
            text += &wrap(
                "       ",
                &escape_control(&format!("{key} = {value} ({from})")),
            );
        }
        text
    }
}

/// What differs from the defaults, and where each is from.
fn settings(step: &HookTask, rules: &HookConfig) -> Vec<Setting> {
    let keys_of = |group: &str| {
        let mut keys = Vec::new();
        rules.each(group, &mut |key, _| {
            keys.push(key.to_owned());
            Ok(())
        });
        keys
    };
    let own = match step.source {
        "" => format!("hook {}", file_name(&step.name)),
        source => source.to_owned(),
    };
    let groups = [own.as_str(), "hooks"].map(|group| (group, keys_of(group)));
    let defaults = HookSettings::default().settings();
    let odd = step.policy.settings().into_iter().zip(defaults);
    odd.filter(|(setting, default)| setting != default)
        .map(|((key, value), _)| {
            let is_in = |(_, keys): &&(&str, Vec<String>)| keys.iter().any(|k| k == key);
            // A script's own word stands between its group and the defaults.
            let from = match groups.iter().find(is_in) {
                Some((group, _)) if *group == own || is_default(rules, key, &value) => {
                    format!("[{group}]")
                }
                _ if step.source.is_empty() => "in the script".to_owned(),
                _ => format!("as {} has it", step.source),
            };
            Setting { key, value, from }
        })
        .collect()
}

fn is_default(rules: &HookConfig, key: &'static str, value: &str) -> bool {
    rules.defaults.settings().contains(&(key, value.to_owned()))
}

impl HookListView {
    fn render(&self, style: Style) -> String {
        let heading = format!("Hooks of {}, in the order of the freeze", self.directory);
        let mut text = format!("{}\n", style.bold(&escape_control(&heading)));
        text += &wrap("  settings: ", &escape_control(&self.configuration));
        if self.total_timeout > 0.0 {
            text += &format!("  total-timeout = {}\n", self.total_timeout);
        }
        if self.leaves_filesystems {
            text += "  an adapter's settings ask that no filesystem be frozen\n";
        }
        text.push('\n');
        if self.hooks.is_empty() {
            text += "  none\n";
        }
        let mut number = 0;
        for hook in &self.hooks {
            let mark = match hook.state {
                "runs" => {
                    number += 1;
                    number.to_string()
                }
                _ => "-".to_owned(),
            };
            text += &hook.render(&mark, style);
        }
        if !self.warnings.is_empty() {
            text += &format!("\n{}\n", style.bold("To be fixed"));
            for warning in &self.warnings {
                text += &wrap(&format!("  {} ", style.bad("-")), &escape_control(warning));
            }
        }
        text
    }
}
