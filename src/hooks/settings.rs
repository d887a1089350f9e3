//! Settings of hooks: `fsfreeze-hook.conf` next to the master, and the head of a script.
//!
//! The defaults are those of QEMU's fsfreeze-hook script: a failure is logged and changes nothing. [`HookConfig`] says
//! what mistakes in the settings do.

mod head;
mod rules;

use std::time::Duration;

use crate::keyfile::{parse_boolean, parse_number, parse_seconds, parse_time_limit};
pub use rules::{EffectiveSettings, HookConfig};

pub(crate) const LAST_STAGE: u8 = 99;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFailure {
    Continue,
    /// On freeze no later hook is called, started hooks are thawed, and the freeze fails. On thaw all other hooks are
    /// called, and the thaw returns an error.
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookKind {
    Once,
    /// Started at the freeze, and released at the thaw by the end of its stdin.
    Hold,
}

/// The settings of one hook.
#[derive(Clone, Debug, PartialEq)]
pub struct HookSettings {
    pub(crate) enabled: bool,
    pub(crate) kind: HookKind,
    pub(crate) on_failure: OnFailure,
    /// For one start; None: no limit.
    pub(crate) timeout: Option<Duration>,
    pub(crate) kill_after: Duration,
    /// Starts after a failure, without the first.
    pub(crate) retries: u32,
    pub(crate) retry_pause: Duration,
    pub(crate) success: Vec<i32>,
    pub(crate) not_applicable: Vec<i32>,
    /// None: the master's.
    pub(crate) user: Option<String>,
    /// Stages run one after another, in reverse order on thaw.
    pub stage: u8,
    pub(crate) parallel: bool,
    /// Bytes of one start's output that go into the log.
    pub(crate) output_limit: u64,
    /// How long it may hold; None: somewhat longer than the agent's hold limit.
    pub(crate) hold_timeout: Option<Duration>,
}

impl Default for HookSettings {
    fn default() -> HookSettings {
        HookSettings {
            enabled: true,
            kind: HookKind::Once,
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

impl HookSettings {
    /// Sets one key.
    ///
    /// # Errors
    /// The problem with the key or its value, as the second half of a sentence; nothing was changed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let value = value.trim();
        match key {
            "enabled" => self.enabled = parse_boolean(value)?,
            "type" => {
                self.kind = match value {
                    "once" => HookKind::Once,
                    "hold" => HookKind::Hold,
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
            "timeout" => self.timeout = parse_time_limit(value)?,
            "kill-after" => self.kill_after = parse_seconds(value)?,
            "retries" => self.retries = parse_number(value, 100)?,
            "retry-pause" => self.retry_pause = parse_seconds(value)?,
            "success" => self.success = statuses(value)?,
            "not-applicable" => self.not_applicable = statuses(value)?,
            "user" => self.user = (!value.is_empty()).then(|| value.to_owned()),
            "stage" => self.stage = parse_number(value, LAST_STAGE)?,
            "parallel" => self.parallel = parse_boolean(value)?,
            "output-limit" => self.output_limit = parse_number(value, u64::from(u32::MAX))?,
            "hold-timeout" => self.hold_timeout = parse_time_limit(value)?,
            _ => return Err("is not a setting of a hook".into()),
        }
        Ok(())
    }

    /// All keys with their values, in the form that [`HookSettings::set`] parses.
    pub fn settings(&self) -> [(&'static str, String); 14] {
        let word = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let time = |time: Duration| time.as_secs_f64().to_string();
        let limit = |limit: Option<Duration>| time(limit.unwrap_or_default());
        let list = |statuses: &[i32]| {
            let words: Vec<String> = statuses.iter().map(i32::to_string).collect();
            words.join(";")
        };
        let is_holding = self.kind == HookKind::Hold;
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

fn statuses(value: &str) -> Result<Vec<i32>, String> {
    let parts = value.split([';', ',']).map(str::trim);
    let numbers = parts.filter(|part| !part.is_empty());
    numbers
        .map(|part| parse_number(part, 255_u8).map(i32::from))
        .collect::<Result<_, _>>()
        .map_err(|_| "is not a list of exit statuses from 0 to 255, like 0;3".to_owned())
}
