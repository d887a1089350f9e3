//! The operator's settings for freezing: which filesystems, how strictly, for how long (floor 3).
//!
//! The defaults do what QEMU's agent does, except for the limits and for a filesystem that another process has frozen,
//! which is an error here. [`Pattern::parse`] and [`FreezeMode::parse`] refuse invalid values with the text of the
//! warning, and the caller keeps the default, so there always is a policy.

use std::fmt;
use std::time::Duration;

mod glob;
pub use glob::Glob;

/// A glob ([`Glob`]) for one property of a filesystem: `/data/*` is for the mount point, `type:xfs` for the type,
/// `dev:/dev/sdb*` for the device by any of its names: the mount table's, the kernel's, the device mapper's and the
/// links of udev. A btrfs has the names of all its devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    subject: PatternSubject,
    glob: Glob,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PatternSubject {
    Mountpoint,
    Type,
    Device,
}

impl Pattern {
    /// Parses a pattern. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let fail = |why| Err(PatternError(text.to_owned(), why));
        let (subject, glob) = if let Some(fstype) = text.strip_prefix("type:") {
            (PatternSubject::Type, fstype.to_owned())
        } else if let Some(device) = text.strip_prefix("dev:") {
            let is_relative = !device.starts_with(['/', '*', '?', '[', '\\']) && !device.is_empty();
            let directory = if is_relative { "/dev/" } else { "" };
            (PatternSubject::Device, directory.to_owned() + device)
        } else if text.starts_with(['/', '*', '?', '[', '\\']) {
            // No mount point but the root ends with a slash.
            let path = text.trim_end_matches('/');
            (
                PatternSubject::Mountpoint,
                if path.is_empty() { "/" } else { path }.into(),
            )
        } else {
            return fail("begins with none of '/', 'type:' and 'dev:'");
        };
        if glob.is_empty() {
            return fail("is empty after its colon");
        }
        match Glob::new(&glob) {
            Ok(glob) => Ok(Self {
                text: text.to_owned(),
                subject,
                glob,
            }),
            Err(why) => fail(why),
        }
    }

    /// Whether a filesystem with this mount point, type and device names matches.
    pub fn matches(&self, mountpoint: &[u8], fstype: &str, devices: &[String]) -> bool {
        match self.subject {
            PatternSubject::Mountpoint => self.glob.matches(mountpoint),
            PatternSubject::Type => self.glob.matches(fstype.as_bytes()),
            PatternSubject::Device => devices
                .iter()
                .any(|device| self.glob.matches(device.as_bytes())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a freeze includes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FreezeMode {
    /// Hooks and filesystems.
    #[default]
    All,
    /// Hooks only: applications are quiesced, no filesystem is frozen.
    HooksOnly,
    /// Nothing.
    Off,
}

impl FreezeMode {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::All, Self::HooksOnly, Self::Off]
            .into_iter()
            .find(|mode| mode.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::HooksOnly => "hooks-only",
            Self::Off => "off",
        }
    }
}

/// Which filesystems are frozen, and what is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FreezePolicy {
    /// If not empty, only what matches one of these is frozen.
    pub include: Vec<Pattern>,
    /// What matches is never frozen, even if `include` or the host names it.
    pub exclude: Vec<Pattern>,
    /// Where a failure to open or freeze is recorded, and the run goes on.
    pub optional: Vec<Pattern>,
    /// What a freeze includes.
    pub freeze: FreezeMode,
    /// A chosen filesystem that cannot be frozen (by its type, or because a later mount covers it) is an error.
    pub strict: bool,
    /// A filesystem that another process has frozen is skipped, as by QEMU's agent, instead of being an error.
    pub ignore_frozen: bool,
    /// RCU grace periods are not expedited while filesystems are frozen.
    pub normal_rcu: bool,
}

/// Time limits; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FreezeLimits {
    /// From right before the first FIFREEZE until the agent thaws without a request.
    pub hold: Option<Duration>,
    /// For one step (open, flush, freeze or thaw) of one filesystem.
    pub step: Option<Duration>,
}

impl FreezeLimits {
    pub const DEFAULT_HOLD_SECONDS: u64 = 900;

    /// 5 minutes. What takes long without being stuck is the first flush. The kernel lets a fifth of the memory get
    /// dirty: for 32 GiB of memory that is written in this time at 22 MiB/s, which is slow even for one disk.
    /// Applications still work during the first flush, so the wait harms none; a limit that ends it would fail backups
    /// that QEMU's agent makes.
    pub const DEFAULT_STEP_SECONDS: u64 = 300;
}

impl Default for FreezeLimits {
    fn default() -> Self {
        Self {
            hold: Some(Duration::from_secs(Self::DEFAULT_HOLD_SECONDS)),
            step: Some(Duration::from_secs(Self::DEFAULT_STEP_SECONDS)),
        }
    }
}

/// The text, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError(String, &'static str);

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the pattern '{}' {}", self.0, self.1)
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn each_pattern_looks_at_its_side() {
        let devices = ["/dev/sdb1".to_owned(), "/dev/disk/by-label/x".to_owned()];
        let matches = |text: &str| pattern(text).matches(b"/data/x", "xfs", &devices);
        for text in [
            "/data/*",
            "/data/x/",
            "*x",
            "type:xfs",
            "type:x*",
            "dev:/dev/sdb*",
            "dev:sdb?",
            "dev:*/by-label/x",
        ] {
            assert!(matches(text), "{text}");
        }
        for text in [
            "/data",
            "/",
            "type:ext4",
            "type:/data/x",
            "dev:/dev/sdb",
            "dev:xfs",
        ] {
            assert!(!matches(text), "{text}");
        }
        assert!(pattern("/").matches(b"/", "ext4", &[]));
        assert_eq!(pattern("dev:sdb*").to_string(), "dev:sdb*");
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for (text, why) in [
            ("data", "begins with none of '/', 'type:' and 'dev:'"),
            ("fstype:xfs", "begins with none of '/', 'type:' and 'dev:'"),
            ("type:", "is empty after its colon"),
            ("dev:", "is empty after its colon"),
            ("/a[", "has a '[' without its ']'"),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert_eq!(error.to_string(), format!("the pattern '{text}' {why}"));
        }
    }

    #[test]
    fn modes_have_names() {
        for mode in [FreezeMode::All, FreezeMode::HooksOnly, FreezeMode::Off] {
            assert_eq!(FreezeMode::parse(mode.name()), Some(mode));
        }
        assert_eq!(FreezeMode::parse("ALL"), None);
    }
}
