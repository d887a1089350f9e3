//! Expedited RCU grace periods: `/sys/kernel/rcu_expedited` (kernel/ksysfs.c; the kernel's
//! Documentation/RCU/Design/Requirements).
//!
//! FIFREEZE takes three per-CPU semaphores for writing (freeze_super in fs/super.c), and each waits for
//! a grace period: 10 to 40 ms in all, during which writers wait, too. Expedited, a grace period takes
//! a fraction of a millisecond and interrupts every processor once. The setting is the system's, so it
//! is put back at once. `rcu_normal` takes precedence over it in the kernel.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Whether grace periods can be expedited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expedition {
    /// For the time of a freeze.
    Available,
    /// They are so already, for good.
    AlreadyOn,
    /// `rcu_normal` is set, as on a real-time kernel: the kernel would not heed it.
    Overruled,
    /// It cannot be switched on: why.
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

fn setting(sys: &Path) -> PathBuf {
    sys.join("kernel/rcu_expedited")
}

/// Whether grace periods can be expedited, by the files below `sys`.
pub fn read_state(sys: &Path) -> Expedition {
    let path = setting(sys);
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
    match fs::OpenOptions::new().write(true).open(&path) {
        Ok(_) => Expedition::Available,
        Err(e) => error(&e),
    }
}

/// Switches expedited grace periods on or off.
///
/// # Errors
/// No such file, a read-only /sys, no CAP_SYS_ADMIN.
pub fn set(sys: &Path, is_on: bool) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(setting(sys))?;
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
