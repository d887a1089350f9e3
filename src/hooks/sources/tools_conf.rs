//! VMware's tools.conf: what its group `[vmbackup]` says of scripts and filesystems.
//!
//! Keys and meaning are those of open-vm-tools, a value without sense counts as its default there.
//! A file that cannot be read is no default here: what it was to exclude or switch off is not known.

use std::path::Path;
use std::time::Duration;

use crate::hooks::trust::{self, REFUSING};
use crate::keyfile::{Entry, Line, lines};

/// What the group says.
#[derive(Debug, PartialEq)]
pub struct ToolsConf {
    /// Globs of mountpoints that are not frozen, in our notation.
    pub exclude: Vec<String>,
    /// A filesystem that somebody else froze is no error.
    pub ignore_frozen: bool,
    /// Whether scripts are run.
    pub scripts: bool,
    /// The scripts' second argument.
    pub arg: Option<String>,
    /// Time for all scripts of a phase; the outer None: not said, the inner: no limit.
    pub timeout: Option<Option<Duration>>,
    /// Whether filesystems are frozen.
    pub filesystems: bool,
    /// What was passed over.
    pub warnings: Vec<String>,
}

impl ToolsConf {
    /// Reads the file at `path`; one that is not there says nothing.
    ///
    /// # Errors
    /// It cannot be read, or others could have written it: where, why, and what to do.
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
                Line::Wrong(problem) => Err(problem),
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

    /// Answers what makes no sense.
    fn set(&mut self, entry: &Entry<'_>) -> Result<Option<&'static str>, crate::keyfile::Problem> {
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
                return Ok(seconds
                    .is_none()
                    .then_some("timeout is no number of seconds"));
            }
            _ => return Ok(None),
        };
        match value.trim() {
            "true" | "1" => *switch = true,
            "false" | "0" => *switch = false,
            _ => {
                return Ok(Some(match &*entry.key {
                    "execScripts" => "execScripts is neither true nor false",
                    "enableSyncDriver" => "enableSyncDriver is neither true nor false",
                    _ => "ignoreFrozenFileSystems is neither true nor false",
                }));
            }
        }
        Ok(None)
    }
}

/// There only `*` and `?` are special.
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
