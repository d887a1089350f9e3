//! `qemu-ga thaw`: ends a freeze from a console of the frozen machine.
//!
//! Until the last FITHAW nothing is written, not even to the terminal, as whatever is written to may be frozen. The
//! guardian is asked first: it holds the filesystems open, calls the thaw hooks, and makes the host's own thaw return
//! an error. Without one, every filesystem of the mount table is thawed.

use super::args::{JSON, ParsedArgs, Tool, ToolError};
use super::context::{self, ToolContext};
use super::output::{self, Style, count, escape_control, join_pids, message};
use super::status::{FreezeState, Status};
use crate::cli::{OptionSpec, Usage};
use crate::deadline::Timed;
use crate::freeze::guardian::status_client::{StatusClient, ThawAnswer};
use crate::freeze::history;
use crate::freeze::linux::LinuxOps;
use crate::freeze::ops::FilesystemOps;
use crate::freeze::plan;
use crate::hooks::Phase;
use crate::state::{Expiry, StateDir};
use crate::sys::{memory, strerror};
use nix::libc;
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Limit for one FITHAW; then the next filesystem is thawed.
const FITHAW_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ThawResult {
    thawed: Vec<String>,
    by_guardian: Option<i32>,
    notes: Vec<String>,
    failures: Vec<String>,
}

pub const TOOL: Tool = Tool {
    usage: Usage {
        name: "thaw",
        summary: "end a freeze that the host does not end (with --now)",
        about: "Ends a freeze that the host does not end. The snapshot that is being taken is then \
                worth no more than one after a power cut; the host's own thaw returns an error that \
                says so.",
        operand: None,
        options: &[
            &[
                OptionSpec::switch(
                    "now",
                    "do it; without this option, only say what would be done",
                ),
                OptionSpec::switch(
                    "force",
                    "with --now: do not ask the agent or the guardian, but thaw every filesystem, \
                     whoever froze it. An agent that runs goes on to answer frozen until the host \
                     thaws, and its report says that others thawed",
                ),
                JSON,
            ],
            context::OPTIONS,
        ],
        exit: &[
            (
                0,
                "everything is thawed; without --now, the status is shown",
            ),
            (1, "something is still frozen, or nothing was done"),
        ],
    },
    subcommands: &[],
    run,
};

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    let as_json = args.has("--json");
    let style = Style::of_stdout();
    if !args.has("--now") {
        if args.has("--force") {
            return Err(ToolError::Mistake(
                "--force is only valid with --now".into(),
            ));
        }
        let config = ToolContext::of(args)?.config;
        let status = Status::find(&config.statedir, config.limits.step)?;
        return Ok(if as_json {
            output::print_json(&status)
        } else {
            output::print(&describe_intention(&status, style))
        });
    }
    // Without the lock the thaw may hang on a page that is read from a frozen filesystem, but it may also succeed.
    memory::lock_all().ok();
    let context = ToolContext::of(args);
    if !nix::unistd::geteuid().is_root() {
        return Err(ToolError::Failed("cannot thaw: not root".into()));
    }
    // The thaw does not depend on a readable configuration.
    let context = context.unwrap_or_else(|_| ToolContext::built_in());
    let (mut result, guardian) = thaw(&context, args.has("--force"));
    if !as_json {
        output::print(&render(&result, style));
    }
    if let (Some(guardian), Some(_)) = (guardian, result.by_guardian) {
        let note = wait_for_hooks(guardian, &StateDir::new(&context.config.statedir));
        if !as_json {
            output::print(&style.wrap("", &note));
        }
        result.notes.push(note);
    }
    let printed = match as_json {
        true => output::print_json(&result.value()),
        false => 0,
    };
    Ok(printed.max(u8::from(!result.failures.is_empty())))
}

impl ThawResult {
    fn value(&self) -> Value {
        let word = match (self.failures.is_empty(), self.thawed.is_empty()) {
            (false, _) => "failed",
            (true, false) => "thawed",
            (true, true) => "nothing-frozen",
        };
        let mut value = output::value(self);
        value["result"] = word.into();
        value
    }
}

fn describe_intention(status: &Status, style: Style) -> String {
    let every = "every filesystem of the mount table";
    let text = match (status.guardian, status.state) {
        (None, FreezeState::Thawed) => format!(
            "No freeze of an agent is known. qemu-ga thaw --now would thaw {every}, whichever process froze it."
        ),
        (None, _) => format!(
            "The marker says that an agent froze, but there is no guardian. qemu-ga thaw --now would thaw {every}, and \
             remove the marker."
        ),
        (Some(pid), _) if status.guardian_silent.is_some() => format!(
            "The guardian, process {pid}, does not answer. qemu-ga thaw --now would ask it again, and then thaw {every}."
        ),
        (Some(pid), FreezeState::Frozen) => format!(
            "qemu-ga thaw --now would ask the guardian, process {pid}, to thaw {} and to call the thaw hooks.",
            escape_control(&status.filesystems.join(", "))
        ),
        (Some(_), state) => {
            let state = state.name();
            format!("The agent is {state}; qemu-ga thaw --now does nothing meanwhile.")
        }
    };
    style.wrap("", &text) + "Nothing was done.\n"
}

/// Returns the guardian if there is one. Nothing is written before the last FITHAW.
fn thaw(context: &ToolContext, force: bool) -> (ThawResult, Option<StatusClient>) {
    let mut result = ThawResult::default();
    let mut guardian = None;
    if !force {
        match StatusClient::connect(&context.config.statedir) {
            Ok(found) => guardian = found,
            Err(error) => result
                .notes
                .push(format!("cannot ask the guardian: {}", strerror(&error))),
        }
    }
    if let Some(client) = &mut guardian {
        match client.request_thaw() {
            Ok(ThawAnswer::Thawed(thawed)) => {
                result.by_guardian = Some(client.pid);
                result.thawed = thawed.filesystems;
                result.failures = thawed.failures;
                return (result, guardian);
            }
            Ok(ThawAnswer::Refused(why)) => {
                let remedy = "try again in a moment, or with --now --force";
                result
                    .failures
                    .push(format!("nothing was done: {why}; {remedy}"));
                return (result, guardian);
            }
            Err(error) => result.notes.push(format!(
                "the guardian, process {}, does not answer: {}",
                client.pid,
                strerror(&error)
            )),
        }
    }
    thaw_mounted(context, &mut result);
    finish_run(context, &mut result);
    (result, guardian)
}

fn wait_for_hooks(guardian: StatusClient, state: &StateDir) -> String {
    match guardian.wait_for_hooks() {
        Ok(_) => describe_thaw_hooks(state),
        Err(error) => format!(
            "unknown whether the thaw hooks were called: {}; see qemu-ga report and qemu-ga log",
            strerror(&error)
        ),
    }
}

/// In the reverse of the order of freezing.
fn thaw_mounted(context: &ToolContext, result: &mut ThawResult) {
    let state = StateDir::new(&context.config.statedir);
    let mut ops = LinuxOps::new(state, None, None, Some(FITHAW_TIMEOUT), true);
    let survey = match ops.survey() {
        Ok(survey) => survey,
        Err(error) => {
            let why = strerror(&error);
            result
                .failures
                .push(format!("cannot read the mount table: {why}; mount /proc"));
            return;
        }
    };
    for target in plan::everything(&survey).iter().rev() {
        let name = String::from_utf8_lossy(&target.filesystem.mountpoint).into_owned();
        // One at a time, so that each is usable as soon as possible.
        let handle = match ops.open(std::slice::from_ref(target)).pop() {
            Some(Ok(handle)) => handle,
            Some(Err(error)) => {
                // It may never have been frozen, so this is no failure.
                result
                    .notes
                    .push(format!("{name} was skipped: cannot open it: {error}"));
                continue;
            }
            None => continue,
        };
        for Timed { result: thawed, .. } in ops.thaw(&[&handle]) {
            match thawed {
                Ok(()) => result.thawed.push(name.clone()),
                // EINVAL: it is not frozen. EOPNOTSUPP: its type cannot be frozen.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {}
                Err(error) => result
                    .failures
                    .push(format!("{name} stays frozen: {}", strerror(&error))),
            }
        }
    }
}

fn finish_run(context: &ToolContext, result: &mut ThawResult) {
    let state = StateDir::new(&context.config.statedir);
    let marked = state.is_marked_frozen().unwrap_or(false);
    if !result.failures.is_empty() || (!marked && result.thawed.is_empty()) {
        return;
    }
    let marker = std::fs::metadata(state.marker()).and_then(|marker| marker.modified());
    let held = marker
        .ok()
        .and_then(|since| since.elapsed().ok())
        .unwrap_or_default();
    if let Some(Err(error)) = marked.then(|| state.mark_thawed()) {
        result.failures.push(error.text);
    }
    let status = Status::find(state.path(), None).unwrap_or_default();
    // Without a writable state directory an agent freezes without a marker, and its guardian has no socket.
    if !status.agents.is_empty() && (marked || status.state == FreezeState::Frozen) {
        result.notes.push(format!(
            "the agent (process {}) still answers frozen: it calls the thaw hooks when the host thaws, also after a \
             restart of the service",
            join_pids(&status.agents)
        ));
        return;
    }
    if !marked {
        return;
    }
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let expiry = Expiry {
        when: since_epoch.unwrap_or_default().as_secs_f64(),
        held: held.as_secs_f64(),
        reason: Expiry::OPERATOR.to_owned(),
        count: result.thawed.len() as u64,
    };
    if let Err(error) = state.mark_expired(&expiry) {
        result.failures.push(error.text);
    }
    if let Some(hook) = context.config.hook() {
        let hook = hook.display();
        result.notes.push(format!(
            "no thaw hook was called: if applications are still quiesced, run {hook} thaw"
        ));
    }
}

fn describe_thaw_hooks(state: &StateDir) -> String {
    let (reports, _) = history::read(state);
    let hooks = reports.first().map(|report| &report.hooks[..]);
    let called = hooks.unwrap_or_default().iter();
    let called: Vec<_> = called.filter(|hook| hook.phase == Phase::Thaw).collect();
    let failed = called.iter().filter(|hook| !hook.is_success()).count();
    match (called.len(), failed) {
        (0, _) => "no thaw hook was called, as far as the report shows: see qemu-ga report".into(),
        (_, 0) => "the thaw hooks succeeded".into(),
        (called, failed) => {
            format!("{failed} of {called} thaw hooks failed: see qemu-ga report")
        }
    }
}

fn render(result: &ThawResult, style: Style) -> String {
    let mut text = if result.thawed.is_empty() {
        "nothing was thawed\n".to_owned()
    } else {
        let by = result
            .by_guardian
            .map(|pid| format!(" by the guardian, process {pid}"));
        let head = format!(
            "thawed {}{}: ",
            count(result.thawed.len(), "filesystem"),
            by.unwrap_or_default()
        );
        let line = escape_control(&(head + &result.thawed.join(", ")));
        style.wrap(&style.good("ok  "), &line)
    };
    for note in &result.notes {
        text += &style.wrap("  - ", &message(note));
    }
    for failure in &result.failures {
        text += &style.wrap(&format!("  {} ", style.bad("FAILED")), &message(failure));
    }
    text
}

#[cfg(test)]
pub(super) fn sample() -> Value {
    let result = ThawResult {
        thawed: vec!["/".into()],
        by_guardian: Some(1),
        notes: vec!["x".into()],
        failures: vec!["x".into()],
    };
    result.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_intention_names_what_would_thaw() {
        let intention = |status: &Status| describe_intention(status, Style::default());
        let mut status = Status {
            state: FreezeState::Thawed,
            ..Status::default()
        };
        assert!(intention(&status).starts_with("No freeze of an agent"));
        status.state = FreezeState::Frozen;
        assert!(intention(&status).contains("there is no guardian"));
        status.guardian = Some(7);
        status.filesystems = vec!["/data".into()];
        assert!(intention(&status).contains("process 7, to thaw /data"));
        status.state = FreezeState::Thawing;
        assert!(intention(&status).contains("does nothing"));
        assert!(intention(&status).ends_with("Nothing was done.\n"));
    }

    #[test]
    fn what_was_done_is_shown() {
        let result = ThawResult {
            thawed: vec!["/".into(), "/data".into()],
            failures: vec!["/x stays frozen: EIO".into()],
            ..ThawResult::default()
        };
        let text = render(&result, Style::default());
        assert_eq!(
            text,
            "ok  thawed 2 filesystems: /, /data\n  FAILED /x stays frozen: EIO\n"
        );
        assert_eq!(
            render(&ThawResult::default(), Style::default()),
            "nothing was thawed\n"
        );
    }
}
