//! Adapter for VMware Tools: the legacy pre-freeze-script and post-thaw-script, and the files in backupScripts.d.
//!
//! On freeze the scripts run one after another, each with `freeze`. The first failure stops the freeze; the scripts
//! before it are called with `freezeFail` in reverse order, the failed one is not. If freezing the filesystems then
//! fails, all are called with `freezeFail`. All together have 15 minutes. The settings in tools.conf apply while the
//! adapter is used; the group `[vmware]` of our own settings overrides them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::script::{self, Group, GroupSettings, ScriptError, ScriptErrorKind};
use super::tools_conf::ToolsConf;
use crate::diagnostic::Diagnostic;
use crate::hooks::adapter::{Adapter, Discovered, DiscoveryContext, Enabled, FilesystemSettings};
use crate::hooks::settings::{HookConfig, OnFailure};
use crate::hooks::task::{CommandLine, Eligibility, HookTask};
use crate::hooks::trust;
use crate::sys::strerror;

pub(super) const ADAPTER: Adapter = Adapter {
    name: NAME,
    discover: find,
    filesystems,
    ..Adapter::DEFAULT
};

const NAME: &str = "vmware";
const PRE: &str = "usr/sbin/pre-freeze-script";
const POST: &str = "usr/sbin/post-thaw-script";
const DIRECTORY: &str = "etc/vmware-tools/backupScripts.d";
const TOOLS_CONF: &str = "etc/vmware-tools/tools.conf";
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(15 * 60);

const GROUP: Group = Group {
    name: NAME,
    on_failure: OnFailure::Abort,
    paths: &[
        "pre-freeze-script",
        "post-thaw-script",
        "scripts",
        "tools-conf",
    ],
    has_timeout: true,
};

fn find(context: &DiscoveryContext<'_>) -> Discovered {
    let (mut found, conf) = discover_scripts(context);
    if let Some(Ok(conf)) = conf {
        found.leaves_filesystems = !conf.filesystems;
        found.warnings.extend(conf.warnings);
        if !conf.scripts {
            found.tasks.clear();
        }
    }
    found
}

fn filesystems(rules: &HookConfig) -> Option<Result<FilesystemSettings, Diagnostic>> {
    let context = DiscoveryContext {
        root: Path::new("/"),
        rules,
        devices: "",
    };
    Some(match discover_scripts(&context).1? {
        Ok(conf) => Ok(FilesystemSettings {
            origin: "tools.conf",
            exclude: conf.exclude,
            ignore_frozen: conf.ignore_frozen,
        }),
        Err(why) => Err(why),
    })
}

/// All scripts, and the settings in tools.conf if there are any scripts.
fn discover_scripts(
    context: &DiscoveryContext<'_>,
) -> (Discovered, Option<Result<ToolsConf, Diagnostic>>) {
    let settings = GROUP.read(context, &mut script::unknown);
    let mut found = settings.discovered();
    if settings.used == Enabled::No {
        return (found, None);
    }
    let place = |key: &str, usual: &str| match settings.path(key) {
        Some(path) => (path, true),
        None => (context.root.join(usual), false),
    };
    let (pre, post) = (
        place("pre-freeze-script", PRE),
        place("post-thaw-script", POST),
    );
    let dir = place("scripts", DIRECTORY);
    let (conf_path, _) = place("tools-conf", TOOLS_CONF);
    let conf = ToolsConf::read(&conf_path);
    let readable_conf = conf.as_ref().ok();
    let vmware = Vmware {
        timeout: settings
            .timeout
            .or(readable_conf.and_then(|conf| conf.timeout))
            .unwrap_or(Some(SCRIPT_TIMEOUT)),
        arg: readable_conf.and_then(|conf| conf.arg.clone()),
        settings,
    };
    found.tasks.extend(vmware.legacy(pre, post));
    found.tasks.extend(vmware.directory(&dir.0, dir.1));
    if found.tasks.is_empty()
        && vmware.settings.used == Enabled::Yes
        && readable_conf.is_none_or(|c| c.scripts)
    {
        let reason = Diagnostic::new(
            "",
            "enabled=yes in [vmware], but there is no script",
            "put one there, or say auto",
        );
        found.tasks.push(vmware.unfit(&dir.0, reason));
    }
    let is_used = !found.tasks.is_empty() || vmware.settings.used == Enabled::Yes;
    if let (true, Err(why)) = (is_used, &conf) {
        found.tasks = vec![vmware.unfit(&conf_path, why.clone())];
    }
    (found, is_used.then_some(conf))
}

struct Vmware {
    settings: GroupSettings,
    timeout: Option<Duration>,
    arg: Option<String>,
}

impl Vmware {
    /// The two legacy scripts are one task: the first is its freeze, the second its thaw.
    fn legacy(&self, pre: (PathBuf, bool), post: (PathBuf, bool)) -> Option<HookTask> {
        let is_wanted = |(path, named): &(PathBuf, bool)| *named || path.exists();
        if !is_wanted(&pre) && !is_wanted(&post) {
            return None;
        }
        let mut task = self.task(&pre.0);
        let mut eligibility = Eligibility::Fit;
        let halves = [
            (&pre, &mut task.freeze, "freeze"),
            (&post, &mut task.thaw, "thaw"),
        ];
        for (half, command, word) in halves {
            if !is_wanted(half) {
                continue;
            }
            match eligibility_of(&half.0) {
                Eligibility::Fit => *command = Some(self.command(&half.0, word)),
                ineligible => eligibility = ineligible,
            }
        }
        task.undo = task
            .thaw
            .as_ref()
            .map(|_| self.command(&post.0, "freezeFail"));
        // If the thaw script cannot run, the freeze script must not run either.
        task.eligibility = eligibility;
        Some(task)
    }

    fn directory(&self, dir: &Path, is_named: bool) -> Vec<HookTask> {
        let names = match names(dir) {
            Ok(names) => names,
            Err(error) if error.kind == ScriptErrorKind::Missing && !is_named => {
                return Vec::new();
            }
            Err(error) => return vec![self.unfit(dir, error.reason)],
        };
        let one = |path: &PathBuf| {
            let mut task = self.task(path);
            task.freeze = Some(self.command(path, "freeze"));
            task.thaw = Some(self.command(path, "thaw"));
            task.undo = Some(self.command(path, "freezeFail"));
            task.eligibility = eligibility_of(path);
            task
        };
        names.iter().map(one).collect()
    }

    fn task(&self, path: &Path) -> HookTask {
        let name = path.display().to_string();
        let mut task = HookTask::new(name, self.settings.policy.clone());
        task.undone_if_failed = false;
        task.budget = self.timeout;
        task
    }

    fn unfit(&self, path: &Path, reason: Diagnostic) -> HookTask {
        let mut task = self.task(path);
        task.eligibility = Eligibility::unfit(reason);
        task
    }

    fn command(&self, path: &Path, word: &str) -> CommandLine {
        CommandLine {
            program: path.to_owned(),
            args: std::iter::once(word)
                .chain(self.arg.as_deref())
                .map(Into::into)
                .collect(),
            // The limit is for all scripts together, see `budget`.
            timeout: None,
            retries: 0,
        }
    }
}

fn eligibility_of(path: &Path) -> Eligibility {
    match script::open_checked(path, script::MAX_MODE_READABLE) {
        Ok(_) => Eligibility::Fit,
        Err(rejected) if rejected.kind == ScriptErrorKind::NotExecutable => {
            Eligibility::Skipped(rejected.reason)
        }
        Err(rejected) => Eligibility::unfit(rejected.reason),
    }
}

/// In byte order; links are followed.
fn names(dir: &Path) -> Result<Vec<PathBuf>, ScriptError> {
    let unreadable = |error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ScriptErrorKind::Missing,
            _ => ScriptErrorKind::Forbidden,
        };
        kind.error(
            format!("{} cannot be read: {}", dir.display(), strerror(&error)),
            "",
        )
    };
    fs::metadata(dir).map_err(unreadable)?;
    trust::check(dir).map_err(|reason| ScriptError {
        kind: ScriptErrorKind::Forbidden,
        reason,
    })?;
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            names.push(path);
        }
    }
    names.sort_unstable();
    Ok(names)
}
