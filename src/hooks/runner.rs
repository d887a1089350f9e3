//! Our own hook master: every step in its order, each start, its output and its status in the log.
//!
//! A failure changes nothing for the others, and the master still succeeds, unless the operator
//! wants it otherwise ([`OnFailure::Abort`]). Only a directory or hook that others could have
//! changed is refused, before anything runs. Every step that was started on freeze has exactly one
//! other half on thaw.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::budget;
use super::call::{self, Ended};
use super::desk::Desk;
use super::hold;
use super::log::HookLog;
use super::memory::{Memory, Remembered, Run, Started};
use super::policy::{Kind, OnFailure, Policy};
use super::sources::Found;
use super::step::{Fitness, Step, batches};
use super::{HookRecord, HookStatus, Phase, ThawReason, Verdict};

/// How many steps run side by side.
const MOST_AT_ONCE: usize = 64;

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
}

/// What came of a run.
#[derive(Debug)]
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

/// Runs what was found: in order on freeze, in the reverse order on thaw.
pub fn run(phase: Phase, found: Found, options: Options) -> Summary {
    let remembered = match phase {
        Phase::Freeze => None,
        Phase::Thaw => options.memory.recall(),
    };
    let run = remembered.as_ref().map_or(options.run, |r| r.run.clone());
    let desk = Desk::new(
        (phase, options.reason),
        run,
        options.total,
        options.stop,
        (options.log, options.records, options.memory),
    );
    for warning in &found.warnings {
        desk.log().line(warning);
    }
    let master = Master {
        desk,
        on_total: options.on_total,
    };
    match phase {
        Phase::Freeze => master.freeze(found),
        Phase::Thaw => master.thaw(found, remembered),
    }
}

/// A step, and what a thaw has to know of its freeze.
type Task<'a> = (&'a Step, Option<&'a Started>);

struct Master {
    desk: Desk,
    on_total: OnFailure,
}

impl Master {
    fn freeze(self, found: Found) -> Summary {
        self.let_old_holders_go();
        if found.leaves_filesystems {
            self.desk.leave_filesystems();
        }
        let batches = batches(found.steps);
        if !batches.is_empty() {
            let begun = self.desk.memory().begin(&self.desk.run);
            if let Err(trouble) = begun {
                self.desk.log().line(&trouble);
            }
        }
        let tasks: Vec<Vec<Task<'_>>> = batches
            .iter()
            .map(|batch| batch.iter().map(|step| (step, None)).collect())
            .collect();
        self.work(&tasks)
    }

    fn thaw(self, found: Found, remembered: Option<Remembered>) -> Summary {
        let batches = batches(found.steps);
        let all = batches.iter().rev().map(|batch| batch.iter().rev());
        let Some(Remembered { started, .. }) = remembered else {
            // One that holds was never told to, or is known to nobody.
            let once = |step: &&Step| step.policy.kind == Kind::Once;
            let tasks: Vec<Vec<Task<'_>>> = all
                .map(|batch| batch.filter(once).map(|step| (step, None)).collect())
                .collect();
            return self.work(&tasks);
        };
        let mut open: Vec<&Started> = started.iter().collect();
        let mut tasks = Vec::new();
        for batch in all {
            let mut due: Vec<Task<'_>> = Vec::new();
            for step in batch {
                match open.iter().position(|s| step.is(&s.source, &s.name)) {
                    Some(at) => due.push((step, Some(open.remove(at)))),
                    None => self.mention_uncalled(step),
                }
            }
            tasks.push(due);
        }
        let gone: Vec<(Step, &Started)> = open.into_iter().rev().map(gone).collect();
        tasks.extend(
            gone.iter()
                .map(|(step, started)| vec![(step, Some(*started))]),
        );
        let summary = self.work(&tasks);
        if let Err(trouble) = self.desk.memory().forget() {
            self.desk.log().line(&trouble);
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

    /// A freeze whose thaw never came: its holders would stand in the way of the new ones.
    fn let_old_holders_go(&self) {
        let old = self.desk.memory().recall();
        for started in old.iter().flat_map(|old| old.started.iter().rev()) {
            if let Some(door) = &started.door {
                self.desk.log().line(&format!(
                    "{} still holds from an earlier freeze without a thaw; it is released",
                    started.name
                ));
                hold::release(&self.desk, &Policy::default(), door, ThawReason::Recovered);
            }
        }
    }

    fn work(&self, batches: &[Vec<Task<'_>>]) -> Summary {
        let mut summary = Summary {
            hooks: Vec::new(),
            stopped: false,
            failure: None,
            lost_lines: 0,
        };
        for (number, batch) in batches.iter().enumerate() {
            if self.desk.is_stopped() {
                summary.stopped = true;
                let line = "stopped by a signal; the hooks that follow are not called";
                self.desk.log().line(line);
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
        summary.lost_lines = self.desk.log().lost();
        summary
    }

    fn side_by_side(&self, tasks: &[Task<'_>], number: usize) -> Vec<(HookRecord, OnFailure)> {
        let one = |task: &Task<'_>, at: usize, is_alone| {
            let door = number * MOST_AT_ONCE + at;
            let taken = self.take(task.0, task.1, door, is_alone);
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
                .map(|(at, task)| scope.spawn(move || one(task, at, false)))
                .collect();
            let ended = threads.into_iter().filter_map(|thread| thread.join().ok());
            ended.flatten().collect()
        })
    }

    /// Takes one step, and says what its failure does; None: there was nothing to do.
    fn take(
        &self,
        step: &Step,
        started: Option<&Started>,
        door: usize,
        is_alone: bool,
    ) -> Option<(HookRecord, OnFailure)> {
        let phase = self.desk.phase;
        let begun = Instant::now();
        let mut on_failure = step.policy.on_failure;
        let done = match &step.fitness {
            Fitness::Skipped(why) => {
                self.desk
                    .log()
                    .line(&format!("{} skipped: {why}", step.name));
                Done::of(HookStatus::Skipped(why.clone()))
            }
            // What became unfit since may still be able to undo what it did.
            Fitness::Unfit { .. } if started.is_some() && step.thaw.is_some() => {
                self.start(step, started, door, is_alone)?
            }
            Fitness::Unfit { reason, .. } if phase == Phase::Freeze || started.is_some() => {
                self.pass_over(step, "cannot be run", reason, HookStatus::cannot_run)
            }
            Fitness::Unfit { .. } => return None,
            Fitness::Fit => match self.out_of_time(step) {
                Some((reason, means)) => {
                    on_failure = means;
                    self.pass_over(step, "is not called", &reason, HookStatus::no_time)
                }
                None => self.start(step, started, door, is_alone)?,
            },
        };
        let elapsed = begun.elapsed();
        let verdict = verdict(&step.policy, &done);
        if verdict == Verdict::Failure && phase == Phase::Freeze && !step.undone_if_failed {
            self.desk.remember_end(step);
        }
        let record = self.record(step, done, elapsed, verdict);
        let word = match verdict {
            Verdict::Failure => record.error.as_deref(),
            _ => (step.error_name)(phase, &record.status),
        };
        if let Some(word) = word {
            self.desk.log().line(&format!("{}: {word}", record.path));
        }
        Some((record, on_failure))
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
                (_, status) => (step.error_name)(phase, status),
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
    fn start(
        &self,
        step: &Step,
        started: Option<&Started>,
        door: usize,
        is_alone: bool,
    ) -> Option<Done> {
        if let Some(door) = started.and_then(|started| started.door.as_ref()) {
            return Some(self.release(step, door));
        }
        let Some(call) = step.call(self.desk.phase, self.desk.reason) else {
            if self.desk.phase == Phase::Freeze && step.thaw.is_some() {
                // Its turn was all that there is to it: the other half is due.
                self.desk.remember_start(step, None);
            }
            return None;
        };
        let call = &budget::within(&self.desk, step, call);
        let holds = step.policy.kind == Kind::Hold;
        if holds && !self.desk.memory().is_kept() {
            let reason = "a holding hook could not be found again for the thaw";
            return Some(self.pass_over(step, "cannot be run", reason, HookStatus::cannot_run));
        }
        let door = holds.then(|| self.desk.memory().door(door));
        if self.desk.phase == Phase::Freeze {
            self.desk.remember_start(step, door.clone());
        }
        let words: Vec<_> = call.args.iter().map(|arg| arg.to_string_lossy()).collect();
        let shown = format!("{} {}", call.program.display(), words.join(" "));
        let mut tries = 0;
        loop {
            tries += 1;
            self.desk
                .log()
                .line(&format!("execute {}", shown.trim_end()));
            let (holding, ended) = match &door {
                Some(door) => {
                    let (status, ended) = hold::start(&self.desk, &step.policy, call, door);
                    (status.is_none(), ended)
                }
                None => (false, call::once(&self.desk, &step.policy, call, is_alone)),
            };
            if holding {
                let program = call.program.display();
                self.desk
                    .log()
                    .line(&format!("{program} is ready and holds"));
            } else {
                self.finish(
                    step,
                    &call.program.display().to_string(),
                    call.timeout,
                    (&ended, door.is_some()),
                );
            }
            let done = Done {
                tries,
                holds: holding,
                is_early: door.is_some() && !holding,
                ..Done::from(ended)
            };
            let again = verdict(&step.policy, &done) == Verdict::Failure
                && tries <= call.retries
                && done.status != HookStatus::Cancelled
                && self
                    .desk
                    .left()
                    .is_none_or(|left| left > step.policy.retry_pause);
            if !again || self.desk.pause(step.policy.retry_pause) {
                if door.is_some() && !holding {
                    // Nothing holds, so nothing is to be released.
                    self.desk.remember_end(step);
                }
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

/// How a step ended, all its tries together.
struct Done {
    status: HookStatus,
    tail: Vec<u8>,
    tries: u32,
    holds: bool,
    /// It was to hold, and ended before it was ready.
    is_early: bool,
    lost: bool,
}

impl Done {
    /// Without a start.
    fn of(status: HookStatus) -> Done {
        Done {
            status,
            tail: Vec::new(),
            tries: 0,
            holds: false,
            is_early: false,
            lost: false,
        }
    }
}

impl From<Ended> for Done {
    fn from(ended: Ended) -> Done {
        Done {
            tail: ended.tail,
            tries: 1,
            ..Done::of(ended.status)
        }
    }
}

/// A step that was started and is not there any more.
fn gone(started: &Started) -> (Step, &Started) {
    let mut step = Step::new("", started.name.clone(), Policy::default());
    if started.door.is_none() {
        let reason =
            "it was started on freeze and is gone now, so nobody undoes what it did".into();
        step.fitness = Fitness::Unfit {
            reason,
            error: None,
        };
    }
    (step, started)
}

fn verdict(policy: &Policy, done: &Done) -> Verdict {
    match &done.status {
        _ if done.holds => Verdict::Success,
        _ if done.lost => Verdict::Failure,
        HookStatus::Exited(code) if !done.is_early && policy.success.contains(code) => {
            Verdict::Success
        }
        HookStatus::Exited(code) if policy.not_applicable.contains(code) => Verdict::NotApplicable,
        HookStatus::Exited(_) => Verdict::Failure,
        status => status.verdict(),
    }
}

/// The failure in one line for the host, with the end of the output.
fn story(record: &HookRecord) -> String {
    let how = match &record.status {
        _ if record.lost => "did not hold until the thaw".to_owned(),
        HookStatus::Exited(code) => format!("exit status {code}"),
        HookStatus::Signaled(signal) => format!("ended by signal {signal}"),
        HookStatus::NotRun { reason, .. } => reason.clone(),
        HookStatus::Skipped(why) => why.clone(),
        HookStatus::TimedOut => "not finished in time".to_owned(),
        HookStatus::Cancelled => "stopped".to_owned(),
    };
    let name = record.error.as_deref().map(|name| format!("{name}: "));
    let name = name.unwrap_or_default();
    let last = record.output.trim_end().lines().rev().take(3);
    let last: Vec<&str> = last.collect::<Vec<_>>().into_iter().rev().collect();
    let last = match last.is_empty() {
        true => String::new(),
        false => format!("; its last output: {}", last.join(" | ")),
    };
    format!(
        "{name}hook {} {}: {how}{last}",
        record.path,
        record.phase.as_str()
    )
}

/// What the status number alone does not say.
fn explanation(status: &HookStatus, limit: Option<Duration>) -> Option<String> {
    match status {
        HookStatus::NotRun { reason, .. } => Some(format!("cannot be run: {reason}")),
        HookStatus::TimedOut => {
            let seconds = limit.unwrap_or_default().as_secs_f64();
            Some(format!("did not finish within {seconds} s and was ended"))
        }
        HookStatus::Cancelled => Some("was ended because the run was stopped".to_owned()),
        HookStatus::Exited(_) | HookStatus::Signaled(_) | HookStatus::Skipped(_) => None,
    }
}
