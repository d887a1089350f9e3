//! Finds the configuration file and applies it to a [`Config`].
//!
//! A file that was named with `-c` must exist; the default one, and the one that `QGA_CONF` names, may be missing. Any
//! other error of the file is fatal: an agent without the block list that its operator wrote is worse than one that
//! does not start. An unknown key in a known group is a warning, an unknown group is not even that. An invalid value in
//! our own group is a warning, too: it must not keep the agent from starting where QEMU's agent would.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::Config;
use super::options::{self, AgentOption, CONF_FILE, Effect, Group, OPTIONS};
use crate::keyfile::{self, Entry, Problem};
use crate::sys::strerror;

/// A device or a wrong file must not use up the guest's memory.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

pub(super) struct ChosenFile {
    path: PathBuf,
    must_exist: bool,
}

pub(super) fn choose(named: Option<PathBuf>, env: Option<PathBuf>, dirs: &[&Path]) -> ChosenFile {
    let must_exist = named.is_some();
    let path = named
        .or(env)
        .unwrap_or_else(|| first_existing(dirs, CONF_FILE));
    ChosenFile { path, must_exist }
}

/// `name` in the first of `dirs` that has it, else in the first.
pub(super) fn first_existing(dirs: &[&Path], name: &str) -> PathBuf {
    let paths: Vec<PathBuf> = dirs.iter().map(|dir| dir.join(name)).collect();
    // A dangling link is chosen, too, so that reading it reports the mistake.
    let found = paths.iter().find(|path| path.symlink_metadata().is_ok());
    found
        .or(paths.first())
        .map_or_else(|| name.into(), PathBuf::clone)
}

/// Why the file cannot be used; the beginning of the text is that of QEMU's agent.
pub(super) struct FileError {
    path: PathBuf,
    cause: FileErrorCause,
}

enum FileErrorCause {
    Io(io::Error),
    NotRegular,
    TooLarge,
    Syntax(Problem),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "error loading configuration from path: {path}, ")?;
        match &self.cause {
            FileErrorCause::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                write!(f, "{}; check the path after -c", strerror(error))
            }
            FileErrorCause::Io(error) => {
                write!(f, "{}; make it readable for the agent", strerror(error))
            }
            FileErrorCause::NotRegular => {
                f.write_str("Not a regular file; name a configuration file")
            }
            FileErrorCause::TooLarge => f.write_str("larger than 1 MiB; name a configuration file"),
            FileErrorCause::Syntax(problem) => problem.fmt(f),
        }
    }
}

impl From<io::Error> for FileErrorCause {
    fn from(error: io::Error) -> Self {
        FileErrorCause::Io(error)
    }
}

pub(super) fn load(config: &mut Config, choice: &ChosenFile) -> Result<(), FileError> {
    let path = &choice.path;
    let result = match read(path) {
        Err(FileErrorCause::Io(error))
            if error.kind() == io::ErrorKind::NotFound && !choice.must_exist =>
        {
            Ok(())
        }
        Err(cause) => Err(cause),
        Ok(text) => keyfile::parse(&text)
            .and_then(|entries| apply(config, &entries, path))
            .map_err(FileErrorCause::Syntax),
    };
    result.map_err(|cause| FileError {
        path: path.clone(),
        cause,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, FileErrorCause> {
    // Without O_NONBLOCK opening a FIFO would wait for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(FileErrorCause::NotRegular);
    }
    let mut text = Vec::new();
    // The size of the metadata is not enough: the file may grow meanwhile.
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(FileErrorCause::TooLarge);
    }
    Ok(text)
}

/// Of repeated keys only the last is read, as by GLib for QEMU's agent: an invalid value before it does no harm.
fn apply(config: &mut Config, entries: &[Entry<'_>], path: &Path) -> Result<(), Problem> {
    let place = |entry: &Entry<'_>| format!("{} (line {})", path.display(), entry.line);
    let mut last: HashMap<(Group, &str), &Entry<'_>> = HashMap::new();
    for entry in entries {
        let mut groups = Group::ALL.into_iter();
        let Some(group) = groups.find(|group| group.name() == entry.group) else {
            continue;
        };
        if let Some(warning) = check_key(group, &entry.key) {
            config.warnings.push(format!("{}: {warning}", place(entry)));
        }
        if let Some(earlier) = last.insert((group, &entry.key), entry) {
            config.warnings.push(format!(
                "{}: key '{}' in {group} is also in line {}; the last one is used",
                place(entry),
                entry.key,
                earlier.line
            ));
        }
    }
    for option in OPTIONS {
        let Some((group, key)) = option.key else {
            continue;
        };
        // An old spelling first: the present one wins, or adds to its list.
        for key in option.spec.old.iter().copied().chain([key]) {
            let Some(entry) = last.get(&(group, key)) else {
                continue;
            };
            let warning = match apply_entry(config, option, group, entry) {
                Err(problem) if group == Group::Own => {
                    Some(format!(": {}; ignored; {}", problem.reason, problem.advice))
                }
                applied => applied?.map(|why| {
                    // The value was read, so it is a string.
                    let value = entry.string().unwrap_or_default();
                    format!(": {key}={} in {group} {why}", keyfile::excerpt(&value))
                }),
            };
            if let Some(warning) = warning {
                config.warnings.push(place(entry) + &warning);
            }
        }
    }
    Ok(())
}

fn apply_entry(
    config: &mut Config,
    option: &AgentOption,
    group: Group,
    entry: &Entry<'_>,
) -> Result<Option<String>, Problem> {
    match option.effect {
        // Only the values that QEMU's agent accepts: a file that one agent refuses must not work with the other.
        Effect::Switch { set, .. } if group == Group::General => {
            set(config, entry.boolean()?);
            Ok(None)
        }
        Effect::Switch { set, .. } => Ok(match keyfile::parse_boolean(&entry.string()?) {
            Ok(value) => {
                set(config, value);
                None
            }
            Err(why) => Some(why + "; ignored"),
        }),
        Effect::Value { set, .. } => Ok(set(config, OsStr::new(&entry.string()?)).err()),
        // These have no key.
        Effect::ConfigFile
        | Effect::DumpConf
        | Effect::Version
        | Effect::Help
        | Effect::Nothing => Ok(None),
    }
}

fn check_key(group: Group, key: &str) -> Option<String> {
    if options::by_key(group, key).is_some() {
        return None;
    }
    if let Some((_, new)) = options::by_old_key(group, key).and_then(|option| option.key) {
        return Some(format!(
            "key '{key}' in {group} is an old spelling; read as '{new}'"
        ));
    }
    let same_option = OPTIONS.iter().find(|option| option.spec.long == key);
    Some(match same_option.and_then(|option| option.key) {
        Some((right, name)) if name == key => {
            format!("key '{key}' in {group} belongs to {right}; ignored; move it there")
        }
        Some((_, right)) => {
            format!("unknown key '{key}' in {group}; ignored; did you mean '{right}'?")
        }
        None => format!("unknown key '{key}' in {group}; ignored; check its spelling"),
    })
}
