//! `qemu-ga hook try`: runs one hook with freeze and then with thaw, without freezing anything. The hook is started by
//! the master's own code, with a journal, a log and a state directory of its own, so a running agent is not affected.

use super::{OPTIONS, find_place};
use crate::adapters::{self, ADAPTERS};
use crate::cli::{Arg, Operand, OptionSpec, Usage, ValueKind};
use crate::freeze::plan::{self, Survey};
use crate::hooks::adapter::Discovered;
use crate::hooks::directory;
use crate::hooks::journal::{Journal, RunInfo};
use crate::hooks::log::HookLog;
use crate::hooks::runner::{self, Options, Summary};
use crate::hooks::settings::{HookKind, OnFailure};
use crate::hooks::task::HookTask;
use crate::hooks::{
    HookRecord, HookStatus, Phase, ThawReason, Verdict, stop_signals, trust, words,
};
use crate::keyfile::parse_seconds;
use crate::probe::System;
use crate::sys::poll::is_readable;
use crate::sys::strerror;
use crate::tools::args::{JSON, ParsedArgs, Tool, ToolError};
use crate::tools::context::ToolContext;
use crate::tools::output::{self, Style, span};
use serde::Serialize;
use std::fs::{self, DirBuilder};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const TOOL: Tool = Tool {
    usage: Usage {
        name: "hook try",
        summary: "run one hook, freeze and thaw; nothing is frozen",
        about: "Runs one hook with freeze and then with thaw, as a freeze would. Shows its output \
                and the lines of its log as they come, how long it took, and what its exit status \
                means. No filesystem is frozen, but what the hook does to its application it does.",
        operand: Some(Operand {
            name: "HOOK",
            kind: ValueKind::Hook,
            help: "its name in the directory, or a path with a slash; may be a .sample file",
            required: true,
            max: 1,
        }),
        options: &[
            &[
                OptionSpec::new(
                    "limit",
                    Arg::Value("SECONDS", ValueKind::Seconds),
                    "time limit of each start, in place of the hook's own timeout",
                ),
                OptionSpec::new(
                    "hold",
                    Arg::Value("SECONDS", ValueKind::Seconds),
                    "time between freeze and thaw",
                )
                .default("none"),
            ],
            &OPTIONS,
            &[JSON],
        ],
        exit: &[
            (0, "the hook succeeded"),
            (1, "the hook failed, or cannot be run"),
        ],
    },
    subcommands: &[],
    run,
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TrialResult {
    hook: String,
    calls: Vec<HookRecord>,
    warnings: Vec<String>,
    /// A freeze would not fail because of this hook.
    freeze_goes_on: bool,
    log: String,
    succeeded: bool,
}

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    let Some(name) = args.operands.first() else {
        return Err(ToolError::Mistake("missing argument: HOOK".into()));
    };
    let (limit, hold) = (seconds(args, "--limit")?, seconds(args, "--hold")?);
    let as_json = args.has("--json");
    let (mut task, mut warnings) = find_task(args, name.as_ref())?;
    if let Some(why) = task.eligibility.refusal().cloned() {
        let name = &task.name;
        return Err(ToolError::Failed(format!("cannot run {name}: {why}")));
    }
    if let Some(limit) = limit {
        set_timeout(&mut task, limit);
    }
    if !std::mem::replace(&mut task.policy.enabled, true) {
        let name = &task.name;
        warnings.push(format!("{name}: a freeze does not call it: enabled is no"));
    }
    let scratch = Scratch::new()?;
    let trial = Trial {
        task,
        warnings,
        run: trial_run_info(),
        log: match as_json {
            true => scratch.0.join("log"),
            false => PathBuf::from("-"),
        },
        state: scratch.0.clone(),
        stop: stop_signals(),
        style: Style::of_stdout(),
    };
    let (freeze, thaw, printed) = trial.run(hold.unwrap_or_default(), as_json);
    let calls = [freeze.hooks, thaw.hooks].concat();
    let succeeded = calls.iter().all(HookRecord::is_success);
    let printed = match as_json {
        true => output::print_json(&TrialResult {
            hook: trial.task.name.clone(),
            warnings: trial.warnings.clone(),
            calls,
            freeze_goes_on: freeze.failure.is_none(),
            log: fs::read_to_string(&trial.log).unwrap_or_default(),
            succeeded,
        }),
        false => printed,
    };
    Ok(printed.max(u8::from(!succeeded)))
}

fn seconds(args: &ParsedArgs, option: &str) -> Result<Option<Duration>, ToolError> {
    let value = args.value(option).map(|value| value.to_string_lossy());
    let parsed = value.map(|value| parse_seconds(&value));
    let mistake = |why| ToolError::Mistake(format!("{option} {why}"));
    parsed.transpose().map_err(mistake)
}

/// Zero is no limit.
fn set_timeout(task: &mut HookTask, limit: Duration) {
    let limit = (!limit.is_zero()).then_some(limit);
    task.policy.timeout = limit;
    let calls = [&mut task.freeze, &mut task.thaw, &mut task.undo];
    calls.into_iter().flatten().for_each(|c| c.timeout = limit);
}

/// `name` is a path, a name in the hooks' directory, or one of an adapter. The warnings are about all settings.
fn find_task(args: &ParsedArgs, name: &Path) -> Result<(HookTask, Vec<String>), ToolError> {
    let (dir, conf) = find_place(args);
    let (found, rules) = adapters::discover(&dir, &conf).map_err(|refusal| refusal.to_string())?;
    let mut warnings = found.warnings;
    let path = match name.components().count() {
        1 if !name.is_absolute() && !has_slash(name) => trust::absolute(&dir).join(name),
        _ => trust::absolute(name),
    };
    let known = found.tasks.into_iter().chain(found.disabled);
    let is_meant = |task: &HookTask| Path::new(&task.name) == path || Path::new(&task.name) == name;
    if let Some(task) = known.into_iter().find(is_meant) {
        return Ok((task, warnings));
    }
    match directory::of_file(&path, &rules) {
        Ok(Some((task, own))) if path.exists() => {
            warnings.extend(own);
            Ok((task, warnings))
        }
        Err(refusal) => Err(ToolError::Failed(refusal.to_string())),
        Ok(_) => Err(ToolError::Failed(format!(
            "no such hook: {}; see qemu-ga hook list",
            path.display()
        ))),
    }
}

/// `./x` has one component, but is not a name in the directory.
fn has_slash(name: &Path) -> bool {
    name.as_os_str().to_string_lossy().contains('/')
}

/// What a freeze by the running agent would pass to the hook now.
fn trial_run_info() -> RunInfo {
    let context = ToolContext::of(&ParsedArgs::default());
    let config = context.unwrap_or_else(|_| ToolContext::built_in()).config;
    let system = System::host();
    let targets = system.mounts().ok().and_then(|mounts| {
        let survey = Survey::read(&system, &mounts);
        Some(plan::make(&survey, &config.policy, None).ok()?.targets)
    });
    let targets = targets.unwrap_or_default();
    RunInfo {
        id: format!("try-{}", std::process::id()),
        mountpoints: words(targets.iter().map(|target| &target.filesystem.mountpoint)),
        devices: words(targets.iter().map(|target| &target.device)),
        hold_limit: config.limits.hold.unwrap_or_default().as_secs_f64(),
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, String> {
        let path = std::env::temp_dir().join(format!("qemu-ga-hook-try.{}", std::process::id()));
        // A directory that exists may be another user's.
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Scratch(path)),
            Err(error) => Err(format!(
                "cannot create {}: {}; set TMPDIR to a writable directory",
                path.display(),
                strerror(&error)
            )),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            let why = strerror(&error);
            output::print_error(&format!("cannot remove {}: {why}\n", self.0.display()));
        }
    }
}

struct Trial {
    task: HookTask,
    warnings: Vec<String>,
    run: RunInfo,
    log: PathBuf,
    state: PathBuf,
    stop: Option<OwnedFd>,
    style: Style,
}

impl Trial {
    /// Returns both results, and the exit status of printing them.
    fn run(&self, hold: Duration, as_json: bool) -> (Summary, Summary, u8) {
        let print = |summary: &Summary| match as_json {
            true => 0,
            false => output::print(&self.summarize(summary)),
        };
        let freeze = self.call(Phase::Freeze, None);
        let mut printed = print(&freeze);
        self.wait(hold);
        let reason = match freeze.failure {
            Some(_) => ThawReason::Failed,
            None => ThawReason::Ok,
        };
        let thaw = self.call(Phase::Thaw, Some(reason));
        printed |= print(&thaw);
        (freeze, thaw, printed)
    }

    fn call(&self, phase: Phase, reason: Option<ThawReason>) -> Summary {
        // Once is enough for the log, as with a freeze.
        let warnings = match phase {
            Phase::Freeze => self.warnings.clone(),
            Phase::Thaw => Vec::new(),
        };
        let found = Discovered {
            tasks: vec![self.task.clone()],
            warnings,
            ..Discovered::default()
        };
        let options = Options {
            log: HookLog::new(&self.log),
            total: None,
            on_total: OnFailure::Continue,
            stop: self.stop.as_ref().and_then(|fd| fd.try_clone().ok()),
            records: None,
            memory: Journal::in_dir(&self.state),
            adapters: ADAPTERS,
            run: self.run.clone(),
            only_run: String::new(),
            reason,
        };
        let summary = runner::run(phase, Ok(found), options);
        self.forget_signal();
        summary
    }

    /// Discards a signal: the thaw runs even if the freeze or the pause was stopped.
    fn forget_signal(&self) {
        let mut signal = [0; 128];
        if let Some(stop) = &self.stop {
            // Without a signal it fails with EAGAIN, as the descriptor does not block.
            nix::unistd::read(stop, &mut signal).ok();
        }
    }

    fn wait(&self, time: Duration) {
        let Some(stop) = &self.stop else {
            return std::thread::sleep(time);
        };
        // A signal ends the pause early.
        is_readable(stop.as_fd(), time);
        self.forget_signal();
    }

    fn summarize(&self, summary: &Summary) -> String {
        let lines = summary.hooks.iter().map(|record| self.describe(record));
        let text: String = lines.collect();
        match text.is_empty() {
            true => "--> nothing to call\n".into(),
            false => text,
        }
    }

    fn describe(&self, record: &HookRecord) -> String {
        let style = self.style;
        let verdict = match record.verdict {
            _ if record.lost => style.bad("FAILED: it did not hold until the thaw"),
            Some(Verdict::NotApplicable) => style.warning("not applicable: no failure"),
            _ if record.is_success() => style.good("success"),
            _ => style.bad("FAILED"),
        };
        let mut text = format!(
            "{} took {}, {}: {verdict}",
            record.phase.as_str(),
            span(record.elapsed),
            describe_end(self.task.policy.kind, record),
        );
        if let Some(tries) = record.tries {
            text += &format!(", after {tries} tries");
        }
        if let Some(error) = &record.error {
            text += &format!(" ({error})");
        }
        if !record.is_success() {
            text += match (self.task.policy.on_failure, record.phase) {
                (OnFailure::Continue, _) => "; a freeze would go on (on-failure = continue)",
                (_, Phase::Freeze) => "; the freeze would fail (on-failure = abort)",
                (_, Phase::Thaw) => "; the thaw would return an error (on-failure = abort)",
            };
        }
        style.wrap(&format!("{} ", style.bold("-->")), &text)
    }
}

fn describe_end(kind: HookKind, record: &HookRecord) -> String {
    match &record.status {
        HookStatus::Exited(status) if kind == HookKind::Hold && record.phase == Phase::Freeze => {
            match record.verdict {
                None if *status == 0 => "ready and holds".into(),
                _ => format!("status {status} before it was ready"),
            }
        }
        HookStatus::Exited(status) => format!("status {status}"),
        HookStatus::Signaled(signal) => format!("ended by signal {signal}"),
        HookStatus::NotRun { .. } => "not run".into(),
        HookStatus::Skipped(_) => "skipped".into(),
        HookStatus::TimedOut => "not finished in time".into(),
        HookStatus::Cancelled => "stopped".into(),
    }
}

#[cfg(test)]
pub(super) fn sample() -> serde_json::Value {
    output::value(&TrialResult {
        hook: "x".into(),
        calls: crate::tools::report::full_report().hooks,
        warnings: vec!["x".into()],
        freeze_goes_on: true,
        log: "x".into(),
        succeeded: true,
    })
}
