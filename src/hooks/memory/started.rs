//! A step in the journal: all that its thaw needs.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::hooks::policy::{self, Policy};
use crate::hooks::sources;
use crate::hooks::step::{Call, Step};
use crate::probe::mountinfo::unescape;

/// The time for all steps of a source.
const BUDGET: &str = "budget";
/// A word of the thaw, the program first, [`escaped`].
const THAW: &str = "thaw";
/// A word of what takes its place if the freeze failed.
const UNDO: &str = "undo";

/// A step that was started, and is to be undone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Started {
    /// Its source.
    pub source: String,
    /// Its name.
    pub name: String,
    /// Where its keeper is reached, if it is a holding hook.
    pub door: Option<PathBuf>,
    /// `key=value`, as [`Policy::set`] takes them, timeout and retries being those of the thaw; and the
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

impl Started {
    /// What the journal holds of `step`.
    pub fn of(step: &Step, door: Option<PathBuf>) -> Started {
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
        Started {
            settings: settings.into_iter().map(text).collect(),
            door,
            ..Started::named(step.source, &step.name)
        }
    }

    /// As a line has it.
    pub fn to_value(&self) -> Value {
        json!({
            "source": self.source,
            "name": self.name,
            "door": self.door.as_ref().map(|door| escaped(door.as_os_str())),
            "settings": self.settings,
            "why": self.why,
        })
    }

    /// As a line has it, of this version or another.
    pub fn from_value(value: &Value) -> Started {
        let settings = value["settings"].as_array().into_iter().flatten();
        let door = value["door"].as_str();
        Started {
            source: text(value, "source"),
            name: text(value, "name"),
            door: door.map(|door| OsString::from_vec(unescape(door.as_bytes())).into()),
            settings: settings
                .filter_map(|v| Some(v.as_str()?.to_owned()))
                .collect(),
            why: text(value, "why"),
        }
    }

    /// With its name alone.
    pub(super) fn named(source: &str, name: &str) -> Started {
        Started {
            source: source.to_owned(),
            name: name.to_owned(),
            ..Started::default()
        }
    }

    /// The step as it was at the freeze. Version 0.1.0 wrote only its name: then it is what is
    /// `found` under that, or what a hook of the directory is called with.
    pub fn step(mut self, found: &mut Vec<Step>) -> Step {
        let source = sources::adapter(&self.source).map_or("", |adapter| adapter.name);
        let mut step = Step::new(source, self.name.clone(), Policy::default());
        if self.settings.is_empty() {
            if let Some(at) = found.iter().position(|step| self.names(step)) {
                step = found.swap_remove(at);
            } else if self.door.is_none() && self.source.is_empty() {
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
                BUDGET => step.budget = policy::limit(value).ok().flatten(),
                // One that another version wrote and we do not know has our default.
                _ => step.policy.set(key, value).unwrap_or_default(),
            }
        }
        for (words, call) in [(thaw, &mut step.thaw), (undo, &mut step.undo)] {
            let mut words = words.into_iter();
            if let Some(program) = words.next() {
                *call = Some(Call {
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
    pub fn names(&self, step: &Step) -> bool {
        self.source == step.source && self.name == step.name
    }

    pub(super) fn is(&self, other: &Started) -> bool {
        self.source == other.source && self.name == other.name
    }
}
