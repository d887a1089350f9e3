//! Adapter for Nutanix guest tools, also as Commvault uses them on AHV: pre_freeze and post_thaw in /usr/local/sbin,
//! without arguments. On Nutanix a script that cannot be run results in a crash-consistent snapshot, so the freeze
//! continues.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use super::script::{self, Group, PairContract, ScriptError, ScriptErrorKind};
use crate::hooks::adapter::{Adapter, Discovered, DiscoveryContext};
use crate::hooks::settings::OnFailure;
use crate::hooks::trust::quoted;

pub(super) const ADAPTER: Adapter = Adapter {
    name: NAME,
    tags: &[
        ("crash", "CRASH_CONSISTENT"),
        ("filesystem", "CRASH_CONSISTENT"),
        ("application", "APPLICATION_CONSISTENT"),
    ],
    discover: find,
    ..Adapter::DEFAULT
};

const NAME: &str = "nutanix";
/// Nutanix documents no timeout; this is the default of other hooks.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(600);
const CONTRACT: PairContract = PairContract {
    group: Group {
        name: NAME,
        on_failure: OnFailure::Continue,
        paths: &["pre-freeze", "post-thaw"],
        has_timeout: true,
    },
    places: ["usr/local/sbin/pre_freeze", "usr/local/sbin/post_thaw"],
    timeout: SCRIPT_TIMEOUT,
};

fn find(context: &DiscoveryContext<'_>) -> Discovered {
    let (mut found, used) = CONTRACT.find(context);
    let task = used.map(|(pair, policy)| pair.task(policy, &check_script, &|_| None));
    found.tasks.extend(task);
    found
}

/// Rejects a script with a control character in its first line, such as a carriage return: the kernel then does not
/// find the interpreter.
fn check_script(path: &Path) -> Result<(), ScriptError> {
    script::open_checked(path, script::MAX_MODE_PRIVATE)?;
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(256).read_to_end(&mut head));
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_text = read.is_ok() && head.starts_with(b"#!");
    if is_text && line.iter().any(u8::is_ascii_control) {
        let path = quoted(path);
        let why = "has a control character in its first line, so its interpreter is not found";
        let remedy = format!("sed -i 's/\\r$//' {path}");
        return Err(ScriptErrorKind::Forbidden.error(format!("{path} {why}"), remedy));
    }
    Ok(())
}
