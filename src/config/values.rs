//! How the values of options are read into a [`Config`](super::Config), and written as the file has them.
//! An error says what is wrong with a value and what is used instead.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::RpcList;
use crate::freeze::policy::{self, FreezeMode, Pattern};
use crate::keyfile;

pub(super) fn set_path(path: &mut Option<PathBuf>, value: &OsStr) -> Result<(), String> {
    *path = Some(value.into());
    Ok(())
}

/// The default mode is used for a word that is none.
pub(super) fn set_mode(mode: &mut FreezeMode, value: &OsStr) -> Result<(), String> {
    let value = value.to_string_lossy();
    let read = FreezeMode::parse(value.trim_ascii());
    *mode = read.unwrap_or_default();
    match read {
        Some(_) => Ok(()),
        None => Err(format!(
            "has the value '{}', which is none of all, hooks-only and off: all is taken",
            keyfile::shown(&value)
        )),
    }
}

/// Adds a comma separated list of patterns; blanks around a pattern do not count.
pub(super) fn add_patterns(list: &mut Vec<Pattern>, value: &OsStr) -> Result<(), String> {
    let mut wrong = Vec::new();
    let value = value.to_string_lossy();
    for text in value.split(',').map(str::trim_ascii) {
        match Pattern::parse(text) {
            Ok(pattern) => list.push(pattern),
            Err(_) if text.is_empty() => {}
            Err(why) => wrong.push(keyfile::shown(&why)),
        }
    }
    match wrong[..] {
        [] => Ok(()),
        _ => Err(format!("is ignored where {}", wrong.join(", and where "))),
    }
}

/// Sets a limit; the default is used for what is not a number of seconds.
pub(super) fn set_limit(
    limit: &mut Option<Duration>,
    default: u64,
    value: &OsStr,
) -> Result<(), String> {
    let value = value.to_string_lossy();
    let read = policy::seconds(&value);
    *limit = match &read {
        Ok(limit) => *limit,
        Err(_) => Some(Duration::from_secs(default)),
    };
    match read {
        Ok(_) => Ok(()),
        Err(why) => Err(format!(
            "has the value '{}', which {why}: {default} is taken",
            keyfile::shown(&value)
        )),
    }
}

pub(super) fn path(path: Option<&Path>) -> Option<Vec<u8>> {
    path.map(|path| path.as_os_str().as_bytes().to_vec())
}

pub(super) fn seconds(limit: Option<Duration>) -> Option<Vec<u8>> {
    let number = limit.map_or(0, |limit| limit.as_secs());
    Some(number.to_string().into_bytes())
}

pub(super) fn patterns(list: &[Pattern]) -> Option<Vec<u8>> {
    let texts: Vec<String> = list.iter().map(Pattern::to_string).collect();
    Some(texts.join(",").into_bytes())
}

/// The entries of each option in reverse, as the original writes them.
pub(super) fn reversed(list: &RpcList) -> Option<Vec<u8>> {
    let entries = list.0.iter().flat_map(|option| option.iter().rev());
    let entries: Vec<&str> = entries.map(String::as_str).collect();
    Some(entries.join(",").into_bytes())
}
