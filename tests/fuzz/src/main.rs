//! Everything that reads what others wrote, under libFuzzer. `QGA_FUZZ_TARGET` names the target;
//! a panic is a crash, as is a broken promise of the module under test.

#![no_main]

mod state;
mod system;
mod words;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use qemu_ga::adapters::{ADAPTERS, azure};
use qemu_ga::hooks::settings::HookConfig;
use qemu_ga::keyfile;
use qemu_ga::probe::{logind, mountinfo, udev, utmp};
use qemu_ga::protocol::arguments::decode;
use qemu_ga::protocol::framing::{Event, Framer};
use qemu_ga::protocol::request::Request;
use qemu_ga::protocol::{reply, text};

type Target = fn(&[u8]);

fn target() -> Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    *TARGET.get_or_init(|| match std::env::var("QGA_FUZZ_TARGET").as_deref() {
        Ok("framing") => framing,
        Ok("arguments") => arguments,
        Ok("keyfile") => keyfile_entries,
        Ok("hook-policy") => hook_policy,
        Ok("mountinfo") => mount_table,
        Ok("udev") => udev_data,
        Ok("utmp") => logins,
        Ok("logind") => session,
        Ok("azure") => azure_file,
        Ok("guardian") => state::guardian,
        Ok("hook-log") => state::hook_log,
        Ok("journal") => state::journal,
        Ok("records") => state::records,
        Ok("reports") => state::reports,
        Ok("netlink") => system::netlink,
        Ok("plan") => system::plan,
        Ok("proc") => system::proc_files,
        Ok("globs") => words::globs,
        Ok("words") => words::words,
        other => panic!("QGA_FUZZ_TARGET is no target: {other:?}"),
    })
}

fuzz_target!(|data: &[u8]| target()(data));

fn events(pieces: &[&[u8]]) -> Vec<Event> {
    let mut framer = Framer::default();
    let mut all = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while let Some(event) = framer.next_event(&mut rest) {
            all.push(event);
        }
        assert!(rest.is_empty(), "bytes were left");
    }
    all
}

/// However the stream is cut, the messages are the same; an answer is one line and one message.
fn framing(data: &[u8]) {
    let whole = events(&[data]);
    let (front, back) = data.split_at(data.len() / 2);
    assert_eq!(whole, events(&[front, back]));
    for event in whole {
        let Event::Message(value) = event else {
            continue;
        };
        let mut line = Vec::new();
        reply::write(&mut line, None, Ok(&value), false);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert!(line.is_ascii());
        let _ = Request::from_value(value);
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(dead_code)]
struct Arguments {
    path: String,
    handle: Option<i64>,
    count: Option<u64>,
    flag: Option<bool>,
    list: Option<Vec<String>>,
    nested: Option<Vec<Nested>>,
    mode: Option<Mode>,
}

#[derive(serde::Deserialize)]
#[allow(dead_code)]
struct Nested {
    online: bool,
    id: i64,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(dead_code)]
enum Mode {
    None,
    Stdout,
    Merged,
    Boolean(bool),
}

fn arguments(data: &[u8]) {
    for event in events(&[data]) {
        if let Event::Message(value) = event
            && let Ok(request) = Request::from_value(value)
        {
            let _ = decode::<Arguments>(request.arguments);
        }
    }
}

/// What is read from a value and written again reads the same.
fn keyfile_entries(data: &[u8]) {
    let Ok(entries) = keyfile::parse(data) else {
        return;
    };
    for entry in entries {
        let _ = entry.boolean();
        let Ok(value) = entry.string() else { continue };
        let again = [b"[g]\nk=".as_slice(), &keyfile::escape(value.as_bytes())].concat();
        let read = keyfile::parse(&again).expect("an escaped value is one line");
        assert_eq!(read[0].string().expect("a value"), value);
    }
}

fn hook_policy(data: &[u8]) {
    let rules = HookConfig::parse(Path::new("conf"), data, ADAPTERS);
    let names: BTreeMap<&str, ()> = rules.named_hooks().map(|name| (name, ())).collect();
    for name in names.keys() {
        rules.of_hook(name, data);
    }
    rules.of_hook("10-other.sh", data);
}

fn mount_table(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').count();
    assert!(mountinfo::parse(data).len() <= lines);
}

fn udev_data(data: &[u8]) {
    let shown = text::from_os_bytes(data);
    let both = String::from_utf8_lossy(data);
    let (uevent, database) = both.split_once('\0').unwrap_or((&both, &shown));
    udev::parse(uevent, database);
}

fn logins(data: &[u8]) {
    for layout in [utmp::Layout::NARROW, utmp::Layout::WIDE] {
        for login in utmp::parse(data, layout) {
            assert!(login.user.len() <= 32 && !login.user.contains(&0));
        }
    }
}

/// What a cut file tells is what the whole one begins with: a later line replaces a member, none alters it.
fn session(data: &[u8]) {
    let Some(login) = logind::parse(data) else {
        return;
    };
    assert!(!login.user.is_empty() && !login.user.contains(&b'\n'));
    let cut = [data, b"REALTIME=1"].concat();
    assert_eq!(logind::parse(&cut), Some(login));
}

fn azure_file(data: &[u8]) {
    if let Err(why) = azure::check(data) {
        assert!(!why.to_string().is_empty());
    }
}
