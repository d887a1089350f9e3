//! `qemu-ga hook try`: one hook by itself, freeze and thaw, with nothing frozen. It has a memory, a log
//! and holding hooks of its own, so it does not get in the way of an agent at work.

use super::{HELP, OPTIONS, place};
use crate::config::Config;
use crate::freeze::plan::{self, Survey};
use crate::hooks::journal::{Journal, RunInfo};
use crate::hooks::log::HookLog;
use crate::hooks::runner::{self, Options, Summary};
use crate::hooks::settings::{HookKind, OnFailure};
use crate::hooks::sources::{self, Discovered, directory};
use crate::hooks::task::{Eligibility, HookTask};
use crate::hooks::{
    HookRecord, HookStatus, Phase, ThawReason, Verdict, stop_signals, trust, words,
};
use crate::keyfile::parse_seconds;
use crate::probe::System;
use crate::sys::poll::is_readable;
use crate::sys::strerror;
use crate::tools::args::{ParsedArgs, Tool, ToolError};
use crate::tools::context::ToolContext;
use crate::tools::output::{self, Style, span};
use serde::Serialize;
use std::fs::{self, DirBuilder};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const USAGE: &str = "\
Usage: qemu-ga hook try HOOK [--limit S] [--hold S] [--dir DIR] [--conf FILE]
                        [--json]
Runs one hook with freeze and then with thaw, as a freeze would: its output and
the lines of its log as they come, how long it took, and what its status means.
No filesystem is frozen, but what the hook does to its application it does.
  HOOK         its name in the directory, or a path with a slash; a .sample, too
  --limit S    seconds for each start, in place of the hook's own timeout
  --hold S     seconds between freeze and thaw; default: none
";
const EXIT: &str = "\
Exit status: 0; 1 if the hook failed, or cannot be run; 2 for a mistake in this
command.
";

pub(super) const TOOL: Tool = Tool {
    name: "hook try",
    usage: &[USAGE, HELP, EXIT],
    flags: &[],
    values: &[OPTIONS[0], OPTIONS[1], "--limit", "--hold"],
    max_operands: 1,
    run,
};

/// What came of it, in the members of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct TrialResult {
    hook: String,
    /// One for each call, as in the report of a freeze.
    calls: Vec<HookRecord>,
    /// What is wrong with the settings.
    warnings: Vec<String>,
    /// Whether a freeze would have gone on.
    freeze_goes_on: bool,
    /// The hook log's lines.
    log: String,
    succeeded: bool,
}

fn run(given: &ParsedArgs) -> Result<u8, ToolError> {
    let Some(name) = given.operands.first() else {
        return Err(ToolError::Mistake("missing argument: HOOK".into()));
    };
    let time = |option: &str| {
        let value = given.value(option).map(|value| value.to_string_lossy());
        let parsed = value.map(|value| parse_seconds(&value));
        let told = |why| ToolError::Mistake(format!("{option} {why}"));
        parsed.transpose().map_err(told)
    };
    let (limit, hold) = (time("--limit")?, time("--hold")?);
    let (mut step, mut warnings) = find(given, name.as_ref())?;
    if let Eligibility::Skipped(why) | Eligibility::Unfit { reason: why, .. } = &step.eligibility {
        return Err(ToolError::Failed(format!("{}: {why}", step.name)));
    }
    if let Some(limit) = limit {
        let limit = (!limit.is_zero()).then_some(limit);
        step.policy.timeout = limit;
        let calls = [&mut step.freeze, &mut step.thaw, &mut step.undo];
        calls.into_iter().flatten().for_each(|c| c.timeout = limit);
    }
    if !std::mem::replace(&mut step.policy.enabled, true) {
        warnings.push(format!(
            "{}: a freeze does not call it, for enabled is no",
            step.name
        ));
    }
    let json = given.has("--json");
    let scratch = Scratch::new()?;
    let log = match json {
        true => scratch.0.join("log"),
        false => PathBuf::from("-"),
    };
    let trial = Trial {
        step,
        warnings,
        run: trial_run_info(),
        log,
        state: scratch.0.clone(),
        stop: stop_signals(),
    };
    let style = Style::of_stdout();
    let told = |summary: &Summary| match json {
        true => 0,
        false => output::print(&trial.summarize(summary, style)),
    };
    let freeze = trial.call(Phase::Freeze, None);
    let mut written = told(&freeze);
    trial.wait(hold.unwrap_or_default());
    let reason = match freeze.failure {
        Some(_) => ThawReason::Failed,
        None => ThawReason::Ok,
    };
    let thaw = trial.call(Phase::Thaw, Some(reason));
    written |= told(&thaw);
    let calls = [freeze.hooks, thaw.hooks].concat();
    let succeeded = calls.iter().all(HookRecord::is_success);
    if json {
        written |= output::print_json(&TrialResult {
            hook: trial.step.name.clone(),
            warnings: trial.warnings.clone(),
            calls,
            freeze_goes_on: freeze.failure.is_none(),
            log: fs::read_to_string(&trial.log).unwrap_or_default(),
            succeeded,
        });
    }
    Ok(written.max(u8::from(!succeeded)))
}

/// The step that `name` means: a path, or a name in the hooks' directory, or an adapter's. Beside it what a freeze
/// says of all settings.
fn find(given: &ParsedArgs, name: &Path) -> Result<(HookTask, Vec<String>), ToolError> {
    let (dir, conf) = place(given);
    let (found, rules) = sources::read(&dir, &conf, "").map_err(|refusal| refusal.0)?;
    let mut warnings = found.warnings;
    let path = match name.components().count() {
        1 if !name.is_absolute() && !given_with_slash(name) => trust::absolute(&dir).join(name),
        _ => trust::absolute(name),
    };
    let known = found.tasks.into_iter().chain(found.disabled);
    let is_meant = |step: &HookTask| Path::new(&step.name) == path || Path::new(&step.name) == name;
    if let Some(step) = known.into_iter().find(is_meant) {
        return Ok((step, warnings));
    }
    match directory::of_file(&path, &rules) {
        Ok(Some((step, own))) if path.exists() => {
            warnings.extend(own);
            Ok((step, warnings))
        }
        Err(refusal) => Err(ToolError::Failed(refusal.0)),
        Ok(_) => Err(ToolError::Failed(format!(
            "there is no hook {}; qemu-ga hook list shows those of the directory",
            path.display()
        ))),
    }
}

/// `./x` has one component, but is no name in the directory.
fn given_with_slash(name: &Path) -> bool {
    name.as_os_str().to_string_lossy().contains('/')
}

/// What the hook is told: as a freeze would tell it now, by the configuration of the running agent.
fn trial_run_info() -> RunInfo {
    let config =
        ToolContext::of(&ParsedArgs::default()).map_or_else(|_| Config::default(), |s| s.config);
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

/// A directory of our own, gone with us.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, String> {
        let path = std::env::temp_dir().join(format!("qemu-ga-hook-try.{}", std::process::id()));
        // Never one that is there already: it could be another's.
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Scratch(path)),
            Err(error) => Err(format!(
                "cannot make {}: {}; set TMPDIR to a directory that can be written",
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
    step: HookTask,
    warnings: Vec<String>,
    run: RunInfo,
    log: PathBuf,
    state: PathBuf,
    stop: Option<OwnedFd>,
}

impl Trial {
    fn call(&self, phase: Phase, reason: Option<ThawReason>) -> Summary {
        // The log has them once, as that of a freeze.
        let warnings = match phase {
            Phase::Freeze => self.warnings.clone(),
            Phase::Thaw => Vec::new(),
        };
        let found = Discovered {
            tasks: vec![self.step.clone()],
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
            run: self.run.clone(),
            only_run: String::new(),
            reason,
        };
        let summary = runner::run(phase, Ok(found), options);
        self.forget_signal();
        summary
    }

    /// A person who stops the freeze, or the pause, still wants the thaw.
    fn forget_signal(&self) {
        let mut signal = [0; 128];
        if let Some(stop) = &self.stop {
            // There is none: it does not block.
            nix::unistd::read(stop, &mut signal).ok();
        }
    }

    fn wait(&self, time: Duration) {
        let Some(stop) = &self.stop else {
            return std::thread::sleep(time);
        };
        // Cut short by a signal, and that is all there is to it.
        is_readable(stop.as_fd(), time);
        self.forget_signal();
    }

    /// What the call means, for people.
    fn summarize(&self, summary: &Summary, style: Style) -> String {
        let mut text = String::new();
        for record in &summary.hooks {
            let verdict = match record.verdict {
                _ if record.lost => style.bad("FAILED: it did not hold until the thaw"),
                Some(Verdict::NotApplicable) => style.warning("not applicable: no failure"),
                _ if record.is_success() => style.good("success"),
                _ => style.bad("FAILED"),
            };
            let phase = record.phase.as_str();
            text += &format!(
                "{} {phase} took {}, {}: {verdict}",
                style.bold("-->"),
                span(record.elapsed),
                how(self.step.policy.kind, record),
            );
            if let Some(tries) = record.tries {
                text += &format!(", after {tries} tries");
            }
            if let Some(error) = &record.error {
                text += &format!(" ({error})");
            }
            if !record.is_success() {
                text += match (self.step.policy.on_failure, record.phase) {
                    (OnFailure::Continue, _) => "; it would go on (on-failure = continue)",
                    (_, Phase::Freeze) => "; the freeze would fail (on-failure = abort)",
                    (_, Phase::Thaw) => "; the thaw would answer an error (on-failure = abort)",
                };
            }
            text.push('\n');
        }
        if summary.hooks.is_empty() {
            text += "--> there is nothing to call\n";
        }
        text
    }
}

/// How a call ended, in a word or two.
fn how(kind: HookKind, record: &HookRecord) -> String {
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
