//! Alibaba Cloud's application-consistent snapshots: a script before and one after.
//!
//! Only scripts that the operator names are ever run: their usual place is /tmp, where everybody may
//! put one. Whatever is wrong with them, the freeze goes on.

use std::time::Duration;

use super::script::{self, Flaw};
use super::{Adapter, Found, Scene, Use};
use crate::hooks::policy::{OnFailure, boolean, limit};
use crate::hooks::step::{Call, Fitness, Step};

/// The adapter.
pub const ALIBABA: Adapter = Adapter {
    name: NAME,
    tags: &[
        ("filesystem", "FsConsistent:True"),
        ("application", "APPConsistent:True"),
    ],
    find,
    error_name: |_, _| None,
};

const NAME: &str = "alibaba";
const TIMEOUT: Duration = Duration::from_secs(1800);

fn find(scene: &Scene<'_>) -> Found {
    let (mut pre, mut post) = (None, None);
    let (mut freezes, mut timeout) = (true, Some(TIMEOUT));
    let settings = script::settings(scene, NAME, OnFailure::Continue, &mut |key, value| {
        match key {
            "pre-script" => pre = Some(script::absolute(value)?),
            "post-script" => post = Some(script::absolute(value)?),
            "freeze-filesystems" => freezes = boolean(value)?,
            "timeout" => timeout = limit(value)?,
            _ => return script::unknown(),
        }
        Ok(())
    });
    let mut found = Found {
        warnings: settings.warnings,
        ..Found::default()
    };
    let is_named = pre.is_some() || post.is_some();
    if settings.used == Use::No || (settings.used == Use::Auto && !is_named) {
        return found;
    }
    let name = pre.as_ref().or(post.as_ref());
    let name = name.map_or(NAME.to_owned(), |path| path.display().to_string());
    let mut step = Step::new(NAME, name, settings.policy);
    if !is_named {
        step.fitness = Fitness::Unfit {
            reason: "enabled=yes in [alibaba], but no script is named; add pre-script=PATH and \
                     post-script=PATH"
                .into(),
            error: None,
        };
    }
    for path in [&pre, &post].into_iter().flatten() {
        if let Err(flaw) = script::look(path, script::PRIVATE) {
            step.fitness = Fitness::Unfit {
                reason: Flaw::into_text(flaw),
                error: None,
            };
            break;
        }
    }
    let call = |program| Call {
        program,
        args: Vec::new(),
        timeout,
        retries: 0,
    };
    step.freeze = pre.map(call);
    step.thaw = post.map(call);
    found.leaves_filesystems = !freezes && step.fitness == Fitness::Fit;
    found.steps.push(step);
    found
}
