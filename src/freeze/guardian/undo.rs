//! The guardian ends a freeze: it thaws the filesystems, then the hooks, and completes the report.

use super::server::Guardian;
use super::state::{Cause, Hooks};
use super::{Response, Thawed, pending_clients};
use crate::deadline::Pool;
use crate::freeze::report::{Report, RunEnd};
use crate::freeze::snapshot::{SNAPSHOT_TIMEOUT, SnapshotFile};
use crate::freeze::{FreezeError, history};
use crate::hooks::Phase;
use crate::hooks::invoke::MasterReport;
use crate::state::Expiry;
use crate::sys::poll::has_hung_up;
use crate::sys::syslog::Severity;
use crate::sys::{memory, rcu};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Before the next thaw of what a dying agent may still freeze. It doubles each time, up to the maximum.
const FIRST_RETHAW_INTERVAL: Duration = Duration::from_millis(100);
const MAX_RETHAW_INTERVAL: Duration = Duration::from_secs(2);
/// How long the thaw hooks wait for such an agent to exit.
const AGENT_EXIT_TIMEOUT: Duration = Duration::from_secs(5);

impl Guardian<'_> {
    /// No other process knows of these filesystems.
    pub(super) fn thaw_late_freezes(&mut self) {
        self.thaw_late();
        self.wait_for_agent_exit(None);
    }

    /// Thaws again and again while the agent may still freeze, for at most `limit`. A killed agent may have a thread in
    /// FIFREEZE, which outlives SIGKILL and may freeze a filesystem, or wait for another one's thaw. An agent that was
    /// stopped while freezing goes on when it is continued, and hangs up when it reads that the freeze was ended.
    fn wait_for_agent_exit(&mut self, limit: Option<Duration>) {
        if self.has_agent_left {
            return;
        }
        if self.dying_agent.is_some() {
            // The next agent may freeze and start a guardian of its own.
            self.close_socket();
        } else if self.progress.frozen_at.is_none() {
            self.dying_agent = self.agent.take();
        }
        let begun = Instant::now();
        let mut pause = FIRST_RETHAW_INTERVAL;
        while let Some(agent) = &self.dying_agent {
            if limit.is_some_and(|limit| begun.elapsed() > limit) {
                return;
            }
            if has_hung_up(agent.as_fd(), pause) {
                // An agent that only closed its sending side still reads: it gets `Ended`, and the guardian's exit
                // shows it that all is done.
                self.agent = self.dying_agent.take();
                self.has_agent_left = true;
            }
            pause = MAX_RETHAW_INTERVAL.min(pause * 2);
            // Also after the hang-up: the agent's last FIFREEZE may have succeeded just before it.
            self.thaw_late();
        }
    }

    fn thaw_late(&mut self) {
        let thawed = self.filesystems.thaw();
        for mountpoint in thawed.filesystems {
            let text = format!("warning: thawed {mountpoint}, frozen when the agent was dead");
            self.log(Severity::Warning, &text);
        }
        for failure in thawed.failures {
            self.log(Severity::Error, &format!("critical: {failure}"));
        }
    }

    pub(super) fn undo(&mut self, cause: Cause, hooks: Hooks, reports_early_end: bool) {
        let begun = Instant::now();
        let mut thawed = self.thaw();
        let thaw_seconds = begun.elapsed().as_secs_f64();
        let when = SystemTime::now().duration_since(UNIX_EPOCH);
        let expiry = Expiry {
            when: when.unwrap_or_default().as_secs_f64(),
            held: self.progress.held(),
            reason: cause.text().to_owned(),
            count: thawed.filesystems.len() as u64,
        };
        // In this order: a death in between must not lose the expiry.
        let expired_marked = reports_early_end.then(|| self.state.mark_expired(&expiry));
        let unmarked = self.state.mark_thawed().map(drop);
        for marked in expired_marked.into_iter().chain([unmarked]) {
            thawed.failures.extend(marked.err().map(|error| error.text));
        }
        match self.change_snapshot(SnapshotFile::withdraw) {
            // The run has written none.
            Ok(false) => self.snapshot = None,
            Ok(true) => {}
            Err(error) => thawed.failures.push(error.to_string()),
        }
        let mut failures = thawed.failures.clone();
        self.send_to_all(&Response::Thawed(thawed));
        self.log(Severity::Warning, &format!("warning: {expiry}"));
        let ended = Response::Ended(expiry.clone());
        if self.progress.frozen_at.is_none() {
            // An agent that was stopped while freezing reads this when it is continued, and then thaws what it froze.
            self.send(&ended);
        }
        // Thaw hooks write files. A filesystem that a dying agent freezes meanwhile would block them.
        self.wait_for_agent_exit(Some(AGENT_EXIT_TIMEOUT));
        let master = self.thaw_hooks(cause, hooks, &mut failures);
        if let Some(report) = self.report.take() {
            let stored = self.complete_report(*report, &expiry, thaw_seconds, master, &failures);
            failures.extend(stored.err().map(|error| error.to_string()));
        }
        for failure in &failures {
            self.log(Severity::Error, &format!("critical: {failure}"));
        }
        if cause == Cause::Unmarked {
            return; // another agent has answered the host's thaw
        }
        self.send_to_all(&ended);
        self.clients.broadcast(&ended);
        self.wait_for_agent_exit(None);
    }

    fn thaw(&mut self) -> Thawed {
        let was_expedited = std::mem::take(&mut self.expedites_rcu);
        let restored = was_expedited.then(|| rcu::set(Path::new("/sys"), false));
        let mut thawed = self.filesystems.thaw();
        self.masters.begin_undo(self.state.path());
        if let Some(Err(error)) = restored {
            thawed.failures.push(FreezeError::Rcu(error).to_string());
        }
        // Locked pages cost memory and nothing else.
        memory::unlock_all().ok();
        thawed
    }

    fn thaw_hooks(
        &mut self,
        cause: Cause,
        hooks: Hooks,
        failures: &mut Vec<String>,
    ) -> Option<MasterReport> {
        if hooks == Hooks::Thawing {
            failures.extend(describe_survivors(&self.masters.wait_for_thaw_masters()));
        }
        let state = self.state.path();
        let program = self.masters.thaw_program(hooks, cause, state)?;
        let is_whole = self.progress.frozen_at.is_some();
        let left = self.masters.end_freeze_masters(is_whole);
        failures.extend(describe_survivors(&left));
        let master = self.masters.thaw(program, cause, state);
        failures.extend(master.failure.clone());
        Some(master)
    }

    fn complete_report(
        &self,
        mut report: Report,
        expiry: &Expiry,
        thaw_seconds: f64,
        master: Option<MasterReport>,
        failures: &[String],
    ) -> Result<(), FreezeError> {
        if let Some(master) = master {
            report.stages.thaw_hooks = master.elapsed.as_secs_f64();
            report.hooks(Phase::Thaw, &master);
        }
        report.stages.held = expiry.held;
        report.stages.thaw = thaw_seconds;
        report.ended_because = Some(expiry.reason.clone());
        report.errors.push(expiry.to_string());
        report.errors.extend(failures.iter().cloned());
        report.end(RunEnd::Expiry);
        let stored = history::store(&self.state, &report);
        let finished =
            self.change_snapshot(move |file| file.write_finished(&report).map(|()| true));
        stored.and(finished.map(drop))
    }

    /// Returns what the change returns; false if no snapshot file is wanted. Another process may have frozen its
    /// filesystem.
    fn change_snapshot(
        &self,
        change: impl FnOnce(&SnapshotFile) -> io::Result<bool> + Send + 'static,
    ) -> Result<bool, FreezeError> {
        let Some(file) = self.snapshot.clone() else {
            return Ok(false);
        };
        let path = file.path().to_owned();
        Pool::default()
            .run_one(Some(SNAPSHOT_TIMEOUT), drop, move || change(&file))
            .map_err(|error| FreezeError::Snapshot(path, error))
    }

    /// Sends to the agent, and to the client that asked for the end of the freeze.
    fn send_to_all(&mut self, response: &Response) {
        if let Some(requester) = &self.requester {
            pending_clients::respond(requester, response);
        }
        self.send(response);
    }
}

fn describe_survivors(left: &[String]) -> Option<String> {
    (!left.is_empty()).then(|| format!("hooks cannot be ended: {}", left.join(", ")))
}
