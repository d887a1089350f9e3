//! `qemu-ga status`: what is frozen, since when, and which processes would thaw it. It asks the guardian and reads
//! files. The agent's channel is not used, so it works while the agent is busy, stopped or dead.

use super::args::{JSON, ParsedArgs, Tool, ToolError};
use super::context::{self, ToolContext};
use super::live::RunAtWork;
use super::output::{
    self, Style, escape_control, join_pids, message, moment, serialize_optional_time,
    serialize_time, span,
};
use super::report::{early_end_word, ended_by};
use crate::cli::Usage;
use crate::freeze::guardian::status_client::StatusClient;
use crate::freeze::guardian::{FreezeStatus, Stage};
use crate::freeze::history;
use crate::freeze::report::{Level, Report};
use crate::freeze::restored;
use crate::freeze::snapshot::SnapshotFile;
use crate::hooks::journal;
use crate::probe::{System, writers};
use crate::state::{Expiry, StateDir, boot_id};
use crate::sys::{process, strerror};
use nix::unistd::{AccessFlags, eaccess};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

const PROC_SEARCH_TIMEOUT: Duration = Duration::from_secs(1);
const FROZEN: u8 = 3;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FreezeState {
    #[default]
    Thawed,
    Freezing,
    Frozen,
    Thawing,
}

impl FreezeState {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Thawed => "thawed",
            Self::Freezing => "freezing",
            Self::Frozen => "frozen",
            Self::Thawing => "thawing",
        }
    }
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Status {
    pub state: FreezeState,
    /// There is a marker: an agent froze.
    pub marked: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_of_another_boot: bool,
    pub agents: Vec<i32>,
    pub guardian: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_work: Option<RunAtWork>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guardian_silent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// In seconds since the epoch.
    #[serde(
        serialize_with = "serialize_optional_time",
        skip_serializing_if = "Option::is_none"
    )]
    pub started: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<Vec<String>>,
    /// Seconds since everything was frozen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<f64>,
    /// Seconds until the guardian thaws.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<f64>,
    /// Mount points in freeze order.
    pub filesystems: Vec<String>,
    /// Mount points whose FIFREEZE has not returned: writes to them may block.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<String>,
    /// Path of the restore hook that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_hook: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owed: Vec<OwedThaw>,
    /// A freeze that ended before the host's thaw, until the host learns of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired: Option<EarlyEnd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<LastRun>,
}

#[derive(Debug, Serialize)]
pub(super) struct OwedThaw {
    hook: String,
    reason: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct EarlyEnd {
    #[serde(serialize_with = "serialize_time")]
    ended: f64,
    ended_by: &'static str,
    held: f64,
    filesystems: u64,
    /// What the host's next thaw returns.
    pub text: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct LastRun {
    run: String,
    #[serde(serialize_with = "serialize_time")]
    started: f64,
    level: Level,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<&'static str>,
    #[serde(skip)]
    summary: String,
}

impl EarlyEnd {
    fn of(expiry: &Expiry) -> Self {
        Self {
            ended: expiry.when,
            ended_by: early_end_word(&expiry.reason),
            held: expiry.held,
            filesystems: expiry.count,
            text: expiry.to_string(),
        }
    }
}

impl LastRun {
    fn of(report: &Report) -> Self {
        Self {
            run: report.id.clone(),
            started: report.started,
            level: report.level,
            ended_by: ended_by(report),
            summary: report.summary(),
        }
    }
}

pub const TOOL: Tool = Tool {
    usage: Usage {
        name: "status",
        summary: "whether filesystems are frozen, and until when",
        about: "Says whether filesystems are frozen: since when, by which run, how long at most. \
                Works while the agent is busy, stopped or dead.",
        operand: None,
        options: &[&[JSON], context::OPTIONS],
        exit: &[
            (0, "nothing is frozen"),
            (1, "it cannot be determined"),
            (FROZEN, "filesystems are frozen, or about to be"),
        ],
    },
    subcommands: &[],
    run,
};

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    let config = ToolContext::of(args)?.config;
    let mut status = Status::find(&config.statedir, config.limits.step)?;
    let snapshot = config.snapshot_file.map(SnapshotFile::from);
    status.restore_hook = snapshot.as_ref().and_then(restored::running_hook);
    let printed = if args.has("--json") {
        output::print_json(&status)
    } else {
        output::print(&status.render(Style::of_stdout()))
    };
    let is_frozen = status.state != FreezeState::Thawed || !status.blocked.is_empty();
    Ok(match printed {
        0 if is_frozen => FROZEN,
        printed => printed,
    })
}

impl Status {
    pub(super) fn find(statedir: &Path, step_limit: Option<Duration>) -> Result<Self, String> {
        let state = StateDir::new(statedir);
        let mut status = Self::of_marker(&state)?;
        status.ask_guardian(statedir, step_limit)?;
        status.find_run(statedir, step_limit);
        status.blocked = find_blocked();
        let is_thawed = status.state == FreezeState::Thawed;
        for owed in journal::owed(statedir) {
            let reason = match &owed.why[..] {
                // The run's own thaw calls it.
                "" if !is_thawed => continue,
                "" => "it froze and was never thawed".to_owned(),
                _ => owed.why,
            };
            let hook = owed.name;
            status.owed.push(OwedThaw { hook, reason });
        }
        status.expired = state.peek_expired().as_ref().map(EarlyEnd::of);
        let (reports, _) = history::read(&state);
        status.last_run = reports.first().map(LastRun::of);
        Ok(status)
    }

    fn of_marker(state: &StateDir) -> Result<Self, String> {
        let marked = state.is_marked_frozen().map_err(|error| error.text)?;
        let boot = marked.then(|| state.read_marker()).flatten();
        let boot = boot.map(|marker| marker.boot).unwrap_or_default();
        let is_of_another_boot = !boot.is_empty() && boot != boot_id();
        Ok(Self {
            state: match marked && !is_of_another_boot {
                true => FreezeState::Frozen,
                false => FreezeState::Thawed,
            },
            marked,
            is_of_another_boot,
            agents: context::pids(state.path()),
            ..Self::default()
        })
    }

    fn ask_guardian(
        &mut self,
        statedir: &Path,
        step_limit: Option<Duration>,
    ) -> Result<(), String> {
        let client = StatusClient::connect(statedir).map_err(|error| {
            let (dir, why) = (statedir.display(), strerror(&error));
            format!("cannot ask the guardian in {dir}: {why}; run this as root")
        })?;
        let Some(client) = client else {
            if let Some(pid) = hidden_guardian(statedir, &self.agents) {
                self.state = FreezeState::Frozen;
                self.guardian = Some(pid);
                let why = "it has no socket, as the state directory is not writable";
                self.guardian_silent = Some(why.into());
            }
            return Ok(());
        };
        self.guardian = Some(client.pid);
        match client.request_status() {
            Ok(status) => {
                self.at_work = RunAtWork::find(statedir, Some(&status), step_limit);
                self.apply(status);
            }
            Err(error) => {
                let why = format!("{}; it may be thawing", strerror(&error));
                self.guardian_silent = Some(why);
            }
        }
        Ok(())
    }

    fn apply(&mut self, status: FreezeStatus) {
        self.state = match status.stage {
            Stage::Freezing => FreezeState::Freezing,
            Stage::Frozen => FreezeState::Frozen,
            Stage::Thawing => FreezeState::Thawing,
        };
        (self.held, self.left) = (status.held, status.left);
        self.filesystems = status.filesystems;
        if let Some(report) = status.report {
            self.run = Some(report.id);
            self.started = Some(report.started);
            self.requested = report.requested;
        }
    }

    /// If no guardian answers, the run's hook master is found in /proc.
    fn find_run(&mut self, statedir: &Path, step_limit: Option<Duration>) {
        if self.at_work.is_none() {
            self.at_work = RunAtWork::find(statedir, None, step_limit);
            if let Some(work) = &self.at_work {
                self.state = match work.stage {
                    "thaw-hooks" => FreezeState::Thawing,
                    _ => FreezeState::Freezing,
                };
            }
        }
        if self.run.is_none() {
            let work = self.at_work.as_ref();
            self.run = work.and_then(|work| work.ended.1.clone());
        }
    }

    fn render(&self, style: Style) -> String {
        let head = match self.state {
            FreezeState::Thawed => style.good(self.state.name()),
            state => style.warning(state.name()),
        };
        let mut text = match self.held {
            Some(held) => format!("{head}  for {}\n", span(held)),
            None => format!("{head}\n"),
        };
        text += &self.render_run(style);
        text += &self.render_guardian(style);
        text += &match &self.agents[..] {
            [] => format!("  agent        {}\n", style.warning("does not run")),
            [pid] => format!("  agent        process {pid}\n"),
            many => {
                let line = format!("processes {} share one state directory", join_pids(many));
                style.wrap("  agent        ", &style.bad(&line))
            }
        };
        text += &self.render_rest(style);
        text += &self.render_advice(style);
        text
    }

    fn render_run(&self, style: Style) -> String {
        let mut text = String::new();
        if let Some(work) = &self.at_work {
            text += &work.render("  at work      ", style);
        }
        if let Some(run) = &self.run {
            let line = match self.started {
                Some(started) => {
                    let requested = self.requested.as_ref().map(|names| names.join(", "));
                    let requested = requested.unwrap_or("everything".into());
                    format!("{run}, requested for {requested} at {}", moment(started))
                }
                None => run.clone(),
            };
            text += &style.wrap("  run          ", &escape_control(&line));
        }
        if !self.filesystems.is_empty() {
            let names = escape_control(&self.filesystems.join(", "));
            text += &style.wrap("  filesystems  ", &names);
        }
        if !self.blocked.is_empty() {
            let names = escape_control(&self.blocked.join(", "));
            let line = format!("writes to {names}: FIFREEZE has not returned");
            text += &style.wrap("  blocked      ", &style.bad(&line));
        }
        text
    }

    fn render_guardian(&self, style: Style) -> String {
        let is_frozen = self.state != FreezeState::Thawed;
        let line = match (self.guardian, &self.guardian_silent) {
            (Some(pid), Some(why)) => {
                let line = format!("process {pid} does not answer: {}", message(why));
                style.warning(&line)
            }
            (Some(pid), None) => match (self.state, self.left) {
                (FreezeState::Thawing, _) => format!("process {pid}, thaws if the agent dies"),
                (FreezeState::Frozen, None) => format!("process {pid}, no hold limit"),
                (_, None) => format!("process {pid}, undoes the freeze if the agent dies"),
                (_, Some(left)) => {
                    format!(
                        "process {pid}, thaws in {} unless the host does",
                        span(left)
                    )
                }
            },
            (None, _) if is_frozen => style.bad("none"),
            (None, _) => return String::new(),
        };
        style.wrap("  guardian     ", &line)
    }

    fn render_rest(&self, style: Style) -> String {
        let mut text = String::new();
        if let Some(hook) = &self.restore_hook {
            let line = format!("{hook} runs; commands that act wait for its end");
            text += &style.wrap("  restored     ", &style.warning(&escape_control(&line)));
        }
        for owed in &self.owed {
            let line = format!("{}: {}", owed.hook, owed.reason);
            text += &style.wrap("  thaw owed    ", &style.bad(&message(&line)));
        }
        if !self.owed.is_empty() {
            let advice = "fix it, then qemu-ga hook thaw (the next freeze tries again, too), or \
                          qemu-ga hook dismiss";
            text += &style.wrap("  ", advice);
        }
        if self.is_of_another_boot {
            let line = "from an earlier boot: nothing is frozen, and the next start of the agent removes it";
            text += &style.wrap("  marker       ", line);
        }
        if let Some(expired) = &self.expired {
            text += &style.wrap("  late thaw    ", &message(&expired.text));
        }
        if let (Some(last), FreezeState::Thawed) = (&self.last_run, self.state) {
            let summary = escape_control(&last.summary);
            let line = format!("{}, {summary}", moment(last.started));
            let line = output::level(last.level, &line, style);
            text += &style.wrap("  last run     ", &line);
        }
        text
    }

    /// What would be refused now is not offered.
    fn render_advice(&self, style: Style) -> String {
        let advice = match self.state {
            FreezeState::Thawed => return String::new(),
            _ if self.guardian.is_none() => {
                "no guardian: the host must thaw, or run qemu-ga thaw --now"
            }
            FreezeState::Frozen => "qemu-ga thaw --now ends it at once",
            FreezeState::Freezing | FreezeState::Thawing => {
                "qemu-ga thaw --now does nothing before everything is frozen, nor while it is thawed"
            }
        };
        style.wrap("  ", advice)
    }
}

/// A thread may hang in FIFREEZE even without any agent.
fn find_blocked() -> Vec<String> {
    let (system, until) = (System::host(), Instant::now() + PROC_SEARCH_TIMEOUT);
    let mounts = system.mounts().unwrap_or_default();
    let blocked = writers::find_freezing(&system, &mounts, until);
    let name = |path: Vec<u8>| String::from_utf8_lossy(&path).into_owned();
    blocked.into_iter().map(name).collect()
}

/// A guardian of one of these agents without a socket, as the state directory is not writable.
fn hidden_guardian(statedir: &Path, agents: &[i32]) -> Option<i32> {
    if eaccess(statedir, AccessFlags::W_OK).is_ok() {
        return None;
    }
    let entries = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|&pid: &i32| {
        let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let parent = process::stat(pid).map(|stat| stat.parent);
        name == b"qga-guardian\n" && parent.is_some_and(|parent| agents.contains(&parent))
    })
}

#[cfg(test)]
pub(super) fn sample() -> serde_json::Value {
    let text = || "x".to_owned();
    output::value(&Status {
        state: FreezeState::Freezing,
        marked: true,
        is_of_another_boot: true,
        agents: vec![1],
        guardian: Some(2),
        at_work: Some(super::live::sample()),
        guardian_silent: Some(text()),
        run: Some(text()),
        started: Some(1.5),
        requested: Some(vec![text()]),
        held: Some(1.0),
        left: Some(2.0),
        filesystems: vec![text()],
        blocked: vec![text()],
        restore_hook: Some(text()),
        owed: vec![OwedThaw {
            hook: text(),
            reason: text(),
        }],
        expired: Some(EarlyEnd::of(&Expiry {
            when: 1.0,
            held: 2.0,
            reason: Expiry::SHUTDOWN.into(),
            count: 3,
        })),
        last_run: Some(LastRun::of(&super::report::full_report())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::freeze::guardian::Activity;

    #[test]
    fn a_marker_alone_means_frozen_without_guardian() {
        let dir = tempfile::tempdir().unwrap();
        let status = Status::find(dir.path(), None).unwrap();
        assert_eq!((status.state, status.guardian), (FreezeState::Thawed, None));
        assert!(status.render(Style::default()).starts_with("thawed\n"));
        StateDir::new(dir.path())
            .mark_frozen(&crate::state::Marker::default())
            .unwrap();
        let status = Status::find(dir.path(), None).unwrap();
        assert_eq!((status.state, status.marked), (FreezeState::Frozen, true));
        let text = status.render(Style::default());
        let old = crate::state::Marker {
            boot: "another".into(),
            ..Default::default()
        };
        StateDir::new(dir.path()).mark_frozen(&old).unwrap();
        let status = Status::find(dir.path(), None).unwrap();
        assert_eq!((status.state, status.marked), (FreezeState::Thawed, true));
        let stale = status.render(Style::default());
        assert!(!stale.contains("thaw --now"), "{stale}");
        assert!(stale.contains("marker       from an earlier boot"));
        assert!(
            text.contains("guardian     none") && text.contains("thaw --now"),
            "{text}"
        );
    }

    #[test]
    fn what_the_guardian_answers_is_shown() {
        let mut status = Status {
            guardian: Some(812),
            agents: vec![800],
            ..Status::default()
        };
        status.apply(FreezeStatus {
            stage: Stage::Frozen,
            filesystems: vec!["/data".into(), "/".into()],
            has_agent: true,
            activity: Some(Activity::Held),
            activity_seconds: 63.0,
            held: Some(63.0),
            left: Some(837.0),
            report: Some(Box::default()),
        });
        let text = status.render(Style::default());
        for line in [
            "frozen  for 1 min 3 s",
            "  filesystems  /data, /",
            "  guardian     process 812, thaws in 13 min 57 s unless the host does",
            "  agent        process 800",
            "  qemu-ga thaw --now ends it at once",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in:\n{text}");
        }
        status.left = None;
        let text = status.render(Style::default());
        assert!(text.contains("process 812, no hold limit\n"), "{text}");
        // What would be refused is not offered, and before the limit is known nothing is said of it.
        for state in [FreezeState::Freezing, FreezeState::Thawing] {
            status.state = state;
            let text = status.render(Style::default());
            assert!(text.contains("thaw --now does nothing before"), "{text}");
            assert!(
                !text.contains("limit") && !text.contains("ends it"),
                "{text}"
            );
        }
    }
}
