//! Our own hook master: every step in its order, each start, its output and its status in the log.
//!
//! A failure changes nothing for the others, and the master still succeeds, unless the operator
//! wants it otherwise ([`OnFailure::Abort`]). A freeze is refused, before anything runs, if others could
//! have changed the directory or a hook. Every step that was started on freeze has exactly one other
//! half on thaw, by what the journal holds of it: what has become of the directory and the settings
//! keeps none from it, and what cannot be run is owed.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::budget;
use super::call::{self, Ended};
use super::desk::Desk;
use super::hold;
use super::log::HookLog;
use super::memory::{Memory, Remembered, Run, Started};
use super::outcome::{Done, error_name, explanation, story, verdict};
use super::policy::{Kind, OnFailure};
use super::sources::Found;
use super::step::{Fitness, Step, batches};
use super::trust::Refusal;
use super::{ANY_RUN, HookRecord, HookStatus, Phase, ThawReason, Verdict};
use crate::sys::poll::is_readable;

/// How many steps run side by side.
const MOST_AT_ONCE: usize = 64;
/// How often another master is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// How to run the steps.
#[derive(Debug)]
pub struct Options {
    /// Where their story goes.
    pub log: HookLog,
    /// Time for all of them; None: as long as it takes.
    pub total: Option<Duration>,
    /// What it means that this time has passed.
    pub on_total: OnFailure,
    /// Ends the running hook, and the run, when it becomes readable.
    pub stop: Option<OwnedFd>,
    /// Takes one JSON line a hook.
    pub records: Option<File>,
    /// What is known from freeze to thaw.
    pub memory: Memory,
    /// What hooks are told about the run; on thaw what the memory has is put in its place.
    pub run: Run,
    /// Why, on thaw.
    pub reason: Option<ThawReason>,
    /// Thaw only hooks of which the journal says that they were told to freeze in the run of this id, or in
    /// [`ANY_RUN`]; empty: all.
    pub only_run: String,
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Summary {
    /// Each hook in the order called.
    pub hooks: Vec<HookRecord>,
    /// True if the run was told to stop; later hooks were not called.
    pub stopped: bool,
    /// Why the freeze must fail, or the thaw answer an error.
    pub failure: Option<String>,
    /// Lines of the log that nobody took.
    pub lost_lines: u64,
}

/// Runs what was found: in order on freeze, in the reverse order on thaw. What could not be found out
/// fails a freeze, and a thaw only as far as the journal does not tell what is to be done.
pub fn run(phase: Phase, found: Result<Found, Refusal>, options: Options) -> Summary {
    let Options {
        mut log,
        mut memory,
        stop,
        ..
    } = options;
    let pause = || match &stop {
        Some(stop) => is_readable(stop.as_fd(), LOOK),
        None => {
            std::thread::sleep(LOOK);
            false
        }
    };
    let known = match memory.open(phase, &pause) {
        Ok(known) => known,
        Err(busy) => {
            log.line(&busy);
            return Summary {
                failure: Some(format!("qemu-ga hook: {busy}")),
                ..Summary::default()
            };
        }
    };
    let has_started = !known.started.is_empty();
    let is_meant = match &options.only_run[..] {
        "" => true,
        ANY_RUN => has_started,
        run => known.run.id == run || known.run.id.is_empty() && has_started,
    };
    if phase == Phase::Thaw && !is_meant {
        // Another master has told them meanwhile, or those of the next freeze are asleep.
        match known.run.id.is_empty() {
            true => drop(memory.close()),
            false => memory.leave(),
        }
        return Summary::default();
    }
    let (found, refusal) = match found {
        Ok(found) => (found, None),
        Err(refusal) => (Found::default(), Some(refusal.0)),
    };
    let lines = known.warning.iter().chain(&found.warnings);
    for line in lines.chain(&refusal) {
        log.line(line);
    }
    let refused = refusal.filter(|_| phase == Phase::Freeze || !known.is_whole);
    let refused = refused.map(|line| format!("qemu-ga hook: {line}"));
    let mut master = Master {
        desk: Desk::new(phase, stop, (log, memory)),
        on_total: options.on_total,
    };
    let mut summary = match phase {
        Phase::Freeze => {
            if !known.started.is_empty() {
                master.recover(known);
            }
            let of_freeze = (phase, None);
            master
                .desk
                .begin(of_freeze, options.run, options.total, options.records);
            let begun = master.desk.memory().begin(&master.desk.run);
            master.desk.note(begun);
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
                .desk
                .begin(of_thaw, run, options.total, options.records);
            master.thaw(found, known)
        }
    };
    let closed = master.desk.memory().close();
    master.desk.note(closed);
    summary.failure = refused.or(summary.failure);
    summary.lost_lines = master.desk.log().lost();
    summary
}

struct Master {
    desk: Desk,
    on_total: OnFailure,
}

impl Master {
    /// Thaws what an earlier freeze started and nobody thawed; the agent does not hear of it, for it is no
    /// part of the freeze to come.
    fn recover(&mut self, mut known: Remembered) {
        let line = "what an earlier freeze left without its thaw is told to thaw first";
        self.desk.log().line(line);
        let of_thaw = (Phase::Thaw, Some(ThawReason::Recovered));
        self.desk.begin(of_thaw, known.run.clone(), None, None);
        // Hooks of which it says nothing are about to freeze.
        known.is_whole = true;
        self.thaw(Found::default(), known);
    }

    fn freeze(&self, found: Found) -> Summary {
        if found.leaves_filesystems {
            self.desk.leave_filesystems();
        }
        let batches = batches(found.steps);
        let tasks: Vec<Vec<&Step>> = batches.iter().map(|batch| batch.iter().collect()).collect();
        self.work(&tasks)
    }

    fn thaw(&self, mut found: Found, known: Remembered) -> Summary {
        let mut steps = Vec::new();
        let mut others = Vec::new();
        for step in found.steps {
            if known.knows(&step) {
                found.disabled.push(step);
            } else if known.is_whole {
                self.mention_uncalled(&step);
            } else if step.policy.kind == Kind::Once {
                // One that holds was never told to, or is known to nobody.
                others.push(step);
            }
        }
        for started in known.started {
            steps.push(started.step(&mut found.disabled));
        }
        steps.append(&mut others);
        let batches = batches(steps);
        let tasks: Vec<Vec<&Step>> = batches
            .iter()
            .rev()
            .map(|batch| batch.iter().rev().collect())
            .collect();
        let summary = self.work(&tasks);
        let mut owed = String::new();
        for started in self.desk.memory().left() {
            owed = owed + " " + &started.name;
        }
        if !owed.is_empty() {
            self.desk.log().line(&format!(
                "not told to thaw:{owed}; the next freeze or thaw tells it first: mend it, then qemu-ga hook \
                 thaw, or qemu-ga hook dismiss",
            ));
        }
        summary
    }

    fn mention_uncalled(&self, step: &Step) {
        if step.fitness == Fitness::Fit && step.thaw.is_some() {
            self.desk.log().line(&format!(
                "{} is not called with thaw: it was not called with freeze, or that settled it",
                step.name
            ));
        }
    }

    fn work(&self, batches: &[Vec<&Step>]) -> Summary {
        let mut summary = Summary::default();
        for (number, batch) in batches.iter().enumerate() {
            let is_alone = self.desk.is_alone();
            if is_alone || self.desk.is_stopped() {
                summary.stopped = true;
                let why = if is_alone {
                    "the agent has ended"
                } else {
                    "stopped by a signal"
                };
                self.desk
                    .log()
                    .line(&format!("{why}; the hooks that follow are not called"));
                break;
            }
            for (group, tasks) in batch.chunks(MOST_AT_ONCE).enumerate() {
                let first = number * MOST_AT_ONCE + group;
                for (record, on_failure) in self.side_by_side(tasks, first) {
                    summary.stopped |= record.status == HookStatus::Cancelled;
                    if !record.is_success() && on_failure == OnFailure::Abort {
                        summary.failure.get_or_insert_with(|| story(&record));
                    }
                    summary.hooks.push(record);
                }
            }
            if self.desk.phase == Phase::Freeze && summary.failure.is_some() {
                if number + 1 < batches.len() {
                    let line = "on-failure is abort: the hooks that follow are not called";
                    self.desk.log().line(line);
                }
                break;
            }
        }
        summary
    }

    fn side_by_side(&self, tasks: &[&Step], number: usize) -> Vec<(HookRecord, OnFailure)> {
        let one = |step: &Step, at: usize, is_alone| {
            let door = number * MOST_AT_ONCE + at;
            let taken = self.take(step, door, is_alone);
            if let Some((record, _)) = &taken {
                self.desk.tell(record);
            }
            taken
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
                // No thread to be had: one after another will do.
                Err((task, at)) => one(task, at, false),
            });
            ended.collect()
        })
    }

    /// Takes one step, and says what its failure does; None: there was nothing to do.
    fn take(&self, step: &Step, door: usize, is_alone: bool) -> Option<(HookRecord, OnFailure)> {
        let phase = self.desk.phase;
        let begun = Instant::now();
        let mut on_failure = step.policy.on_failure;
        let done = match &step.fitness {
            // What became unfit since may still be able to undo what it did: the start will tell.
            _ if step.started.is_some() => self.start(step, door, is_alone)?,
            Fitness::Skipped(why) => {
                self.desk
                    .log()
                    .line(&format!("{} skipped: {why}", step.name));
                Done::of(HookStatus::Skipped(why.clone()))
            }
            Fitness::Unfit { reason, .. } if phase == Phase::Freeze => {
                self.pass_over(step, "cannot be run", reason, HookStatus::cannot_run)
            }
            Fitness::Unfit { .. } => return None,
            Fitness::Fit => match self.out_of_time(step) {
                Some((reason, means)) => {
                    on_failure = means;
                    self.pass_over(step, "is not called", &reason, HookStatus::no_time)
                }
                None => self.start(step, door, is_alone)?,
            },
        };
        let elapsed = begun.elapsed();
        let verdict = verdict(&step.policy, &done);
        match &step.started {
            Some(started) if self.is_newly_owed(started, &done) => on_failure = OnFailure::Abort,
            // What was not started, or holds nothing, has nothing to undo.
            None if !done.has_run
                || done.is_early
                || verdict == Verdict::Failure && !step.undone_if_failed =>
            {
                self.desk
                    .note(self.desk.memory().settle(&Started::of(step, None)));
            }
            _ => (),
        }
        let record = self.record(step, done, elapsed, verdict);
        let word = match verdict {
            Verdict::Failure => record.error.as_deref(),
            _ => error_name(step, phase, &record.status),
        };
        if let Some(word) = word {
            self.desk.log().line(&format!("{}: {word}", record.path));
        }
        Some((record, on_failure))
    }

    /// Notes what came of a thaw that the journal asked for: it has ended, or is owed. Returns whether
    /// that is news, which the host is told.
    fn is_newly_owed(&self, started: &Started, done: &Done) -> bool {
        match &done.status {
            HookStatus::NotRun { reason, .. } if !done.has_run && started.door.is_none() => {
                self.desk.note(self.desk.memory().owe(started, reason));
                started.why.is_empty()
            }
            // Whoever comes next tells it.
            HookStatus::Cancelled => false,
            _ => {
                self.desk.note(self.desk.memory().settle(started));
                false
            }
        }
    }

    /// Why there is no time left to start it, and what that does; for a thaw there always is.
    fn out_of_time(&self, step: &Step) -> Option<(String, OnFailure)> {
        let is_over = self.desk.left().is_some_and(|left| left.is_zero());
        if is_over && self.desk.phase == Phase::Freeze {
            let reason = "total-timeout had passed before its turn".to_owned();
            return Some((reason, self.on_total));
        }
        let reason = budget::overdrawn(&self.desk, step)?;
        Some((reason, step.policy.on_failure))
    }

    /// Logs that a step is not started, which counts as a failure.
    fn pass_over(
        &self,
        step: &Step,
        what: &str,
        reason: &str,
        status: fn(String) -> HookStatus,
    ) -> Done {
        self.desk
            .log()
            .line(&format!("{} {what}: {reason}", step.name));
        Done::of(status(reason.to_owned()))
    }

    fn record(&self, step: &Step, done: Done, elapsed: Duration, verdict: Verdict) -> HookRecord {
        let phase = self.desk.phase;
        let call = step.call(phase, self.desk.reason);
        let path = match (call, &step.fitness) {
            (Some(call), fitness) if *fitness == Fitness::Fit || done.tries > 0 => {
                call.program.display().to_string()
            }
            _ => step.name.clone(),
        };
        let mut record = HookRecord::new(path, phase, done.status);
        record.source = step.source.to_owned();
        record.elapsed = elapsed.as_secs_f64();
        record.tries = (done.tries > 1).then_some(done.tries);
        record.lost = done.lost;
        if verdict == Verdict::Failure {
            record.error = match (&step.fitness, &record.status) {
                (Fitness::Unfit { error, .. }, _) if done.tries == 0 => *error,
                (_, status) => error_name(step, phase, status),
            }
            .map(str::to_owned);
            record.output = String::from_utf8_lossy(&done.tail).into_owned();
        }
        // What everybody takes a status for needs no word.
        if verdict != record.status.verdict() {
            record.verdict = Some(verdict);
        }
        record
    }

    /// Starts the step's program, again if it fails and the operator wants it; None: this phase asks
    /// nothing of it.
    fn start(&self, step: &Step, door: usize, is_alone: bool) -> Option<Done> {
        if let Some(door) = step.started.as_ref().and_then(|s| s.door.as_ref()) {
            return Some(self.release(step, door));
        }
        let is_freeze = self.desk.phase == Phase::Freeze;
        let Some(call) = step.call(self.desk.phase, self.desk.reason) else {
            if is_freeze && step.thaw.is_some() {
                // Its turn was all that there is to it: the other half is due.
                let started = Started::of(step, None);
                self.desk.note(self.desk.memory().start(started));
            }
            step.started.as_ref()?;
            let reason = "it was started on freeze, and nothing is known of its thaw any more";
            return Some(self.pass_over(step, "cannot be run", reason, HookStatus::missing));
        };
        let holds = step.policy.kind == Kind::Hold;
        if holds && !self.desk.memory().is_kept() {
            let reason = "a holding hook could not be found again for the thaw";
            return Some(self.pass_over(step, "cannot be run", reason, HookStatus::cannot_run));
        }
        let door = holds.then(|| self.desk.memory().door(door));
        if is_freeze && (step.thaw.is_some() || holds) {
            let started = Started::of(step, door.clone());
            self.desk.note(self.desk.memory().start(started));
        }
        let words: Vec<_> = call.args.iter().map(|arg| arg.to_string_lossy()).collect();
        let program = call.program.display().to_string();
        let shown = format!("{program} {}", words.join(" "));
        let (mut tries, mut has_run) = (0, false);
        loop {
            tries += 1;
            let call = &budget::within(&self.desk, step, call, tries);
            self.desk
                .log()
                .line(&format!("execute {}", shown.trim_end()));
            let time = self.desk.time_for(call.timeout);
            self.desk.note_start(&program, step.source, time);
            let (holding, ended) = match &door {
                Some(door) => {
                    let (status, ended) = hold::start(&self.desk, &step.policy, call, door);
                    (status.is_none(), ended)
                }
                None => (false, call::once(&self.desk, &step.policy, call, is_alone)),
            };
            if holding {
                self.desk
                    .log()
                    .line(&format!("{program} is ready and holds"));
            } else {
                self.finish(step, &program, call.timeout, (&ended, door.is_some()));
            }
            has_run |= !matches!(ended.status, HookStatus::NotRun { .. });
            let done = Done {
                tries,
                has_run,
                holds: holding,
                is_early: door.is_some() && !holding,
                ..Done::from(ended)
            };
            let again = verdict(&step.policy, &done) == Verdict::Failure
                && tries <= call.retries
                && done.status != HookStatus::Cancelled
                && budget::for_retry(&self.desk, step)
                    .is_none_or(|left| left > step.policy.retry_pause);
            if !again || self.desk.pause(step.policy.retry_pause) {
                return Some(done);
            }
        }
    }

    fn release(&self, step: &Step, door: &std::path::Path) -> Done {
        let reason = self.desk.reason.unwrap_or(ThawReason::Ok);
        let name = &step.name;
        self.desk
            .log()
            .line(&format!("release {name} {}", reason.as_str()));
        self.desk.note_start(name, step.source, step.policy.timeout);
        let released = hold::release(&self.desk, &step.policy, door, reason);
        if let Some(why) = &released.lost {
            self.desk
                .log()
                .line(&format!("{name} did not hold until the thaw: {why}"));
        }
        self.finish(step, name, step.policy.timeout, (&released.ended, false));
        Done {
            lost: released.lost.is_some(),
            ..Done::from(released.ended)
        }
    }

    /// `is_early`: it was to hold.
    fn finish(
        &self,
        step: &Step,
        shown: &str,
        timeout: Option<Duration>,
        (ended, is_early): (&Ended, bool),
    ) {
        let mut log = self.desk.log();
        if let Some(more) = explanation(&ended.status, self.desk.time_for(timeout).or(timeout)) {
            log.line(&format!("{shown} {more}"));
        }
        let number = ended.status.number();
        let note = match &ended.status {
            HookStatus::Exited(code) if step.policy.not_applicable.contains(code) => {
                " (not applicable)"
            }
            HookStatus::Exited(_) if is_early => " (before it was ready)",
            HookStatus::Exited(code) if *code != 0 && step.policy.success.contains(code) => {
                " (success)"
            }
            _ => "",
        };
        log.line(&format!("{shown} finished with status={number}{note}"));
    }
}
