//! Adapter for Huawei Cloud's CBR and CSBS, also used by Open Telekom Cloud: a directory with `NAME_freeze.sh` and
//! `NAME_unfreeze.sh` for each application, called with the root directory of the vendor's agent and a process id.
//!
//! Only a directory that the settings name is used: the scripts read a file of the vendor's agent, which hooks/huawei
//! in this project replaces. If one script fails, the freeze fails and the applications before it are unfrozen.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::script::{self, Group, Pair};
use crate::diagnostic::Diagnostic;
use crate::hooks::adapter::{Adapter, Discovered, DiscoveryContext, Enabled};
use crate::hooks::settings::OnFailure;
use crate::hooks::task::{Eligibility, HookTask};
use crate::hooks::trust::{self, quoted};
use crate::sys::strerror;

pub(super) const ADAPTER: Adapter = Adapter {
    name: NAME,
    discover: find,
    ..Adapter::DEFAULT
};

const NAME: &str = "huawei";
/// What the scripts read, relative to the agent's root directory.
const FUNCTIONS: &str = "bin/agent_func.sh";
const FREEZE: &str = "_freeze.sh";
const UNFREEZE: &str = "_unfreeze.sh";
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(600);

const GROUP: Group = Group {
    name: NAME,
    on_failure: OnFailure::Abort,
    paths: &["scripts", "agent-root"],
    has_timeout: true,
};

fn find(context: &DiscoveryContext<'_>) -> Discovered {
    let settings = GROUP.read(context, &mut script::unknown);
    let mut found = settings.discovered();
    let dir = settings.path("scripts");
    let used = match (settings.used, &dir) {
        (Enabled::No, _) | (Enabled::Auto, None) => return found,
        (_, Some(dir)) => applications(dir, settings.path("agent-root")),
        (Enabled::Yes, None) => {
            let why = "enabled=yes in [huawei], but no directory is named";
            Err(Diagnostic::new("", why, "add scripts=DIR"))
        }
    };
    let dir = dir.unwrap_or_default();
    let (root, names) = match used {
        Ok(used) => used,
        Err(reason) => {
            let mut task = HookTask::new(format!("{} ([huawei])", dir.display()), settings.policy);
            task.eligibility = Eligibility::unfit(reason);
            found.tasks.push(task);
            return found;
        }
    };
    for name in names {
        let pair = Pair {
            pre: dir.join(name.clone() + FREEZE),
            post: dir.join(name + UNFREEZE),
            args: vec![root.clone().into(), std::process::id().to_string().into()],
            timeout: settings.timeout.unwrap_or(Some(SCRIPT_TIMEOUT)),
        };
        let check = |path: &Path| script::open_checked(path, script::MAX_MODE_READABLE).map(drop);
        let task = pair.task(settings.policy.clone(), &check, &|_| None);
        found.tasks.push(task);
    }
    found
}

/// The agent's root directory and the names of the applications with a script.
fn applications(
    dir: &Path,
    root: Option<PathBuf>,
) -> Result<(PathBuf, BTreeSet<String>), Diagnostic> {
    let trusted = |path: &Path| trust::check(path).map_err(script::of_one_task);
    let unreadable = |error: io::Error| {
        let what = format!("{} cannot be read", dir.display());
        Diagnostic::new(what, strerror(&error), "check scripts= in [huawei]")
    };
    fs::metadata(dir).map_err(unreadable)?;
    trusted(dir)?;
    // The default directory is ROOT/bin/thirdparty/ebk_user.
    let above = || dir.ancestors().nth(3).unwrap_or(dir).to_owned();
    let root = root.unwrap_or_else(above);
    let functions = root.join(FUNCTIONS);
    if !functions.exists() {
        return Err(Diagnostic::new(
            "",
            format!(
                "{} is not there, which the scripts read",
                functions.display()
            ),
            "put hooks/huawei/agent_func.sh of this project there, or set agent-root",
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
        return Err(Diagnostic::new(
            "",
            format!("{} has no NAME{FREEZE}", quoted(dir)),
            "put one there, or take scripts= out",
        ));
    }
    Ok((root, names))
}
