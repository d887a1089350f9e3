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
    pub fn of(task: &HookTask, socket: Option<PathBuf>) -> StartedTask {
        let mut policy = task.policy.clone();
        if let Some(command) = &task.thaw {
            (policy.timeout, policy.retries) = (command.timeout, command.retries);
        }
        let mut settings = policy.settings().to_vec();
        if let Some(time) = task.budget {
            settings.push((BUDGET, time.as_secs_f64().to_string()));
        }
        for (key, command) in [(THAW, &task.thaw), (UNDO, &task.undo)] {
            let Some(command) = command else { continue };
            settings.push((key, escaped(command.program.as_os_str())));
            settings.extend(command.args.iter().map(|arg| (key, escaped(arg))));
        }
        let text = |(key, value): (&str, String)| [key, "=", &value].concat();
        StartedTask {
            settings: settings.into_iter().map(text).collect(),
            holder_socket: socket,
            ..StartedTask::named(task.source, &task.name)
        }
    }

    /// As a line has it.
    pub fn to_value(&self) -> Value {
        json!({
            "source": self.source,
            "name": self.name,
            "door": self.holder_socket.as_ref().map(|socket| escaped(socket.as_os_str())),
            "settings": self.settings,
            "why": self.why,
        })
    }

    /// As a line has it, of this version or another.
    pub fn from_value(value: &Value) -> StartedTask {
        let settings = value["settings"].as_array().into_iter().flatten();
        let socket = value["door"].as_str();
        StartedTask {
            source: text(value, "source"),
            name: text(value, "name"),
            holder_socket: socket
                .map(|socket| OsString::from_vec(unescape(socket.as_bytes())).into()),
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
        let mut task = HookTask::new(source, self.name.clone(), HookSettings::default());
        if self.settings.is_empty() {
            if let Some(at) = found.iter().position(|task| self.names(task)) {
                task = found.swap_remove(at);
            } else if self.holder_socket.is_none() && self.source.is_empty() {
                let argv = [&self.name, THAW].map(|argument| [THAW, "=", argument].concat());
                self.settings = argv.to_vec();
            }
        }
        let (mut thaw, mut undo) = (Vec::new(), Vec::new());
        for (key, value) in self.settings.iter().filter_map(|text| text.split_once('=')) {
            let argument = || OsString::from_vec(unescape(value.as_bytes()));
            match key {
                THAW => thaw.push(argument()),
                UNDO => undo.push(argument()),
                BUDGET => task.budget = settings::limit(value).ok().flatten(),
                // One that another version wrote and we do not know has our default.
                _ => task.policy.set(key, value).unwrap_or_default(),
            }
        }
        for (argv, command) in [(thaw, &mut task.thaw), (undo, &mut task.undo)] {
            let mut argv = argv.into_iter();
            if let Some(program) = argv.next() {
                *command = Some(CommandLine {
                    program: program.into(),
                    args: argv.collect(),
                    timeout: task.policy.timeout,
                    retries: task.policy.retries,
                });
            }
        }
        task.started = Some(self);
        task
    }

    /// Whether it is `step`.
    pub fn names(&self, task: &HookTask) -> bool {
        self.source == task.source && self.name == task.name
    }

    pub(super) fn is(&self, other: &StartedTask) -> bool {
        self.source == other.source && self.name == other.name
    }
}
