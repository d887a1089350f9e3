//! VMware's tools.conf: the settings of scripts and filesystems in its group `[vmbackup]`.
//!
//! Keys and meaning are those of open-vm-tools, where an invalid value means the default. A file that cannot
//! be read is an error here and not the default: it may exclude filesystems or switch scripts off.

use std::path::Path;
use std::time::Duration;

use crate::hooks::trust::{self, REFUSING};
use crate::keyfile::{Entry, Line, Problem, lines};

/// The settings of `[vmbackup]`.
#[derive(Debug, PartialEq)]
pub struct ToolsConf {
    /// Glob patterns of mount points that are not frozen, in our syntax.
    pub exclude: Vec<String>,
    /// Whether a filesystem that another program has frozen is no error.
    pub ignore_frozen: bool,
    /// Whether scripts are run.
    pub scripts: bool,
    /// The scripts' second argument.
    pub arg: Option<String>,
    /// Time for all scripts of a phase. The outer None: not set; the inner: no limit.
    pub timeout: Option<Option<Duration>>,
    /// Whether filesystems are frozen.
    pub filesystems: bool,
    /// Values that are ignored, one line each.
    pub warnings: Vec<String>,
}

impl ToolsConf {
    /// Reads the file at `path`; a file that does not exist has no settings.
    ///
    /// # Errors
    /// It cannot be read, or another user could have written it: the place, the reason and the remedy.
    pub fn read(path: &Path) -> Result<ToolsConf, String> {
        let text = trust::read(path).map_err(|refusal| refusal.0.replace(REFUSING, ""))?;
        let mut conf = ToolsConf {
            exclude: Vec::new(),
            ignore_frozen: false,
            scripts: true,
            arg: None,
            timeout: None,
            filesystems: true,
            warnings: Vec::new(),
        };
        let shown = path.display();
        let mut is_vmbackup = false;
        for (line, _, content) in lines(&text.unwrap_or_default()) {
            let result = match content {
                Line::Group(name) => {
                    is_vmbackup = name == "vmbackup";
                    continue;
                }
                Line::Entry(entry) if is_vmbackup => conf.set(&entry),
                Line::Entry(_) => continue,
                Line::Invalid(problem) => Err(problem),
            };
            match result {
                Ok(None) => (),
                Ok(Some(why)) => conf
                    .warnings
                    .push(format!("{shown} (line {line}): {why}; the default counts")),
                Err(problem) => {
                    let (reason, advice) = (problem.reason, problem.advice);
                    return Err(format!("{shown} (line {line}): {reason}; {advice}"));
                }
            }
        }
        Ok(conf)
    }

    /// Sets one key; returns a warning for an invalid value.
    fn set(&mut self, entry: &Entry<'_>) -> Result<Option<String>, Problem> {
        let value = entry.string()?;
        let switch = match &*entry.key {
            "execScripts" => &mut self.scripts,
            "enableSyncDriver" => &mut self.filesystems,
            "ignoreFrozenFileSystems" => &mut self.ignore_frozen,
            "excludedFileSystems" => {
                let globs = value.split(',').map(str::trim).filter(|g| !g.is_empty());
                self.exclude = globs.map(glob).collect();
                return Ok(None);
            }
            "scriptArg" => {
                self.arg = Some(value).filter(|arg| !arg.is_empty());
                return Ok(None);
            }
            "timeout" => {
                let seconds: Option<u32> = value.trim().parse().ok();
                let limit = |s: u32| (s > 0).then(|| Duration::from_secs(s.into()));
                self.timeout = seconds.map(limit);
                let is_invalid = seconds.is_none();
                return Ok(is_invalid.then(|| "timeout is not a number of seconds".to_owned()));
            }
            _ => return Ok(None),
        };
        // GLib's rule, by which open-vm-tools reads it.
        match entry.boolean() {
            Ok(value) => *switch = value,
            Err(problem) => return Ok(Some(problem.reason)),
        }
        Ok(None)
    }
}

/// Converts a pattern of VMware's, in which only `*` and `?` are special.
fn glob(text: &str) -> String {
    let mut glob = String::new();
    for c in text.chars() {
        if matches!(c, '[' | ']' | '\\') {
            glob.push('\\');
        }
        glob.push(c);
    }
    glob
}
