//! Expedited RCU grace periods: `/sys/kernel/rcu_expedited` (kernel/ksysfs.c; Documentation/RCU/Design/Requirements).
//!
//! FIFREEZE takes three per-CPU semaphores for writing (freeze_super in fs/super.c), and each waits for a grace period:
//! 10 to 40 ms in all, during which writers wait, too. An expedited grace period takes a fraction of a millisecond and
//! interrupts every processor once. The setting is system-wide, so the engine switches it on right before the first
//! FIFREEZE and off right after the last one; the guardian does if the agent ends in between.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expedition {
    Available,
    /// By the administrator or the kernel's command line; it is not switched off after a freeze.
    AlreadyOn,
    /// `rcu_normal` is set, as on a real-time kernel; it takes precedence over `rcu_expedited`.
    Overruled,
    /// With the reason.
    Unavailable(String),
}

impl std::fmt::Display for Expedition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Available => "they can be",
            Self::AlreadyOn => "they are already",
            Self::Overruled => "rcu_normal is set",
            Self::Unavailable(why) => why,
        })
    }
}

fn setting_path(sys: &Path) -> PathBuf {
    sys.join("kernel/rcu_expedited")
}

pub fn read_state(sys: &Path) -> Expedition {
    let path = setting_path(sys);
    let error = |error: &io::Error| {
        Expedition::Unavailable(format!("{}: {}", path.display(), super::strerror(error)))
    };
    let is_zero = |text: &str| text.trim() == "0";
    match fs::read_to_string(&path) {
        Ok(text) if !is_zero(&text) => return Expedition::AlreadyOn,
        Ok(_) => {}
        Err(e) => return error(&e),
    }
    if fs::read_to_string(sys.join("kernel/rcu_normal")).is_ok_and(|text| !is_zero(&text)) {
        return Expedition::Overruled;
    }
    // Opening shows whether /sys is read-only, as in most containers.
    match fs::OpenOptions::new().write(true).open(&path) {
        Ok(_) => Expedition::Available,
        Err(e) => error(&e),
    }
}

/// ENOENT, EROFS, EACCES.
pub fn set(sys: &Path, is_on: bool) -> io::Result<()> {
    // fs::write would try to create the file.
    let mut file = fs::OpenOptions::new().write(true).open(setting_path(sys))?;
    file.write_all(if is_on { b"1" } else { b"0" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_applies_is_what_the_files_say() {
        let dir = tempfile::tempdir().unwrap();
        let sys = dir.path();
        let write =
            |name: &str, text: &str| fs::write(sys.join("kernel").join(name), text).unwrap();
        fs::create_dir(sys.join("kernel")).unwrap();
        assert!(
            matches!(read_state(sys), Expedition::Unavailable(why) if why.ends_with("No such file or directory"))
        );
        assert!(set(sys, true).is_err(), "a file is not made");
        write("rcu_expedited", "0\n");
        assert_eq!(read_state(sys), Expedition::Available);
        write("rcu_normal", "0\n");
        assert_eq!(read_state(sys), Expedition::Available);
        set(sys, true).unwrap();
        assert_eq!(read_state(sys), Expedition::AlreadyOn);
        write("rcu_expedited", "0\n");
        write("rcu_normal", "1\n");
        assert_eq!(read_state(sys), Expedition::Overruled);
    }
}
