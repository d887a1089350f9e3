//! Our own hook master: runs every task in order and logs each start, its output and its status.
//!
//! A failure does not affect other tasks, and the master still succeeds, unless the settings say otherwise
//! ([`OnFailure::Abort`]). A freeze is refused before anything runs if other users could have changed the
//! directory or a hook. Each task that was started on freeze is thawed exactly once, from its entry in the
//! journal: changes of the directory or the settings do not prevent it, and a thaw that cannot be run stays
//! pending. `cli` calls this.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::budget;
use super::exec::{self, CommandOutcome};
use super::holder;
use super::hook_run::HookRun;
use super::journal::{Journal, JournalContent, RunInfo, StartedTask};
use super::log::{EndNote, HookLog, LogLine};
use super::outcome::{TaskOutcome, describe_record, error_name, explanation, verdict};
use super::settings::{HookKind, OnFailure};
use super::sources::Discovered;
use super::task::{Eligibility, HookTask, batches};
use super::trust::Refusal;
use super::{ANY_RUN, HookRecord, HookStatus, Phase, ThawReason, Verdict};
use crate::sys::poll::is_readable;

/// Most tasks that run in parallel.
const MAX_PARALLEL_HOOKS: usize = 64;
/// Pause between two attempts to lock the journal.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Parameters of a run.
#[derive(Debug)]
pub struct Options {
    /// The log.
    pub log: HookLog,
    /// Time for all tasks together; None: no limit.
    pub total: Option<Duration>,
    /// The effect if this time expires.
    pub on_total: OnFailure,
    /// Stops the running tasks and the run when it becomes readable.
    pub stop: Option<OwnedFd>,
    /// The agent's record file, one JSON object a line.
    pub records: Option<File>,
    /// The journal.
    pub memory: Journal,
    /// The facts of the freeze, for hooks; on thaw those in the journal replace them.
    pub run: RunInfo,
    /// The reason of a thaw.
    pub reason: Option<ThawReason>,
    /// Thaws only hooks that were frozen in the run with this id by the journal, or in any run with
    /// [`ANY_RUN`]; empty: all hooks.
    pub only_run: String,
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Summary {
    /// The results in the order of the calls.
    pub hooks: Vec<HookRecord>,
    /// The run was stopped; later hooks were not called.
    pub stopped: bool,
    /// Why the freeze must fail or the thaw must return an error.
    pub failure: Option<String>,
    /// Lines that could not be logged.
    pub lost_lines: u64,
}

/// Runs the discovered tasks: in order on freeze, in reverse order on thaw. A failed discovery fails a
/// freeze; it fails a thaw only if the journal is incomplete.
pub fn run(phase: Phase, found: Result<Discovered, Refusal>, options: Options) -> Summary {
    let Options {
        mut log,
        mut memory,
        stop,
        ..
    } = options;
    let pause = || match &stop {
        Some(stop) => is_readable(stop.as_fd(), STOP_CHECK_INTERVAL),
        None => {
            std::thread::sleep(STOP_CHECK_INTERVAL);
            false
        }
    };
    let known = match memory.open(phase, &pause) {
        Ok(known) => known,
        Err(error) => {
            log.line(&error);
            return Summary {
                failure: Some(format!("qemu-ga hook: {error}")),
                ..Summary::default()
            };
        }
    };
    let has_started = !known.started.is_empty();
    let is_wanted = match &options.only_run[..] {
        "" => true,
        ANY_RUN => has_started,
        run => known.run.id == run || known.run.id.is_empty() && has_started,
    };
    if phase == Phase::Thaw && !is_wanted {
        // Another master has thawed these hooks since, or the journal's hooks belong to the next freeze.
        match known.run.id.is_empty() {
            true => drop(memory.close()),
            false => memory.keep_open(),
        }
        return Summary::default();
    }
    let (found, refusal) = match found {
        Ok(found) => (found, None),
        Err(refusal) => (Discovered::default(), Some(refusal.0)),
    };
    let lines = known.warning.iter().chain(&found.warnings);
    for line in lines.chain(&refusal) {
        log.line(line);
    }
    let refused = refusal.filter(|_| phase == Phase::Freeze || !known.is_whole);
    let refused = refused.map(|line| format!("qemu-ga hook: {line}"));
    let mut master = HookMaster {
        hook_run: HookRun::new(phase, stop, (log, memory)),
        on_total: options.on_total,
    };
    let mut summary = match phase {
        Phase::Freeze => {
            if !known.started.is_empty() {
                master.recover(known);
            }
            let of_freeze = (phase, None);
            master
                .hook_run
                .begin(of_freeze, options.run, options.total, options.records);
            let begun = master.hook_run.journal().begin(&master.hook_run.run);
            master.hook_run.log_journal_error(begun);
            match refused {
                Some(_) => Summary::default(),
                None => master.freeze(found),
            }
        }
        Phase::Thaw => {
            let run = match known.started.is_empty() {
                true => options.run,
                false => known.run.clone(),
            };
            let of_thaw = (phase, options.reason);
            master
                .hook_run
                .begin(of_thaw, run, options.total, options.records);
            master.thaw(found, known)
        }
    };
    let closed = master.hook_run.journal().close();
    master.hook_run.log_journal_error(closed);
    summary.failure = refused.or(summary.failure);
    summary.lost_lines = master.hook_run.log().lost();
    summary
}

struct HookMaster {
    hook_run: HookRun,
    on_total: OnFailure,
}

impl HookMaster {
    /// Thaws hooks that an earlier freeze started and that were never thawed. They are not reported to the
    /// agent, because they are not part of the new freeze.
    fn recover(&mut self, mut known: JournalContent) {
        let line = "what an earlier freeze left without its thaw is told to thaw first";
        self.hook_run.log().line(line);
        let of_thaw = (Phase::Thaw, Some(ThawReason::Recovered));
        self.hook_run.begin(of_thaw, known.run.clone(), None, None);
        // Hooks without an entry are about to freeze, so they must not be thawed here.
        known.is_whole = true;
        self.thaw(Discovered::default(), known);
    }

    fn freeze(&self, found: Discovered) -> Summary {
        if found.leaves_filesystems {
            self.hook_run.send_leave_filesystems();
        }
        let batches = batches(found.tasks);
        let tasks: Vec<Vec<&HookTask>> =
            batches.iter().map(|batch| batch.iter().collect()).collect();
        self.run_batches(&tasks)
    }

    fn thaw(&self, mut found: Discovered, known: JournalContent) -> Summary {
        let mut tasks = Vec::new();
        let mut others = Vec::new();
        for task in found.tasks {
            if known.contains(&task) {
                found.disabled.push(task);
            } else if known.is_whole {
                self.log_uncalled(&task);
            } else if task.policy.kind == HookKind::Once {
                // A holding hook without an entry was not started, or its holder cannot be found.
                others.push(task);
            }
        }
        for started in known.started {
            tasks.push(started.step(&mut found.disabled));
        }
        tasks.append(&mut others);
        let batches = batches(tasks);
        let tasks: Vec<Vec<&HookTask>> = batches
            .iter()
            .rev()
            .map(|batch| batch.iter().rev().collect())
            .collect();
        let summary = self.run_batches(&tasks);
        let mut owed = String::new();
        for started in self.hook_run.journal().left() {
            owed = owed + " " + &started.name;
        }
        if !owed.is_empty() {
            self.hook_run.log().line(&format!(
                "not told to thaw:{owed}; the next freeze or thaw tells it first: fix it, then qemu-ga hook \
                 thaw, or qemu-ga hook dismiss",
            ));
        }
        summary
    }

    fn log_uncalled(&self, task: &HookTask) {
        if task.eligibility == Eligibility::Fit && task.thaw.is_some() {
            let hook = &task.name;
            self.log_hook(LogLine::Unneeded { hook });
        }
    }

    fn run_batches(&self, batches: &[Vec<&HookTask>]) -> Summary {
        let mut summary = Summary::default();
        for (number, batch) in batches.iter().enumerate() {
            let has_agent_ended = self.hook_run.agent_has_ended();
            if has_agent_ended || self.hook_run.is_stopped() {
                summary.stopped = true;
                let why = if has_agent_ended {
                    "the agent has ended"
                } else {
                    "stopped by a signal"
                };
                self.hook_run
                    .log()
                    .line(&format!("{why}; the hooks that follow are not called"));
                break;
            }
            for (group, tasks) in batch.chunks(MAX_PARALLEL_HOOKS).enumerate() {
                let first = number * MAX_PARALLEL_HOOKS + group;
                for (record, on_failure) in self.run_parallel(tasks, first) {
                    summary.stopped |= record.status == HookStatus::Cancelled;
                    if !record.is_success() && on_failure == OnFailure::Abort {
                        summary
                            .failure
                            .get_or_insert_with(|| describe_record(&record));
                    }
                    summary.hooks.push(record);
                }
            }
            if self.hook_run.phase == Phase::Freeze && summary.failure.is_some() {
                if number + 1 < batches.len() {
                    let line = "on-failure is abort: the hooks that follow are not called";
                    self.hook_run.log().line(line);
                }
                break;
            }
        }
        summary
    }

    fn run_parallel(&self, tasks: &[&HookTask], number: usize) -> Vec<(HookRecord, OnFailure)> {
        let one = |task: &HookTask, at: usize, is_alone| {
            let socket_number = number * MAX_PARALLEL_HOOKS + at;
            let result = self.run_task(task, socket_number, is_alone);
            if let Some((record, _)) = &result {
                self.hook_run.send_record(record);
            }
            result
        };
        let one = &one;
        if let [task] = tasks {
            return one(task, 0, true).into_iter().collect();
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = tasks
                .iter()
                .enumerate()
                .map(|(at, task)| {
                    let thread = std::thread::Builder::new();
                    let spawned = thread.spawn_scoped(scope, move || one(task, at, false));
                    spawned.map_err(|_| (task, at))
                })
                .collect();
            let ended = threads.into_iter().filter_map(|thread| match thread {
                Ok(thread) => thread.join().ok().flatten(),
                // Without a thread the tasks run one after another.
                Err((task, at)) => one(task, at, false),
            });
            ended.collect()
        })
    }

    /// Runs one task; returns its record and the effect of a failure. None: there was nothing to do.
    fn run_task(
        &self,
        task: &HookTask,
        socket_number: usize,
        is_alone: bool,
    ) -> Option<(HookRecord, OnFailure)> {
        let phase = self.hook_run.phase;
        let begun = Instant::now();
        let mut on_failure = task.policy.on_failure;
        let done = match &task.eligibility {
            // A task that has become ineligible since the freeze may still be able to thaw; starting it shows
            // that.
            _ if task.started.is_some() => self.start(task, socket_number, is_alone)?,
            Eligibility::Skipped(why) => {
                let hook = &task.name;
                self.log_hook(LogLine::Skipped { hook, why });
                TaskOutcome::of(HookStatus::Skipped(why.clone()))
            }
            Eligibility::Unfit { reason, .. } if phase == Phase::Freeze => {
                self.reject(task, reason, HookStatus::cannot_run)
            }
            Eligibility::Unfit { .. } => return None,
            Eligibility::Fit => match self.check_time(task) {
                Some((reason, effect)) => {
                    on_failure = effect;
                    let (hook, why) = (&task.name, &reason);
                    self.log_hook(LogLine::NotCalled { hook, why });
                    TaskOutcome::of(HookStatus::no_time(reason))
                }
                None => self.start(task, socket_number, is_alone)?,
            },
        };
        let elapsed = begun.elapsed();
        let verdict = verdict(&task.policy, &done);
        match &task.started {
            Some(started) if self.is_newly_owed(started, &done) => on_failure = OnFailure::Abort,
            // A task that was not started, or that no longer holds, needs no thaw.
            None if !done.has_run
                || done.is_early
                || verdict == Verdict::Failure && !task.undone_if_failed =>
            {
                self.hook_run.log_journal_error(
                    self.hook_run
                        .journal()
                        .mark_done(&StartedTask::of(task, None)),
                );
            }
            _ => (),
        }
        let record = self.record(task, done, elapsed, verdict);
        let contract_name = match verdict {
            Verdict::Failure => record.error.as_deref(),
            _ => error_name(task, phase, &record.status),
        };
        if let Some(contract_name) = contract_name {
            self.hook_run
                .log()
                .line(&format!("{}: {contract_name}", record.path));
        }
        Some((record, on_failure))
    }

    /// Records the result of a thaw that the journal asked for: it is done, or it stays pending. Returns
    /// whether it is pending for the first time, which is reported to the host.
    fn is_newly_owed(&self, started: &StartedTask, done: &TaskOutcome) -> bool {
        match &done.status {
            HookStatus::NotRun { reason, .. }
                if !done.has_run && started.holder_socket.is_none() =>
            {
                self.hook_run
                    .log_journal_error(self.hook_run.journal().mark_owed(started, reason));
                started.why.is_empty()
            }
            // The next thaw runs it again.
            HookStatus::Cancelled => false,
            _ => {
                self.hook_run
                    .log_journal_error(self.hook_run.journal().mark_done(started));
                false
            }
        }
    }

    /// The reason not to start a task for lack of time, and the effect of that. None on thaw.
    fn check_time(&self, task: &HookTask) -> Option<(String, OnFailure)> {
        let is_over = self.hook_run.left().is_some_and(|left| left.is_zero());
        if is_over && self.hook_run.phase == Phase::Freeze {
            let reason = "total-timeout had passed before its turn".to_owned();
            return Some((reason, self.on_total));
        }
        let reason = budget::overdrawn(&self.hook_run, task)?;
        Some((reason, task.policy.on_failure))
    }

    /// Logs a line about one hook.
    fn log_hook(&self, line: LogLine<'_>) {
        self.hook_run.log().hook_line(line);
    }

    /// Logs that a task cannot be run, which is a failure.
    fn reject(
        &self,
        task: &HookTask,
        reason: &str,
        status: fn(String) -> HookStatus,
    ) -> TaskOutcome {
        let (hook, why) = (&task.name, reason);
        self.log_hook(LogLine::CannotRun { hook, why });
        TaskOutcome::of(status(reason.to_owned()))
    }

    fn record(
        &self,
        task: &HookTask,
        done: TaskOutcome,
        elapsed: Duration,
        verdict: Verdict,
    ) -> HookRecord {
        let phase = self.hook_run.phase;
        let command = task.command(phase, self.hook_run.reason);
        let path = match (command, &task.eligibility) {
            (Some(command), eligibility) if *eligibility == Eligibility::Fit || done.tries > 0 => {
                command.program.display().to_string()
            }
            _ => task.name.clone(),
        };
        let mut record = HookRecord::new(path, phase, done.status);
        record.source = task.source.to_owned();
        record.elapsed = elapsed.as_secs_f64();
        record.tries = (done.tries > 1).then_some(done.tries);
        record.lost = done.lost;
        if verdict == Verdict::Failure {
            record.error = match (&task.eligibility, &record.status) {
                (Eligibility::Unfit { error, .. }, _) if done.tries == 0 => *error,
                (_, status) => error_name(task, phase, status),
            }
            .map(str::to_owned);
            record.output = String::from_utf8_lossy(&done.tail).into_owned();
        }
        // The verdict is recorded only if the status alone means something else.
        if verdict != record.status.verdict() {
            record.verdict = Some(verdict);
        }
        record
    }

    /// Starts the task's program, and again if it fails and the settings allow retries. None: this phase has
    /// no command for it.
    fn start(&self, task: &HookTask, socket_number: usize, is_alone: bool) -> Option<TaskOutcome> {
        if let Some(socket) = task.started.as_ref().and_then(|s| s.holder_socket.as_ref()) {
            return Some(self.release(task, socket));
        }
        let is_freeze = self.hook_run.phase == Phase::Freeze;
        let Some(command) = task.command(self.hook_run.phase, self.hook_run.reason) else {
            if is_freeze && task.thaw.is_some() {
                // The freeze of this task runs no program; its thaw is due all the same.
                let started = StartedTask::of(task, None);
                self.hook_run
                    .log_journal_error(self.hook_run.journal().start(started));
            }
            task.started.as_ref()?;
            let reason = "it was started on freeze, and nothing is known of its thaw any more";
            return Some(self.reject(task, reason, HookStatus::missing));
        };
        let holds = task.policy.kind == HookKind::Hold;
        if holds && !self.hook_run.journal().is_kept() {
            let reason = "a holding hook could not be found again for the thaw";
            return Some(self.reject(task, reason, HookStatus::cannot_run));
        }
        let socket = holds.then(|| self.hook_run.journal().holder_socket(socket_number));
        if is_freeze && (task.thaw.is_some() || holds) {
            let started = StartedTask::of(task, socket.clone());
            self.hook_run
                .log_journal_error(self.hook_run.journal().start(started));
        }
        let words: Vec<_> = command
            .args
            .iter()
            .map(|arg| arg.to_string_lossy())
            .collect();
        let program = command.program.display().to_string();
        let args = words.join(" ");
        let (mut tries, mut has_run) = (0, false);
        loop {
            tries += 1;
            let command = &budget::within(&self.hook_run, task, command, tries);
            self.log_hook(LogLine::Execute {
                hook: &program,
                args: args.trim_end(),
            });
            let time = self.hook_run.time_for(command.timeout);
            self.hook_run.send_start(&program, task.source, time);
            let (holding, ended) = match &socket {
                Some(socket) => {
                    let (status, ended) =
                        holder::start(&self.hook_run, &task.policy, command, socket);
                    (status.is_none(), ended)
                }
                None => (
                    false,
                    exec::run_once(&self.hook_run, &task.policy, command, is_alone),
                ),
            };
            if holding {
                let hook = &program;
                self.log_hook(LogLine::Holds { hook });
            } else {
                self.finish(task, &program, command.timeout, (&ended, socket.is_some()));
            }
            has_run |= !matches!(ended.status, HookStatus::NotRun { .. });
            let done = TaskOutcome {
                tries,
                has_run,
                holds: holding,
                is_early: socket.is_some() && !holding,
                ..TaskOutcome::from(ended)
            };
            let is_retried = verdict(&task.policy, &done) == Verdict::Failure
                && tries <= command.retries
                && done.status != HookStatus::Cancelled
                && budget::for_retry(&self.hook_run, task)
                    .is_none_or(|left| left > task.policy.retry_pause);
            if !is_retried || self.hook_run.pause(task.policy.retry_pause) {
                return Some(done);
            }
        }
    }

    fn release(&self, task: &HookTask, socket: &std::path::Path) -> TaskOutcome {
        let reason = self.hook_run.reason.unwrap_or(ThawReason::Ok);
        let name = &task.name;
        self.log_hook(LogLine::Release {
            hook: name,
            reason: reason.as_str(),
        });
        self.hook_run
            .send_start(name, task.source, task.policy.timeout);
        let released = holder::release(&self.hook_run, &task.policy, socket, reason);
        if let Some(why) = &released.lost {
            self.log_hook(LogLine::Lost { hook: name, why });
        }
        self.finish(task, name, task.policy.timeout, (&released.ended, false));
        TaskOutcome {
            lost: released.lost.is_some(),
            ..TaskOutcome::from(released.ended)
        }
    }

    /// Logs the end of a start. `is_early`: a holding hook ended before it was ready.
    fn finish(
        &self,
        task: &HookTask,
        name: &str,
        timeout: Option<Duration>,
        (ended, is_early): (&CommandOutcome, bool),
    ) {
        let mut log = self.hook_run.log();
        if let HookStatus::NotRun { reason, .. } = &ended.status {
            let (hook, why) = (name, reason);
            log.hook_line(LogLine::CannotRun { hook, why });
        }
        let limit = self.hook_run.time_for(timeout).or(timeout);
        if let Some(more) = explanation(&ended.status, limit) {
            log.line(&format!("{name} {more}"));
        }
        let note = match &ended.status {
            HookStatus::Exited(code) if task.policy.not_applicable.contains(code) => {
                EndNote::NotApplicable
            }
            HookStatus::Exited(_) if is_early => EndNote::Early,
            HookStatus::Exited(code) if *code != 0 && task.policy.success.contains(code) => {
                EndNote::Success
            }
            _ => EndNote::None,
        };
        log.hook_line(LogLine::Finished {
            hook: name,
            status: ended.status.number(),
            note,
        });
    }
}
