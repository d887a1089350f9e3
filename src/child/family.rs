//! Kills a child with everything that belongs to it: its session or process group, the members of its [`Scope`] if it
//! has one, and the children of all these.
//!
//! The leader must not be reaped before: as long as it is a zombie, the kernel does not reuse its number. All other
//! members are found in /proc and signalled by a pidfd. A process is examined again after its pidfd is opened, in case
//! its number was reused in between. A member stays one even if its parents have ended.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::libc::{ENOSYS, SIGCONT, SIGKILL, SIGTERM};

use super::scope::Scope;
use crate::protocol::text::is_hidden;
use crate::sys::process::{Family, PidFd, Stat, has_ended, kill, stat};

const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Rounds of SIGKILL: a member may fork while the list is read.
const MAX_KILL_ROUNDS: u32 = 50;

struct Member {
    pid: i32,
    start: u64,
    /// None before Linux 5.3, which has no pidfd_open(2).
    process: Option<PidFd>,
}

impl Member {
    fn is_running(&self) -> bool {
        stat(self.pid).is_some_and(|now| now.is_running && now.start == self.start)
    }

    fn signal(&self, signal: i32) {
        // ESRCH: it has ended, as intended. EPERM: it is reported as a survivor after the last round.
        let _ = match &self.process {
            Some(process) => process.send(signal),
            None if self.is_running() => kill(self.pid, signal),
            None => Ok(()),
        };
    }
}

pub struct Members<'a> {
    leader: i32,
    family: Family,
    scope: Option<&'a mut Scope>,
    known: Vec<Member>,
}

impl<'a> Members<'a> {
    pub fn new(leader: i32, family: Family, scope: Option<&'a mut Scope>) -> Self {
        Self {
            leader,
            family,
            scope,
            known: Vec::new(),
        }
    }

    /// SIGTERM to all members, SIGKILL to those that are left after `grace`. `wait` waits for the given time; it may
    /// read output meanwhile. Returns the members that are left, each as `NUMBER (NAME)`.
    pub fn end(&mut self, grace: Duration, wait: &mut dyn FnMut(Duration)) -> Vec<String> {
        let until = Instant::now() + grace;
        // Find the members before any of them ends: children of a process that has ended have another parent.
        while self.find() {
            self.signal_all(SIGTERM);
            // A stopped process handles SIGTERM only after SIGCONT.
            self.signal_all(SIGCONT);
            while self.is_running() {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return self.kill(wait);
                }
                wait(left.min(EXIT_POLL_INTERVAL));
            }
        }
        Vec::new()
    }

    fn kill(&mut self, wait: &mut dyn FnMut(Duration)) -> Vec<String> {
        for _ in 0..MAX_KILL_ROUNDS {
            if !self.find() {
                return Vec::new();
            }
            self.scope.iter().for_each(|scope| scope.kill());
            self.signal_all(SIGKILL);
            wait(EXIT_POLL_INTERVAL);
        }
        let left = self.known.iter().filter(|member| member.is_running());
        let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        left.map(|member| {
            let name = name(member.pid);
            let name = name.trim_end().replace(is_hidden, "?");
            format!("{} ({name})", member.pid)
        })
        .collect()
    }

    fn is_running(&self) -> bool {
        // Without /proc only the leader's state is known, from waitid(2).
        matches!(has_ended(self.leader), Ok(false)) || self.known.iter().any(Member::is_running)
    }

    fn signal_all(&self, signal: i32) {
        // The whole group first, in one system call: no member of it can fork away meanwhile. The group's number is the
        // leader's, which is not reaped. ESRCH and EPERM mean that no member, or none of ours, is left.
        let _ = kill(-self.leader, signal);
        let in_group =
            |member: &&Member| stat(member.pid).is_some_and(|now| now.group == self.leader);
        let others = self.known.iter().filter(|member| !in_group(member));
        others.for_each(|member| member.signal(signal));
    }

    /// Adds new members; returns whether a member still runs.
    fn find(&mut self) -> bool {
        let all = processes();
        let is_known = |pid: i32, start: u64| {
            self.known
                .iter()
                .any(|member| (member.pid, member.start) == (pid, start))
        };
        let is_first =
            |(pid, now): &&(i32, Stat)| is_known(*pid, now.start) || self.is_marked(*pid, now);
        let mut found: Vec<&(i32, Stat)> = all.iter().filter(is_first).collect();
        let mut at = 0;
        // Without a scope a process that has left the family did so on purpose, such as the holders of a hook master.
        while let Some((parent, _)) = found.get(at).filter(|_| self.scope.is_some()).copied() {
            let is_new = |(pid, now): &&(i32, Stat)| {
                now.parent == *parent && !found.iter().any(|(known, _)| known == pid)
            };
            let children: Vec<_> = all.iter().filter(is_new).collect();
            found.extend(children);
            at += 1;
        }
        let new: Vec<Member> = found
            .iter()
            .filter(|(pid, now)| !is_known(*pid, now.start))
            .filter_map(|(pid, now)| self.member(*pid, now, &all))
            .collect();
        self.known.extend(new);
        self.is_running()
    }

    /// None if it is no longer the process that was found.
    fn member(&self, pid: i32, then: &Stat, all: &[(i32, Stat)]) -> Option<Member> {
        let process = match PidFd::open(pid) {
            Ok(process) => Some(process),
            Err(error) if error.raw_os_error() == Some(ENOSYS) => None,
            Err(_) => return None, // it has ended
        };
        let now = stat(pid).filter(|now| now.start == then.start)?;
        // If its parent is still the same process, its own number was not reused either.
        let has_parent = || {
            let parent = all.iter().find(|(pid, _)| *pid == then.parent);
            let start = stat(then.parent).map(|parent| parent.start);
            now.parent == then.parent && start == parent.map(|(_, parent)| parent.start)
        };
        (self.is_marked(pid, &now) || has_parent()).then_some(Member {
            pid,
            start: now.start,
            process,
        })
    }

    fn is_marked(&self, pid: i32, now: &Stat) -> bool {
        let id = match self.family {
            Family::Session => now.session,
            Family::Group => now.group,
        };
        id == self.leader || self.scope.as_ref().is_some_and(|scope| scope.has(pid))
    }
}

/// Except this one and process 1; none if /proc cannot be read.
fn processes() -> Vec<(i32, Stat)> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let running = |entry: io::Result<fs::DirEntry>| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let is_other = pid > 1 && u32::try_from(pid) != Ok(own);
        let stat = stat(pid).filter(|stat| is_other && stat.is_running)?;
        Some((pid, stat))
    };
    entries.filter_map(running).collect()
}
