//! Common parts of the adapters: the settings of their group, a pair of scripts, and the check of a script
//! before it may run.
//!
//! Every adapter calls [`settings`] for its group and [`open_checked`] for each script.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Discovered, DiscoveryContext, Enabled};
use crate::hooks::settings::{HookSettings, OnFailure};
use crate::hooks::task::{CommandLine, Eligibility, HookTask};
use crate::hooks::trust::{self, quoted};
use crate::keyfile::parse_time_limit;
use crate::sys::strerror;

/// Most permissions of a script that all users may read.
pub const MAX_MODE_READABLE: u32 = 0o755;
/// Most permissions of a script that only root may read.
pub const MAX_MODE_PRIVATE: u32 = 0o700;

/// The settings of an adapter's group.
#[derive(Debug)]
pub struct AdapterSettings {
    /// Whether the adapter is used.
    pub used: Enabled,
    /// The settings of its tasks.
    pub policy: HookSettings,
    /// `on-failure`, if the group sets it.
    pub on_failure: Option<OnFailure>,
    /// Settings that are ignored, one line each.
    pub warnings: Vec<String>,
}

/// Reads the group `name`. Keys that all adapters have are handled here, all others by `own`. A status other
/// than 0 is a failure; `on_failure` is its effect if the group does not set it.
pub fn settings(
    context: &DiscoveryContext<'_>,
    name: &str,
    on_failure: OnFailure,
    own: &mut dyn FnMut(&str, &str) -> Result<(), String>,
) -> AdapterSettings {
    let mut used = Enabled::Auto;
    let mut explicit = None;
    let mut policy = HookSettings {
        on_failure,
        not_applicable: Vec::new(),
        ..HookSettings::default()
    };
    let warnings = context.rules.each(name, &mut |key, value| match key {
        "enabled" => Enabled::parse(value).map(|parsed| used = parsed),
        "on-failure" => {
            policy.set(key, value)?;
            explicit = Some(policy.on_failure);
            Ok(())
        }
        "stage" | "kill-after" | "retry-pause" | "output-limit" => policy.set(key, value),
        _ => own(key, value),
    });
    AdapterSettings {
        used,
        policy,
        on_failure: explicit,
        warnings,
    }
}

/// The contract of a system with one script before the freeze and one after the thaw.
pub struct PairContract {
    /// The name of the adapter and of its group.
    pub name: &'static str,
    /// The effect of a failure if the group does not set it.
    pub on_failure: OnFailure,
    /// The keys for the paths of the first and the second script.
    pub keys: [&'static str; 2],
    /// The default paths, relative to the root.
    pub places: [&'static str; 2],
    /// Time for one start of either script if the group does not set it.
    pub timeout: Duration,
}

impl PairContract {
    /// Reads the group; returns its warnings, and the pair with its settings if it is used.
    pub fn find(
        &self,
        context: &DiscoveryContext<'_>,
    ) -> (Discovered, Option<(Pair, HookSettings)>) {
        let (mut named, mut timeout) = ([None, None], Some(self.timeout));
        let settings = settings(context, self.name, self.on_failure, &mut |key, value| {
            match self.keys.iter().position(|known| *known == key) {
                Some(which) => named[which] = Some(absolute(value)?),
                None if key == "timeout" => timeout = parse_time_limit(value)?,
                None => return unknown(),
            }
            Ok(())
        });
        let found = Discovered {
            warnings: settings.warnings,
            ..Discovered::default()
        };
        let is_named = named.iter().any(Option::is_some);
        let [pre, post] = named;
        let pre = pre.unwrap_or_else(|| context.root.join(self.places[0]));
        let post = post.unwrap_or_else(|| context.root.join(self.places[1]));
        let is_wanted = is_named || settings.used == Enabled::Yes || pre.exists() || post.exists();
        if settings.used == Enabled::No || !is_wanted {
            return (found, None);
        }
        let pair = Pair {
            pre,
            post,
            args: Vec::new(),
            timeout,
        };
        (found, Some((pair, settings.policy)))
    }
}

/// A script before the freeze and one after the thaw; neither runs without the other.
pub struct Pair {
    /// The script before the freeze.
    pub pre: PathBuf,
    /// The script after the thaw.
    pub post: PathBuf,
    /// The arguments of both.
    pub args: Vec<OsString>,
    /// Time for one start of either script.
    pub timeout: Option<Duration>,
}

impl Pair {
    /// The task of `source`. It cannot run if `check` rejects one of the scripts; `error` gives the
    /// contract's name of that.
    pub fn step(
        self,
        source: &'static str,
        policy: HookSettings,
        check: &dyn Fn(&Path) -> Result<(), Flaw>,
        error: &dyn Fn(&Flaw) -> Option<&'static str>,
    ) -> HookTask {
        let mut task = HookTask::new(source, self.pre.display().to_string(), policy);
        let flaw = [&self.pre, &self.post]
            .into_iter()
            .find_map(|path| check(path).err());
        if let Some(flaw) = flaw {
            task.eligibility = Eligibility::Unfit {
                error: error(&flaw),
                reason: flaw.into_text(),
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

/// The error of `own` for a key that it does not know.
///
/// # Errors
/// Always.
pub fn unknown() -> Result<(), String> {
    Err("is not a setting of this group".into())
}

/// Parses the value of a key that names a file.
///
/// # Errors
/// The path is not absolute.
pub fn absolute(value: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if path.is_absolute() && !value.contains('\0') {
        Ok(path)
    } else {
        Err("is not an absolute path".into())
    }
}

/// Why a file is rejected; each text ends with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It does not exist.
    Missing(String),
    /// It is not executable.
    Inert(String),
    /// It, or a directory that leads to it, belongs to another user or has too many permissions.
    Forbidden(String),
}

impl Flaw {
    /// The reason with the remedy.
    pub fn into_text(self) -> String {
        match self {
            Flaw::Missing(text) | Flaw::Inert(text) | Flaw::Forbidden(text) => text,
        }
    }
}

/// Opens the file at `path` with O_PATH and checks on the descriptor that it is a regular file, that only
/// root (or this process's user) can change it, that it has no more permissions than `widest`, and that it is
/// executable if `widest` is.
///
/// # Errors
/// See [`Flaw`].
pub fn open_checked(path: &Path, widest: u32) -> Result<File, Flaw> {
    let shown = quoted(path);
    if let Err(error) = fs::metadata(path) {
        let text = format!("{shown}: {}; put it there", strerror(&error));
        return Err(match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Flaw::Missing(text),
            _ => Flaw::Forbidden(text),
        });
    }
    let place = trust::open(path).map_err(|refusal| {
        let line = refusal.0;
        let line = line.strip_prefix(trust::REFUSING).unwrap_or(&line);
        Flaw::Forbidden(line.to_owned())
    })?;
    let data = place
        .metadata()
        .map_err(|error| Flaw::Forbidden(format!("{shown}: {}", strerror(&error))))?;
    if !data.is_file() {
        let text = format!("{shown} is not a regular file; put one there");
        return Err(Flaw::Forbidden(text));
    }
    let mode = data.mode() & 0o777;
    if mode & !widest != 0 {
        return Err(Flaw::Forbidden(format!(
            "{shown} has mode {mode:04o}, which is more than {widest:04o}; after checking its \
             content: chmod {widest:o} {shown}"
        )));
    }
    if widest & 0o100 != 0 && mode & 0o100 == 0 {
        return Err(Flaw::Inert(format!(
            "{shown} is not executable (mode {mode:04o}); to have it run: chmod u+x {shown}"
        )));
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_opened_file_is_what_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        let with_mode = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            open_checked(&path, MAX_MODE_PRIVATE).map(drop)
        };
        assert!(matches!(
            open_checked(&path, MAX_MODE_PRIVATE),
            Err(Flaw::Missing(_))
        ));
        fs::write(&path, "").unwrap();
        assert_eq!(with_mode(0o700), Ok(()));
        assert_eq!(with_mode(0o500), Ok(()));
        assert!(matches!(with_mode(0o600), Err(Flaw::Inert(_))));
        let text = with_mode(0o750).unwrap_err().into_text();
        assert!(
            text.contains("mode 0750, which is more than 0700; "),
            "{text}"
        );
        assert!(text.contains(": chmod 700 "), "{text}");
        assert!(open_checked(&path, MAX_MODE_READABLE).is_ok());
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(
            open_checked(&link, MAX_MODE_PRIVATE),
            Err(Flaw::Forbidden(_))
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(open_checked(&link, MAX_MODE_PRIVATE).is_ok());
        assert!(matches!(
            open_checked(dir.path(), MAX_MODE_READABLE),
            Err(Flaw::Forbidden(_))
        ));
        assert!(matches!(
            open_checked(&path.join("x"), MAX_MODE_READABLE),
            Err(Flaw::Missing(_))
        ));
    }

    #[test]
    fn only_absolute_paths() {
        assert_eq!(absolute("/a/b"), Ok("/a/b".into()));
        assert!(absolute("a/b").is_err() && absolute("").is_err());
    }
}
