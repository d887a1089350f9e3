//! The results of the selftest: progress while it runs (with `--json` on standard error), then a summary or JSON.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an operator's command"
)]

use crate::cli::help::wrap;
use crate::freeze::report::{FilesystemRecord, Report};
use crate::hooks::HookRecord;
use crate::tools::output::{self, Style, span};
use crate::tools::report::{report_value, status};
use serde::{Serialize, Serializer};
use std::io::{IsTerminal, Write};
use std::time::Instant;

const NAME_WIDTH: usize = 52;
/// A step's line without its name.
const STEP_TEXT_WIDTH: usize = 20;

#[derive(Serialize)]
struct Step {
    name: &'static str,
    passed: bool,
    seconds: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::tools) struct Transcript {
    result: &'static str,
    steps: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// In seconds.
    pub writer_stood_still: Option<f64>,
    #[serde(serialize_with = "serialize_report")]
    pub report: Option<Report>,
    pub hook_log: Vec<String>,
    pub agent_log: String,
    seconds: f64,
    #[serde(skip)]
    json: bool,
    #[serde(skip)]
    start: Instant,
    #[serde(skip)]
    style: Style,
}

#[allow(clippy::ref_option, reason = "the signature that serde calls")]
fn serialize_report<S: Serializer>(
    report: &Option<Report>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    report.as_ref().map(report_value).serialize(serializer)
}

impl Transcript {
    pub(super) fn new(json: bool) -> Self {
        let this = Self {
            result: "PASS",
            steps: Vec::new(),
            error: None,
            writer_stood_still: None,
            report: None,
            hook_log: Vec::new(),
            agent_log: String::new(),
            seconds: 0.0,
            json,
            start: Instant::now(),
            style: Style::of_stdout(),
        };
        let heading =
            "qemu-ga selftest: freezes two filesystems of its own, nothing of this machine";
        this.print(&this.style.wrap("", heading));
        this
    }

    fn print(&self, text: &str) {
        if self.json {
            eprint!("{text}");
        } else {
            print!("{text}");
            // `print!` has panicked if standard output is closed.
            std::io::stdout().flush().ok();
        }
    }

    pub(super) fn step<T>(
        &mut self,
        name: &'static str,
        act: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let columns = NAME_WIDTH.min(self.style.width() - STEP_TEXT_WIDTH);
        if std::io::stdout().is_terminal() && !self.json && name.len() <= columns {
            // The result overwrites it. Elsewhere, or over two lines, it would stay.
            self.print(&format!("  …      {name}\r"));
        }
        let start = Instant::now();
        let result = act();
        let seconds = start.elapsed().as_secs_f64();
        let mark = if result.is_ok() { "ok    " } else { "FAILED" };
        let lines = wrap(name, columns);
        for (number, line) in lines.iter().enumerate() {
            let mark = if number == 0 { mark } else { "      " };
            match number + 1 == lines.len() {
                true => self.print(&format!("  {mark} {line:<columns$} {seconds:7.3} s\n")),
                false => self.print(&format!("  {mark} {line}\n")),
            }
        }
        self.steps.push(Step {
            name,
            passed: result.is_ok(),
            seconds,
        });
        result.map_err(|error| error.context(name))
    }

    pub(super) fn fail(&mut self, error: &anyhow::Error) {
        self.result = "FAIL";
        self.error = Some(format!("{error:#}"));
    }

    pub(super) fn finish(mut self) -> u8 {
        self.seconds = self.start.elapsed().as_secs_f64();
        if self.json {
            output::print_json(&self);
        } else {
            output::print(&self.summary());
        }
        u8::from(self.error.is_some())
    }

    fn summary(&self) -> String {
        let style = self.style;
        let mut text = String::new();
        if let Some(report) = &self.report {
            text += &self.report_summary(report);
        }
        if !self.hook_log.is_empty() {
            let heading = format!("Hook log, {} of the namespace:", super::rig::HOOK_LOG);
            text += &style.wrap("", &heading);
            for line in &self.hook_log {
                text += &format!("  | {line}\n");
            }
        }
        match &self.error {
            None => text += &format!("PASS in {:.1} s\n", self.seconds),
            Some(error) => {
                for line in self.agent_log.lines() {
                    text += &format!("  agent: {line}\n");
                }
                text += &format!("FAIL: {error}\n");
            }
        }
        text
    }

    fn report_summary(&self, report: &Report) -> String {
        let style = self.style;
        let mut text = "\nFilesystems, in the order of freezing:\n".to_owned();
        let row = |f: &FilesystemRecord| {
            let (kind, time) = (
                format!("{} on {}", f.fstype, f.device),
                span(f.freeze_seconds),
            );
            vec![
                f.mountpoint.clone(),
                kind,
                format!("frozen in {time} and thawed"),
            ]
        };
        let rows: Vec<_> = report.filesystems.iter().map(row).collect();
        text += &style.table("  ", &[], &rows).concat();
        text += "Hooks, in the order of running:\n";
        let row = |hook: &HookRecord| {
            let phase = hook.phase.as_str().to_owned();
            vec![
                phase,
                hook.path.clone(),
                status(hook, Style::default()),
                span(hook.elapsed),
            ]
        };
        let rows: Vec<_> = report.hooks.iter().map(row).collect();
        text += &style.table("  ", &[3], &rows).concat();
        if let Some(longest) = self.writer_stood_still {
            let line = format!(
                "The longest write took {longest:.3} s; {:.3} s of that the freeze was held on purpose.",
                report.stages.held
            );
            text += &style.wrap("", &line);
        }
        text
    }
}

#[cfg(test)]
pub(in crate::tools) fn sample() -> serde_json::Value {
    output::value(&Transcript {
        result: "FAIL",
        steps: vec![Step {
            name: "x",
            passed: true,
            seconds: 1.0,
        }],
        error: Some("x".into()),
        writer_stood_still: Some(1.0),
        report: Some(crate::tools::report::full_report()),
        hook_log: vec!["x".into()],
        agent_log: "x".into(),
        seconds: 1.0,
        json: true,
        start: Instant::now(),
        style: Style::default(),
    })
}
