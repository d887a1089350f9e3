//! A task in the journal: all that its thaw needs.
//!
//! The thaw runs from this entry alone, because settings and scripts may have changed since the freeze. Keys that this
//! version does not know are ignored, so that an upgrade during a freeze works in both directions.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::hooks::adapter::{self, Adapter};
use crate::hooks::settings::HookSettings;
use crate::hooks::task::{CommandLine, HookTask};
use crate::keyfile::parse_time_limit;
use crate::probe::mountinfo::unescape;

const BUDGET: &str = "budget";
/// Key of an argument of the thaw, the program first, [`escaped`].
const THAW: &str = "thaw";
/// Key of an argument of the command in place of the thaw if the freeze failed.
const UNDO: &str = "undo";

/// A task that was started and must be thawed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StartedTask {
    /// Its adapter; empty for the hooks' directory.
    pub source: String,
    /// Its name, see [`HookTask::name`].
    pub name: String,
    pub(crate) holder_socket: Option<PathBuf>,
    /// `key=value` as [`HookSettings::set`] parses them, and the keys above. Version 0.1.0 wrote none.
    settings: Vec<String>,
    /// Why its thaw could not be run; empty if nothing is wrong.
    pub why: String,
}

pub(super) fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// Text that [`unescape`] converts back to the same bytes.
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
    pub(crate) fn of(task: &HookTask, socket: Option<PathBuf>) -> StartedTask {
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
            ..StartedTask::named(&task.source, &task.name)
        }
    }

    /// The entry as JSON.
    pub fn to_value(&self) -> Value {
        json!({
            "source": self.source,
            "name": self.name,
            "socket": self.holder_socket.as_ref().map(|socket| escaped(socket.as_os_str())),
            "settings": self.settings,
            "why": self.why,
        })
    }

    /// Reads an entry of this or another version.
    pub fn from_value(value: &Value) -> StartedTask {
        let settings = value["settings"].as_array().into_iter().flatten();
        let socket = value["socket"].as_str();
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

    pub(super) fn named(source: &str, name: &str) -> StartedTask {
        StartedTask {
            source: source.to_owned(),
            name: name.to_owned(),
            ..StartedTask::default()
        }
    }

    /// The task as it was at the freeze. Version 0.1.0 recorded only its name: then it is the task of this name in
    /// `found`, or the call of a hook of the hooks' directory.
    pub fn step(mut self, found: &mut Vec<HookTask>, adapters: &'static [Adapter]) -> HookTask {
        let mut task = HookTask::new(self.name.clone(), HookSettings::default());
        task.source.clone_from(&self.source);
        task.adapter = adapter::by_name(adapters, &self.source);
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
                BUDGET => task.budget = parse_time_limit(value).ok().flatten(),
                // A value that this version does not know leaves the default.
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

    pub(super) fn names(&self, task: &HookTask) -> bool {
        self.source == task.source && self.name == task.name
    }

    pub(super) fn is(&self, other: &StartedTask) -> bool {
        self.source == other.source && self.name == other.name
    }
}
