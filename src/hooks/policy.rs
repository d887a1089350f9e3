//! What the operator wants of the hooks: `fsfreeze-hook.conf` beside the master, and what a script
//! says of itself in its head.
//!
//! The defaults are the stock master's: a failure is logged and changes nothing. A mistake in the
//! file is a warning and leaves that one key at its default: it never keeps a freeze from
//! happening. Only a file that others could have written is refused, for it can name programs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::trust::{self, Refusal};
use crate::keyfile;
use crate::sys::strerror;

/// Group of the defaults.
const DEFAULTS: &str = "hooks";
/// What stands before a hook's name in the name of its group.
const HOOK_PREFIX: &str = "hook ";
/// What marks a script's own settings.
const HEAD_MARK: &str = "# qga-hook:";
/// In how many lines of a script they are looked for.
const HEAD_LINES: usize = 50;
/// Longest time that can be asked for, in seconds: a day.
const LONGEST: f64 = 86_400.0;
/// Last of the stages.
pub const LAST_STAGE: u8 = 99;

/// What a failure does to the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It is logged and reported, nothing else.
    Continue,
    /// On freeze: no later hook is called, what started is undone, and the freeze fails. On thaw: all
    /// others are called, and then the thaw answers an error.
    Abort,
}

/// How a hook works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Called with `freeze`, and later with `thaw`.
    Once,
    /// Started at the freeze, and released at the thaw.
    Hold,
}

/// The settings of one hook.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Whether it is called at all.
    pub enabled: bool,
    /// How it works.
    pub kind: Kind,
    /// What its failure does.
    pub on_failure: OnFailure,
    /// Time for one start; None: as long as it takes.
    pub timeout: Option<Duration>,
    /// Time between SIGTERM and SIGKILL.
    pub kill_after: Duration,
    /// How many further starts after a failure.
    pub retries: u32,
    /// Pause before each of them.
    pub retry_pause: Duration,
    /// Exit statuses that are a success.
    pub success: Vec<i32>,
    /// Exit statuses that say: this has nothing to do here.
    pub not_applicable: Vec<i32>,
    /// Whom it runs as; None: as the master.
    pub user: Option<String>,
    /// Its stage; stages run one after another.
    pub stage: u8,
    /// Runs side by side with the others of its stage that do.
    pub parallel: bool,
    /// How much of one start's output goes into the log, in bytes.
    pub output_limit: u64,
    /// How long a holding hook may hold; None: somewhat longer than the agent lets a freeze last.
    pub hold_timeout: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            enabled: true,
            kind: Kind::Once,
            on_failure: OnFailure::Continue,
            timeout: Some(Duration::from_secs(600)),
            kill_after: Duration::from_millis(500),
            retries: 0,
            retry_pause: Duration::from_secs(1),
            success: vec![0],
            not_applicable: vec![77],
            user: None,
            stage: 50,
            parallel: false,
            output_limit: 1 << 20,
            hold_timeout: None,
        }
    }
}

impl Policy {
    /// Sets one key.
    ///
    /// # Errors
    /// What is wrong with the key or its value, as half a sentence; nothing was changed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let value = value.trim();
        match key {
            "enabled" => self.enabled = boolean(value)?,
            "type" => {
                self.kind = match value {
                    "once" => Kind::Once,
                    "hold" => Kind::Hold,
                    _ => return Err("is neither once nor hold".into()),
                }
            }
            "on-failure" => {
                self.on_failure = match value {
                    "continue" => OnFailure::Continue,
                    "abort" => OnFailure::Abort,
                    _ => return Err("is neither continue nor abort".into()),
                }
            }
            "timeout" => self.timeout = limit(value)?,
            "kill-after" => self.kill_after = seconds(value)?,
            "retries" => self.retries = number(value, 100)?,
            "retry-pause" => self.retry_pause = seconds(value)?,
            "success" => self.success = statuses(value)?,
            "not-applicable" => self.not_applicable = statuses(value)?,
            "user" => self.user = (!value.is_empty()).then(|| value.to_owned()),
            "stage" => self.stage = number(value, LAST_STAGE)?,
            "parallel" => self.parallel = boolean(value)?,
            "output-limit" => self.output_limit = number(value, u64::from(u32::MAX))?,
            "hold-timeout" => self.hold_timeout = limit(value)?,
            _ => return Err("is no setting of a hook".into()),
        }
        Ok(())
    }

    /// Every key with its value, as [`Policy::set`] takes them.
    pub fn settings(&self) -> [(&'static str, String); 14] {
        let word = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let time = |time: Duration| time.as_secs_f64().to_string();
        let limit = |limit: Option<Duration>| time(limit.unwrap_or_default());
        let list = |statuses: &[i32]| {
            let words: Vec<String> = statuses.iter().map(i32::to_string).collect();
            words.join(";")
        };
        let is_holding = self.kind == Kind::Hold;
        let aborts = self.on_failure == OnFailure::Abort;
        [
            ("enabled", word(self.enabled)),
            ("type", if is_holding { "hold" } else { "once" }.to_owned()),
            ("stage", self.stage.to_string()),
            ("parallel", word(self.parallel)),
            (
                "on-failure",
                if aborts { "abort" } else { "continue" }.to_owned(),
            ),
            ("timeout", limit(self.timeout)),
            ("kill-after", time(self.kill_after)),
            ("hold-timeout", limit(self.hold_timeout)),
            ("retries", self.retries.to_string()),
            ("retry-pause", time(self.retry_pause)),
            ("success", list(&self.success)),
            ("not-applicable", list(&self.not_applicable)),
            ("user", self.user.clone().unwrap_or_default()),
            ("output-limit", self.output_limit.to_string()),
        ]
    }
}

/// `yes` and `no`, and the key file's own words for them.
///
/// # Errors
/// It is neither.
pub fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "yes" | "true" | "1" | "on" => Ok(true),
        "no" | "false" | "0" | "off" => Ok(false),
        _ => Err("is neither yes nor no".into()),
    }
}

/// A number of seconds, fractions allowed.
///
/// # Errors
/// It is none, or more than a day.
pub fn seconds(value: &str) -> Result<Duration, String> {
    match value.parse::<f64>() {
        Ok(seconds) if (0.0..=LONGEST).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("is no number of seconds from 0 to {LONGEST}")),
    }
}

/// As [`seconds`], with 0 for no limit.
///
/// # Errors
/// As [`seconds`].
pub fn limit(value: &str) -> Result<Option<Duration>, String> {
    seconds(value).map(|limit| (!limit.is_zero()).then_some(limit))
}

fn number<N>(value: &str, most: N) -> Result<N, String>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let number = value.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| format!("is no whole number from 0 to {most}"))
}

fn statuses(value: &str) -> Result<Vec<i32>, String> {
    let parts = value.split([';', ',']).map(str::trim);
    let numbers = parts.filter(|part| !part.is_empty());
    numbers
        .map(|part| number(part, 255_u8).map(i32::from))
        .collect::<Result<_, _>>()
        .map_err(|_| "is no list of exit statuses from 0 to 255, like 0;3".to_owned())
}

/// All that `fsfreeze-hook.conf` says.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The settings that every hook begins with.
    pub defaults: Policy,
    /// Time for all hooks of one phase together.
    pub total_timeout: Option<Duration>,
    /// What was passed over, one line each.
    pub warnings: Vec<String>,
    path: PathBuf,
    settings: Vec<Setting>,
}

#[derive(Clone, Debug)]
struct Setting {
    group: String,
    key: String,
    value: String,
    line: usize,
}

impl Rules {
    /// Reads the file at `path`; one that does not exist says nothing.
    ///
    /// # Errors
    /// Others could have written it.
    pub fn read(path: &Path) -> Result<Rules, Refusal> {
        let mut rules = Rules::parse(path, b"");
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(rules),
            Err(error) => {
                let why = strerror(&error);
                let path = path.display();
                rules.warnings.push(format!(
                    "{path} cannot be read: {why}; the defaults are used"
                ));
                return Ok(rules);
            }
        };
        trust::check(path)?;
        Ok(Rules::parse(path, &text))
    }

    /// What `text` says; `path` is named in the warnings.
    pub fn parse(path: &Path, text: &[u8]) -> Rules {
        let mut rules = Rules {
            path: path.to_owned(),
            ..Rules::default()
        };
        rules.take(text);
        rules
    }

    fn take(&mut self, text: &[u8]) {
        let entries = match keyfile::parse(text) {
            Ok(entries) => entries,
            Err(problem) => {
                let path = self.path.display();
                self.warnings
                    .push(format!("{path}: {problem}; the defaults are used"));
                return;
            }
        };
        for entry in entries {
            match entry.string() {
                Ok(value) => self.settings.push(Setting {
                    group: entry.group.into_owned(),
                    key: entry.key.into_owned(),
                    value: value.trim().to_owned(),
                    line: entry.line,
                }),
                Err(problem) => self.warnings.push(format!(
                    "{}: {problem}; it is passed over",
                    self.path.display()
                )),
            }
        }
        let mut defaults = Policy::default();
        let mut total = None;
        let warnings = self.each(DEFAULTS, &mut |key, value| match key {
            "total-timeout" => limit(value).map(|limit| total = limit),
            "type" => Err("is a setting of single hooks".into()),
            _ => defaults.set(key, value),
        });
        self.warnings.extend(warnings);
        self.defaults = defaults;
        self.total_timeout = total;
    }

    /// Hands every setting of a group to `set`; returns a warning for each that it refuses.
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
                        "{path} (line {line}): {key}={value} in [{group}] {why}; it is passed over"
                    ))
                },
            )
            .collect()
    }

    /// The groups that are neither the defaults, nor a hook's, nor one of `known`: one warning each.
    pub fn unknown_groups(&self, known: &[&str]) -> Vec<String> {
        let mut seen = vec![DEFAULTS];
        seen.extend(known);
        let mut warnings = Vec::new();
        for Setting { group, line, .. } in &self.settings {
            if group.starts_with(HOOK_PREFIX) || seen.contains(&group.as_str()) {
                continue;
            }
            seen.push(group);
            warnings.push(format!(
                "{} (line {line}): [{group}] means nothing here; a hook's group is [hook NAME]",
                self.path.display()
            ));
        }
        warnings
    }

    /// The names of the hooks that have a group of their own.
    pub fn named_hooks(&self) -> impl Iterator<Item = &str> {
        let groups = self.settings.iter().map(|setting| setting.group.as_str());
        groups.filter_map(|group| group.strip_prefix(HOOK_PREFIX))
    }

    /// The settings of the hook `name`, whose file begins with `head`, and what was passed over.
    pub fn of_hook(&self, name: &str, head: &[u8]) -> (Policy, Vec<String>) {
        let mut policy = self.defaults.clone();
        let mut warnings = Vec::new();
        for (key, value) in own_settings(head) {
            if let Err(why) = policy.set(&key, &value) {
                warnings.push(format!(
                    "{name}: {HEAD_MARK} {key} = {value} {why}; it is passed over"
                ));
            }
        }
        let group = format!("{HOOK_PREFIX}{name}");
        warnings.extend(self.each(&group, &mut |key, value| policy.set(key, value)));
        (policy, warnings)
    }
}

/// The `# qga-hook: key = value` lines of a script's head.
fn own_settings(head: &[u8]) -> Vec<(String, String)> {
    if !head.starts_with(b"#!") {
        return Vec::new();
    }
    let head = String::from_utf8_lossy(head);
    let marked = head
        .lines()
        .take(HEAD_LINES)
        .filter_map(|line| line.trim().strip_prefix(HEAD_MARK));
    marked
        .map(|text| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            (key.trim().to_owned(), value.trim().to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        let mut rules = Rules {
            path: "/c".into(),
            ..Rules::default()
        };
        rules.take(text.as_bytes());
        rules
    }

    #[test]
    fn a_hook_s_group_stands_over_its_head_and_that_over_the_defaults() {
        let rules = rules(
            "[hooks]\ntimeout=20\ntotal-timeout=1.5\nretries=2\n\
             [hook 10-db]\ntimeout=0\nsuccess=0;3\non-failure=abort\n",
        );
        assert_eq!(rules.warnings, [""; 0]);
        assert_eq!(rules.total_timeout, Some(Duration::from_millis(1500)));
        let head = b"#!/bin/sh\n# qga-hook: type = hold\n# qga-hook: timeout = 60\n";
        let (policy, warnings) = rules.of_hook("10-db", head);
        assert_eq!(warnings, [""; 0]);
        assert_eq!((policy.kind, policy.timeout), (Kind::Hold, None));
        assert_eq!((policy.retries, policy.success), (2, vec![0, 3]));
        assert_eq!(policy.on_failure, OnFailure::Abort);
        let (other, _) = rules.of_hook("20-other", head);
        assert_eq!(other.timeout, Some(Duration::from_secs(60)));
        assert_eq!(other.on_failure, OnFailure::Continue);
        let (binary, _) = rules.of_hook("20-other", &head[1..]);
        assert_eq!(binary.kind, Kind::Once, "no script, no head");
    }

    #[test]
    fn settings_can_be_read_back() {
        let text = "[hooks]\nenabled=no\nstage=3\nparallel=yes\non-failure=abort\ntimeout=0\n\
            kill-after=0.25\nhold-timeout=5\nretries=2\nretry-pause=0\nsuccess=0;3\n\
            not-applicable=\nuser=db\noutput-limit=9\n[hook a]\ntype=hold\n";
        let (policy, _) = rules(text).of_hook("a", b"");
        let mut read = Policy::default();
        for (key, value) in policy.settings() {
            let default = Policy::default().settings();
            assert!(
                !default.contains(&(key, value.clone())),
                "{key} has its default"
            );
            read.set(key, &value).unwrap();
        }
        assert_eq!(read, policy);
    }

    #[test]
    fn what_is_wrong_is_named_and_left_at_its_default() {
        let rules = rules(
            "[hooks]\ntimeout=soon\nretries=101\nstage=-1\nsuccess=0;256\nkill-after=1e9\n\
             user=\nparallel=maybe\ncolour=red\ntype=hold\noutput-limit=nan\n[hok x]\na=b\n",
        );
        assert_eq!(rules.defaults, Policy::default());
        let expected = [
            "/c (line 2): timeout=soon in [hooks] is no number of seconds from 0 to 86400; it is passed over",
            "/c (line 3): retries=101 in [hooks] is no whole number from 0 to 100; it is passed over",
            "/c (line 4): stage=-1 in [hooks] is no whole number from 0 to 99; it is passed over",
            "/c (line 5): success=0;256 in [hooks] is no list of exit statuses from 0 to 255, like 0;3; it is passed over",
            "/c (line 6): kill-after=1e9 in [hooks] is no number of seconds from 0 to 86400; it is passed over",
            "/c (line 8): parallel=maybe in [hooks] is neither yes nor no; it is passed over",
            "/c (line 9): colour=red in [hooks] is no setting of a hook; it is passed over",
            "/c (line 10): type=hold in [hooks] is a setting of single hooks; it is passed over",
            "/c (line 11): output-limit=nan in [hooks] is no whole number from 0 to 4294967295; it is passed over",
        ];
        assert_eq!(rules.warnings, expected);
        assert_eq!(
            rules.unknown_groups(&["azure"]),
            ["/c (line 13): [hok x] means nothing here; a hook's group is [hook NAME]"]
        );
    }

    #[test]
    fn a_file_that_is_none_leaves_the_defaults() {
        let rules = rules("timeout=3\n");
        assert_eq!(rules.defaults, Policy::default());
        assert_eq!(rules.warnings.len(), 1);
        assert!(
            rules.warnings[0].starts_with("/c: "),
            "{:?}",
            rules.warnings
        );
        assert!(rules.warnings[0].ends_with("; the defaults are used"));
    }
}
