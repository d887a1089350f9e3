//! `qemu-ga log`: the hook log, by run, hook or failure. The lines stay as they are in the file.

use super::args::{Ended, Given, Tool};
use super::present::{self, Style, tame};
use crate::hooks::log::DEFAULT_PATH;
use crate::sys::strerror;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

const USAGE: &str = "\
Usage: qemu-ga log [--hook NAME] [--run N] [--failed] [--log FILE] [--json]
Shows the log of the freeze hooks, as it is, or only a part of it:
  --hook NAME  this hook, by its file name or path
  --run N      one run, freeze to thaw: 1 is the last, 2 the one before
  --failed     what failed, did not end, or was not called
  --log FILE   the log; default: /var/log/qga-fsfreeze-hook.log
  --json       for machines
Exit status: 0; 1 if there is no log, or nothing in it is meant; 2 for a mistake
in this command.
";

/// No more of the log's end is read: what is older is logrotate's.
const MOST: u64 = 16 << 20;

/// One call of a hook, or a line of the hook master that belongs to none.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Entry {
    /// The hook's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<String>,
    /// `freeze` or `thaw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<String>,
    /// When it was called, as the log has it.
    started: String,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    /// What it ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<i32>,
    /// It became ready, and was left to hold.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    holds: bool,
    /// Whether it failed, did not end, or was not called.
    failed: bool,
    /// All lines, as they are.
    lines: Vec<String>,
}

/// A freeze and its thaw.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Run {
    /// 1 is the last.
    number: usize,
    entries: Vec<Entry>,
}

/// `qemu-ga log`.
pub const TOOL: Tool = Tool {
    name: "log",
    usage: &[USAGE],
    flags: &["--failed"],
    values: &["--hook", "--run", "--log"],
    most_words: 0,
    work,
};

fn work(given: &Given) -> Result<u8, Ended> {
    let number = given.number("--run").map_err(Ended::Mistake)?;
    let path = given
        .value("--log")
        .map_or(Path::new(DEFAULT_PATH), Path::new);
    let text = read(path).map_err(|error| {
        format!(
            "cannot read {}: {} (it is made when the first hook is called)",
            path.display(),
            strerror(&error)
        )
    })?;
    let hook = given.value("--hook").map(|name| name.to_string_lossy());
    let mut runs = parse(&text);
    runs.retain(|run| number.is_none_or(|number| run.number == number));
    for run in &mut runs {
        run.entries.retain(|entry| {
            let meant = hook.as_ref().is_none_or(|name| entry.is_of(name));
            meant && (entry.failed || !given.has("--failed"))
        });
    }
    runs.retain(|run| !run.entries.is_empty());
    if given.has("--json") {
        return Ok(present::print_json(&runs));
    }
    if runs.is_empty() {
        let text = format!("nothing of that is in {}", path.display());
        return Err(Ended::Failed(text));
    }
    Ok(present::print(&show(&runs, Style::of_stdout())))
}

fn read(path: &Path) -> io::Result<String> {
    // A FIFO or device would never end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Entry {
    fn is_of(&self, name: &str) -> bool {
        let named = |path: &String| path == name || path.rsplit('/').next() == Some(name);
        self.hook.as_ref().is_some_and(named)
    }
}

/// What a line of the hook master says.
enum Line<'a> {
    Execute(&'a str, &'a str, &'a str),
    /// A holding hook is told to let go.
    Release(&'a str, &'a str),
    Holds(&'a str, &'a str),
    /// With its status, and whether that is a failure.
    Finished(&'a str, &'a str, i32, bool),
    Skipped(&'a str, &'a str),
    /// Rightly not called.
    Uncalled(&'a str, &'a str),
    /// Of the master, but of no single hook.
    Other(&'a str),
    Output,
}

/// Takes `Thu Nov 23 13:38:05 MSK 2023: execute /x/10-app freeze` apart.
fn understand(line: &str) -> Line<'_> {
    let Some((date, rest)) = line.split_once(": ").filter(|(date, _)| is_date(date)) else {
        return Line::Output;
    };
    if let Some((path, phase)) = rest
        .strip_prefix("execute ")
        .and_then(|call| call.rsplit_once(' '))
    {
        return Line::Execute(date, path, phase);
    }
    if let Some((path, end)) = rest.rsplit_once(" finished with status=") {
        let (status, note) = end.split_once(' ').unwrap_or((end, ""));
        if let Ok(status) = status.parse() {
            let is_fine = match note {
                "" => status == 0,
                note => matches!(note, "(success)" | "(not applicable)"),
            };
            return Line::Finished(date, path, status, !is_fine);
        }
    }
    if let Some((path, _)) = rest
        .strip_prefix("release ")
        .and_then(|call| call.rsplit_once(' '))
    {
        return Line::Release(date, path);
    }
    if !rest.starts_with('/') {
        return Line::Other(date);
    }
    if let Some(path) = rest.strip_suffix(" is ready and holds") {
        return Line::Holds(date, path);
    }
    if let Some((path, _)) = rest.split_once(" is not called with thaw: ") {
        return Line::Uncalled(date, path);
    }
    match rest.split_once(" skipped: ") {
        Some((path, _)) => Line::Skipped(date, path),
        None => Line::Other(date),
    }
}

/// The hook that was not even started, if that is what the line says.
fn not_called(line: &str) -> Option<&str> {
    let (_, text) = line.split_once(": ")?;
    let why = [" cannot be run: ", " is not called: "];
    let (hook, _) = why.iter().find_map(|why| text.split_once(why))?;
    hook.starts_with('/').then_some(hook)
}

/// Whether `text` looks like what date(1) prints, in whatever language.
fn is_date(text: &str) -> bool {
    let words = text.split_whitespace();
    let clock = |word: &str| word.len() == 8 && word.matches(':').count() == 2;
    (4..=8).contains(&words.clone().count()) && words.into_iter().any(clock)
}

fn parse(text: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = vec![Run::default()];
    // What stands before the next call of a hook and may belong to its run.
    let mut waiting: Vec<Entry> = Vec::new();
    for line in text.lines() {
        let entry = |date: &str, hook: Option<&str>| Entry {
            hook: hook.map(str::to_owned),
            started: date.to_owned(),
            failed: true,
            lines: vec![line.to_owned()],
            ..Entry::default()
        };
        let understood = understand(line);
        let called = match understood {
            Line::Execute(date, hook, phase) => Some((date, hook, phase)),
            Line::Release(date, hook) => Some((date, hook, "thaw")),
            _ => None,
        };
        if let Some((date, hook, phase)) = called {
            if let Some(run) = runs.last_mut().filter(|run| run.is_over(hook, phase)) {
                run.take_back(&mut waiting);
                runs.push(Run::default());
            }
            let Some(run) = runs.last_mut() else { continue };
            run.entries.append(&mut waiting);
            run.entries.push(Entry {
                phase: Some(phase.to_owned()),
                ..entry(date, Some(hook))
            });
            continue;
        }
        match understood {
            Line::Skipped(date, hook) => waiting.push(entry(date, Some(hook))),
            Line::Uncalled(date, hook) => waiting.push(Entry {
                failed: false,
                ..entry(date, Some(hook))
            }),
            understood => {
                let Some(run) = runs.last_mut() else { continue };
                let open = match understood {
                    Line::Finished(_, hook, ..) | Line::Holds(_, hook) => run.open(hook),
                    _ if !waiting.is_empty() => None,
                    _ => run.meant(line),
                };
                match (open, understood) {
                    (Some(open), Line::Finished(date, _, status, failed)) => {
                        open.ended = Some(date.to_owned());
                        open.status = Some(status);
                        // A lock that was lost stays lost, whatever the hook ended with.
                        let lost = |line: &String| line.contains(" did not hold until the thaw: ");
                        open.failed = failed || open.lines.iter().any(lost);
                        open.lines.push(line.to_owned());
                    }
                    (Some(open), Line::Holds(date, _)) => {
                        open.ended = Some(date.to_owned());
                        open.holds = true;
                        open.failed = false;
                        open.lines.push(line.to_owned());
                    }
                    (Some(open), _) => open.lines.push(line.to_owned()),
                    (None, Line::Other(date)) => waiting.push(entry(date, not_called(line))),
                    // Of a process that a hook left behind.
                    (None, _) => waiting.push(Entry {
                        failed: false,
                        ..entry("", None)
                    }),
                }
            }
        }
    }
    if let Some(run) = runs.last_mut() {
        run.entries.append(&mut waiting);
    }
    runs.retain(|run| !run.entries.is_empty());
    let count = runs.len();
    for (index, run) in runs.iter_mut().enumerate() {
        run.number = count - index;
    }
    runs
}

impl Run {
    /// Whether a call of `hook` with `phase` begins another run: a freeze after a thaw, or the same
    /// call once more.
    fn is_over(&self, hook: &str, phase: &str) -> bool {
        let called = |entry: &&Entry| entry.phase.is_some();
        let last = self.entries.iter().rev().find(called);
        let thawed = last.is_some_and(|entry| entry.phase.as_deref() == Some("thaw"));
        let same = |entry: &&Entry| {
            entry.phase.as_deref() == Some(phase) && entry.hook.as_deref() == Some(hook)
        };
        // After a failure it is another try of the same.
        let again = self.entries.iter().rev().find(same);
        let again = again.is_some_and(|entry| entry.ended.is_none() || !entry.failed);
        (thawed && phase == "freeze") || again
    }

    /// The call of `hook` that has not ended.
    fn open(&mut self, hook: &str) -> Option<&mut Entry> {
        let mut entries = self.entries.iter_mut().rev();
        entries.find(|entry| {
            entry.phase.is_some() && entry.ended.is_none() && entry.hook.as_deref() == Some(hook)
        })
    }

    /// The call that a line belongs to: the one that it names, or the first that has not ended. Of
    /// hooks side by side, what each printed stands before its end.
    fn meant(&mut self, line: &str) -> Option<&mut Entry> {
        let text = line.split_once(": ").map_or("", |(_, text)| text);
        let names = |entry: &Entry| {
            let hook = entry.hook.as_ref().filter(|_| entry.phase.is_some());
            let rest = hook.and_then(|hook| text.strip_prefix(hook.as_str()));
            // The name of its failure comes after its end.
            rest.is_some_and(|rest| {
                rest.starts_with(':') || rest.starts_with(' ') && entry.ended.is_none()
            })
        };
        if let Some(at) = self.entries.iter().rposition(names) {
            return self.entries.get_mut(at);
        }
        let open = |entry: &Entry| entry.phase.is_some() && entry.ended.is_none();
        let at = self.entries.iter().position(open)?;
        self.entries.get_mut(at)
    }

    /// A hook that was passed over at the freeze is so at the thaw too, perhaps after its last call.
    fn take_back(&mut self, waiting: &mut Vec<Entry>) {
        for entry in std::mem::take(waiting) {
            let same = |other: &&Entry| other.phase.is_none() && other.hook == entry.hook;
            if entry.hook.is_some() && self.entries.iter().filter(same).count() == 1 {
                self.entries.push(entry);
            } else {
                waiting.push(entry);
            }
        }
    }
}

fn show(runs: &[Run], style: Style) -> String {
    let mut text = String::new();
    for run in runs {
        if !text.is_empty() {
            text.push('\n');
        }
        for entry in &run.entries {
            for line in &entry.lines {
                let tamed = tame(line);
                text += &match understand(line) {
                    Line::Output => tamed,
                    Line::Finished(_, _, _, false) | Line::Holds(..) => style.good(&tamed),
                    Line::Finished(..) | Line::Skipped(..) | Line::Other(_) => style.bad(&tamed),
                    Line::Uncalled(..) => style.odd(&tamed),
                    Line::Execute(..) | Line::Release(..) => style.bold(&tamed),
                };
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
Thu Nov 23 13:38:05 MSK 2023: execute /h/10-app freeze
Stopping: at 13:00:00
Thu Nov 23 13:38:06 MSK 2023: /h/10-app finished with status=0
Thu Nov 23 13:38:06 MSK 2023: execute /h/20 db freeze
Thu Nov 23 13:38:07 MSK 2023: /h/20 db finished with status=7
Thu Nov 23 13:39:05 MSK 2023: execute /h/20 db thaw
Thu Nov 23 13:39:05 MSK 2023: /h/20 db finished with status=0
said by what was left behind
Thu Nov 23 13:39:06 MSK 2023: execute /h/10-app thaw
Thu Nov 23 13:39:06 MSK 2023: /h/10-app finished with status=0
Fri Nov 24 01:00:00 MSK 2023: /h/05-no skipped: not executable (mode 0644)
Fri Nov 24 01:00:00 MSK 2023: execute /h/10-app freeze
";

    #[test]
    fn runs_hooks_and_failures() {
        let runs = parse(LOG);
        assert_eq!(runs.len(), 2);
        let summary = |run: &Run| -> Vec<(Option<String>, Option<i32>, bool)> {
            let entry = |e: &Entry| (e.hook.clone(), e.status, e.failed);
            run.entries.iter().map(entry).collect()
        };
        let hook = |name: &str| Some(format!("/h/{name}"));
        assert_eq!(
            summary(&runs[0]),
            [
                (hook("10-app"), Some(0), false),
                (hook("20 db"), Some(7), true),
                (hook("20 db"), Some(0), false),
                (None, None, false),
                (hook("10-app"), Some(0), false),
            ]
        );
        assert_eq!(
            summary(&runs[1]),
            [(hook("05-no"), None, true), (hook("10-app"), None, true)]
        );
        assert_eq!((runs[0].number, runs[1].number), (2, 1));
        assert_eq!(runs[0].entries[0].lines[1], "Stopping: at 13:00:00");
        assert!(runs[0].entries[1].is_of("20 db") && runs[0].entries[1].is_of("/h/20 db"));
        // Nothing is lost but the blank line between the runs.
        let shown = show(&runs, Style::default());
        assert_eq!(shown.replace("\n\n", "\n"), LOG);
    }

    #[test]
    fn tries_holding_hooks_and_hooks_side_by_side() {
        let lines = [
            "execute /h/1 freeze",
            "/h/1 finished with status=1",
            "execute /h/1 freeze",
            "/h/1 finished with status=77 (not applicable)",
            "execute /h/2 freeze",
            "/h/2 is ready and holds",
            "execute /h/3 freeze",
            "execute /h/4 freeze",
            "of 3",
            "/h/3 finished with status=3 (success)",
            "of 4",
            "/h/4 did not finish within 5 s and was ended",
            "/h/4 finished with status=124",
            "/h/4: ErrorName",
            "/h/5 cannot be run: it is gone",
            "/h/1 is not called with thaw: it was not called with freeze, or that settled it",
            "execute /h/4 thaw",
            "/h/4 finished with status=0",
            "release /h/2 ok",
            "/h/2 did not hold until the thaw: it ended 1.000 s after it was ready",
            "/h/2 finished with status=0",
        ];
        let dated = |line: &&str| match line.starts_with("of ") {
            true => format!("{line}\n"),
            false => format!("Thu Nov 23 13:38:05 MSK 2023: {line}\n"),
        };
        let text: String = lines.iter().map(dated).collect();
        let runs = parse(&text);
        let told: Vec<String> = runs[0]
            .entries
            .iter()
            .map(|e| {
                let hook = e.hook.as_deref().unwrap_or_default();
                let phase = e.phase.as_deref().unwrap_or_default();
                let status = e.status.map(|s| s.to_string()).unwrap_or_default();
                let failed = if e.failed { "failed" } else { "" };
                format!("{hook} {phase} {status} {failed} {}", e.lines.len())
            })
            .collect();
        let expected = [
            "/h/1 freeze 1 failed 2",
            "/h/1 freeze 77  2",
            "/h/2 freeze   2",
            "/h/3 freeze 3  3",
            "/h/4 freeze 124 failed 5",
            "/h/5   failed 1",
            "/h/1    1",
            "/h/4 thaw 0  2",
            "/h/2 thaw 0 failed 3",
        ];
        assert_eq!(told, expected);
        assert!(runs[0].entries[2].holds);
        assert_eq!(runs.len(), 1);
        assert_eq!(parse(&text.repeat(2)).len(), 2);
    }

    #[test]
    fn what_is_passed_over_last_belongs_to_the_run_before() {
        let no = "Thu Nov 23 13:38:05 MSK 2023: /h/05-no skipped: not executable\n";
        let call = |phase: &str| format!("Thu Nov 23 13:38:05 MSK 2023: execute /h/10-a {phase}\n");
        let run = [no, &call("freeze"), &call("thaw"), no].concat();
        let runs = parse(&run.repeat(2));
        let counts: Vec<usize> = runs.iter().map(|run| run.entries.len()).collect();
        assert_eq!(counts, [4, 4]);
    }

    #[test]
    fn the_same_call_again_is_another_run() {
        let call = "Thu Nov 23 13:38:05 MSK 2023: execute /h/10-app freeze\n";
        assert_eq!(parse(&call.repeat(3)).len(), 3);
        assert_eq!(parse("").len(), 0);
        let text = "Thu Nov 23 13:38:05 MSK 2023: refusing to run hooks: /h is writable\n";
        let runs = parse(text);
        assert!(runs[0].entries[0].failed && runs[0].entries[0].hook.is_none());
    }
}
