//! What the person sees: progress while the selftest works, then the whole story.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an operator's command"
)]

use crate::freeze::report::Report;
use crate::hooks::HookStatus;
use crate::tools::output;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// One step that was taken.
#[derive(Serialize)]
struct Step {
    name: &'static str,
    passed: bool,
    seconds: f64,
}

/// Collects and prints. The fields are the JSON object of `--json`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Transcript {
    result: &'static str,
    steps: Vec<Step>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The longest that one write took, in seconds.
    pub writer_stood_still: Option<f64>,
    /// What the agent reported.
    pub report: Option<Report>,
    /// Lines of the hook log.
    pub hook_log: Vec<String>,
    /// The agent's own log.
    pub agent_log: String,
    seconds: f64,
    #[serde(skip)]
    json: bool,
    #[serde(skip)]
    start: Instant,
}

impl Transcript {
    /// Greets, unless the output is for a machine.
    pub fn new(json: bool) -> Self {
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
        };
        this.print(
            "qemu-ga selftest: freezes two filesystems of its own, nothing of this machine\n",
        );
        this
    }

    /// Progress: to standard output, or beside it if that is for a machine.
    fn print(&self, text: &str) {
        if self.json {
            eprint!("{text}");
        } else {
            print!("{text}");
            std::io::stdout().flush().ok();
        }
    }

    /// Takes a step and shows how it went.
    pub fn step<T>(
        &mut self,
        name: &'static str,
        act: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        if std::io::stdout().is_terminal() && !self.json {
            // Overwritten when the step ends; without a terminal it would only double the line.
            self.print(&format!("  …      {name}\r"));
        }
        let start = Instant::now();
        let result = act();
        let seconds = start.elapsed().as_secs_f64();
        let mark = if result.is_ok() { "ok    " } else { "FAILED" };
        self.print(&format!("  {mark} {name:<52} {seconds:7.3} s\n"));
        self.steps.push(Step {
            name,
            passed: result.is_ok(),
            seconds,
        });
        result.map_err(|error| error.context(name))
    }

    /// Notes why it ended early.
    pub fn failed(&mut self, error: &anyhow::Error) {
        self.result = "FAIL";
        self.error = Some(format!("{error:#}"));
    }

    /// Tells the story and returns the exit status.
    pub fn finish(mut self) -> u8 {
        self.seconds = self.start.elapsed().as_secs_f64();
        if self.json {
            output::print_json(&self);
        } else {
            self.print_summary();
        }
        u8::from(self.error.is_some())
    }

    fn print_summary(&self) {
        if let Some(report) = &self.report {
            println!("\nFilesystems, in the order of freezing:");
            for f in &report.filesystems {
                println!(
                    "  {:<14} {} on {}, frozen in {} and thawed",
                    f.mountpoint,
                    f.fstype,
                    f.device,
                    milliseconds(f.freeze_seconds)
                );
            }
            println!("Hooks, in the order of running:");
            for hook in &report.hooks {
                let status = match &hook.status {
                    HookStatus::Exited(status) => format!("status {status}"),
                    other => format!("{other:?}"),
                };
                println!(
                    "  {:<6} {}  {status}  {}",
                    hook.phase.as_str(),
                    hook.path,
                    milliseconds(hook.elapsed)
                );
            }
            if let Some(still) = self.writer_stood_still {
                println!(
                    "The writer stood still for {still:.3} s; {:.3} s of it the freeze was held on purpose.",
                    report.stages.held
                );
            }
        }
        if !self.hook_log.is_empty() {
            println!("Hook log, {} of the namespace:", super::rig::HOOK_LOG);
            for line in &self.hook_log {
                println!("  | {line}");
            }
        }
        match &self.error {
            None => println!("PASS in {:.1} s", self.seconds),
            Some(error) => {
                for line in self.agent_log.lines() {
                    println!("  agent: {line}");
                }
                println!("FAIL: {error}");
            }
        }
    }
}

fn milliseconds(seconds: f64) -> String {
    format!(
        "{:.1} ms",
        Duration::from_secs_f64(seconds.max(0.0)).as_secs_f64() * 1e3
    )
}
