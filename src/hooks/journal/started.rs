//! A step in the journal: all that its thaw needs.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::hooks::settings::{self, HookSettings};
use crate::hooks::sources;
use crate::hooks::task::{CommandLine, HookTask};
use crate::probe::mountinfo::unescape;

/// The time for all steps of a source.
const BUDGET: &str = "budget";
/// A word of the thaw, the program first, [`escaped`].
const THAW: &str = "thaw";
/// A word of what takes its place if the freeze failed.
const UNDO: &str = "undo";

/// A step that was started, and is to be undone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StartedTask {
    /// Its source.
    pub source: String,
    /// Its name.
    pub name: String,
    /// Where its keeper is reached, if it is a holding hook.
    pub holder_socket: Option<PathBuf>,
    /// `key=value`, as [`HookSettings::set`] takes them, timeout and retries being those of the thaw; and the
    /// keys below. Version 0.1.0 wrote none.
    settings: Vec<String>,
    /// Why its thaw could not be run.
    pub why: String,
}

/// A member that is a text.
pub(super) fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// Text that [`unescape`] takes back to the same bytes.
fn escaped(bytes: &OsStr) -> String {
    let mut text = String::new();
    for chunk in bytes.as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\134"));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\{byte:03o}"));
        }
    }
    text
}

impl StartedTask {
    /// What the journal holds of `step`.
    pub fn of(step: &HookTask, door: Option<PathBuf>) -> StartedTask {
        let mut policy = step.policy.clone();
        if let Some(call) = &step.thaw {
            (policy.timeout, policy.retries) = (call.timeout, call.retries);
        }
        let mut settings = policy.settings().to_vec();
        if let Some(time) = step.budget {
            settings.push((BUDGET, time.as_secs_f64().to_string()));
        }
        for (key, call) in [(THAW, &step.thaw), (UNDO, &step.undo)] {
            let Some(call) = call else { continue };
            settings.push((key, escaped(call.program.as_os_str())));
            settings.extend(call.args.iter().map(|arg| (key, escaped(arg))));
        }
        let text = |(key, value): (&str, String)| [key, "=", &value].concat();
        StartedTask {
            settings: settings.into_iter().map(text).collect(),
            holder_socket: door,
            ..StartedTask::named(step.source, &step.name)
        }
    }

    /// As a line has it.
    pub fn to_value(&self) -> Value {
        json!({
            "source": self.source,
            "name": self.name,
            "door": self.holder_socket.as_ref().map(|door| escaped(door.as_os_str())),
            "settings": self.settings,
            "why": self.why,
        })
    }

    /// As a line has it, of this version or another.
    pub fn from_value(value: &Value) -> StartedTask {
        let settings = value["settings"].as_array().into_iter().flatten();
        let door = value["door"].as_str();
        StartedTask {
            source: text(value, "source"),
            name: text(value, "name"),
            holder_socket: door.map(|door| OsString::from_vec(unescape(door.as_bytes())).into()),
            settings: settings
                .filter_map(|v| Some(v.as_str()?.to_owned()))
                .collect(),
            why: text(value, "why"),
        }
    }

    /// With its name alone.
    pub(super) fn named(source: &str, name: &str) -> StartedTask {
        StartedTask {
            source: source.to_owned(),
            name: name.to_owned(),
            ..StartedTask::default()
        }
    }

    /// The step as it was at the freeze. Version 0.1.0 wrote only its name: then it is what is
    /// `found` under that, or what a hook of the directory is called with.
    pub fn step(mut self, found: &mut Vec<HookTask>) -> HookTask {
        let source = sources::adapter(&self.source).map_or("", |adapter| adapter.name);
        let mut step = HookTask::new(source, self.name.clone(), HookSettings::default());
        if self.settings.is_empty() {
            if let Some(at) = found.iter().position(|step| self.names(step)) {
                step = found.swap_remove(at);
            } else if self.holder_socket.is_none() && self.source.is_empty() {
                let words = [&self.name, THAW].map(|word| [THAW, "=", word].concat());
                self.settings = words.to_vec();
            }
        }
        let (mut thaw, mut undo) = (Vec::new(), Vec::new());
        for (key, value) in self.settings.iter().filter_map(|text| text.split_once('=')) {
            let word = || OsString::from_vec(unescape(value.as_bytes()));
            match key {
                THAW => thaw.push(word()),
                UNDO => undo.push(word()),
                BUDGET => step.budget = settings::limit(value).ok().flatten(),
                // One that another version wrote and we do not know has our default.
                _ => step.policy.set(key, value).unwrap_or_default(),
            }
        }
        for (words, call) in [(thaw, &mut step.thaw), (undo, &mut step.undo)] {
            let mut words = words.into_iter();
            if let Some(program) = words.next() {
                *call = Some(CommandLine {
                    program: program.into(),
                    args: words.collect(),
                    timeout: step.policy.timeout,
                    retries: step.policy.retries,
                });
            }
        }
        step.started = Some(self);
        step
    }

    /// Whether it is `step`.
    pub fn names(&self, step: &HookTask) -> bool {
        self.source == step.source && self.name == step.name
    }

    pub(super) fn is(&self, other: &StartedTask) -> bool {
        self.source == other.source && self.name == other.name
    }
}
