//! Adapter for Huawei Cloud's CBR and CSBS, also used by Open Telekom Cloud: a directory with
//! `NAME_freeze.sh` and `NAME_unfreeze.sh` for each application. Scripts are called with the root directory
//! of the vendor's agent and a process id.
//!
//! Only a directory that the settings name is used: the scripts read a file of the vendor's agent, which
//! hooks/huawei in this project replaces. If one script fails, the freeze fails and the applications before
//! it are unfrozen.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::script::{self, Pair};
use super::{Adapter, Discovered, DiscoveryContext, Enabled};
use crate::hooks::settings::OnFailure;
use crate::hooks::task::{Eligibility, HookTask};
use crate::hooks::trust::{self, REFUSING, quoted};
use crate::keyfile::parse_time_limit;
use crate::sys::strerror;

/// The adapter.
pub const HUAWEI: Adapter = Adapter {
    name: NAME,
    tags: &[],
    discover: find,
    error_name: |_, _| None,
};

const NAME: &str = "huawei";
/// The file that the scripts read, relative to the agent's root directory.
const FUNCTIONS: &str = "bin/agent_func.sh";
const FREEZE: &str = "_freeze.sh";
const UNFREEZE: &str = "_unfreeze.sh";
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(600);

fn find(context: &DiscoveryContext<'_>) -> Discovered {
    let (mut dir, mut root, mut timeout) = (None, None, Some(SCRIPT_TIMEOUT));
    let settings = script::settings(context, NAME, OnFailure::Abort, &mut |key, value| {
        match key {
            "scripts" => dir = Some(script::absolute(value)?),
            "agent-root" => root = Some(script::absolute(value)?),
            "timeout" => timeout = parse_time_limit(value)?,
            _ => return script::unknown(),
        }
        Ok(())
    });
    let mut found = Discovered {
        warnings: settings.warnings,
        ..Discovered::default()
    };
    let used = match (settings.used, &dir) {
        (Enabled::No, _) | (Enabled::Auto, None) => return found,
        (_, Some(dir)) => applications(dir, root),
        (Enabled::Yes, None) => {
            Err("enabled=yes in [huawei], but no directory is named; add scripts=DIR".into())
        }
    };
    let dir = dir.unwrap_or_default();
    let (root, names) = match used {
        Ok(used) => used,
        Err(reason) => {
            let mut task = HookTask::new(
                NAME,
                format!("{} ([huawei])", dir.display()),
                settings.policy,
            );
            task.eligibility = Eligibility::Unfit {
                reason,
                error: None,
            };
            found.tasks.push(task);
            return found;
        }
    };
    for name in names {
        let pair = Pair {
            pre: dir.join(name.clone() + FREEZE),
            post: dir.join(name + UNFREEZE),
            args: vec![root.clone().into(), std::process::id().to_string().into()],
            timeout,
        };
        let check = |path: &Path| script::open_checked(path, script::MAX_MODE_READABLE).map(drop);
        found
            .tasks
            .push(pair.step(NAME, settings.policy.clone(), &check, &|_| None));
    }
    found
}

/// The agent's root directory and the names of the applications with a script.
fn applications(dir: &Path, root: Option<PathBuf>) -> Result<(PathBuf, BTreeSet<String>), String> {
    let trusted =
        |path: &Path| trust::check(path).map_err(|refusal| refusal.0.replace(REFUSING, ""));
    let unreadable = |error| {
        format!(
            "{} cannot be read: {}; look at scripts= in [huawei]",
            dir.display(),
            strerror(&error)
        )
    };
    fs::metadata(dir).map_err(unreadable)?;
    trusted(dir)?;
    // The default directory is ROOT/bin/thirdparty/ebk_user.
    let above = || dir.ancestors().nth(3).unwrap_or(dir).to_owned();
    let root = root.unwrap_or_else(above);
    let functions = root.join(FUNCTIONS);
    if !functions.exists() {
        return Err(format!(
            "{} is not there, which the scripts read; put hooks/huawei/agent_func.sh of this project there, or \
             set agent-root",
            functions.display()
        ));
    }
    trusted(&functions)?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let name = name.to_string_lossy();
        let application = name.strip_suffix(FREEZE).or(name.strip_suffix(UNFREEZE));
        names.extend(
            application
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
        );
    }
    if names.is_empty() {
        return Err(format!(
            "{} has no NAME{FREEZE}; put one there, or take scripts= out",
            quoted(dir)
        ));
    }
    Ok((root, names))
}
