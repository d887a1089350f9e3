//! VMware's tools.conf: the settings of scripts and filesystems in its group `[vmbackup]`.
//!
//! Keys and meaning are those of open-vm-tools, where an invalid value means the default. A file that cannot be read is
//! an error here and not the default: it may exclude filesystems or switch scripts off.

use std::path::Path;
use std::time::Duration;

use super::script;
use crate::diagnostic::Diagnostic;
use crate::hooks::trust;
use crate::keyfile::{Entry, Line, Problem, lines};

#[derive(Debug, PartialEq)]
pub struct ToolsConf {
    /// Glob patterns of mount points that are not frozen, in our syntax.
    pub exclude: Vec<String>,
    /// Whether a filesystem that another program has frozen is no error.
    pub ignore_frozen: bool,
    pub scripts: bool,
    pub arg: Option<String>,
    /// For all scripts of a phase. The outer None: not set; the inner: no limit.
    pub timeout: Option<Option<Duration>>,
    pub filesystems: bool,
    pub warnings: Vec<String>,
}

impl ToolsConf {
    /// A file that does not exist has no settings.
    pub fn read(path: &Path) -> Result<ToolsConf, Diagnostic> {
        let text = trust::read(path).map_err(script::of_one_task)?;
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
                    let place = format!("{shown} (line {line})");
                    return Err(Diagnostic::new(place, problem.reason, problem.advice));
                }
            }
        }
        Ok(conf)
    }

    /// Returns a warning for an invalid value.
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

/// In VMware's patterns only `*` and `?` are special.
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
