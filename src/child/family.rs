//! Ending a child's whole family: its session or process group, and whoever in it ignores SIGTERM.
//!
//! The leader must not be reaped before: as long as it is a zombie its number, and so the
//! family's, cannot pass to a stranger. Members are found in /proc and signalled by a pidfd that
//! is checked after it was opened, so that a number that was reused in between is not hit.

use std::fs;
use std::time::{Duration, Instant};

use nix::libc::{SIGCONT, SIGKILL, SIGTERM};

use crate::sys::process::{Family, PidFd, kill, stat};

/// How often the family is looked at while it has its grace.
const LOOK: Duration = Duration::from_millis(20);
/// How many rounds of SIGKILL: a member may fork while the list is walked.
const ROUNDS: u32 = 50;

/// SIGTERM to all of the family, and SIGKILL to what is left after `grace`. `wait` is called
/// between looks and passes the given time; it may take in output meanwhile.
pub fn end(leader: i32, family: Family, grace: Duration, wait: &mut dyn FnMut(Duration)) {
    signal_all(leader, family, SIGTERM);
    // A stopped process takes no SIGTERM.
    signal_all(leader, family, SIGCONT);
    let until = Instant::now() + grace;
    while alive(leader, family) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        wait(left.min(LOOK));
    }
    for _ in 0..ROUNDS {
        if !alive(leader, family) {
            return;
        }
        signal_all(leader, family, SIGKILL);
        wait(LOOK);
    }
}

/// True while a member of the family runs. Without /proc that cannot be told: then the leader
/// alone counts.
fn alive(leader: i32, family: Family) -> bool {
    match members(leader, family) {
        Some(members) => !members.is_empty(),
        None => !matches!(crate::sys::process::has_ended(leader), Ok(true) | Err(_)),
    }
}

fn signal_all(leader: i32, family: Family, signal: i32) {
    // The group at once first: nobody in it can fork away meanwhile. ESRCH and EPERM mean that
    // there is nothing, or nothing of ours, left to end.
    let _ = kill(-leader, signal);
    if family == Family::Group {
        return;
    }
    // Members that left the group but not the session: shells with job control.
    for pid in members(leader, family).unwrap_or_default() {
        if stat(pid).is_some_and(|now| now.group == leader) {
            continue;
        }
        match PidFd::open(pid) {
            Ok(process) => {
                if belongs(pid, leader, family) {
                    let _ = process.send(signal);
                }
            }
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOSYS) => {
                if belongs(pid, leader, family) {
                    let _ = kill(pid, signal);
                }
            }
            // It has ended.
            Err(_) => (),
        }
    }
}

fn belongs(pid: i32, leader: i32, family: Family) -> bool {
    stat(pid).is_some_and(|stat| {
        let id = match family {
            Family::Session => stat.session,
            Family::Group => stat.group,
        };
        stat.is_running && id == leader
    })
}

/// The family's processes that run, or None if /proc cannot be read.
fn members(leader: i32, family: Family) -> Option<Vec<i32>> {
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        belongs(pid, leader, family).then_some(pid)
    });
    Some(pids.collect())
}
