//! The runs that are known: those that are kept, and one at work.

use crate::freeze::guardian::status_client::StatusClient;
use crate::freeze::history;
use crate::freeze::report::Report;
use crate::hooks::Phase;
use crate::state::StateDir;
use crate::sys::strerror;
use crate::tools::live::RunAtWork;
use crate::tools::output;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// The runs that are known.
pub struct Runs {
    /// The newest first; one at work before them.
    pub reports: Vec<Report>,
    /// What the first does, if it is at work and not just held.
    pub work: Option<RunAtWork>,
}

impl Runs {
    /// Finds them, for the agent with this state directory and this limit for a step at a filesystem.
    ///
    /// # Errors
    /// They cannot be read, or there are none.
    pub fn find(statedir: &Path, step_limit: Option<Duration>) -> Result<Self, String> {
        let state = StateDir::new(statedir);
        let (mut reports, wrong) = history::read(&state);
        // While frozen the guardian has the run; without an answer the kept ones are all there is.
        let question = StatusClient::connect(statedir).ok().flatten();
        let answer = question.map(StatusClient::request_status).transpose();
        if let Err(error) = &answer {
            let why = strerror(error);
            output::print_error(&format!(
                "a run at work is missing: the guardian does not answer ({why}); it may be thawing\n"
            ));
        }
        let standing = answer.ok().flatten();
        let work = RunAtWork::find(statedir, standing.as_ref(), step_limit);
        let held = standing.as_ref().and_then(|standing| standing.held);
        if let Some(mut report) = standing.and_then(|standing| standing.report) {
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
        match wrong {
            Some(why) if reports.is_empty() => Err(why),
            None if reports.is_empty() => Err(none_kept(&state)),
            _ => Ok(Self { reports, work }),
        }
    }

    /// A run for machines: that at work with what it does, and without a level before everything is frozen.
    pub fn value(&self, number: usize) -> Value {
        let report = &self.reports[number];
        let mut value = output::value(report);
        if let (0, Some(work)) = (number, &self.work) {
            value["at-work"] = output::value(work);
        }
        if let (Some(members), false) = (value.as_object_mut(), is_whole(report)) {
            members.retain(|name, _| ["id", "hooks", "at-work"].contains(&&name[..]));
        }
        value
    }
}

/// What is said where no run is kept.
pub fn none_kept(state: &StateDir) -> String {
    format!(
        "no run is kept in {}: nothing was frozen since the system was started, or the agent \
         has another state directory (--statedir)",
        state.reports().display()
    )
}

/// Whether everything was frozen, or the run has ended: of another one only hooks are known.
pub fn is_whole(report: &Report) -> bool {
    report.started > 0.0 || report.end.is_some()
}
