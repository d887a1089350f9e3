//! A bug in the agent is no worse than SIGKILL: it panics at each step of a freeze and thaw in turn.

use crate::support::{Agent, Disk, Place, binary, in_namespace, returned, wait_until};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// Steps that have to be among those at which it panicked.
const STEPS: [&str; 15] = [
    "survey",
    "open",
    "flush",
    "start_guardian",
    "wait_for_guardian",
    "call_hooks",
    "entrust",
    "mark_frozen",
    "freeze",
    "send_to_guardian",
    "claim",
    "thaw",
    "mark_thawed",
    "store_report",
    "dismiss_guardian",
];

/// Asks an agent that may end meanwhile.
fn ask(place: &Place, command: &str) -> Option<String> {
    let mut stream = UnixStream::connect(place.path("sock")).ok()?;
    writeln!(stream, "{{\"execute\":\"{command}\"}}").ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    line.ends_with('\n').then_some(line)
}

#[test]
fn a_panic_at_any_step_leaves_nothing_frozen_and_no_hook_asleep() {
    let mut grep = std::process::Command::new("grep");
    let found = grep.args(["-q", "DEBUG_PANIC_AT"]).arg(binary()).status();
    if !found.expect("grep").success() {
        return; // not a debug build of ours
    }
    in_namespace(|| {
        let place = Place::new();
        let disks = ["a", "b"].map(|name| Disk::ext4(&place.path(name)));
        let calls = place.name("calls");
        let hook = place.script("hook", &format!("echo $1 >>'{calls}'"));
        let hook = format!("-F{}", hook.display());
        let mut seen = BTreeSet::new();
        for step in 1.. {
            fs::write(&calls, "").expect("clear");
            let mut command = place.agent_command(&[&hook]);
            command.env("DEBUG_PANIC_AT", step.to_string());
            let mut agent = Agent::start(command, &place.path("sock"));
            for command in ["freeze", "thaw"] {
                ask(&place, &format!("guest-fsfreeze-{command}"));
            }
            // Answered when the run is over.
            if ask(&place, "x-guest-fsfreeze-report").is_some() {
                break;
            }
            assert!(!agent.wait().success());
            let told = place.read("stderr");
            let name = told.split(&format!("step {step}: ")).nth(1);
            let name = name.unwrap_or_else(|| panic!("another panic: {told}"));
            let name = name.lines().next().expect("a line").to_owned();
            let what = format!("step {step}, {name}");
            seen.insert(name);
            let successor = place.agent(&[&hook]);
            let says = |what: &str| {
                successor.call("guest-fsfreeze-status") == returned(format!("{what:?}"))
            };
            let frozen = || disks.each_ref().map(Disk::is_frozen);
            wait_until("status and kernel to agree", || match frozen() {
                [true, true] => says("frozen"),
                [false, false] => says("thawed") && !place.marker().exists(),
                _ => false,
            });
            let answer = successor.call("guest-fsfreeze-thaw");
            assert!(answer.contains("return"), "{what}: {answer}");
            assert_eq!(frozen(), [false; 2], "{what}");
            assert!(!place.marker().exists(), "{what}");
            let called = place.read("calls");
            assert!(
                ["", "freeze\nthaw\n"].contains(&called.as_str()),
                "{what}: {called}"
            );
            assert!(successor.stop().success(), "{what}");
        }
        for step in STEPS {
            assert!(seen.contains(step), "{step} is not among {seen:?}");
        }
        println!("panicked at {seen:?}");
    });
}
