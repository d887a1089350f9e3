//! Common parts of the adapters: the settings of their group, a pair of scripts, and the check of a script before it
//! may run.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::diagnostic::Diagnostic;
use crate::hooks::adapter::{Discovered, DiscoveryContext, Enabled};
use crate::hooks::settings::{HookSettings, OnFailure};
use crate::hooks::task::{CommandLine, Eligibility, HookTask};
use crate::hooks::trust::{self, quoted};
use crate::keyfile::parse_time_limit;
use crate::sys::strerror;

pub const MAX_MODE_READABLE: u32 = 0o755;
pub const MAX_MODE_PRIVATE: u32 = 0o700;

/// An adapter's group in the settings, beside the keys that all adapters have.
pub struct Group {
    pub name: &'static str,
    /// If the group does not set it. A failure is any status but 0.
    pub on_failure: OnFailure,
    pub paths: &'static [&'static str],
    pub has_timeout: bool,
}

#[derive(Debug)]
pub struct GroupSettings {
    pub used: Enabled,
    pub policy: HookSettings,
    pub on_failure: Option<OnFailure>,
    /// The outer None: not set; the inner: no limit.
    pub timeout: Option<Option<Duration>>,
    pub warnings: Vec<String>,
    paths: Vec<(&'static str, PathBuf)>,
}

impl Group {
    /// Calls `own` for keys of this adapter alone.
    pub fn read(
        &self,
        context: &DiscoveryContext<'_>,
        own: &mut dyn FnMut(&str, &str) -> Result<(), String>,
    ) -> GroupSettings {
        let mut settings = GroupSettings {
            used: Enabled::Auto,
            policy: HookSettings {
                on_failure: self.on_failure,
                not_applicable: Vec::new(),
                ..HookSettings::default()
            },
            on_failure: None,
            timeout: None,
            warnings: Vec::new(),
            paths: Vec::new(),
        };
        let warnings = context.rules.each(self.name, &mut |key, value| {
            let path = self.paths.iter().find(|known| **known == key);
            match key {
                _ if path.is_some() => {
                    let value = absolute(value)?;
                    settings.paths.extend(path.map(|known| (*known, value)));
                }
                "enabled" => settings.used = Enabled::parse(value)?,
                "on-failure" => {
                    settings.policy.set(key, value)?;
                    settings.on_failure = Some(settings.policy.on_failure);
                }
                "stage" | "kill-after" | "retry-pause" | "output-limit" => {
                    settings.policy.set(key, value)?;
                }
                "timeout" if self.has_timeout => settings.timeout = Some(parse_time_limit(value)?),
                _ => return own(key, value),
            }
            Ok(())
        });
        settings.warnings = warnings;
        settings
    }
}

impl GroupSettings {
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        let mut named = self.paths.iter().rev();
        named
            .find(|(known, _)| *known == key)
            .map(|(_, path)| path.clone())
    }

    pub fn discovered(&self) -> Discovered {
        Discovered {
            warnings: self.warnings.clone(),
            ..Discovered::default()
        }
    }
}

/// The contract of a system with one script before the freeze and one after the thaw.
pub struct PairContract {
    /// Its paths are those of the first and the second script.
    pub group: Group,
    pub places: [&'static str; 2],
    pub timeout: Duration,
}

impl PairContract {
    /// The group's warnings, and the pair with its settings if it is used.
    pub fn find(
        &self,
        context: &DiscoveryContext<'_>,
    ) -> (Discovered, Option<(Pair, HookSettings)>) {
        let settings = self.group.read(context, &mut unknown);
        let found = settings.discovered();
        let is_named = !settings.paths.is_empty();
        let path = |which: usize| {
            let named = settings.path(self.group.paths[which]);
            named.unwrap_or_else(|| context.root.join(self.places[which]))
        };
        let (pre, post) = (path(0), path(1));
        let is_wanted = is_named || settings.used == Enabled::Yes || pre.exists() || post.exists();
        if settings.used == Enabled::No || !is_wanted {
            return (found, None);
        }
        let pair = Pair {
            pre,
            post,
            args: Vec::new(),
            timeout: settings.timeout.unwrap_or(Some(self.timeout)),
        };
        (found, Some((pair, settings.policy)))
    }
}

/// A script before the freeze and one after the thaw; neither runs without the other.
pub struct Pair {
    pub pre: PathBuf,
    pub post: PathBuf,
    pub args: Vec<OsString>,
    pub timeout: Option<Duration>,
}

impl Pair {
    /// The task cannot run if `check` rejects one of the scripts; `error` gives the contract's name of that.
    pub fn task(
        self,
        policy: HookSettings,
        check: &dyn Fn(&Path) -> Result<(), ScriptError>,
        error: &dyn Fn(ScriptErrorKind) -> Option<&'static str>,
    ) -> HookTask {
        let mut task = HookTask::new(self.pre.display().to_string(), policy);
        let rejected = [&self.pre, &self.post]
            .into_iter()
            .find_map(|path| check(path).err());
        if let Some(rejected) = rejected {
            task.eligibility = Eligibility::Unfit {
                error: error(rejected.kind),
                reason: rejected.reason,
            };
        }
        let command = |program| CommandLine {
            program,
            args: self.args.clone(),
            timeout: self.timeout,
            retries: 0,
        };
        task.freeze = Some(command(self.pre));
        task.thaw = Some(command(self.post));
        task
    }
}

pub fn unknown(_: &str, _: &str) -> Result<(), String> {
    Err("is not a setting of this group".into())
}

fn absolute(value: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if path.is_absolute() && !value.contains('\0') {
        Ok(path)
    } else {
        Err("is not an absolute path".into())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError {
    pub kind: ScriptErrorKind,
    pub reason: Diagnostic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptErrorKind {
    Missing,
    NotExecutable,
    /// It, or a directory that leads to it, belongs to another user or has too many permissions.
    Forbidden,
}

impl ScriptErrorKind {
    pub fn error(self, why: impl Into<String>, remedy: impl Into<String>) -> ScriptError {
        ScriptError {
            kind: self,
            reason: Diagnostic::new("", why, remedy),
        }
    }
}

/// Without what the fault means for all hooks: it concerns a single task.
pub fn of_one_task(fault: Diagnostic) -> Diagnostic {
    Diagnostic {
        what: String::new(),
        ..fault
    }
}

/// Opens the file with O_PATH and checks on the descriptor that it is a regular file, that only root (or this process's
/// user) can change it, that it has no more permissions than `widest`, and that it is executable if `widest` is.
pub fn open_checked(path: &Path, widest: u32) -> Result<File, ScriptError> {
    use ScriptErrorKind::{Forbidden, Missing, NotExecutable};
    let shown = quoted(path);
    if let Err(error) = fs::metadata(path) {
        let kind = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Missing,
            _ => Forbidden,
        };
        let why = format!("{shown}: {}", strerror(&error));
        return Err(kind.error(why, "put it there"));
    }
    let place = trust::open(path).map_err(|fault| ScriptError {
        kind: Forbidden,
        reason: of_one_task(fault),
    })?;
    let data = place
        .metadata()
        .map_err(|error| Forbidden.error(format!("{shown}: {}", strerror(&error)), ""))?;
    if !data.is_file() {
        let why = format!("{shown} is not a regular file");
        return Err(Forbidden.error(why, "put one there"));
    }
    let mode = data.mode() & 0o777;
    if mode & !widest != 0 {
        let why = format!("{shown} has mode {mode:04o}, which is more than {widest:04o}");
        let remedy = format!("after checking its content: chmod {widest:o} {shown}");
        return Err(Forbidden.error(why, remedy));
    }
    if widest & 0o100 != 0 && mode & 0o100 == 0 {
        let why = format!("{shown} is not executable (mode {mode:04o})");
        let remedy = format!("to have it run: chmod u+x {shown}");
        return Err(NotExecutable.error(why, remedy));
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::ScriptErrorKind::{Forbidden, Missing, NotExecutable};
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_opened_file_is_what_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        let kind = |result: Result<(), ScriptError>| result.map_err(|error| error.kind);
        let with_mode = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            open_checked(&path, MAX_MODE_PRIVATE).map(drop)
        };
        let open = |path: &Path, widest| kind(open_checked(path, widest).map(drop));
        assert_eq!(open(&path, MAX_MODE_PRIVATE), Err(Missing));
        fs::write(&path, "").unwrap();
        assert_eq!(with_mode(0o700), Ok(()));
        assert_eq!(with_mode(0o500), Ok(()));
        assert_eq!(kind(with_mode(0o600)), Err(NotExecutable));
        let text = with_mode(0o750).unwrap_err().reason.to_string();
        assert!(
            text.contains("mode 0750, which is more than 0700; "),
            "{text}"
        );
        assert!(text.contains(": chmod 700 "), "{text}");
        assert!(open_checked(&path, MAX_MODE_READABLE).is_ok());
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(open(&link, MAX_MODE_PRIVATE), Err(Forbidden));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(open_checked(&link, MAX_MODE_PRIVATE).is_ok());
        assert_eq!(open(dir.path(), MAX_MODE_READABLE), Err(Forbidden));
        assert_eq!(open(&path.join("x"), MAX_MODE_READABLE), Err(Missing));
    }

    #[test]
    fn only_absolute_paths() {
        assert_eq!(absolute("/a/b"), Ok("/a/b".into()));
        assert!(absolute("a/b").is_err() && absolute("").is_err());
    }
}
