//! `qemu-ga log`: the hook log, by run, hook or failure. The lines stay as they are in the file.

use super::args::{JSON, ParsedArgs, Tool, ToolError};
use super::output::{self, Style, escape_control};
use crate::cli::{Arg, OptionSpec, Usage, ValueKind};
use crate::hooks::LOG;
use crate::hooks::log::{DEFAULT_PATH, date_of};
use crate::sys::strerror;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Bound;
use std::path::Path;

/// No more of the log's end is read: what is older is logrotate's.
const MAX_LOG_BYTES: u64 = 16 << 20;

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
    /// It did not hold on until the thaw.
    #[serde(skip)]
    is_lost: bool,
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

const HOOK: Arg = Arg::Value("NAME", ValueKind::Hook);

/// `qemu-ga log`.
pub const TOOL: Tool = Tool {
    usage: Usage {
        name: "log",
        summary: "the log of the freeze hooks, by run, hook or failure",
        about: "Shows the log of the freeze hooks as it is, or a part of it.",
        operand: None,
        options: &[&[
            OptionSpec::new("hook", HOOK, "only this hook, by its file name or path"),
            OptionSpec::new(
                "run",
                Arg::Value("N", ValueKind::Number),
                "only one run, freeze to thaw: 1 is the last, 2 the one before",
            ),
            OptionSpec::switch("failed", "only what failed, did not end, or was not called"),
            LOG,
            JSON,
        ]],
        exit: &[(0, "shown"), (1, "no log, or nothing in it matches")],
    },
    subcommands: &[],
    run,
};

fn run(given: &ParsedArgs) -> Result<u8, ToolError> {
    let number = given.number("--run").map_err(ToolError::Mistake)?;
    let path = given
        .value("--log")
        .map_or(Path::new(DEFAULT_PATH), Path::new);
    let (text, left_out) = read(path).map_err(|error| {
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
    if left_out > 0 {
        output::print_error(&format!(
            "the first {left_out} bytes of {} are left out\n",
            path.display()
        ));
    }
    if given.has("--json") {
        return Ok(output::print_json(&runs));
    }
    if runs.is_empty() {
        let text = format!("nothing of that is in {}", path.display());
        return Err(ToolError::Failed(text));
    }
    Ok(output::print(&show(&runs, Style::of_stdout())))
}

/// A log's text as people see it.
pub fn render(text: &str) -> String {
    show(&parse(text), Style::default())
}

/// The end of the log, and how much is before it.
fn read(path: &Path) -> io::Result<(String, u64)> {
    // A FIFO or device would never end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let left_out = length.saturating_sub(MAX_LOG_BYTES);
    file.seek(SeekFrom::Start(left_out))?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG_BYTES).read_to_end(&mut bytes)?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), left_out))
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
fn parse_line(line: &str) -> Line<'_> {
    let Some((date, rest)) = date_of(line) else {
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

fn parse(text: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut last = Pending::default();
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
        let understood = parse_line(line);
        let called = match understood {
            Line::Execute(date, hook, phase) => Some((date, hook, phase)),
            Line::Release(date, hook) => Some((date, hook, "thaw")),
            _ => None,
        };
        if let Some((date, hook, phase)) = called {
            if last.is_over(hook, phase) {
                waiting = last.take_back(waiting);
                runs.push(std::mem::take(&mut last).run);
            }
            waiting.drain(..).for_each(|entry| last.push(entry));
            last.push(Entry {
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
                let open = match understood {
                    Line::Finished(_, hook, ..) | Line::Holds(_, hook) => last.open(hook),
                    _ if !waiting.is_empty() => None,
                    Line::Other(_) => last.named(line),
                    _ => last.first_open(),
                };
                match (open, understood) {
                    (Some(open), Line::Finished(date, _, status, failed)) => {
                        open.ended = Some(date.to_owned());
                        open.status = Some(status);
                        // A lock that was lost stays lost, whatever the hook ended with.
                        open.failed = failed || open.is_lost;
                        open.lines.push(line.to_owned());
                    }
                    (Some(open), Line::Holds(date, _)) => {
                        open.ended = Some(date.to_owned());
                        open.holds = true;
                        open.failed = false;
                        open.lines.push(line.to_owned());
                    }
                    (Some(open), understood) => {
                        let is_master = matches!(understood, Line::Other(_));
                        open.is_lost |=
                            is_master && line.contains(" did not hold until the thaw: ");
                        open.lines.push(line.to_owned());
                    }
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
    waiting.into_iter().for_each(|entry| last.push(entry));
    runs.push(last.run);
    runs.retain(|run| !run.entries.is_empty());
    let count = runs.len();
    for (index, run) in runs.iter_mut().enumerate() {
        run.number = count - index;
    }
    runs
}

/// A run that is being read. A line costs the same however many entries there are.
#[derive(Default)]
struct Pending {
    run: Run,
    hooks: BTreeMap<Vec<u8>, Known>,
    /// The last call was one with `thaw`.
    has_thawed: bool,
    /// What stands before this one has ended, or is no call.
    first_open: usize,
}

/// What a run has of one hook.
#[derive(Default)]
struct Known {
    /// Its last call with `thaw`, and its last with anything else.
    calls: [Option<usize>; 2],
    /// How often it was passed over.
    passed_over: usize,
}

impl Known {
    /// Its last call that is like this.
    fn last(&self, is_meant: impl Fn(usize) -> bool) -> Option<usize> {
        let calls = self.calls.into_iter().flatten();
        calls.filter(|&at| is_meant(at)).max()
    }
}

impl Pending {
    fn push(&mut self, entry: Entry) {
        if let Some(hook) = &entry.hook {
            let known = self.hooks.entry(hook.clone().into()).or_default();
            match entry.phase.as_deref() {
                None => known.passed_over += 1,
                Some(phase) => {
                    self.has_thawed = phase == "thaw";
                    known.calls[usize::from(!self.has_thawed)] = Some(self.run.entries.len());
                }
            }
        }
        self.run.entries.push(entry);
    }

    /// Whether a call of `hook` with `phase` begins another run: a freeze after a thaw, or the same
    /// call once more.
    fn is_over(&self, hook: &str, phase: &str) -> bool {
        let entry = |at: usize| self.run.entries.get(at);
        let is_same = |at| entry(at).is_some_and(|entry| entry.phase.as_deref() == Some(phase));
        // After a failure it is another try of the same.
        let again = self
            .hooks
            .get(hook.as_bytes())
            .and_then(|known| known.last(is_same));
        let again = again.and_then(entry);
        let is_again = again.is_some_and(|entry| entry.ended.is_none() || !entry.failed);
        (self.has_thawed && phase == "freeze") || is_again
    }

    fn is_open(&self, at: usize) -> bool {
        let entry = self.run.entries.get(at);
        entry.is_some_and(|entry| entry.phase.is_some() && entry.ended.is_none())
    }

    /// The call of `hook` that has not ended.
    fn open(&mut self, hook: &str) -> Option<&mut Entry> {
        let at = self
            .hooks
            .get(hook.as_bytes())?
            .last(|at| self.is_open(at))?;
        self.run.entries.get_mut(at)
    }

    /// The first call that has not ended. Of hooks side by side, what each printed stands before its end.
    fn first_open(&mut self) -> Option<&mut Entry> {
        while self.first_open < self.run.entries.len() && !self.is_open(self.first_open) {
            self.first_open += 1;
        }
        self.run.entries.get_mut(self.first_open)
    }

    /// The call that a line of the master names, or else the first that has not ended.
    fn named(&mut self, line: &str) -> Option<&mut Entry> {
        let (_, text) = date_of(line)?;
        // The hook whose name is the longest beginning of the text. What sorts between that and the text has
        // a longer beginning in common with it.
        let mut start = text.as_bytes();
        while !start.is_empty() {
            let up_to = (Bound::Unbounded, Bound::Included(start));
            let Some((hook, known)) = self.hooks.range::<[u8], _>(up_to).next_back() else {
                break;
            };
            let rest = text.as_bytes().strip_prefix(hook.as_slice());
            let at = match rest.and_then(<[u8]>::first) {
                // The name of its failure comes after its end.
                Some(b':') => known.last(|_| true),
                Some(b' ') => known.last(|at| self.is_open(at)),
                _ => None,
            };
            if let Some(at) = at {
                return self.run.entries.get_mut(at);
            }
            let both = hook.iter().zip(start);
            let common = both.take_while(|(one, other)| one == other).count();
            start = &start[..common.min(start.len() - 1)];
        }
        self.first_open()
    }

    /// A hook that was passed over at the freeze is so at the thaw too, perhaps after its last call.
    /// Returns what belongs to the next run.
    fn take_back(&mut self, waiting: Vec<Entry>) -> Vec<Entry> {
        let is_ours = |entry: &Entry, hooks: &BTreeMap<Vec<u8>, Known>| {
            let known = entry
                .hook
                .as_ref()
                .and_then(|hook| hooks.get(hook.as_bytes()));
            known.is_some_and(|known| known.passed_over == 1)
        };
        let mut others = Vec::new();
        for entry in waiting {
            match is_ours(&entry, &self.hooks) {
                true => self.push(entry),
                false => others.push(entry),
            }
        }
        others
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
                let tamed = escape_control(line);
                text += &match parse_line(line) {
                    Line::Output => tamed,
                    Line::Finished(_, _, _, false) | Line::Holds(..) => style.good(&tamed),
                    Line::Finished(..) | Line::Skipped(..) | Line::Other(_) => style.bad(&tamed),
                    Line::Uncalled(..) => style.warning(&tamed),
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
    fn a_line_belongs_to_the_hook_with_the_longest_name_that_it_begins_with() {
        let names = ["/h/1", "/h/1 a", "/h/1 a b", "/h/1 az", "/h/2"];
        let dated = |text: String| format!("Thu Nov 23 13:38:05 MSK 2023: {text}\n");
        let calls = names.map(|name| dated(format!("execute {name} freeze")));
        let said = [
            "/h/1 a c",
            "/h/1: b",
            "/h/1 a b c",
            "/h/1 ax",
            "/h/2 x",
            "/h/0 x",
        ];
        let said = said.map(|text| dated(text.to_owned()));
        let ended = dated("/h/1 finished with status=0".into());
        let later = ["/h/1 b", "/h/1: c"].map(|text| dated(text.to_owned()));
        let runs = parse(&(calls.concat() + &said.concat() + &ended + &later.concat()));
        let counts: Vec<usize> = runs[0].entries.iter().map(|e| e.lines.len()).collect();
        // The first has its call, two that name it, two that name nobody else, its end, and one after that; what
        // then names nobody goes to the first that has not ended.
        assert_eq!(counts, [6, 3, 2, 1, 2]);
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
