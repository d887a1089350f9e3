//! `fsfreeze-hook.conf`, combined with the settings in the scripts themselves.
//!
//! A line that cannot be read does not affect the other lines. But the hook that it is about does not run:
//! the line may have set its user, or that its failure aborts the freeze. So each such [`ConfigFault`] has a
//! scope, and a hook or adapter in that scope fails, with `abort` unless the rest of the settings says
//! `continue`. An invalid value of any other key is a warning, and the key keeps its default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{HookSettings, OnFailure, head};
use crate::diagnostic::Diagnostic;
use crate::hooks::adapter::{self, Adapter};
use crate::hooks::trust::{self, quoted};
use crate::keyfile::{self, Entry, Line, Problem, parse_boolean, parse_time_limit};

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
    /// The adapters whose groups the file may have.
    pub(in crate::hooks) adapters: &'static [Adapter],
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
    reason: Diagnostic,
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

impl FaultScope {
    fn of_group(name: &str) -> FaultScope {
        match name {
            DEFAULTS => FaultScope::All,
            name => FaultScope::Group(name.to_owned()),
        }
    }
}

/// What the lines before the current one say about it.
#[derive(Default)]
struct Position {
    /// None before the first group and after a group header that cannot be read.
    group: Option<String>,
    /// The index of the fault that reports the missing or unreadable group header.
    bad_head: Option<usize>,
    /// The groups with the lines in which they begin.
    heads: Vec<(String, usize)>,
}

impl Setting {
    fn read(group: &str, entry: Entry<'_>) -> Result<Setting, Problem> {
        if !is_clean(&entry.key) {
            let key = keyfile::excerpt(&entry.key);
            return Err(entry.problem(format!("'{key}' is not a valid key"), "correct it"));
        }
        Ok(Setting {
            value: entry.string()?.trim().to_owned(),
            group: group.to_owned(),
            line: entry.line,
            key: entry.key.into_owned(),
        })
    }
}

/// The settings of one hook.
#[derive(Debug)]
pub struct EffectiveSettings {
    /// The settings that apply to it.
    pub policy: HookSettings,
    /// Settings that are ignored, one line each.
    pub warnings: Vec<String>,
    /// Why it must not run: settings that may be about it cannot be read.
    pub fault: Option<Diagnostic>,
}

impl HookConfig {
    /// Reads the file at `path`; a file that does not exist is empty.
    ///
    /// # Errors
    /// Another user could have written it, or it cannot be read, so nothing is known of the settings of any
    /// hook.
    pub fn read(path: &Path, adapters: &'static [Adapter]) -> Result<HookConfig, Diagnostic> {
        let text = trust::read(path)?.unwrap_or_default();
        Ok(HookConfig::parse(path, &text, adapters))
    }

    /// Parses `text`; warnings name `path`.
    pub fn parse(path: &Path, text: &[u8], adapters: &'static [Adapter]) -> HookConfig {
        let mut rules = HookConfig {
            adapters,
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
        let mut position = Position::default();
        for (number, text, line) in keyfile::lines(bare.unwrap_or(text)) {
            let text = String::from_utf8_lossy(text);
            if text.starts_with(';') {
                let what = "';' begins no comment here, but is taken for one; write #";
                self.warn(number, what);
            } else {
                self.parse_line(&mut position, (number, &text), line);
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

    fn parse_line(
        &mut self,
        position: &mut Position,
        (number, text): (usize, &str),
        line: Line<'_>,
    ) {
        let problem = match (line, &position.group) {
            (Line::Group(name), _) => return self.begin_group(position, number, &name),
            (Line::Entry(entry), Some(group)) => match Setting::read(group, entry) {
                Ok(setting) => return self.add(setting),
                Err(problem) => problem,
            },
            (Line::Entry(entry), None) => {
                let key = keyfile::excerpt(&entry.key);
                let advice = "put it below a group, [hooks] or [hook NAME]";
                entry.problem(format!("'{key}' is in no group"), advice)
            }
            (Line::Invalid(problem), _) if is_head(text) => {
                (position.group, position.bad_head) = (None, Some(self.faults.len()));
                return self.fault(head_reach(text), problem, aborts(text));
            }
            (Line::Invalid(problem), _) => problem,
        };
        match (&position.group, position.bad_head) {
            (Some(group), _) => self.fault(FaultScope::of_group(group), problem, aborts(text)),
            // The line belongs to the header that cannot be read, and is covered by its fault.
            (None, Some(at)) => self.faults[at].adds(aborts(text)),
            (None, None) => {
                position.bad_head = Some(self.faults.len());
                self.fault(FaultScope::All, problem, aborts(text));
            }
        }
    }

    fn begin_group(&mut self, position: &mut Position, number: usize, name: &str) {
        let name = match name.strip_prefix(HOOK_PREFIX) {
            Some(hook) => [HOOK_PREFIX, hook.trim()].concat(),
            None => name.to_owned(),
        };
        let mut known = position.heads.iter();
        match known.find(|(known, _)| *known == name) {
            Some((_, first)) => self.warn(
                number,
                &format!("[{name}] begins in line {first} already; keep the two in one"),
            ),
            None => position.heads.push((name.clone(), number)),
        }
        (position.group, position.bad_head) = (Some(name), None);
    }

    fn warn(&mut self, line: usize, what: &str) {
        let path = self.path.display();
        self.warnings.push(format!("{path} (line {line}): {what}"));
    }

    fn fault(&mut self, reach: FaultScope, problem: Problem, aborts: Option<bool>) {
        let place = format!("{} (line {})", self.path.display(), problem.line);
        let reason = Diagnostic::new(place, problem.reason, problem.advice);
        if self.faults.len() < MAX_REPORTED_FAULTS {
            self.warnings
                .push(format!("{reason}; what it is about is not run"));
        }
        self.faults.push(ConfigFault {
            reach,
            reason,
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
        let Some((reason, aborts)) = self.find_fault(group, key, value) else {
            self.settings.push(setting);
            return;
        };
        let reach = FaultScope::of_group(group);
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
            if self.is_known(group) {
                continue;
            }
            let aborts = aborts(&format!("{key}={value}"));
            match faults.iter_mut().find(|(name, _)| name == group) {
                Some((_, fault)) => fault.adds(aborts),
                None => {
                    let reason = Diagnostic::new(
                        format!("{} (line {line})", self.path.display()),
                        format!("[{group}] means nothing here"),
                        "a hook's group is [hook NAME]",
                    );
                    let fault = ConfigFault {
                        reach: head_reach(group),
                        reason,
                        aborts,
                    };
                    faults.push((group, fault));
                }
            }
        }
        let faults: Vec<ConfigFault> = faults.into_iter().map(|(_, fault)| fault).collect();
        let texts = faults.iter().map(|fault| fault.reason.to_string());
        self.warnings.extend(texts);
        self.faults.extend(faults);
    }

    fn is_adapter(&self, group: &str) -> bool {
        adapter::by_name(self.adapters, group).is_some()
    }

    fn is_known(&self, group: &str) -> bool {
        let is_hook = group
            .strip_prefix(HOOK_PREFIX)
            .is_some_and(|name| !name.is_empty());
        group == DEFAULTS || is_hook || self.is_adapter(group)
    }

    /// The problem with a setting that protects (`on-failure`, `enabled`, `type`, `user`), or that may be a
    /// misspelled one; and the value for [`ConfigFault::aborts`].
    fn find_fault(
        &self,
        group: &str,
        key: &str,
        value: &str,
    ) -> Option<(&'static str, Option<bool>)> {
        let is_hook = group == DEFAULTS || group.starts_with(HOOK_PREFIX);
        let is_adapter = self.is_adapter(group);
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
            let fault = |why: &str, remedy: &str| {
                let why = format!("qga-hook: {key} = {value} {why}");
                Diagnostic::new(format!("{name} (line {line})"), why, remedy)
            };
            if let Some((why, aborts)) = self.find_fault(HOOK_PREFIX, &key, &value) {
                head_fault = Some((fault(why, "correct that line"), aborts));
            } else if let Err(why) = policy.set(&key, &value) {
                warnings.push(fault(&why, "ignored").to_string());
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
    ) -> Option<(Diagnostic, OnFailure, bool)> {
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

    fn fault_of(&self, group: &str, name: &str) -> Option<(Diagnostic, Option<bool>, bool)> {
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
        Some((all.reason, all.aborts, is_named))
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

#[cfg(test)]
mod tests;
