//! Adapter for Alibaba Cloud's application-consistent snapshots: a script before and one after.
//!
//! Only scripts that the settings name are run: their default place is /tmp, where every user can create files. If a
//! script is rejected or fails, the freeze continues.

use std::time::Duration;

use super::script::{self, Group};
use crate::diagnostic::Diagnostic;
use crate::hooks::adapter::{Adapter, Discovered, DiscoveryContext, Enabled};
use crate::hooks::settings::OnFailure;
use crate::hooks::task::{CommandLine, Eligibility, HookTask};
use crate::keyfile::parse_boolean;

pub(super) const ADAPTER: Adapter = Adapter {
    name: NAME,
    tags: &[
        ("filesystem", "FsConsistent:True"),
        ("application", "APPConsistent:True"),
    ],
    discover: find,
    ..Adapter::DEFAULT
};

const NAME: &str = "alibaba";
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(1800);

const GROUP: Group = Group {
    name: NAME,
    on_failure: OnFailure::Continue,
    paths: &["pre-script", "post-script"],
    has_timeout: true,
};

fn find(context: &DiscoveryContext<'_>) -> Discovered {
    let mut freezes = true;
    let settings = GROUP.read(context, &mut |key, value| {
        if key != "freeze-filesystems" {
            return script::unknown(key, value);
        }
        freezes = parse_boolean(value)?;
        Ok(())
    });
    let mut found = settings.discovered();
    let (pre, post) = (settings.path("pre-script"), settings.path("post-script"));
    let is_named = pre.is_some() || post.is_some();
    if settings.used == Enabled::No || (settings.used == Enabled::Auto && !is_named) {
        return found;
    }
    let name = pre.as_ref().or(post.as_ref());
    let name = name.map_or(NAME.to_owned(), |path| path.display().to_string());
    let mut task = HookTask::new(name, settings.policy);
    let fault = if is_named {
        let check = |path| script::open_checked(path, script::MAX_MODE_PRIVATE).err();
        let mut paths = [&pre, &post].into_iter().flatten();
        paths.find_map(|path| Some(check(path)?.reason))
    } else {
        Some(Diagnostic::new(
            "",
            "enabled=yes in [alibaba], but no script is named",
            "add pre-script=PATH and post-script=PATH",
        ))
    };
    task.eligibility = fault.map_or(Eligibility::Fit, Eligibility::unfit);
    let command = |program| CommandLine {
        program,
        args: Vec::new(),
        timeout: settings.timeout.unwrap_or(Some(SCRIPT_TIMEOUT)),
        retries: 0,
    };
    task.freeze = pre.map(command);
    task.thaw = post.map(command);
    found.leaves_filesystems = !freezes && task.eligibility == Eligibility::Fit;
    found.tasks.push(task);
    found
}
