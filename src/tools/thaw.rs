//! `qemu-ga thaw`: for the person at the console of a frozen machine.
//!
//! Until the last FITHAW nothing is written, not even to the terminal, and all memory is resident:
//! whatever is written to may be frozen. A guardian is asked first, for it holds the filesystems
//! open, tells the hooks and leaves word for the host's thaw. Without one every filesystem of the
//! mount table is asked to thaw.

use super::args::{ParsedArgs, Tool, ToolError};
use super::context::{self, ToolContext};
use super::output::{self, Style, count, escape_control, message, wrap};
use super::status::Status;
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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const USAGE: &str = "\
Usage: qemu-ga thaw [--now [--force]] [--json]
Ends a freeze that the host does not end. The snapshot that is being taken is
then worth no more than one after a power cut, and the host's own thaw is told
so.
  --now                do it; without, only say what would be done
  --force              ask nobody: thaw every filesystem, whoever froze it; an
                       agent that runs goes on to answer frozen until the host
                       thaws, and its report says that others thawed
  --json               for machines
";
const EXIT: &str = "\
Exit status: 0; 1 if something stays frozen or nothing was done; 2 for a mistake
in this command.
";
/// How long one FITHAW may take before the next filesystem is thawed without it.
const FITHAW_TIMEOUT: Duration = Duration::from_secs(10);

/// What was done, in the members of `--json`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ThawResult {
    /// Mountpoints in the order of thawing.
    thawed: Vec<String>,
    /// The guardian did it, and the hooks are told by it.
    by_guardian: Option<i32>,
    /// What else is to be known or done.
    notes: Vec<String>,
    /// What went wrong.
    failures: Vec<String>,
}

/// `qemu-ga thaw`.
pub const TOOL: Tool = Tool {
    name: "thaw",
    usage: &[USAGE, context::HELP, EXIT],
    flags: &["--now", "--force"],
    values: context::OPTIONS,
    max_operands: 0,
    run,
};

fn run(given: &ParsedArgs) -> Result<u8, ToolError> {
    if given.has("--force") && !given.has("--now") {
        return Err(ToolError::Mistake("--force goes with --now".into()));
    }
    if given.has("--now") {
        // Locked or not, the thaw is tried: that it may fail is no reason not to.
        memory::lock_all().ok();
    }
    let setting = ToolContext::of(given);
    if !given.has("--now") {
        let config = setting?.config;
        let status = Status::find(&config.statedir, config.limits.step)?;
        return Ok(if given.has("--json") {
            output::print_json(&status)
        } else {
            output::print(&describe_intention(&status))
        });
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(ToolError::Failed("only root can thaw".into()));
    }
    // A configuration that makes no sense must not stand in the way of the thaw.
    let setting = setting.unwrap_or_else(|_| ToolContext::fallback());
    let mut question = None;
    let done = thaw(&setting, given.has("--force"), &mut question);
    let style = Style::of_stdout();
    if !given.has("--json") {
        output::print(&render(&done, style));
    }
    let mut done = done;
    if let (Some(question), Some(_)) = (question, done.by_guardian) {
        let waited = match question.wait_for_hooks() {
            Ok(_) => hooks_told(&StateDir::new(&setting.config.statedir)),
            Err(error) => format!(
                "whether the hooks have been told is not known ({}): see qemu-ga report and log",
                strerror(&error)
            ),
        };
        if !given.has("--json") {
            output::print(&wrap("", &waited));
        }
        done.notes.push(waited);
    }
    let told = match given.has("--json") {
        true => output::print_json(&done),
        false => 0,
    };
    Ok(told.max(u8::from(!done.failures.is_empty())))
}

/// What `--now` would do.
fn describe_intention(status: &Status) -> String {
    let mut text = match (status.guardian, status.state) {
        (None, "thawed") => wrap(
            "",
            "No agent has frozen anything, as far as can be known. qemu-ga thaw --now would ask \
             every filesystem of the mount table to thaw, whoever froze it.",
        ),
        (None, _) => wrap(
            "",
            "The marker says that an agent froze; there is no guardian. qemu-ga thaw --now would \
             ask every filesystem of the mount table to thaw, and remove the marker.",
        ),
        (Some(pid), _) if status.guardian_silent.is_some() => wrap(
            "",
            &format!(
                "The guardian, process {pid}, cannot be asked. qemu-ga thaw --now would try, and then ask every \
                 filesystem of the mount table to thaw."
            ),
        ),
        (Some(pid), "frozen") => wrap(
            "",
            &format!(
                "qemu-ga thaw --now would ask the guardian, process {pid}, to thaw {} and to tell \
                 the hooks.",
                escape_control(&status.filesystems.join(", "))
            ),
        ),
        (Some(_), state) => wrap(
            "",
            &format!("The agent is {state}; qemu-ga thaw --now does nothing meanwhile."),
        ),
    };
    text += "Nothing was done.\n";
    text
}

/// No word leaves this function before the last FITHAW.
fn thaw(setting: &ToolContext, force: bool, question: &mut Option<StatusClient>) -> ThawResult {
    let mut done = ThawResult::default();
    let statedir = &setting.config.statedir;
    if !force {
        match StatusClient::connect(statedir) {
            Ok(found) => *question = found,
            Err(error) => done.notes.push(format!(
                "the guardian cannot be asked: {}",
                strerror(&error)
            )),
        }
    }
    if let Some(question) = question {
        match question.request_thaw() {
            Ok(ThawAnswer::Thawed(thawed)) => {
                done.by_guardian = Some(question.pid);
                done.thawed = thawed.filesystems;
                done.failures = thawed.failures;
                return done;
            }
            Ok(ThawAnswer::Refused(why)) => {
                let again = "nothing was done; try again in a moment, or with --now --force";
                done.failures.push(format!("{why}: {again}"));
                return done;
            }
            Err(error) => done.notes.push(format!(
                "the guardian, process {}, does not answer: {}",
                question.pid,
                strerror(&error)
            )),
        }
    }
    thaw_mounted(setting, &mut done);
    finish_run(setting, &mut done);
    done
}

/// FITHAW for every filesystem of the mount table, in the reverse of the order of freezing.
fn thaw_mounted(setting: &ToolContext, done: &mut ThawResult) {
    let state = StateDir::new(&setting.config.statedir);
    let mut ops = LinuxOps::new(state, None, Some(FITHAW_TIMEOUT), true);
    let survey = match ops.survey() {
        Ok(survey) => survey,
        Err(error) => {
            let why = strerror(&error);
            done.failures.push(format!(
                "the mount table cannot be read: {why}; mount /proc"
            ));
            return;
        }
    };
    for target in plan::everything(&survey).iter().rev() {
        let name = String::from_utf8_lossy(&target.filesystem.mountpoint).into_owned();
        // One at a time, so that the first one works again as soon as it can.
        let handle = match ops.open(std::slice::from_ref(target)).pop() {
            Some(Ok(handle)) => handle,
            Some(Err(error)) => {
                // Nothing tells whether it was ever frozen.
                done.notes
                    .push(format!("{name} was skipped: it cannot be opened: {error}"));
                continue;
            }
            None => continue,
        };
        for Timed { result, .. } in ops.thaw(&[&handle]) {
            match result {
                Ok(()) => done.thawed.push(name.clone()),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                // A type that cannot be frozen.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => done
                    .failures
                    .push(format!("{name} stays frozen: {}", strerror(&error))),
            }
        }
    }
}

/// What is left to do after the walk.
fn finish_run(setting: &ToolContext, done: &mut ThawResult) {
    let state = StateDir::new(&setting.config.statedir);
    let marked = state.is_marked_frozen().unwrap_or(false);
    if !done.failures.is_empty() || (!marked && done.thawed.is_empty()) {
        return;
    }
    let marker = std::fs::metadata(state.marker()).and_then(|marker| marker.modified());
    let held = marker
        .ok()
        .and_then(|since| since.elapsed().ok())
        .unwrap_or_default();
    if let Some(Err(error)) = marked.then(|| state.mark_thawed()) {
        done.failures.push(error.text);
    }
    let status = Status::find(state.path(), None).unwrap_or_default();
    let agents = status.agents;
    // An agent that cannot write its state directory freezes without a marker, and its guardian has no socket.
    if !agents.is_empty() && (marked || status.state == "frozen") {
        done.notes.push(format!(
            "the agent (process {agents:?}) does not know: it answers frozen, and runs the thaw \
             hooks, when the host thaws, or when the service is restarted and the host thaws then"
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
        count: done.thawed.len() as u64,
    };
    if let Err(error) = state.mark_expired(&expiry) {
        done.failures.push(error.text);
    }
    if let Some(hook) = setting.config.hook() {
        let hook = hook.display();
        done.notes.push(format!(
            "no hook was told: if applications are still quiesced, run {hook} thaw"
        ));
    }
}

/// What the run that has just ended says of its thaw hooks.
fn hooks_told(state: &StateDir) -> String {
    let (reports, _) = history::read(state);
    let hooks = reports.first().map(|report| &report.hooks[..]);
    let told = hooks.unwrap_or_default().iter();
    let told: Vec<_> = told.filter(|hook| hook.phase == Phase::Thaw).collect();
    let failed = told.iter().filter(|hook| !hook.is_success()).count();
    match (told.len(), failed) {
        (0, _) => "no hook is known to have been told: see qemu-ga report".into(),
        (_, 0) => "the hooks have been told".into(),
        (_, failed) => {
            format!("the hooks have been told, and {failed} of them failed: see qemu-ga report")
        }
    }
}

fn render(done: &ThawResult, style: Style) -> String {
    let mut text = if done.thawed.is_empty() {
        "nothing was thawed\n".to_owned()
    } else {
        let by = done
            .by_guardian
            .map(|pid| format!(" by the guardian, process {pid}"));
        let head = format!(
            "thawed {}{}: ",
            count(done.thawed.len(), "filesystem"),
            by.unwrap_or_default()
        );
        wrap(
            &style.good("ok  "),
            &escape_control(&(head + &done.thawed.join(", "))),
        )
    };
    for note in &done.notes {
        text += &wrap("  - ", &message(note));
    }
    for failure in &done.failures {
        text += &wrap(&format!("  {} ", style.bad("FAILED")), &message(failure));
    }
    text
}

impl ToolContext {
    /// What is taken when the configuration cannot be understood.
    fn fallback() -> Self {
        Self {
            config: crate::config::Config::default(),
            origin: "by default".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_intention_names_who_would_be_asked() {
        let mut status = Status {
            state: "thawed",
            ..Status::default()
        };
        assert!(describe_intention(&status).starts_with("No agent has frozen"));
        status.state = "frozen";
        assert!(describe_intention(&status).contains("there is no guardian"));
        status.guardian = Some(7);
        status.filesystems = vec!["/data".into()];
        assert!(describe_intention(&status).contains("process 7, to thaw /data"));
        status.state = "thawing";
        assert!(describe_intention(&status).contains("does nothing"));
        assert!(describe_intention(&status).ends_with("Nothing was done.\n"));
    }

    #[test]
    fn what_was_done_is_told() {
        let done = ThawResult {
            thawed: vec!["/".into(), "/data".into()],
            failures: vec!["/x stays frozen: EIO".into()],
            ..ThawResult::default()
        };
        let text = render(&done, Style::default());
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
