//! The runs that `qemu-ga report` shows: the stored ones, and the one in progress, whose report only the guardian has.

use crate::freeze::guardian::status_client::StatusClient;
use crate::freeze::history;
use crate::freeze::report::Report;
use crate::hooks::Phase;
use crate::state::StateDir;
use crate::sys::strerror;
use crate::tools::live::RunAtWork;
use crate::tools::output;
use crate::tools::report::ended_by;
use crate::tools::time;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

pub(super) struct Runs {
    /// The newest first; a run in progress is before all others.
    pub reports: Vec<Report>,
    /// The step of the first, if it is in progress and not only held.
    pub work: Option<RunAtWork>,
}

impl Runs {
    pub(super) fn find(statedir: &Path, step_limit: Option<Duration>) -> Result<Self, String> {
        let state = StateDir::new(statedir);
        let (mut reports, error) = history::read(&state);
        let client = StatusClient::connect(statedir).ok().flatten();
        let answer = client.map(StatusClient::request_status).transpose();
        if let Err(error) = &answer {
            let why = strerror(error);
            output::print_error(&format!(
                "cannot show the run in progress: the guardian does not answer: {why}; it may be thawing, try again\n"
            ));
        }
        let status = answer.ok().flatten();
        let work = RunAtWork::find(statedir, status.as_ref(), step_limit);
        let held = status.as_ref().and_then(|status| status.held);
        if let Some(mut report) = status.and_then(|status| status.report) {
            report.stages.held = held.unwrap_or_default();
            if let Some(work) = &work {
                let (ended, _) = &work.ended;
                let thaws = ended.iter().filter(|hook| hook.phase == Phase::Thaw);
                report.hooks.extend(thaws.cloned());
            }
            report.compute_level();
            reports.insert(0, *report);
        } else if let Some(work) = &work {
            reports.insert(0, work.report());
        }
        match error {
            Some(why) if reports.is_empty() => Err(why),
            None if reports.is_empty() => Err(none_kept(&state)),
            _ => Ok(Self { reports, work }),
        }
    }

    /// A run in progress has no level before everything is frozen.
    pub(super) fn value(&self, index: usize) -> Value {
        let report = &self.reports[index];
        let mut value = report_value(report);
        if let (0, Some(work)) = (index, &self.work) {
            value["at-work"] = output::value(work);
        }
        if let (Some(members), false) = (value.as_object_mut(), is_whole(report)) {
            members.retain(|name, _| ["id", "hooks", "at-work"].contains(&&name[..]));
        }
        value
    }
}

pub(in crate::tools) fn report_value(report: &Report) -> Value {
    let mut value = output::value(report);
    value["started"] = output::value(&time::rfc3339(report.started));
    if let Some(word) = ended_by(report) {
        value["ended-by"] = word.into();
    }
    value
}

pub(super) fn none_kept(state: &StateDir) -> String {
    format!(
        "no run is kept in {}: nothing was frozen since boot, or the agent has another state directory; check \
         --statedir",
        state.reports().display()
    )
}

/// Whether everything was frozen, or the run has ended. Of other runs only the hooks are known.
pub(super) fn is_whole(report: &Report) -> bool {
    report.started > 0.0 || report.end.is_some()
}
