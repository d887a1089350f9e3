//! `qemu-ga report --format prometheus`: the last run that has ended, in Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). `qga-fleet --prometheus` on the host has the same
//! metrics, with the domain as a label: host/qga_host/fleet.py. tests/host/run compares the two.

use super::require;
use crate::freeze::history;
use crate::freeze::report::Report;
use crate::hooks::HookRecord;
use crate::state::StateDir;
use crate::version::{AGENT_VERSION, PROTOCOL_VERSION};
use std::collections::BTreeSet;
use std::path::Path;

/// The error is that the state directory cannot be read.
pub(super) fn metrics(statedir: &Path) -> Result<String, String> {
    let state = StateDir::new(statedir);
    let is_frozen = state
        .is_marked_frozen()
        .map_err(|error| error.to_string())?;
    let (reports, error) = history::read(&state);
    match error {
        Some(why) => Err(why),
        None => Ok(render(is_frozen, &reports)),
    }
}

fn render(is_frozen: bool, reports: &[Report]) -> String {
    let mut text = Metrics::default();
    text.family(
        "build_info",
        "Versions of the agent: its own, and of QEMU's whose protocol it has.",
    );
    let versions = [("version", AGENT_VERSION), ("protocol", PROTOCOL_VERSION)];
    text.sample(&versions, 1.0);
    text.gauge(
        "frozen",
        "1 while filesystems are frozen.",
        f64::from(u8::from(is_frozen)),
    );
    text.gauge(
        "runs_kept",
        "Freezes whose report is kept; none are kept over a reboot.",
        reports.len() as f64,
    );
    if let Some(report) = reports.iter().find(|report| report.end.is_some()) {
        text.last_run(report);
    }
    text.text
}

#[derive(Default)]
struct Metrics {
    text: String,
    name: String,
}

impl Metrics {
    /// Its samples follow.
    fn family(&mut self, name: &str, help: &str) {
        self.name = format!("qemu_ga_{name}");
        let name = &self.name;
        self.text += &format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        let label = |(name, value): &(&str, &str)| format!("{name}=\"{}\"", escape(value));
        let labels: Vec<String> = labels.iter().map(label).collect();
        let labels = match labels.join(",") {
            none if none.is_empty() => none,
            labels => format!("{{{labels}}}"),
        };
        self.text += &format!("{}{labels} {value}\n", self.name);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help);
        self.sample(&[], value);
    }

    fn last_run(&mut self, report: &Report) {
        let failed: Vec<&HookRecord> = report.hooks.iter().filter(|h| !h.is_success()).collect();
        let held = report.filesystems.iter().filter(|f| f.is_held()).count();
        let level = require::rank(report.level.name()).unwrap_or_default();
        for (name, help, value) in [
            (
                "level",
                "Consistency of the last freeze that has ended: 0 none, 1 crash, 2 filesystem, 3 application.",
                level as f64,
            ),
            ("timestamp_seconds", "Time of its request.", report.started),
            (
                "filesystems",
                "Filesystems that were to be frozen.",
                report.filesystems.len() as f64,
            ),
            (
                "filesystems_held",
                "Filesystems that did not change until the thaw.",
                held as f64,
            ),
            (
                "filesystems_seconds",
                "Time from the first FIFREEZE to the last FITHAW.",
                report.filesystems_seconds,
            ),
            (
                "applications_seconds",
                "Time from the first freeze hook to the last thaw hook.",
                report.applications_seconds,
            ),
            ("hooks", "Calls of hooks.", report.hooks.len() as f64),
            (
                "hooks_failed",
                "Calls of hooks that failed.",
                failed.len() as f64,
            ),
        ] {
            self.gauge(&format!("last_run_{name}"), help, value);
        }
        if failed.is_empty() {
            return;
        }
        self.family("last_run_hook_failed", "1 for a hook that failed.");
        // A sample must not be repeated.
        let names: BTreeSet<_> = failed
            .iter()
            .map(|hook| (hook.path.as_str(), hook.phase.as_str()))
            .collect();
        for (path, phase) in names {
            self.sample(&[("hook", path), ("phase", phase)], 1.0);
        }
    }
}

/// The value of a label.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_samples_are_not_repeated() {
        let mut report = super::super::full_report();
        for hook in &mut report.hooks {
            hook.path = "a\"b\\c\nd".into();
            hook.verdict = None;
        }
        let text = render(true, &[Report::default(), report]);
        let sample = r#"qemu_ga_last_run_hook_failed{hook="a\"b\\c\nd",phase="thaw"} 1"#;
        assert_eq!(text.matches(sample).count(), 1, "{text}");
        for line in [
            "qemu_ga_frozen 1",
            "qemu_ga_runs_kept 2",
            "qemu_ga_last_run_level 1",
            "qemu_ga_last_run_timestamp_seconds 1.5",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
        }
        let none = render(false, &[]);
        assert!(none.ends_with("qemu_ga_runs_kept 0\n"), "{none}");
    }
}
