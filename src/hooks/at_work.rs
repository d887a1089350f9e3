//! The hooks that are running now, for `qemu-ga status` and `report` (floor 3).
//!
//! The master writes a line for each start into its records, the memory file that it shares with the agent, which
//! ignores these lines. A start without a later record is still running. So no disk is written, which may be frozen,
//! and the lines can be read while the agent is stopped or dead.

use serde::Serialize;
use serde_json::{Value, json};

use super::{HookRecord, Phase, text};
use crate::sys::clock;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Start {
    pub path: String,
    pub source: String,
    pub phase: Phase,
    /// Since its start.
    pub seconds: f64,
    /// None: it has no timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
}

pub(super) fn line(path: &str, source: &str, phase: Phase, limit: Option<f64>) -> Vec<u8> {
    let since = clock::monotonic().as_millis() as u64;
    let start = json!({
        "path": path,
        "source": source,
        "phase": phase.as_str(),
        "since-ms": since,
        "limit": limit,
    });
    json!({ "start": start }).to_string().into_bytes()
}

/// The hooks that have ended, and those that are running. Lines that cannot be read, such as a half-written last one,
/// are ignored.
pub fn parse(records: &[u8]) -> (Vec<HookRecord>, Vec<Start>) {
    let (mut ended, mut starts) = (Vec::new(), Vec::<Start>::new());
    let now = clock::monotonic().as_secs_f64();
    let lines = records.split(|&byte| byte == b'\n');
    for mut value in lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()) {
        let start = value["start"].take();
        let is_start = !start.is_null();
        let about = if is_start { &start } else { &value };
        let (path, source) = (text(&about["path"]), text(&about["source"]));
        let (path, source) = (path.unwrap_or_default(), source.unwrap_or_default());
        starts.retain(|known| (&known.path, &known.source) != (&path, &source));
        if is_start {
            let is_freeze = start["phase"] == Phase::Freeze.as_str();
            let since = start["since-ms"].as_f64().unwrap_or_default() / 1e3;
            starts.push(Start {
                path,
                source,
                phase: if is_freeze {
                    Phase::Freeze
                } else {
                    Phase::Thaw
                },
                seconds: (now - since).max(0.0),
                limit: start["limit"].as_f64(),
            });
        } else if let Ok(record) = HookRecord::try_from(value) {
            ended.push(record);
        }
    }
    (ended, starts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::HookStatus;

    #[test]
    fn a_start_is_at_work_until_its_record_comes() {
        let mut records = b"{\"master\":\"qemu-ga\"}\n".to_vec();
        let mut add = |line: Vec<u8>| {
            records.extend(line);
            records.push(b'\n');
            parse(&records)
        };
        let (ended, starts) = add(line("/h/10-app", "", Phase::Freeze, Some(600.0)));
        assert_eq!((ended.len(), starts.len()), (0, 1));
        assert_eq!(
            (starts[0].phase, starts[0].limit),
            (Phase::Freeze, Some(600.0))
        );
        assert!(starts[0].seconds < 60.0);
        let record = HookRecord::new("/h/10-app".into(), Phase::Freeze, HookStatus::Exited(0));
        add(serde_json::to_vec(&record).unwrap());
        add(line("/h/20-db", "", Phase::Freeze, None));
        // A retry of the same hook, and a hook of the same path from another source.
        add(line("/h/20-db", "azure", Phase::Freeze, None));
        let (ended, starts) = add(line("/h/20-db", "", Phase::Freeze, None));
        assert_eq!((ended, starts.len()), (vec![record], 2));
        let (_, starts) = add(b"{\"start\":{\"pa".to_vec());
        assert_eq!(starts.len(), 2, "a torn line is none");
        assert!(line("", "", Phase::Thaw, None).starts_with(b"{\"start\":"));
    }
}
