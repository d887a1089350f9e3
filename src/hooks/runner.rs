//! Our own hook master: runs every task in order and logs each start, its output and its status.
//!
//! A failure does not affect other tasks, and the master still succeeds, unless the settings say otherwise
//! ([`OnFailure::Abort`]). A freeze is refused before anything runs if other users could have changed the directory or
//! a hook. Each task that was started on freeze is thawed exactly once, from its entry in the journal: changes of the
//! directory or the settings do not prevent it, and a thaw that cannot be run stays pending.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::adapter::Adapter;
use super::adapter::Discovered;
use super::budget;
use super::exec::{self, CommandOutcome};
use super::holder;
use super::hook_run::HookRun;
use super::journal::{Journal, JournalContent, RunInfo, StartedTask};
use super::log::{EndNote, HookLog, LogLine};
use super::outcome::{self, TaskOutcome, describe_record, error_name, explanation, verdict};
use super::settings::{HookKind, OnFailure};
use super::task::{CommandLine, Eligibility, HookTask, batches};
use super::{ANY_RUN, HookRecord, HookStatus, Phase, ThawReason, Verdict};
use crate::diagnostic::Diagnostic;
use crate::sys::poll::is_readable;

const MAX_PARALLEL_HOOKS: usize = 64;
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Options {
    pub log: HookLog,
    /// For all tasks together; None: no limit.
    pub total: Option<Duration>,
    pub on_total: OnFailure,
    /// Stops the running tasks and the run when it becomes readable.
    pub stop: Option<OwnedFd>,
    pub records: Option<File>,
    pub memory: Journal,
    pub adapters: &'static [Adapter],
    /// On thaw those in the journal replace them.
    pub run: RunInfo,
    pub reason: Option<ThawReason>,
    /// Thaws only hooks that the journal has for the run with this id, or for any with [`ANY_RUN`]; empty: all hooks.
    pub only_run: String,
}

#[derive(Debug, Default)]
pub struct Summary {
    pub hooks: Vec<HookRecord>,
    /// The run was stopped; later hooks were not called.
    pub stopped: bool,
    /// Why the freeze must fail or the thaw must return an error.
    pub failure: Option<String>,
    pub lost_lines: u64,
}

/// A failed discovery fails a freeze; it fails a thaw only if the journal is incomplete.
pub fn run(phase: Phase, found: Result<Discovered, Diagnostic>, mut options: Options) -> Summary {
    let stop = options.stop.take();
    let known = match options.memory.open(phase, &|| pause(stop.as_ref())) {
        Ok(known) => known,
        Err(error) => {
            options.log.line(&error.to_string());
            return Summary {
                failure: Some(format!("qemu-ga hook: {error}")),
                ..Summary::default()
            };
        }
    };
    if phase == Phase::Thaw && !is_wanted(&known, &options.only_run) {
        // Another master has thawed these hooks since, or the journal's hooks belong to the next freeze.
        match known.run.id.is_empty() {
            true => drop(options.memory.close()),
            false => options.memory.keep_open(),
        }
        return Summary::default();
    }
    let (found, refusal) = match found {
        Ok(found) => (found, None),
        Err(refusal) => (Discovered::default(), Some(refusal.to_string())),
    };
    let lines = known.warning.iter().chain(&found.warnings);
    for line in lines.chain(&refusal) {
        options.log.line(line);
    }
    let refused = refusal.filter(|_| phase == Phase::Freeze || !known.is_whole);
    let refused = refused.map(|line| format!("qemu-ga hook: {line}"));
    let mut master = HookMaster {
        hook_run: HookRun::new(phase, stop, (options.log, options.memory)),
        on_total: options.on_total,
        adapters: options.adapters,
    };
    let (total, records) = (options.total, options.records);
    let mut summary = match phase {
        Phase::Freeze => {
            master.begin_freeze(known, options.run, (total, records));
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
            master.hook_run.begin(of_thaw, run, total, records);
            master.thaw(found, known)
        }
    };
    let closed = master.hook_run.journal().close();
    master.hook_run.log_journal_error(closed);
    summary.failure = refused.or(summary.failure);
    summary.lost_lines = master.hook_run.log().lost();
    summary
}

fn pause(stop: Option<&OwnedFd>) -> bool {
    if let Some(stop) = stop {
        return is_readable(stop.as_fd(), STOP_CHECK_INTERVAL);
    }
    std::thread::sleep(STOP_CHECK_INTERVAL);
    false
}

fn is_wanted(known: &JournalContent, only_run: &str) -> bool {
    let has_started = !known.started.is_empty();
    match only_run {
        "" => true,
        ANY_RUN => has_started,
        run => known.run.id == run || known.run.id.is_empty() && has_started,
    }
}

struct HookMaster {
    hook_run: HookRun,
    on_total: OnFailure,
    adapters: &'static [Adapter],
}

impl HookMaster {
    /// Thaws what an earlier freeze left. It is not reported to the agent, because it is not part of the new freeze.
    fn recover(&mut self, mut known: JournalContent) {
        let line = "what an earlier freeze left without its thaw is told to thaw first";
        self.hook_run.log().line(line);
        let of_thaw = (Phase::Thaw, Some(ThawReason::Recovered));
        self.hook_run.begin(of_thaw, known.run.clone(), None, None);
        // Hooks without an entry are about to freeze, so they must not be thawed here.
        known.is_whole = true;
        self.thaw(Discovered::default(), known);
    }

    fn begin_freeze(
        &mut self,
        known: JournalContent,
        run: RunInfo,
        (total, records): (Option<Duration>, Option<File>),
    ) {
        if !known.started.is_empty() {
            self.recover(known);
        }
        let of_freeze = (Phase::Freeze, None);
        self.hook_run.begin(of_freeze, run, total, records);
        let begun = self.hook_run.journal().begin(&self.hook_run.run);
        self.hook_run.log_journal_error(begun);
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
            tasks.push(started.step(&mut found.disabled, self.adapters));
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

    /// Its record and the effect of a failure. None: there was nothing to do.
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
                let (hook, why) = (&task.name, &why.to_string());
                self.log_hook(LogLine::Skipped { hook, why });
                TaskOutcome::of(HookStatus::Skipped(why.clone()))
            }
            Eligibility::Unfit { reason, .. } if phase == Phase::Freeze => {
                self.reject(task, &reason.to_string(), HookStatus::cannot_run)
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
        let of_call = (phase, self.hook_run.reason);
        let record = outcome::record(task, of_call, done, elapsed, verdict);
        self.log_error_name(task, &record, verdict);
        Some((record, on_failure))
    }

    fn log_error_name(&self, task: &HookTask, record: &HookRecord, verdict: Verdict) {
        let name = match verdict {
            Verdict::Failure => record.error.as_deref(),
            _ => error_name(task, record.phase, &record.status),
        };
        if let Some(name) = name {
            self.hook_run
                .log()
                .line(&format!("{}: {name}", record.path));
        }
    }

    /// Marks a task from the journal as done or pending. Returns whether it is newly pending, which the host learns.
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

    fn log_hook(&self, line: LogLine<'_>) {
        self.hook_run.log().hook_line(line);
    }

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

    /// With retries if the settings allow them. None: this phase has no command for the task.
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
        let (mut tries, mut has_run) = (0, false);
        loop {
            tries += 1;
            let done = self.try_once(task, command, tries, (socket.as_deref(), is_alone));
            has_run |= done.has_run;
            let done = TaskOutcome { has_run, ..done };
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

    fn try_once(
        &self,
        task: &HookTask,
        command: &CommandLine,
        tries: u32,
        (socket, is_alone): (Option<&Path>, bool),
    ) -> TaskOutcome {
        let words: Vec<_> = command
            .args
            .iter()
            .map(|arg| arg.to_string_lossy())
            .collect();
        let program = command.program.display().to_string();
        let args = words.join(" ");
        let command = &budget::within(&self.hook_run, task, command, tries);
        self.log_hook(LogLine::Execute {
            hook: &program,
            args: args.trim_end(),
        });
        let time = self.hook_run.time_for(command.timeout);
        self.hook_run.send_start(&program, &task.source, time);
        let (holding, ended) = match socket {
            Some(socket) => {
                let (status, ended) = holder::start(&self.hook_run, &task.policy, command, socket);
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
            let ended = (&ended, socket.is_some());
            log_end(&self.hook_run, task, &program, command.timeout, ended);
        }
        TaskOutcome {
            tries,
            has_run: !matches!(ended.status, HookStatus::NotRun { .. }),
            holds: holding,
            is_early: socket.is_some() && !holding,
            ..TaskOutcome::from(ended)
        }
    }

    fn release(&self, task: &HookTask, socket: &Path) -> TaskOutcome {
        let reason = self.hook_run.reason.unwrap_or(ThawReason::Ok);
        let name = &task.name;
        self.log_hook(LogLine::Release {
            hook: name,
            reason: reason.as_str(),
        });
        self.hook_run
            .send_start(name, &task.source, task.policy.timeout);
        let released = holder::release(&self.hook_run, &task.policy, socket, reason);
        if let Some(why) = &released.lost {
            self.log_hook(LogLine::Lost { hook: name, why });
        }
        let ended = (&released.ended, false);
        log_end(&self.hook_run, task, name, task.policy.timeout, ended);
        TaskOutcome {
            lost: released.lost.is_some(),
            ..TaskOutcome::from(released.ended)
        }
    }
}

/// Logs the end of a start. `is_early`: a holding hook ended before it was ready.
pub(super) fn log_end(
    hook_run: &HookRun,
    task: &HookTask,
    name: &str,
    timeout: Option<Duration>,
    (ended, is_early): (&CommandOutcome, bool),
) {
    let mut log = hook_run.log();
    if let HookStatus::NotRun { reason, .. } = &ended.status {
        let (hook, why) = (name, reason);
        log.hook_line(LogLine::CannotRun { hook, why });
    }
    let limit = hook_run.time_for(timeout).or(timeout);
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
