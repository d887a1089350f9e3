//! What agent, guardian and hook master leave or send to one another.

use qemu_ga::adapters::ADAPTERS;
use qemu_ga::freeze::guardian::state::{Action, Cause, Event, GuardianState};
use qemu_ga::freeze::guardian::{Request, Response};
use qemu_ga::freeze::report::Report;
use qemu_ga::hooks::HookRecord;
use qemu_ga::hooks::journal::JournalContent;
use qemu_ga::hooks::journal::StartedTask;
use qemu_ga::sys::fds::Token;
use qemu_ga::tools::{log, report};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is read from JSON and written reads the same.
fn round_trip<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(
    text: &[u8],
) -> Option<T> {
    let read: T = serde_json::from_slice(text).ok()?;
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(read, again);
    Some(read)
}

/// Only line ends may move a terminal's cursor.
fn is_tame(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() || c == '\n')
}

/// Each line is a message of either side, or a word for what else may happen. The freeze is undone at most
/// once, never for a reason of the guardian's own while the agent has the token, and never when the run is over.
pub fn guardian(data: &[u8]) {
    let Ok(token) = Token::new() else { return };
    let mut machine = GuardianState::default();
    let (mut agent_has_it, mut lingers) = (false, false);
    for line in data.split(|&byte| byte == b'\n') {
        round_trip::<Response>(line);
        let event = match line {
            // The agent takes the token after it has said so.
            b"take" => {
                agent_has_it |= token.try_take();
                continue;
            }
            b"gone" => Event::Gone,
            b"limit" => Event::Limit,
            b"claim-limit" => Event::ClaimLimit { is_stuck: false },
            b"stuck" => Event::ClaimLimit { is_stuck: true },
            b"unmarked" => Event::Unmarked,
            b"asked" => Event::Signaled,
            b"wanted" => Event::ThawRequested,
            line => match round_trip::<Request>(line) {
                Some(request) => Event::Request(request),
                None => continue,
            },
        };
        let by_agent = matches!(event, Event::Gone | Event::ClaimLimit { .. });
        lingers |= event == Event::Request(Request::Linger);
        let actions = machine.apply(event, Some(&token));
        for action in &actions {
            if let Action::Undo { cause, .. } = action {
                assert!(!lingers, "undone after the run was over");
                assert_eq!(by_agent, *cause == Cause::AgentDied);
                assert!(by_agent || !agent_has_it);
                assert!(!token.is_free(), "undone without the token");
                assert_eq!(actions.last(), Some(&Action::Leave));
            }
        }
        if actions.contains(&Action::Leave) {
            return;
        }
    }
}

/// Each line is shown, once.
pub fn hook_log(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let shown = log::render(&text);
    assert!(is_tame(&shown));
    let count = |text: &str| text.lines().filter(|line| !line.is_empty()).count();
    assert_eq!(count(&text), count(&shown));
}

/// What is understood names each hook once, and writes the line from which it came.
pub fn journal(data: &[u8]) {
    let known = JournalContent::parse(data);
    for (at, started) in known.started.iter().enumerate() {
        assert!(!started.name.is_empty());
        assert_eq!(StartedTask::from_value(&started.to_value()), *started);
        let step = started.clone().step(&mut Vec::new(), ADAPTERS);
        // What version 0.1.0 left out is filled in.
        let kept = step.started.expect("what it was made from");
        assert!(kept.source == started.source && kept.why == started.why);
        assert_eq!((&kept.name, &step.name), (&started.name, &started.name));
        let same =
            |other: &StartedTask| other.source == started.source && other.name == started.name;
        assert!(!known.started[at + 1..].iter().any(same));
    }
    // A line that was torn off at its end is noticed; empty lines are none.
    if known.is_whole {
        assert!(!JournalContent::parse(data.trim_ascii_end()).is_whole);
    }
}

pub fn records(data: &[u8]) {
    for line in data.split(|&byte| byte == b'\n') {
        if let Some(record) = round_trip::<HookRecord>(line) {
            let report = Report {
                hooks: vec![record],
                ..Report::default()
            };
            assert!(is_tame(&report::render(&report)));
        }
    }
}

pub fn reports(data: &[u8]) {
    for mut report in round_trip::<Vec<Report>>(data).unwrap_or_default() {
        assert!(is_tame(&report::render(&report)));
        report.compute_level();
        report.summary();
    }
}
