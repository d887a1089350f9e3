//! Floor 2: the lock of a state directory. Only its holder uses the guardian and the hooks' journal in it; a second
//! agent would take both from the first.

use super::{StateDir, StateError, reason};
use crate::sys::process;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::stat::{Mode, major, minor};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

impl StateDir {
    /// Until the lock is dropped; child processes do not inherit it. None if the directory cannot be locked and no
    /// other agent uses it; an error if another agent holds the lock.
    pub fn lock(&self) -> Result<Option<Flock<File>>, StateError> {
        let path = self.path().join("qga.lock");
        // If an agent left this filesystem frozen, creating a file or opening one for writing would block. flock(2)
        // needs neither.
        let creates = !path.exists() && !self.is_marked_frozen().unwrap_or(true);
        // Open read-only: a file that is open for writing prevents the filesystem from being remounted read-only.
        let mut flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        flags.set(OFlag::O_CREAT, creates);
        let failed = |error: Errno| {
            let why = reason(&error.into());
            tracing::warn!(
                "cannot lock {}: {why}; another agent is not kept out",
                path.display()
            );
            Ok(None)
        };
        let file = match open(&path, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => File::from(file),
            // A marker without a lock file: the predecessor had no lock (QEMU's agent).
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return failed(error),
        };
        let mut file = file;
        let mut is_second_try = false;
        let holder = loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Some(lock)),
                Err((file, Errno::EWOULDBLOCK)) => file,
                Err((_, error)) => return failed(error),
            };
            let holder = holder(&file);
            // A child of a killed agent inherits the lock until its execve(2); check once more.
            if holder.is_some() || is_second_try {
                break holder;
            }
            is_second_try = true;
        };
        let has_ended = |pid| process::stat(pid).is_none_or(|stat| !stat.is_running);
        if !holder.is_some_and(has_ended) {
            return Err(self.in_use(holder));
        }
        // The other agent was killed, but one of its threads is still in the kernel (as on a frozen filesystem), or a
        // child of it has not reached execve(2).
        tracing::debug!("another agent was killed and has not ended: no lock is taken");
        Ok(None)
    }

    fn in_use(&self, pid: Option<i32>) -> StateError {
        let pid = pid.map(|pid| format!(", process {pid}"));
        StateError {
            text: format!(
                "the state directory {} is in use by another agent{}; stop that agent or choose another directory with --statedir",
                self.path().display(),
                pid.unwrap_or_default()
            ),
        }
    }
}

/// By /proc/locks; None if it is not visible, for example in another PID namespace.
fn holder(file: &File) -> Option<i32> {
    let data = file.metadata().ok()?;
    let (device, inode) = (data.dev(), data.ino());
    let id = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    find_holder(&fs::read_to_string("/proc/locks").ok()?, &id)
}

/// In lines such as `1: FLOCK ADVISORY WRITE 708 00:1a:1234 0 EOF`, see proc_locks(5).
fn find_holder(locks: &str, id: &str) -> Option<i32> {
    let mut holders = locks.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(4);
        let pid = fields.next()?;
        (fields.next() == Some(id)).then(|| pid.parse().ok())?
    });
    holders.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_agent_alone_and_nothing_is_made_beside_a_marker() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        state.mark_frozen(&crate::state::Marker::default()).unwrap();
        assert!(state.lock().unwrap().is_none());
        assert!(!dir.path().join("qga.lock").exists());
        state.mark_thawed().unwrap();
        let lock = state.lock().unwrap();
        assert!(lock.is_some());
        let refused = state.lock().unwrap_err().text;
        let own = format!("another agent, process {}; stop", std::process::id());
        assert!(refused.contains(&own), "{refused}");
        let data = fs::metadata(dir.path().join("qga.lock")).unwrap();
        assert_eq!((data.len(), data.permissions().mode() & 0o777), (0, 0o600));
        drop(lock);
        // An existing file is locked even if there is a marker.
        state.mark_frozen(&crate::state::Marker::default()).unwrap();
        assert!(state.lock().unwrap().is_some());
        let gone = StateDir::new(dir.path().join("none"));
        assert!(gone.lock().unwrap().is_none());
    }

    #[test]
    fn the_holder_is_found_among_all_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 5 00:1a:12345 0 EOF\n\
                     1: -> POSIX ADVISORY  WRITE 6 00:1a:1234 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 708 00:1a:1234 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 709 00:1a:1234 0 EOF\n";
        assert_eq!(find_holder(locks, "00:1a:1234"), Some(708));
        assert_eq!(find_holder(locks, "00:1a:99"), None);
    }
}
