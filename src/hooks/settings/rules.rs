//! `fsfreeze-hook.conf`, combined with the settings in the scripts themselves.
//!
//! A line that cannot be read does not affect the other lines. But the hook that it is about does not run:
//! the line may have set its user, or that its failure aborts the freeze. So each such [`ConfigFault`] has a
//! scope, and a hook or adapter in that scope fails, with `abort` unless the rest of the settings says
//! `continue`. An invalid value of any other key is a warning, and the key keeps its default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{HookSettings, OnFailure, head};
use crate::hooks::sources;
use crate::hooks::trust::{self, Refusal, quoted};
use crate::keyfile::{self, Line, Problem, parse_boolean, parse_time_limit};

/// The group with the defaults.
const DEFAULTS: &str = "hooks";
/// The beginning of the name of a hook's group.
const HOOK_PREFIX: &str = "hook ";
/// Faults that are reported one by one.
const MAX_REPORTED_FAULTS: usize = 20;
/// Some editors begin a file with this.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The content of `fsfreeze-hook.conf`.
#[derive(Clone, Debug, Default)]
pub struct HookConfig {
    /// The settings of `[hooks]`, from which each hook's own settings start.
    pub defaults: HookSettings,
    /// Time for all hooks of one phase together; None: no limit.
    pub total_timeout: Option<Duration>,
    /// The problems of the file, one line each.
    pub warnings: Vec<String>,
    path: PathBuf,
    settings: Vec<Setting>,
    faults: Vec<ConfigFault>,
}

#[derive(Clone, Debug)]
struct Setting {
    group: String,
    key: String,
    value: String,
    line: usize,
}

/// A part of the file that cannot be read.
#[derive(Clone, Debug)]
struct ConfigFault {
    reach: FaultScope,
    /// The place, the reason and the remedy.
    text: String,
    /// Whether the faulty text sets that a failure aborts the freeze; None: it sets neither.
    aborts: Option<bool>,
}

/// What a fault may be about.
#[derive(Clone, Debug)]
enum FaultScope {
    /// All hooks and adapters.
    All,
    /// The group of this name.
    Group(String),
    /// All hooks and adapters whose name is in this group header, which cannot be read; in lower case.
    Head(String),
}

/// The settings of one hook.
#[derive(Debug)]
pub struct EffectiveSettings {
    /// The settings that apply to it.
    pub policy: HookSettings,
    /// Settings that are ignored, one line each.
    pub warnings: Vec<String>,
    /// Why it must not run: settings that may be about it cannot be read.
    pub fault: Option<String>,
}

impl HookConfig {
    /// Reads the file at `path`; a file that does not exist is empty.
    ///
    /// # Errors
    /// Another user could have written it, or it cannot be read, so nothing is known of the settings of any
    /// hook.
    pub fn read(path: &Path) -> Result<HookConfig, Refusal> {
        let text = trust::read(path)?.unwrap_or_default();
        Ok(HookConfig::parse(path, &text))
    }

    /// Parses `text`; warnings name `path`.
    pub fn parse(path: &Path, text: &[u8]) -> HookConfig {
        let mut rules = HookConfig {
            path: path.to_owned(),
            ..HookConfig::default()
        };
        rules.parse_lines(text);
        rules.reach_of_unknown_groups();
        let (mut defaults, mut total) = (HookSettings::default(), None);
        let warnings = rules.each(DEFAULTS, &mut |key, value| match key {
            "total-timeout" => parse_time_limit(value).map(|limit| total = limit),
            "type" => Err("is a setting of single hooks".into()),
            _ => defaults.set(key, value),
        });
        rules.warnings.extend(warnings);
        (rules.defaults, rules.total_timeout) = (defaults, total);
        rules
    }

    fn parse_lines(&mut self, text: &[u8]) {
        let bare = text.strip_prefix(BYTE_ORDER_MARK);
        if bare.is_some() {
            let remedy = format!("sed -i '1s/^\\xEF\\xBB\\xBF//' {}", quoted(&self.path));
            self.warn(1, &format!("byte order mark ignored; remove it: {remedy}"));
        }
        // `group` is None before the first group and after a group header that cannot be read; `bad_head` is
        // the index of the fault that reports this.
        let (mut group, mut bad_head) = (None, None);
        let mut heads: Vec<(String, usize)> = Vec::new();
        for (number, text, line) in keyfile::lines(bare.unwrap_or(text)) {
            let text = String::from_utf8_lossy(text);
            if text.starts_with(';') {
                self.warn(
                    number,
                    "';' begins no comment here, but is taken for one; write #",
                );
                continue;
            }
            let problem = match (line, &group) {
                (Line::Group(name), _) => {
                    let name = match name.strip_prefix(HOOK_PREFIX) {
                        Some(hook) => [HOOK_PREFIX, hook.trim()].concat(),
                        None => name.into_owned(),
                    };
                    match heads.iter().find(|(known, _)| *known == name) {
                        Some((_, first)) => self.warn(
                            number,
                            &format!(
                                "[{name}] begins in line {first} already; keep the two in one"
                            ),
                        ),
                        None => heads.push((name.clone(), number)),
                    }
                    (group, bad_head) = (Some(name), None);
                    continue;
                }
                (Line::Entry(entry), Some(group)) => {
                    match is_clean(&entry.key).then(|| entry.string()) {
                        Some(Ok(value)) => {
                            self.add(Setting {
                                group: group.clone(),
                                key: entry.key.into_owned(),
                                value: value.trim().to_owned(),
                                line: number,
                            });
                            continue;
                        }
                        Some(Err(problem)) => problem,
                        None => {
                            let key = keyfile::excerpt(&entry.key);
                            entry.problem(format!("'{key}' can be no key"), "write it anew")
                        }
                    }
                }
                (Line::Entry(entry), None) => {
                    let key = keyfile::excerpt(&entry.key);
                    let advice = "put it below a group, [hooks] or [hook NAME]";
                    entry.problem(format!("'{key}' is in no group"), advice)
                }
                (Line::Invalid(problem), _) => {
                    if is_head(&text) {
                        (group, bad_head) = (None, Some(self.faults.len()));
                        self.fault(head_reach(&text), problem, aborts(&text));
                        continue;
                    }
                    problem
                }
            };
            match (&group, bad_head) {
                (Some(group), _) => {
                    let reach = match group.as_str() {
                        DEFAULTS => FaultScope::All,
                        group => FaultScope::Group(group.to_owned()),
                    };
                    self.fault(reach, problem, aborts(&text));
                }
                // The line belongs to the header that cannot be read, and is covered by its fault.
                (None, Some(at)) => self.faults[at].adds(aborts(&text)),
                (None, None) => {
                    bad_head = Some(self.faults.len());
                    self.fault(FaultScope::All, problem, aborts(&text));
                }
            }
        }
        let unreported = self.faults.len().saturating_sub(MAX_REPORTED_FAULTS);
        if unreported > 0 {
            let path = self.path.display();
            self.warnings.push(format!(
                "{path}: {unreported} more lines cannot be read; correct them"
            ));
        }
    }

    fn warn(&mut self, line: usize, what: &str) {
        let path = self.path.display();
        self.warnings.push(format!("{path} (line {line}): {what}"));
    }

    fn fault(&mut self, reach: FaultScope, problem: Problem, aborts: Option<bool>) {
        let Problem {
            line,
            reason,
            advice,
        } = problem;
        let path = self.path.display();
        let text = format!("{path} (line {line}): {reason}; {advice}");
        if self.faults.len() < MAX_REPORTED_FAULTS {
            self.warnings
                .push(format!("{text}; what it is about is not run"));
        }
        self.faults.push(ConfigFault {
            reach,
            text,
            aborts,
        });
    }

    fn add(&mut self, setting: Setting) {
        let Setting {
            group,
            key,
            value,
            line,
        } = &setting;
        let (line, setting_text) = (*line, format!("{key}={value} in [{group}]"));
        let known = self.settings.iter();
        let earlier = known.rev().find(|s| s.group == *group && s.key == *key);
        if let Some(earlier) = earlier.map(|earlier| earlier.line) {
            self.warn(
                line,
                &format!(
                    "{setting_text} is in line {earlier} too; the last one counts, take one out"
                ),
            );
        }
        let Some((reason, aborts)) = find_fault(group, key, value) else {
            self.settings.push(setting);
            return;
        };
        let reach = match group.as_str() {
            DEFAULTS => FaultScope::All,
            group => FaultScope::Group(group.to_owned()),
        };
        let problem = Problem {
            line,
            reason: format!("{setting_text} {reason}"),
            advice: "correct that line",
        };
        self.fault(reach, problem, aborts);
    }

    /// A group with an unknown name may be a misspelled one, so it is a fault of every hook that the name
    /// mentions.
    fn reach_of_unknown_groups(&mut self) {
        let mut faults: Vec<(&str, ConfigFault)> = Vec::new();
        for Setting {
            group,
            key,
            value,
            line,
        } in &self.settings
        {
            if is_known(group) {
                continue;
            }
            let aborts = aborts(&format!("{key}={value}"));
            match faults.iter_mut().find(|(name, _)| name == group) {
                Some((_, fault)) => fault.adds(aborts),
                None => {
                    let path = self.path.display();
                    let text = format!(
                        "{path} (line {line}): [{group}] means nothing here; a hook's group is [hook NAME]"
                    );
                    let reach = head_reach(group);
                    faults.push((
                        group,
                        ConfigFault {
                            reach,
                            text,
                            aborts,
                        },
                    ));
                }
            }
        }
        let faults: Vec<ConfigFault> = faults.into_iter().map(|(_, fault)| fault).collect();
        self.warnings.extend(faults.iter().map(|f| f.text.clone()));
        self.faults.extend(faults);
    }

    /// Calls `set` with each setting of a group; returns a warning for each error.
    pub fn each(
        &self,
        group: &str,
        set: &mut dyn FnMut(&str, &str) -> Result<(), String>,
    ) -> Vec<String> {
        let of_group = self.settings.iter().filter(|s| s.group == group);
        of_group
            .filter_map(
                |Setting {
                     key, value, line, ..
                 }| {
                    let why = set(key, value).err()?;
                    let path = self.path.display();
                    Some(format!(
                        "{path} (line {line}): {key}={value} in [{group}] {why}; ignored"
                    ))
                },
            )
            .collect()
    }

    /// The names of the hooks with a group of their own.
    pub fn named_hooks(&self) -> impl Iterator<Item = &str> {
        let groups = self.settings.iter().map(|setting| setting.group.as_str());
        groups.filter_map(|group| group.strip_prefix(HOOK_PREFIX))
    }

    /// The settings of the hook `name`, whose file begins with `head`. The file's own settings override
    /// `[hooks]`, and the hook's group overrides both.
    pub fn of_hook(&self, name: &str, head: &[u8]) -> EffectiveSettings {
        let mut policy = self.defaults.clone();
        let (own, malformed) = head::read(head);
        let malformed = malformed.into_iter().map(|line| format!("{name} {line}"));
        let mut warnings: Vec<String> = malformed.collect();
        let mut is_set = self.sets(DEFAULTS, "on-failure");
        let mut head_fault = None;
        for head::Setting { key, value, line } in own {
            let setting_text =
                |why: &str| format!("{name} (line {line}): qga-hook: {key} = {value} {why}");
            if let Some((why, aborts)) = find_fault(HOOK_PREFIX, &key, &value) {
                head_fault = Some((setting_text(why) + "; correct that line", aborts));
            } else if let Err(why) = policy.set(&key, &value) {
                warnings.push(setting_text(&why) + "; ignored");
            } else {
                is_set |= key == "on-failure";
            }
        }
        let group = format!("{HOOK_PREFIX}{name}");
        warnings.extend(self.each(&group, &mut |key, value| policy.set(key, value)));
        is_set |= self.sets(&group, "on-failure");
        let fault = self
            .fault_of(&group, name)
            .map(|(why, aborts, _)| (why, aborts));
        let fault = fault.or(head_fault).map(|(why, aborts)| {
            policy.on_failure = on_failure(&policy, is_set, aborts);
            why
        });
        EffectiveSettings {
            policy,
            warnings,
            fault,
        }
    }

    /// Why the adapter `name` must not run, what that does to the freeze, and whether a fault names the
    /// adapter: settings that may be about it cannot be read.
    pub fn fault_of_adapter(
        &self,
        name: &str,
        policy: &HookSettings,
    ) -> Option<(String, OnFailure, bool)> {
        let (why, aborts, is_named) = self.fault_of(name, name)?;
        let is_set = self.sets(name, "on-failure");
        Some((why, on_failure(policy, is_set, aborts), is_named))
    }

    /// Whether the key is set in the group.
    pub fn sets(&self, group: &str, key: &str) -> bool {
        self.settings
            .iter()
            .any(|s| s.group == group && s.key == key)
    }

    fn fault_of(&self, group: &str, name: &str) -> Option<(String, Option<bool>, bool)> {
        let name = name.to_lowercase();
        let is_about = |fault: &&ConfigFault| match &fault.reach {
            FaultScope::All => true,
            FaultScope::Group(of) => of == group,
            FaultScope::Head(head) => mentions(head, &name),
        };
        let mut faults = self.faults.iter().filter(is_about);
        let mut all = faults.next()?.clone();
        let mut is_named = !matches!(all.reach, FaultScope::All);
        for fault in faults {
            all.adds(fault.aborts);
            is_named |= !matches!(fault.reach, FaultScope::All);
        }
        Some((all.text, all.aborts, is_named))
    }
}

impl ConfigFault {
    fn adds(&mut self, aborts: Option<bool>) {
        self.aborts = match (self.aborts, aborts) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (before, added) => before.or(added),
        };
    }
}

/// The effect of a failure where a part of the settings cannot be read; `policy` has the readable part.
/// Without any statement it is `abort`.
fn on_failure(policy: &HookSettings, is_set: bool, aborts: Option<bool>) -> OnFailure {
    match aborts {
        Some(true) => OnFailure::Abort,
        _ if is_set => policy.on_failure,
        Some(false) => OnFailure::Continue,
        None => OnFailure::Abort,
    }
}

fn is_known(group: &str) -> bool {
    let is_hook = group
        .strip_prefix(HOOK_PREFIX)
        .is_some_and(|name| !name.is_empty());
    group == DEFAULTS || is_hook || sources::adapter(group).is_some()
}

fn is_clean(key: &str) -> bool {
    let is_odd = |c: char| c.is_control() || matches!(c, '[' | ']' | char::REPLACEMENT_CHARACTER);
    !key.contains(is_odd)
}

/// Whether a line that cannot be read looks like a group header.
fn is_head(text: &str) -> bool {
    let bare = text.trim_end();
    let is_closed = bare.ends_with(']') || bare.split_whitespace().next() == Some("hook");
    text.starts_with('[')
        || !is_clean(bare) && !is_closed && text.contains(['[', ']'])
        || is_closed && !text.contains([':', '='])
}

fn head_reach(text: &str) -> FaultScope {
    let head = text.to_lowercase();
    let bare = head.trim_matches(|c: char| !c.is_alphanumeric());
    let is_odd = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
    if matches!(bare, "" | "hook") || head.contains(is_odd) || mentions(&head, DEFAULTS) {
        FaultScope::All
    } else {
        FaultScope::Head(head)
    }
}

/// Whether `text` contains `name` as a whole word.
fn mentions(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || "._-".contains(c);
    text.match_indices(name).any(|(at, _)| {
        !text[..at].ends_with(is_part) && !text[at + name.len()..].starts_with(is_part)
    })
}

/// The value for [`ConfigFault::aborts`] that the text of a faulty line suggests.
fn aborts(text: &str) -> Option<bool> {
    let letters = letters(text);
    if letters.contains("abort") {
        return Some(true);
    }
    letters
        .contains("onfail")
        .then(|| !letters.contains("continue"))
}

fn letters(text: &str) -> String {
    let letters = text.chars().filter(|c| c.is_alphanumeric());
    letters.collect::<String>().to_lowercase()
}

/// The problem with a setting that protects (`on-failure`, `enabled`, `type`, `user`), or that may be a
/// misspelled one; and the value for [`ConfigFault::aborts`].
fn find_fault(group: &str, key: &str, value: &str) -> Option<(&'static str, Option<bool>)> {
    let is_hook = group == DEFAULTS || group.starts_with(HOOK_PREFIX);
    let is_adapter = sources::adapter(group).is_some();
    let known = HookSettings::default().settings();
    let letters = letters(key);
    let begins = |words: &[&str]| words.iter().any(|word| letters.starts_with(word));
    match key {
        _ if !is_hook && !is_adapter => None,
        "on-failure" if !matches!(value, "continue" | "abort") => {
            Some(("is neither continue nor abort", Some(true)))
        }
        "enabled" if parse_boolean(value).is_err() && (is_hook || value != "auto") => {
            Some(("is neither yes nor no", None))
        }
        "type" if is_hook && !matches!(value, "once" | "hold") => {
            Some(("is neither once nor hold", None))
        }
        _ if known.iter().any(|(known, _)| *known == key) => None,
        _ if value == "abort" => Some(("may be on-failure misspelt", Some(true))),
        _ if is_hook && value == "hold" => Some(("may be type misspelt", None)),
        _ if is_hook && begins(&["user", "usr", "uid", "runas"]) => {
            Some(("may be user misspelt", None))
        }
        _ if begins(&["enab", "disab"]) => Some(("may be enabled misspelt", None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
