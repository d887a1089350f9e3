//! Adapter for Alibaba Cloud's application-consistent snapshots: a script before and one after.
//!
//! Only scripts that the settings name are run: their default place is /tmp, where every user can create
//! files. If a script is rejected or fails, the freeze continues.

use std::time::Duration;

use super::script::{self, Flaw};
use super::{Adapter, Discovered, DiscoveryContext, Enabled};
use crate::hooks::settings::OnFailure;
use crate::hooks::task::{CommandLine, Eligibility, HookTask};
use crate::keyfile::{parse_boolean, parse_time_limit};

/// The adapter.
pub const ALIBABA: Adapter = Adapter {
    name: NAME,
    tags: &[
        ("filesystem", "FsConsistent:True"),
        ("application", "APPConsistent:True"),
    ],
    discover: find,
    error_name: |_, _| None,
};

const NAME: &str = "alibaba";
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(1800);

fn find(context: &DiscoveryContext<'_>) -> Discovered {
    let (mut pre, mut post) = (None, None);
    let (mut freezes, mut timeout) = (true, Some(SCRIPT_TIMEOUT));
    let settings = script::settings(context, NAME, OnFailure::Continue, &mut |key, value| {
        match key {
            "pre-script" => pre = Some(script::absolute(value)?),
            "post-script" => post = Some(script::absolute(value)?),
            "freeze-filesystems" => freezes = parse_boolean(value)?,
            "timeout" => timeout = parse_time_limit(value)?,
            _ => return script::unknown(),
        }
        Ok(())
    });
    let mut found = Discovered {
        warnings: settings.warnings,
        ..Discovered::default()
    };
    let is_named = pre.is_some() || post.is_some();
    if settings.used == Enabled::No || (settings.used == Enabled::Auto && !is_named) {
        return found;
    }
    let name = pre.as_ref().or(post.as_ref());
    let name = name.map_or(NAME.to_owned(), |path| path.display().to_string());
    let mut task = HookTask::new(NAME, name, settings.policy);
    if !is_named {
        task.eligibility = Eligibility::Unfit {
            reason: "enabled=yes in [alibaba], but no script is named; add pre-script=PATH and \
                     post-script=PATH"
                .into(),
            error: None,
        };
    }
    for path in [&pre, &post].into_iter().flatten() {
        if let Err(flaw) = script::open_checked(path, script::MAX_MODE_PRIVATE) {
            task.eligibility = Eligibility::Unfit {
                reason: Flaw::into_text(flaw),
                error: None,
            };
            break;
        }
    }
    let command = |program| CommandLine {
        program,
        args: Vec::new(),
        timeout,
        retries: 0,
    };
    task.freeze = pre.map(command);
    task.thaw = post.map(command);
    found.leaves_filesystems = !freezes && task.eligibility == Eligibility::Fit;
    found.tasks.push(task);
    found
}
