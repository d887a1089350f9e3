//! `qemu-ga status`: what is frozen, since when, and who stands by. It asks the guardian and reads
//! files; the agent's channel is left alone.

use super::args::{ParsedArgs, Tool, ToolError};
use super::context::{self, ToolContext};
use super::live::RunAtWork;
use super::output::{self, Style, escape_control, message, moment, span, wrap};
use crate::freeze::guardian::status_client::StatusClient;
use crate::freeze::guardian::{FreezeStatus, Stage};
use crate::freeze::history;
use crate::freeze::report::Level;
use crate::hooks::journal;
use crate::probe::{System, writers};
use crate::state::{StateDir, boot_id};
use crate::sys::{process, strerror};
use nix::unistd::{AccessFlags, eaccess};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

const USAGE: &str = "\
Usage: qemu-ga status [--json]
Says whether filesystems are frozen: since when, by which run, how long at most.
Works while the agent is busy, stopped or dead.
  --json               for machines
";
const EXIT: &str = "\
Exit status: 0 nothing is frozen; 3 filesystems are frozen, or about to be;
1 it cannot be found out; 2 for a mistake in this command.
";
/// How long all processes may be looked through; that takes milliseconds.
const PROC_SEARCH_TIMEOUT: Duration = Duration::from_secs(1);
/// Exit status while filesystems are frozen.
const FROZEN: u8 = 3;

/// How things stand, in the members of `--json`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// `thawed`, `freezing`, `frozen` or `thawing`.
    pub state: &'static str,
    /// The marker says that an agent froze.
    pub marked: bool,
    /// It was another boot in which it did: nothing of that is frozen any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_of_another_boot: bool,
    /// Process ids of the agents with this state directory.
    pub agents: Vec<i32>,
    /// Process id of the guardian.
    pub guardian: Option<i32>,
    /// What the run at work is doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_work: Option<RunAtWork>,
    /// Why the guardian does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guardian_silent: Option<String>,
    /// The run's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// When the request came, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<f64>,
    /// The mountpoints that the request named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<Vec<String>>,
    /// How long everything has been frozen, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<f64>,
    /// Seconds until it is thawed without being asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<f64>,
    /// Mountpoints in the order of freezing.
    pub filesystems: Vec<String>,
    /// Mountpoints of which a FIFREEZE has not returned: writes to them may block.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<String>,
    /// Hooks that were told to freeze and could not be told to thaw, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owed: Vec<String>,
    /// What the next thaw will be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired: Option<String>,
    /// The last run, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<String>,
    /// Its level.
    #[serde(skip)]
    pub last_level: Level,
}

/// `qemu-ga status`.
pub const TOOL: Tool = Tool {
    name: "status",
    usage: &[USAGE, context::HELP, EXIT],
    flags: &[],
    values: context::OPTIONS,
    max_operands: 0,
    run,
};

fn run(given: &ParsedArgs) -> Result<u8, ToolError> {
    let config = ToolContext::of(given)?.config;
    let status = Status::find(&config.statedir, config.limits.step)?;
    let told = if given.has("--json") {
        output::print_json(&status)
    } else {
        output::print(&status.render(Style::of_stdout()))
    };
    let is_frozen = told == 0 && (status.state != "thawed" || !status.blocked.is_empty());
    Ok(if is_frozen { FROZEN } else { told })
}

impl Status {
    /// Finds out for the agent with this state directory and this limit for a step at a filesystem.
    ///
    /// # Errors
    /// No permission, or the directory cannot be examined.
    pub fn find(statedir: &Path, step_limit: Option<Duration>) -> Result<Self, String> {
        let state = StateDir::new(statedir);
        let marked = state.is_marked_frozen().map_err(|error| error.text)?;
        let boot = marked.then(|| state.read_marker()).flatten();
        let boot = boot.map(|marker| marker.boot).unwrap_or_default();
        let is_of_another_boot = !boot.is_empty() && boot != boot_id();
        let is_frozen = marked && !is_of_another_boot;
        let mut status = Self {
            state: if is_frozen { "frozen" } else { "thawed" },
            marked,
            is_of_another_boot,
            agents: context::pids(statedir),
            ..Self::default()
        };
        let question = StatusClient::connect(statedir).map_err(|error| {
            let (dir, why) = (statedir.display(), strerror(&error));
            format!("the guardian in {dir} cannot be asked: {why}; be root")
        })?;
        if let Some(question) = question {
            status.guardian = Some(question.pid);
            match question.request_status() {
                Ok(standing) => {
                    status.at_work = RunAtWork::find(statedir, Some(&standing), step_limit);
                    status.apply(standing);
                }
                Err(error) => {
                    let why = format!("{}; it may be thawing", strerror(&error));
                    status.guardian_silent = Some(why);
                }
            }
        } else if let Some(pid) = hidden_guardian(statedir, &status.agents) {
            status.state = "frozen";
            status.guardian = Some(pid);
            let why = "it has no socket, as the state directory cannot be written";
            status.guardian_silent = Some(why.into());
        }
        if status.at_work.is_none() {
            status.at_work = RunAtWork::find(statedir, None, step_limit);
            if let Some(work) = &status.at_work {
                status.state = match work.stage {
                    "thaw-hooks" => "thawing",
                    _ => "freezing",
                };
            }
        }
        let of_work = status
            .at_work
            .as_ref()
            .and_then(|work| work.ended.1.clone());
        status.run = status.run.or(of_work);
        // No agent need be left that knows of it.
        let (system, until) = (System::host(), Instant::now() + PROC_SEARCH_TIMEOUT);
        let mounts = system.mounts().unwrap_or_default();
        let blocked = writers::find_freezing(&system, &mounts, until);
        let name = |path: Vec<u8>| String::from_utf8_lossy(&path).into_owned();
        status.blocked = blocked.into_iter().map(name).collect();
        let is_thawed = status.state == "thawed";
        for owed in journal::owed(statedir) {
            let why = match &owed.why[..] {
                "" if !is_thawed => continue,
                "" => "it was told to freeze, and nobody told it to thaw",
                why => why,
            };
            status.owed.push(format!("{}: {why}", owed.name));
        }
        status.expired = state.peek_expired().map(|expiry| expiry.to_string());
        let (reports, _) = history::read(&state);
        if let Some(report) = reports.first() {
            let summary = escape_control(&report.summary());
            status.last_run = Some(format!("{}, {summary}", moment(report.started)));
            status.last_level = report.level;
        }
        Ok(status)
    }

    fn apply(&mut self, standing: FreezeStatus) {
        self.state = match standing.stage {
            Stage::Freezing => "freezing",
            Stage::Frozen => "frozen",
            Stage::Thawing => "thawing",
        };
        (self.held, self.left) = (standing.held, standing.left);
        self.filesystems = standing.filesystems;
        if let Some(report) = standing.report {
            self.run = Some(report.id);
            self.started = Some(report.started);
            self.requested = report.requested;
        }
    }

    fn render(&self, style: Style) -> String {
        let head = match self.state {
            "thawed" => style.good("thawed"),
            other => style.warning(other),
        };
        let mut text = match self.held {
            Some(held) => format!("{head}  for {}\n", span(held)),
            None => format!("{head}\n"),
        };
        if let Some(work) = &self.at_work {
            text += &work.render("  at work      ");
        }
        if let (Some(run), Some(started)) = (&self.run, self.started) {
            let asked = self.requested.as_ref().map(|names| names.join(", "));
            let asked = asked.map_or("everything".into(), |names| names);
            let run = format!("{run}, asked for {asked} at {}", moment(started));
            text += &wrap("  run          ", &escape_control(&run));
        } else if let Some(run) = &self.run {
            text += &wrap("  run          ", &escape_control(run));
        }
        if !self.filesystems.is_empty() {
            text += &wrap(
                "  filesystems  ",
                &escape_control(&self.filesystems.join(", ")),
            );
        }
        if !self.blocked.is_empty() {
            let names = escape_control(&self.blocked.join(", "));
            let line = format!("writes to {names}: FIFREEZE has not returned");
            text += &wrap("  blocked      ", &style.bad(&line));
        }
        let is_frozen = self.state != "thawed";
        match (self.guardian, &self.guardian_silent) {
            (Some(pid), Some(why)) => {
                let line = format!("process {pid} cannot be asked: {}", message(why));
                text += &wrap("  guardian     ", &style.warning(&line));
            }
            (Some(pid), None) => {
                let line = match (self.state, self.left) {
                    ("thawing", _) => format!("process {pid}, thaws if the agent dies"),
                    ("frozen", None) => format!("process {pid}, holds without limit"),
                    (_, None) => format!("process {pid}, undoes it if the agent dies"),
                    (_, Some(left)) => {
                        format!("process {pid}, thaws in {} if nobody else does", span(left))
                    }
                };
                text += &format!("  guardian     {line}\n");
            }
            (None, _) if is_frozen => {
                text += &format!("  guardian     {}\n", style.bad("none"));
            }
            (None, _) => {}
        }
        text += &match &self.agents[..] {
            [] => format!("  agent        {}\n", style.warning("does not run")),
            [pid] => format!("  agent        process {pid}\n"),
            many => format!(
                "  agent        {many:?} {}\n",
                style.bad("share one state directory")
            ),
        };
        for owed in &self.owed {
            text += &wrap("  thaw owed    ", &style.bad(&message(owed)));
        }
        if !self.owed.is_empty() {
            let advice = "fix it, then qemu-ga hook thaw (the next freeze tries again, too), or \
                          qemu-ga hook dismiss";
            text += &wrap("  ", advice);
        }
        if self.is_of_another_boot {
            let line =
                "it is of another boot, so nothing of it is frozen; the agent's start removes it";
            text += &wrap("  marker       ", line);
        }
        if let Some(expired) = &self.expired {
            text += &wrap("  late thaw    ", &message(expired));
        }
        if let (Some(last), false) = (&self.last_run, is_frozen) {
            let line = output::level(self.last_level, &escape_control(last), style);
            text += &wrap("  last run     ", &line);
        }
        if is_frozen && self.guardian.is_none() {
            let advice = "no guardian: the host must thaw, or you do with qemu-ga thaw --now";
            text += &wrap("  ", advice);
        } else if self.state == "frozen" {
            text += "  qemu-ga thaw --now ends it at once\n";
        } else if is_frozen {
            let advice = "qemu-ga thaw --now does nothing before everything is frozen, nor while it is thawed";
            text += &wrap("  ", advice);
        }
        text
    }
}

/// The guardian of one of these agents, where its socket could not be made.
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
mod tests {
    use super::*;
    use crate::freeze::guardian::Activity;

    #[test]
    fn a_marker_alone_is_told_as_frozen_without_guardian() {
        let dir = tempfile::tempdir().unwrap();
        let status = Status::find(dir.path(), None).unwrap();
        assert_eq!((status.state, status.guardian), ("thawed", None));
        assert!(status.render(Style::default()).starts_with("thawed\n"));
        StateDir::new(dir.path())
            .mark_frozen(&crate::state::Marker::default())
            .unwrap();
        let status = Status::find(dir.path(), None).unwrap();
        assert_eq!((status.state, status.marked), ("frozen", true));
        let text = status.render(Style::default());
        let old = crate::state::Marker {
            boot: "another".into(),
            ..Default::default()
        };
        StateDir::new(dir.path()).mark_frozen(&old).unwrap();
        let status = Status::find(dir.path(), None).unwrap();
        assert_eq!((status.state, status.marked), ("thawed", true));
        let stale = status.render(Style::default());
        assert!(!stale.contains("thaw --now"), "{stale}");
        assert!(stale.contains("marker       it is of another boot"));
        assert!(
            text.contains("guardian     none") && text.contains("thaw --now"),
            "{text}"
        );
    }

    #[test]
    fn what_the_guardian_knows_is_told() {
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
            "  guardian     process 812, thaws in 13 min 57 s if nobody else does",
            "  agent        process 800",
            "  qemu-ga thaw --now ends it at once",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in:\n{text}");
        }
        status.left = None;
        let text = status.render(Style::default());
        assert!(
            text.contains("process 812, holds without limit\n"),
            "{text}"
        );
        // What would be refused is not offered, and a limit that is not there yet is not denied.
        for state in ["freezing", "thawing"] {
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
