//! The run in progress: what its guardian, its hook master and the kernel report now. No process is disturbed. If the
//! guardian does not answer, or cannot be reached, the hook master is found in /proc.

use super::context::{self, is_trusted};
use super::output::{Style, escape_control, file_name, span};
use crate::freeze::guardian::{Activity, FreezeStatus};
use crate::freeze::report::Report;
use crate::hooks::at_work::{self, Start};
use crate::hooks::{HookRecord, Phase, RECORDS_ENV, RECORDS_HEAD, RUN_ENV, STATE_ENV};
use crate::probe::{System, writers};
use serde::Serialize;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Limit for a search of all processes, which normally takes milliseconds.
const PROC_SEARCH_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_RECORDS_BYTES: u64 = 16 << 20;

/// The current step of a run, as in JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RunAtWork {
    pub stage: &'static str,
    /// Seconds since it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Start>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filesystems: Vec<String>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_limit: Option<f64>,
    /// The hooks that have ended, and the run's id.
    #[serde(skip)]
    pub ended: (Vec<HookRecord>, Option<String>),
}

struct RunningMaster {
    phase: Phase,
    run: Option<String>,
    ended: Vec<HookRecord>,
    starts: Vec<Start>,
}

impl RunAtWork {
    /// `None`: no run is visible, or everything is frozen and waits for the thaw.
    pub(super) fn find(
        statedir: &Path,
        status: Option<&FreezeStatus>,
        step: Option<Duration>,
    ) -> Option<Self> {
        let master = find_master(statedir);
        let activity = status.and_then(|status| status.activity);
        let (stage, is_since) = match (activity, master.as_ref().map(|master| master.phase)) {
            // A guardian that thaws by itself has no activity of the agent.
            (_, Some(Phase::Thaw)) => ("thaw-hooks", activity == Some(Activity::ThawHooks)),
            (_, Some(Phase::Freeze)) => ("freeze-hooks", activity == Some(Activity::FreezeHooks)),
            (Some(Activity::Flush), None) => ("flush", true),
            (Some(Activity::FreezeHooks), None) => ("freeze-hooks", true),
            (Some(Activity::FlushAgain), None) => ("flush-again", false),
            (Some(Activity::Freeze), None) => ("freeze", true),
            (Some(Activity::Thaw), None) => ("thaw", true),
            (Some(Activity::ThawHooks), None) => ("thaw-hooks", true),
            (Some(Activity::Held) | None, None) => return None,
        };
        let at_filesystems = matches!(stage, "flush" | "flush-again" | "freeze");
        let master = master.unwrap_or(RunningMaster {
            phase: Phase::Freeze,
            run: None,
            ended: Vec::new(),
            starts: Vec::new(),
        });
        Some(Self {
            stage,
            seconds: status.filter(|_| is_since).map(|s| s.activity_seconds),
            hooks: master.starts,
            filesystems: match at_filesystems {
                true => filesystems(statedir, stage),
                false => Vec::new(),
            },
            step_limit: step
                .filter(|_| at_filesystems)
                .map(|step| step.as_secs_f64()),
            ended: (master.ended, master.run),
        })
    }

    pub(super) fn render(&self, heading: &str, style: Style) -> String {
        let mut line = match self.stage {
            "flush" | "flush-again" => "flushing filesystems",
            "freeze-hooks" => "freeze hooks",
            "freeze" => "freezing filesystems",
            "thaw" => "thawing filesystems",
            _ => "thaw hooks",
        }
        .to_owned();
        if let Some(seconds) = self.seconds {
            line += &format!(", for {}", span(seconds));
        }
        let mut text = style.wrap(heading, &line);
        let indent = " ".repeat(heading.len());
        for start in &self.hooks {
            let limit = start.limit.map(|limit| format!("limit {}", span(limit)));
            let limit = limit.unwrap_or("no limit".into());
            let source = match &start.source[..] {
                "" => String::new(),
                source => format!(" ({source})"),
            };
            let (name, time) = (file_name(&start.path), span(start.seconds));
            let line = format!("{name}{source}: for {time}, {limit}");
            text += &style.wrap(&indent, &escape_control(&line));
        }
        if !self.filesystems.is_empty() {
            let mut line = format!("waiting for {}", self.filesystems.join(", "));
            if let Some(limit) = self.step_limit {
                line += &format!(", limit {}", span(limit));
            }
            text += &style.wrap(&indent, &escape_control(&line));
        }
        text
    }

    /// The run so far, as a report without stages and filesystems.
    pub(super) fn report(&self) -> Report {
        let (hooks, id) = &self.ended;
        Report {
            id: id.clone().unwrap_or_default(),
            hooks: hooks.clone(),
            ..Report::default()
        }
    }
}

/// The mount points on which the step has not ended.
fn filesystems(statedir: &Path, stage: &str) -> Vec<String> {
    let (system, until) = (System::host(), Instant::now() + PROC_SEARCH_TIMEOUT);
    let mounts = system.mounts().unwrap_or_default();
    let found = match stage {
        "freeze" => writers::find_freezing(&system, &mounts, until),
        _ => writers::find_flushing(&system, &mounts, until, &context::pids(statedir)),
    };
    let name = |path: Vec<u8>| String::from_utf8_lossy(&path).into_owned();
    found.into_iter().map(name).collect()
}

fn find_master(statedir: &Path) -> Option<RunningMaster> {
    let real = statedir.canonicalize().ok()?;
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let dirs = entries.map(|entry| entry.path());
    let mut all = dirs.filter(|dir| dir.file_name().is_some_and(is_number) && is_trusted(dir));
    all.find_map(|dir| of_process(&dir, &real))
}

fn is_number(name: &OsStr) -> bool {
    name.as_bytes().iter().all(u8::is_ascii_digit)
}

fn of_process(dir: &Path, statedir: &Path) -> Option<RunningMaster> {
    let environment = fs::read(dir.join("environ")).ok()?;
    let variable = |name: &str| {
        let mut entries = environment.split(|&byte| byte == 0);
        entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    };
    let state = PathBuf::from(OsStr::from_bytes(variable(STATE_ENV)?));
    if state.canonicalize().ok()? != statedir {
        return None;
    }
    let number: u32 = std::str::from_utf8(variable(RECORDS_ENV)?)
        .ok()?
        .parse()
        .ok()?;
    let records = dir.join("fd").join(number.to_string());
    // The agent passes a memory file. Opening anything else, such as a FIFO, could block.
    let file = fs::read_link(&records).ok()?;
    if !file.as_os_str().as_bytes().starts_with(b"/memfd:") {
        return None;
    }
    let mut text = Vec::new();
    let file = fs::File::open(&records).ok()?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_RECORDS_BYTES), &mut text)
        .ok()?;
    let words = fs::read(dir.join("cmdline")).ok()?;
    let is_thaw = words.split(|&byte| byte == 0).any(|word| word == b"thaw");
    // Processes that a foreign master's hooks left running have the same variables and file, but no such head.
    if !text.starts_with(RECORDS_HEAD.as_bytes()) {
        return None;
    }
    let (ended, starts) = at_work::parse(&text);
    Some(RunningMaster {
        phase: if is_thaw { Phase::Thaw } else { Phase::Freeze },
        run: variable(RUN_ENV).map(|run| String::from_utf8_lossy(run).into_owned()),
        ended,
        starts,
    })
}

#[cfg(test)]
pub(super) fn sample() -> RunAtWork {
    RunAtWork {
        stage: "flush-again",
        seconds: Some(1.5),
        hooks: vec![Start {
            path: "/h".into(),
            source: String::new(),
            phase: Phase::Freeze,
            seconds: 1.0,
            limit: Some(2.0),
        }],
        filesystems: vec!["/".into()],
        step_limit: Some(3.0),
        ended: (Vec::new(), None),
    }
}
