//! Finds the configuration file and applies it to a [`Config`].
//!
//! A file that was named with `-c` must exist; the default one, and the one that `QGA_CONF` names,
//! may be missing. Anything else that is wrong with the file is fatal, as an agent that runs
//! without the block list its operator wrote would be worse than one that does not start. An
//! unknown key in a known group is a warning, an unknown group is none. A value without sense in our
//! own group is a warning too: it must not keep the agent from starting where the original would.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::Config;
use super::options::{self, AgentOption, CONF_FILE, Effect, Group, OPTIONS};
use crate::keyfile::{self, Entry, Problem};
use crate::sys::strerror;

/// No sane configuration is larger, and one read must not take the guest's memory.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// A file to read.
pub(super) struct Choice {
    path: PathBuf,
    must_exist: bool,
}

/// The file that counts: the `named` one, else that of the environment, else the first default one
/// that exists.
pub(super) fn choose(named: Option<PathBuf>, env: Option<PathBuf>, dirs: &[&Path]) -> Choice {
    let must_exist = named.is_some();
    let path = named
        .or(env)
        .unwrap_or_else(|| first_existing(dirs, CONF_FILE));
    Choice { path, must_exist }
}

/// `name` in the first of `dirs` that has it, else in the first.
pub(super) fn first_existing(dirs: &[&Path], name: &str) -> PathBuf {
    // A link that leads nowhere exists too: reading it will tell.
    let found = dirs
        .iter()
        .map(|dir| dir.join(name))
        .find(|path| path.symlink_metadata().is_ok());
    found
        .or_else(|| dirs.first().map(|dir| dir.join(name)))
        .unwrap_or_else(|| name.into())
}

/// Applies the file to `config`; the error is the whole text to print.
pub(super) fn load(config: &mut Config, choice: &Choice) -> Result<(), String> {
    let fail = |reason: &dyn std::fmt::Display| {
        format!(
            "error loading configuration from path: {}, {reason}",
            choice.path.display()
        )
    };
    let text = match read(&choice.path) {
        Ok(text) => text,
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            if choice.must_exist {
                return Err(fail(&format_args!(
                    "{}: check the path after -c",
                    strerror(&error)
                )));
            }
            return Ok(());
        }
        Err(Failure::Io(error)) => {
            return Err(fail(&format_args!(
                "{}: make it readable for the agent",
                strerror(&error)
            )));
        }
        Err(Failure::Other(reason)) => return Err(fail(&reason)),
    };
    let entries = keyfile::parse(&text).map_err(|problem| fail(&problem))?;
    apply(config, &entries, &choice.path).map_err(|problem| fail(&problem))
}

enum Failure {
    Io(io::Error),
    Other(&'static str),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    // Opening a FIFO would wait for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Failure::Other(
            "Not a regular file: name a configuration file",
        ));
    }
    let mut text = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(Failure::Other(
            "larger than 1 MiB: name a configuration file",
        ));
    }
    Ok(text)
}

/// Values are taken in the table's order and of repeated keys only the last counts, so a bad value
/// that is overridden does no harm.
fn apply(config: &mut Config, entries: &[Entry<'_>], path: &Path) -> Result<(), Problem> {
    let mut last: HashMap<(Group, &str), &Entry<'_>> = HashMap::new();
    for entry in entries {
        let Some(group) = Group::ALL
            .into_iter()
            .find(|group| group.name() == entry.group)
        else {
            continue;
        };
        let mut warn = |text: String| {
            let text = warning(path, entry, group, &text);
            config.warnings.push(text);
        };
        if let Some(oddity) = oddity(group, &entry.key) {
            warn(oddity);
        }
        if let Some(earlier) = last.insert((group, &entry.key), entry) {
            warn(format!(
                "stands in line {} too: only the last one counts",
                earlier.line
            ));
        }
    }
    for option in OPTIONS {
        let Some((group, key)) = option.key else {
            continue;
        };
        for key in option.spec.old.iter().copied().chain([key]) {
            let Some(entry) = last.get(&(group, key)) else {
                continue;
            };
            let complaint = match apply_entry(config, option, entry) {
                Ok(complaint) => complaint,
                Err(problem) if group == Group::Own => Some(format!(
                    "is ignored: {}: {}",
                    problem.reason, problem.advice
                )),
                Err(problem) => return Err(problem),
            };
            if let Some(complaint) = complaint {
                let text = warning(path, entry, group, &complaint);
                config.warnings.push(text);
            }
        }
    }
    Ok(())
}

/// Sets the option of one entry. Returns what is wrong with its value.
fn apply_entry(
    config: &mut Config,
    option: &AgentOption,
    entry: &Entry<'_>,
) -> Result<Option<String>, Problem> {
    match option.effect {
        Effect::Switch { set, .. } => {
            set(config, entry.boolean()?);
            Ok(None)
        }
        Effect::Value { set, .. } => Ok(set(config, OsStr::new(&entry.string()?)).err()),
        // These have no key.
        Effect::ConfigFile
        | Effect::DumpConf
        | Effect::Version
        | Effect::Help
        | Effect::Nothing => Ok(None),
    }
}

fn warning(path: &Path, entry: &Entry<'_>, group: Group, text: &str) -> String {
    let (path, line, key) = (path.display(), entry.line, &entry.key);
    format!("{path}, line {line}: key '{key}' in {group} {text}")
}

/// What is odd about a key, if anything.
fn oddity(group: Group, key: &str) -> Option<String> {
    if options::by_key(group, key).is_some() {
        return None;
    }
    if let Some((_, new)) = options::by_old_key(group, key).and_then(|option| option.key) {
        return Some(format!("is an old spelling, understood as '{new}'"));
    }
    let meant = OPTIONS
        .iter()
        .find(|option| option.spec.long == key)
        .and_then(|option| option.key);
    Some(match meant {
        Some((right, name)) if name == key => {
            format!("belongs to {right} and is ignored: move it there")
        }
        Some((_, right)) => format!("is unknown and ignored: did you mean '{right}'?"),
        None => "is unknown and ignored: check its spelling".into(),
    })
}
