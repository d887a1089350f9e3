//! Reads and writes the values of options. An error says what is wrong with a value and what is used instead.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::RpcList;
use crate::freeze::policy::{FreezeMode, Pattern};
use crate::keyfile;

pub(super) fn set_path(path: &mut Option<PathBuf>, value: &OsStr) -> Result<(), String> {
    *path = Some(value.into());
    Ok(())
}

/// Sets a path, or none if the value is `off` or empty.
pub(super) fn set_unless_off(path: &mut Option<PathBuf>, value: &OsStr) -> Result<(), String> {
    let is_off = value.is_empty() || value == "off";
    *path = (!is_off).then(|| value.into());
    Ok(())
}

/// A word that is no mode means the default, also after an earlier, valid value: more is frozen rather than less.
pub(super) fn set_mode(mode: &mut FreezeMode, value: &OsStr) -> Result<(), String> {
    let read = FreezeMode::parse(value.to_string_lossy().trim_ascii());
    *mode = read.unwrap_or_default();
    read.map(drop)
        .ok_or_else(|| "is not all, hooks-only or off; using all".into())
}

pub(super) fn add_patterns(list: &mut Vec<Pattern>, value: &OsStr) -> Result<(), String> {
    let mut faults = Vec::new();
    for text in value.to_string_lossy().split(',').map(str::trim_ascii) {
        match Pattern::parse(text) {
            Ok(pattern) => list.push(pattern),
            // An empty list, or a comma at its end.
            Err(_) if text.is_empty() => {}
            Err(why) => faults.push(keyfile::excerpt(&why.to_string())),
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("is partly ignored: {}", faults.join(", ")))
}

/// Sets a limit, to its default if the value is invalid: without a limit a freeze could last indefinitely.
pub(super) fn set_limit(
    limit: &mut Option<Duration>,
    default: u64,
    value: &OsStr,
) -> Result<(), String> {
    let parsed = keyfile::parse_time_limit(&value.to_string_lossy());
    *limit = parsed.clone().unwrap_or(Some(Duration::from_secs(default)));
    parsed
        .map(drop)
        .map_err(|why| format!("{why}; using {default}"))
}

pub(super) fn path(path: Option<&Path>) -> Option<Vec<u8>> {
    path.map(|path| path.as_os_str().as_bytes().to_vec())
}

pub(super) fn path_or_off(value: Option<&Path>) -> Option<Vec<u8>> {
    path(Some(value.unwrap_or(Path::new("off"))))
}

pub(super) fn seconds(limit: Option<Duration>) -> Option<Vec<u8>> {
    let number = limit.unwrap_or_default().as_secs_f64();
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
