//! Marks by which processes of a child are found that have left its family: a control group below ours, if one can be
//! created, and an environment variable. Both are inherited, and no process that does not descend from the child has
//! them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::MARK_ENV;
use crate::sys::cgroup::own_groups;
use crate::sys::process::PreExecWrite;

const PREFIX: &str = "qga-hook-";
/// The group's last members may be about to end.
const MAX_REMOVAL_TRIES: u32 = 10;

pub struct Scope {
    /// Unique among all children, even after process ids wrap around.
    mark: String,
    group: Option<PathBuf>,
}

impl Scope {
    pub fn new() -> Scope {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_nanos() as u64);
        let mark = format!("{}-{now:016x}", std::process::id());
        let groups = own_groups().unwrap_or_default();
        let group = groups.into_iter().find_map(|own| {
            if !own.join("cgroup.procs").exists() {
                return None;
            }
            remove_stale(&own);
            let group = own.join(format!("{PREFIX}{mark}"));
            fs::create_dir(&group).is_ok().then_some(group)
        });
        Scope { mark, group }
    }

    pub fn mark(&self) -> &str {
        &self.mark
    }
    pub fn entry(&self) -> Option<PreExecWrite> {
        let list = self.group.as_ref()?.join("cgroup.procs");
        // Without it the processes are found by the environment variable alone.
        let list = fs::OpenOptions::new().write(true).open(list).ok()?;
        Some(PreExecWrite {
            fd: list.into(),
            text: b"0".to_vec(),
        })
    }

    pub fn has(&self, pid: i32) -> bool {
        let holds = |file: &str, text: String| {
            let found = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            found
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        };
        self.group.is_some() && holds("cgroup", format!("/{PREFIX}{}", self.mark))
            || holds("environ", format!("{MARK_ENV}={}", self.mark))
    }

    /// In one write for the whole control group. cgroup.kill exists since Linux 5.14; before that this does nothing.
    pub fn kill(&self) {
        if let Some(group) = &self.group {
            // The caller signals each process besides.
            let _ = fs::write(group.join("cgroup.kill"), "1");
        }
    }
}

impl Drop for Scope {
    /// Processes that are left move to our own control group, where they would be without a scope.
    fn drop(&mut self) {
        let Some(group) = &self.group else { return };
        for _ in 0..MAX_REMOVAL_TRIES {
            match fs::remove_dir(group) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => (),
                _ => return,
            }
            let left = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            let own = group.with_file_name("cgroup.procs");
            for pid in left.lines() {
                // The write fails for a process that has ended.
                let _ = fs::write(&own, pid);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn remove_stale(own: &Path) {
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let maker = name.and_then(|mark| mark.split_once('-'));
        if maker.is_some_and(|(pid, _)| !Path::new("/proc").join(pid).exists()) {
            // It fails while a process is in the group; the next child tries again.
            let _ = fs::remove_dir(entry.path());
        }
    }
}
