//! What the operator decided about freezing: which filesystems, how strictly, for how long. Floor 3.
//!
//! The configuration fills these types and the planning and the engine read them. The defaults do
//! what the original agent does, but for the limits and for a freeze by someone else, which is an
//! error here. Whatever the operator wrote, there is a policy: what makes no sense is refused by
//! [`Pattern::parse`], [`FreezeMode::parse`] and [`seconds`] with words for the warning.

use std::fmt;
use std::time::Duration;

mod glob;
pub use glob::Glob;

/// A glob over one side of a filesystem.
///
/// `/data/*` is about the mountpoint, `type:xfs` about the type, `dev:/dev/sdb*` about the device,
/// by any of its names: the mount table's, the kernel's, the device mapper's and the links of udev.
/// A btrfs has the names of all its devices. See [`Glob`] for the notation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    side: PatternSubject,
    glob: Glob,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PatternSubject {
    Mountpoint,
    Type,
    Device,
}

impl Pattern {
    /// Reads one pattern.
    ///
    /// # Errors
    /// It is no pattern: the sentence says which and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fail = |why: &str| Err(format!("the pattern '{text}' {why}"));
        let (side, glob) = if let Some(fstype) = text.strip_prefix("type:") {
            (PatternSubject::Type, fstype.to_owned())
        } else if let Some(device) = text.strip_prefix("dev:") {
            let bare = !device.starts_with(['/', '*', '?', '[', '\\']) && !device.is_empty();
            let directory = if bare { "/dev/" } else { "" };
            (PatternSubject::Device, directory.to_owned() + device)
        } else if text.starts_with(['/', '*', '?', '[', '\\']) {
            // No mountpoint ends with a slash but the root's.
            let bare = text.trim_end_matches('/');
            (
                PatternSubject::Mountpoint,
                if bare.is_empty() { "/" } else { bare }.into(),
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
                side,
                glob,
            }),
            Err(why) => fail(why),
        }
    }

    /// Whether it means a filesystem with this mountpoint, type and names of its device.
    pub fn matches(&self, mountpoint: &[u8], fstype: &str, devices: &[String]) -> bool {
        match self.side {
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

/// What a freeze does at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FreezeMode {
    /// Hooks and filesystems.
    #[default]
    All,
    /// Hooks alone: applications go quiet, no filesystem is frozen.
    HooksOnly,
    /// Nothing.
    Off,
}

impl FreezeMode {
    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::All, Self::HooksOnly, Self::Off]
            .into_iter()
            .find(|mode| mode.name() == name)
    }

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
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
    /// If not empty, only what one of these means is frozen.
    pub include: Vec<Pattern>,
    /// What is never frozen, included or not, and even if the host names it.
    pub exclude: Vec<Pattern>,
    /// Where a failure to open or freeze is a note, and the run goes on.
    pub optional: Vec<Pattern>,
    /// What a freeze does at all.
    pub freeze: FreezeMode,
    /// A chosen filesystem that cannot be frozen (of a type without freezing, covered by a later
    /// mount) is an error instead of being left out.
    pub strict: bool,
    /// A filesystem that someone else has frozen is left out, as by the original, instead of being
    /// an error.
    pub ignore_frozen: bool,
    /// RCU grace periods are not expedited while filesystems are frozen one by one.
    pub normal_rcu: bool,
}

/// How long things may take. `None` is without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreezeLimits {
    /// From the last FIFREEZE until everything is thawed without being asked.
    pub hold: Option<Duration>,
    /// For one step (open, flush, freeze) at one filesystem.
    pub step: Option<Duration>,
}

impl FreezeLimits {
    /// 15 minutes.
    pub const DEFAULT_HOLD_SECONDS: u64 = 900;

    /// 5 minutes. What takes long without being stuck is the first flush. The kernel lets a fifth
    /// of the memory get dirty: of 32 GiB that is written in this time at 22 MiB/s, which is slow
    /// even for one disk. Applications still work during the first flush, so waiting harms none;
    /// a limit that ends it would fail backups that the original makes.
    pub const DEFAULT_STEP_SECONDS: u64 = 300;

    /// A week: more is taken for a slip of the pen.
    pub const MAX_SECONDS: u64 = 7 * 24 * 3600;
}

impl Default for FreezeLimits {
    fn default() -> Self {
        Self {
            hold: Some(Duration::from_secs(Self::DEFAULT_HOLD_SECONDS)),
            step: Some(Duration::from_secs(Self::DEFAULT_STEP_SECONDS)),
        }
    }
}

/// Reads a limit in seconds, 0 for none.
///
/// # Errors
/// It is no number up to [`FreezeLimits::MAX_SECONDS`]: what it is instead, to follow after the value.
pub fn seconds(text: &str) -> Result<Option<Duration>, String> {
    match text.trim_ascii().parse::<u64>() {
        Ok(0) => Ok(None),
        Ok(number) if number <= FreezeLimits::MAX_SECONDS => Ok(Some(Duration::from_secs(number))),
        Ok(_) => Err(format!(
            "is more than {} seconds (a week)",
            FreezeLimits::MAX_SECONDS
        )),
        Err(_) => Err("is not a whole number of seconds".into()),
    }
}

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
            assert_eq!(error, format!("the pattern '{text}' {why}"));
        }
    }

    #[test]
    fn limits_are_seconds() {
        assert_eq!(seconds("0"), Ok(None));
        assert_eq!(seconds(" 90 "), Ok(Some(Duration::from_secs(90))));
        assert!(seconds("604800").unwrap().is_some());
        assert!(seconds("604801").unwrap_err().contains("a week"));
        for text in ["", "-1", "15m", "1.5", "99999999999999999999"] {
            assert_eq!(
                seconds(text),
                Err("is not a whole number of seconds".into()),
                "{text}"
            );
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
