//! The runs of a hook log: which lines belong to one call of a hook, and which calls to one freeze and its thaw.
//!
//! The log itself has no marks between runs. A run begins with a call with `freeze` after one with `thaw`, or with the
//! same call once more. Restore hooks are a run of their own. Every line belongs to exactly one entry.

use crate::hooks::Phase;
use crate::hooks::log::LogLine;
use crate::hooks::restore::RESTORED;
use crate::tools::time;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::ops::Bound;

/// One call of a hook, or lines of the hook master that belong to none.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// `None`: the hook was not called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The date of the first line, as the log has it; empty for output without a call.
    #[serde(serialize_with = "serialize_date")]
    pub started: String,
    #[serde(
        serialize_with = "serialize_optional_date",
        skip_serializing_if = "Option::is_none"
    )]
    pub ended: Option<String>,
    /// 128 plus the signal if one ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// It became ready, and holds until its release.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub holds: bool,
    /// Also set if it did not end, or was not called.
    pub failed: bool,
    #[serde(skip)]
    is_lost: bool,
    pub lines: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Run {
    /// 1 is the last.
    pub number: usize,
    pub entries: Vec<Entry>,
}

fn serialize_date<S: Serializer>(date: &str, serializer: S) -> Result<S::Ok, S::Error> {
    time::rfc3339_of_date(date).serialize(serializer)
}

#[allow(clippy::ref_option, reason = "the signature that serde calls")]
fn serialize_optional_date<S: Serializer>(
    date: &Option<String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let time = date.as_deref().and_then(time::rfc3339_of_date);
    time.serialize(serializer)
}

impl Entry {
    /// An entry that has failed until a line says otherwise.
    fn new(date: &str, hook: Option<&str>, line: &str) -> Self {
        Self {
            hook: hook.map(str::to_owned),
            started: date.to_owned(),
            failed: true,
            lines: vec![line.to_owned()],
            ..Self::default()
        }
    }

    /// Output of a process that a hook left running.
    fn leftover(line: &str) -> Self {
        Self {
            failed: false,
            ..Self::new("", None, line)
        }
    }

    pub(super) fn is_of(&self, name: &str) -> bool {
        let named = |path: &String| path == name || path.rsplit('/').next() == Some(name);
        self.hook.as_ref().is_some_and(named)
    }
}

pub(super) fn parse(text: &str) -> Vec<Run> {
    let mut reader = Reader::default();
    for line in text.lines() {
        reader.add(line);
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    runs: Vec<Run>,
    current: PendingRun,
    /// Entries before the next call, whose run is not known yet.
    waiting: Vec<Entry>,
}

impl Reader {
    fn add(&mut self, line: &str) {
        let Some((date, what)) = LogLine::parse(line) else {
            return self.add_output(line);
        };
        let entry = |hook| Entry::new(date, hook, line);
        match what {
            LogLine::Execute { hook, args } => self.begin(hook, args, entry(Some(hook))),
            LogLine::Release { hook, .. } => {
                self.begin(hook, Phase::Thaw.as_str(), entry(Some(hook)));
            }
            LogLine::Finished { hook, status, note } => {
                let Some(open) = self.current.open(hook) else {
                    return self.waiting.push(Entry::leftover(line));
                };
                open.ended = Some(date.to_owned());
                open.status = Some(status);
                // A hold that was lost stays a failure, whatever the hook ended with.
                open.failed = open.is_lost || !note.is_success(status);
                open.lines.push(line.to_owned());
            }
            LogLine::Holds { hook } => {
                let Some(open) = self.current.open(hook) else {
                    return self.waiting.push(Entry::leftover(line));
                };
                open.ended = Some(date.to_owned());
                open.holds = true;
                open.failed = false;
                open.lines.push(line.to_owned());
            }
            LogLine::Skipped { hook, .. } => self.waiting.push(entry(Some(hook))),
            LogLine::Unneeded { hook } => self.waiting.push(Entry {
                failed: false,
                ..entry(Some(hook))
            }),
            LogLine::NotCalled { hook, .. } | LogLine::CannotRun { hook, .. } => {
                self.add_not_started(hook, entry(Some(hook)));
            }
            LogLine::Lost { hook, .. } => match self.current.open(hook) {
                Some(open) => {
                    open.is_lost = true;
                    open.lines.push(line.to_owned());
                }
                None => self.waiting.push(entry(Some(hook))),
            },
            LogLine::Other(text) => match self.current.named(text) {
                Some(open) if self.waiting.is_empty() => open.lines.push(line.to_owned()),
                _ => self.waiting.push(entry(None)),
            },
        }
    }

    fn begin(&mut self, hook: &str, phase: &str, entry: Entry) {
        if self.current.is_over(hook, phase) {
            let waiting = std::mem::take(&mut self.waiting);
            self.waiting = self.current.take_back(waiting);
            self.runs.push(std::mem::take(&mut self.current).run);
        }
        for waiting in self.waiting.drain(..) {
            self.current.push(waiting);
        }
        self.current.push(Entry {
            phase: Some(phase.to_owned()),
            ..entry
        });
    }

    /// A hook that could not be started. If its call is logged, this is the reason; else it has an entry of its own.
    fn add_not_started(&mut self, hook: &str, mut entry: Entry) {
        if let Some(open) = self.current.open(hook) {
            open.lines.append(&mut entry.lines);
        } else if self.waiting.is_empty() && self.current.first_open().is_some() {
            // Other hooks run, so the run goes on.
            self.current.push(entry);
        } else {
            self.waiting.push(entry);
        }
    }

    fn add_output(&mut self, line: &str) {
        match self.current.first_open() {
            Some(open) if self.waiting.is_empty() => open.lines.push(line.to_owned()),
            _ => self.waiting.push(Entry::leftover(line)),
        }
    }

    fn finish(mut self) -> Vec<Run> {
        for waiting in self.waiting {
            self.current.push(waiting);
        }
        self.runs.push(self.current.run);
        self.runs.retain(|run| !run.entries.is_empty());
        let count = self.runs.len();
        for (index, run) in self.runs.iter_mut().enumerate() {
            run.number = count - index;
        }
        self.runs
    }
}

/// The run that is being read. The cost of a line does not depend on the number of entries.
#[derive(Default)]
struct PendingRun {
    run: Run,
    hooks: BTreeMap<Vec<u8>, HookCalls>,
    has_thawed: bool,
    /// Whether its calls are those of restore hooks; `None`: there is no call yet.
    is_restore: Option<bool>,
    /// Every entry before this one has ended, or is no call.
    first_open: usize,
}

#[derive(Default)]
struct HookCalls {
    /// Its last call with `thaw`, and its last with anything else.
    calls: [Option<usize>; 2],
    skips: usize,
}

impl HookCalls {
    fn last(&self, is_meant: impl Fn(usize) -> bool) -> Option<usize> {
        let calls = self.calls.into_iter().flatten();
        calls.filter(|&at| is_meant(at)).max()
    }
}

impl PendingRun {
    fn push(&mut self, entry: Entry) {
        if let Some(hook) = &entry.hook {
            let known = self.hooks.entry(hook.clone().into()).or_default();
            match entry.phase.as_deref() {
                None => known.skips += 1,
                Some(phase) => {
                    self.has_thawed = phase == Phase::Thaw.as_str();
                    self.is_restore = Some(phase == RESTORED);
                    known.calls[usize::from(!self.has_thawed)] = Some(self.run.entries.len());
                }
            }
        }
        self.run.entries.push(entry);
    }

    /// A freeze after a thaw begins another run, or the same call once more, unless it repeats a failed one.
    fn is_over(&self, hook: &str, phase: &str) -> bool {
        let entry = |at: usize| self.run.entries.get(at);
        let is_same = |at| entry(at).is_some_and(|entry| entry.phase.as_deref() == Some(phase));
        let again = self
            .hooks
            .get(hook.as_bytes())
            .and_then(|known| known.last(is_same));
        let again = again.and_then(entry);
        let is_again = again.is_some_and(|entry| entry.ended.is_none() || !entry.failed);
        let is_of_another_kind = self.is_restore.is_some_and(|is| is != (phase == RESTORED));
        (self.has_thawed && phase == Phase::Freeze.as_str()) || is_of_another_kind || is_again
    }

    fn is_open(&self, at: usize) -> bool {
        let entry = self.run.entries.get(at);
        entry.is_some_and(|entry| entry.phase.is_some() && entry.ended.is_none())
    }

    fn open(&mut self, hook: &str) -> Option<&mut Entry> {
        let at = self
            .hooks
            .get(hook.as_bytes())?
            .last(|at| self.is_open(at))?;
        self.run.entries.get_mut(at)
    }

    /// The first call that has not ended. The output of hooks that run in parallel is logged just before their ends.
    fn first_open(&mut self) -> Option<&mut Entry> {
        while self.first_open < self.run.entries.len() && !self.is_open(self.first_open) {
            self.first_open += 1;
        }
        self.run.entries.get_mut(self.first_open)
    }

    /// The call that a text of the master names, or else the first that has not ended.
    fn named(&mut self, text: &str) -> Option<&mut Entry> {
        // The hook whose name is the longest prefix of the text: a search from the text downward. A name between
        // the two shares a longer prefix with the text, so each round shortens the search to that.
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

    /// Adds the entries of hooks that were skipped at the freeze: they are skipped again at the thaw, perhaps after its
    /// last call. Returns the others, which belong to the next run.
    fn take_back(&mut self, waiting: Vec<Entry>) -> Vec<Entry> {
        let is_ours = |entry: &Entry, hooks: &BTreeMap<Vec<u8>, HookCalls>| {
            let known = entry
                .hook
                .as_ref()
                .and_then(|hook| hooks.get(hook.as_bytes()));
            known.is_some_and(|known| known.skips == 1)
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

#[cfg(test)]
pub(in crate::tools) fn sample() -> serde_json::Value {
    let date = "Thu Nov 23 13:38:05 UTC 2023";
    let lines = [
        "execute /h freeze",
        "/h is ready and holds",
        "execute /i freeze",
        "/i finished with status=1",
    ];
    let text: String = lines
        .iter()
        .map(|line| format!("{date}: {line}\n"))
        .collect();
    crate::tools::output::named("runs", &parse(&text))
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
        // Every line is shown, and a blank line between the runs.
        assert_eq!(crate::tools::log::render(LOG).replace("\n\n", "\n"), LOG);
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
        let summary: Vec<String> = runs[0]
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
        assert_eq!(summary, expected);
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
        // The first has its call, two lines that name it, two that name no hook, its end, and one after that. A later
        // line that names no open call goes to the first that has not ended.
        assert_eq!(counts, [6, 3, 2, 1, 2]);
    }

    #[test]
    fn what_is_skipped_last_belongs_to_the_run_before() {
        let no = "Thu Nov 23 13:38:05 MSK 2023: /h/05-no skipped: not executable\n";
        let call = |phase: &str| format!("Thu Nov 23 13:38:05 MSK 2023: execute /h/10-a {phase}\n");
        let run = [no, &call("freeze"), &call("thaw"), no].concat();
        let runs = parse(&run.repeat(2));
        let counts: Vec<usize> = runs.iter().map(|run| run.entries.len()).collect();
        assert_eq!(counts, [4, 4]);
    }

    #[test]
    fn restore_hooks_are_a_run_of_their_own() {
        let date = "Thu Nov 23 13:38:05 MSK 2023";
        let call = |hook: &str, phase: &str| {
            format!("{date}: execute {hook} {phase}\n{date}: {hook} finished with status=0\n")
        };
        let freeze = call("/h/1", "freeze") + &call("/h/1", "thaw");
        let restore = call("/r/1", "restored") + &call("/r/2", "restored");
        let counts = |text: &str| -> Vec<usize> {
            parse(text).iter().map(|run| run.entries.len()).collect()
        };
        assert_eq!(counts(&[&*freeze, &restore, &freeze].concat()), [2, 2, 2]);
        // A machine that was copied while frozen: its thaw is in another log.
        let torn = call("/h/1", "freeze") + &restore + &call("/h/1", "thaw");
        assert_eq!(counts(&torn), [1, 2, 1]);
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
