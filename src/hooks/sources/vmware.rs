//! Adapter for VMware Tools: the legacy pre-freeze-script and post-thaw-script, and the files in
//! backupScripts.d.
//!
//! On freeze the scripts run one after another, each with `freeze`. The first failure stops the freeze; the
//! scripts before it are called with `freezeFail` in reverse order, the failed one is not. If freezing the
//! filesystems then fails, all are called with `freezeFail`. All together have 15 minutes. The settings in
//! tools.conf apply while the adapter is used; the group `[vmware]` of our own settings overrides them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::script::{self, AdapterSettings, Flaw};
use super::tools_conf::ToolsConf;
use super::{Adapter, Discovered, DiscoveryContext, Enabled};
use crate::hooks::settings::{HookConfig, OnFailure};
use crate::hooks::task::{CommandLine, Eligibility, HookTask};
use crate::hooks::trust;
use crate::keyfile::parse_time_limit;
use crate::sys::strerror;

/// The adapter.
pub const VMWARE: Adapter = Adapter {
    name: NAME,
    tags: &[],
    discover: find,
    error_name: |_, _| None,
};

const NAME: &str = "vmware";
/// The default paths, relative to the root.
const PRE: &str = "usr/sbin/pre-freeze-script";
const POST: &str = "usr/sbin/post-thaw-script";
const DIRECTORY: &str = "etc/vmware-tools/backupScripts.d";
const TOOLS_CONF: &str = "etc/vmware-tools/tools.conf";
/// Time for all scripts of one phase together.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(15 * 60);

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

/// The settings in tools.conf, if the adapter is used by the settings in `rules`.
///
/// # Errors
/// tools.conf cannot be read.
pub fn tools_conf(rules: &HookConfig) -> Option<Result<ToolsConf, String>> {
    let context = DiscoveryContext {
        root: Path::new("/"),
        rules,
        devices: "",
    };
    discover_scripts(&context).1
}

/// All scripts, and the settings in tools.conf if there are any scripts.
fn discover_scripts(
    context: &DiscoveryContext<'_>,
) -> (Discovered, Option<Result<ToolsConf, String>>) {
    let (mut pre, mut post, mut dir, mut timeout) = (None, None, None, None);
    let mut conf = None;
    let settings = script::settings(context, NAME, OnFailure::Abort, &mut |key, value| {
        match key {
            "pre-freeze-script" => pre = Some(script::absolute(value)?),
            "post-thaw-script" => post = Some(script::absolute(value)?),
            "scripts" => dir = Some(script::absolute(value)?),
            "timeout" => timeout = Some(parse_time_limit(value)?),
            "tools-conf" => conf = Some(script::absolute(value)?),
            _ => return script::unknown(),
        }
        Ok(())
    });
    let mut found = Discovered {
        warnings: settings.warnings.clone(),
        ..Discovered::default()
    };
    if settings.used == Enabled::No {
        return (found, None);
    }
    let place = |named: Option<PathBuf>, usual: &str| match named {
        Some(path) => (path, true),
        None => (context.root.join(usual), false),
    };
    let (conf_path, _) = place(conf, TOOLS_CONF);
    let conf = ToolsConf::read(&conf_path);
    let readable_conf = conf.as_ref().ok();
    let vmware = Vmware {
        timeout: timeout
            .or(readable_conf.and_then(|conf| conf.timeout))
            .unwrap_or(Some(SCRIPT_TIMEOUT)),
        arg: readable_conf.and_then(|conf| conf.arg.clone()),
        settings,
    };
    let dir = place(dir, DIRECTORY);
    found
        .tasks
        .extend(vmware.legacy(place(pre, PRE), place(post, POST)));
    found.tasks.extend(vmware.directory(&dir.0, dir.1));
    if found.tasks.is_empty()
        && vmware.settings.used == Enabled::Yes
        && readable_conf.is_none_or(|c| c.scripts)
    {
        let why = "enabled=yes in [vmware], but there is no script; put one there, or say auto";
        found.tasks.push(vmware.unfit(&dir.0, why.into()));
    }
    let is_used = !found.tasks.is_empty() || vmware.settings.used == Enabled::Yes;
    if let (true, Err(why)) = (is_used, &conf) {
        found.tasks = vec![vmware.unfit(&conf_path, why.clone())];
    }
    (found, is_used.then_some(conf))
}

struct Vmware {
    settings: AdapterSettings,
    timeout: Option<Duration>,
    /// The second argument of every script.
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
            Err(Flaw::Missing(_)) if !is_named => return Vec::new(),
            Err(flaw) => return vec![self.unfit(dir, flaw.into_text())],
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
        let mut task = HookTask::new(NAME, name, self.settings.policy.clone());
        task.undone_if_failed = false;
        task.budget = self.timeout;
        task
    }

    fn unfit(&self, path: &Path, reason: String) -> HookTask {
        let mut task = self.task(path);
        task.eligibility = Eligibility::Unfit {
            reason,
            error: None,
        };
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
        Err(Flaw::Inert(why)) => Eligibility::Skipped(why),
        Err(flaw) => Eligibility::Unfit {
            reason: flaw.into_text(),
            error: None,
        },
    }
}

/// The regular files of the directory in byte order; links are followed.
fn names(dir: &Path) -> Result<Vec<PathBuf>, Flaw> {
    let unreadable = |error: io::Error| {
        let text = format!("{} cannot be read: {}", dir.display(), strerror(&error));
        match error.kind() {
            io::ErrorKind::NotFound => Flaw::Missing(text),
            _ => Flaw::Forbidden(text),
        }
    };
    fs::metadata(dir).map_err(unreadable)?;
    trust::check(dir).map_err(|refusal| Flaw::Forbidden(refusal.0))?;
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
