//! `qemu-ga status`: what is frozen, since when, and who stands by. It asks the guardian and reads
//! files; the agent's channel is left alone.

use super::args::{Ended, Given, Tool};
use super::present::{self, Style, moment, span, tame, wrap};
use super::setting::{self, Setting};
use crate::freeze::guardian::question::Question;
use crate::freeze::guardian::{Stage, Standing};
use crate::freeze::history;
use crate::state::StateDir;
use crate::sys::strerror;
use serde::Serialize;
use std::path::Path;

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
    /// Process ids of the agents with this state directory.
    pub agents: Vec<i32>,
    /// Process id of the guardian.
    pub guardian: Option<i32>,
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
    /// What the next thaw will be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired: Option<String>,
    /// The last run, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<String>,
}

/// `qemu-ga status`.
pub const TOOL: Tool = Tool {
    name: "status",
    usage: &[USAGE, setting::HELP, EXIT],
    flags: &[],
    values: setting::OPTIONS,
    most_words: 0,
    work,
};

fn work(given: &Given) -> Result<u8, Ended> {
    let status = Status::find(&Setting::of(given)?.config.statedir)?;
    let told = if given.has("--json") {
        present::print_json(&status)
    } else {
        present::print(&status.tell(Style::of_stdout()))
    };
    let is_frozen = told == 0 && status.state != "thawed";
    Ok(if is_frozen { FROZEN } else { told })
}

impl Status {
    /// Finds out for the agent with this state directory.
    ///
    /// # Errors
    /// No permission, or the directory cannot be examined.
    pub fn find(statedir: &Path) -> Result<Self, String> {
        let state = StateDir::new(statedir);
        let marked = state.is_marked_frozen().map_err(|error| error.text)?;
        let mut status = Self {
            state: if marked { "frozen" } else { "thawed" },
            marked,
            agents: setting::agents()
                .iter()
                .filter(|agent| agent.uses(statedir))
                .map(|agent| agent.pid)
                .collect(),
            ..Self::default()
        };
        let question = Question::at(statedir).map_err(|error| {
            let (dir, why) = (statedir.display(), strerror(&error));
            format!("the guardian in {dir} cannot be asked: {why}; be root")
        })?;
        if let Some(question) = question {
            status.guardian = Some(question.pid);
            match question.standing() {
                Ok(standing) => status.take(standing),
                Err(error) => status.guardian_silent = Some(strerror(&error)),
            }
        }
        status.expired = state.peek_expired().map(|expiry| expiry.to_string());
        let (reports, _) = history::read(&state);
        status.last_run = reports
            .first()
            .map(|report| format!("{}, {}", moment(report.started), report.summary()));
        Ok(status)
    }

    fn take(&mut self, standing: Standing) {
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

    fn tell(&self, style: Style) -> String {
        let head = match self.state {
            "thawed" => style.good("thawed"),
            other => style.odd(other),
        };
        let mut text = match self.held {
            Some(held) => format!("{head}  for {}\n", span(held)),
            None => format!("{head}\n"),
        };
        if let (Some(run), Some(started)) = (&self.run, self.started) {
            let asked = self.requested.as_ref().map(|names| names.join(", "));
            let asked = asked.map_or("everything".into(), |names| names);
            let run = format!("{run}, asked for {asked} at {}", moment(started));
            text += &wrap("  run          ", &tame(&run));
        }
        if !self.filesystems.is_empty() {
            text += &wrap("  filesystems  ", &tame(&self.filesystems.join(", ")));
        }
        let is_frozen = self.state != "thawed";
        match (self.guardian, &self.guardian_silent) {
            (Some(pid), Some(why)) => {
                let line = format!("process {pid} does not answer ({why}): it may be thawing");
                text += &wrap("  guardian     ", &style.odd(&line));
            }
            (Some(pid), None) => {
                let limit = self.left.map(|left| format!("thaws in {}", span(left)));
                let limit = limit.unwrap_or("has no limit".into());
                text += &format!("  guardian     process {pid}, {limit} if nobody else does\n");
            }
            (None, _) if is_frozen => {
                text += &format!("  guardian     {}\n", style.bad("none"));
            }
            (None, _) => {}
        }
        text += &match &self.agents[..] {
            [] => format!("  agent        {}\n", style.odd("does not run")),
            [pid] => format!("  agent        process {pid}\n"),
            many => format!(
                "  agent        {many:?} {}\n",
                style.bad("share one state directory")
            ),
        };
        if let Some(expired) = &self.expired {
            text += &wrap("  late thaw    ", expired);
        }
        if let (Some(last), false) = (&self.last_run, is_frozen) {
            text += &wrap("  last run     ", &tame(last));
        }
        if is_frozen && self.guardian.is_none() {
            let advice = "nobody stands by: the host must thaw, or you do with qemu-ga thaw --now";
            text += &wrap("  ", advice);
        } else if is_frozen {
            text += "  qemu-ga thaw --now ends it at once\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_alone_is_told_as_frozen_without_guardian() {
        let dir = tempfile::tempdir().unwrap();
        let status = Status::find(dir.path()).unwrap();
        assert_eq!((status.state, status.guardian), ("thawed", None));
        assert!(status.tell(Style::default()).starts_with("thawed\n"));
        StateDir::new(dir.path()).mark_frozen().unwrap();
        let status = Status::find(dir.path()).unwrap();
        assert_eq!((status.state, status.marked), ("frozen", true));
        let text = status.tell(Style::default());
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
        status.take(Standing {
            stage: Stage::Frozen,
            filesystems: vec!["/data".into(), "/".into()],
            has_agent: true,
            held: Some(63.0),
            left: Some(837.0),
            report: Some(Box::default()),
        });
        let text = status.tell(Style::default());
        for line in [
            "frozen  for 1 min 3 s",
            "  filesystems  /data, /",
            "  guardian     process 812, thaws in 13 min 57 s if nobody else does",
            "  agent        process 800",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in:\n{text}");
        }
    }
}
