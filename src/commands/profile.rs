//! Command classes and profiles. Floor 4.
//!
//! Each command has one [`Class`], by what the host can do with it; a [`Profile`] is a set of classes. The profile comes
//! from `--profile` or the key `profile`; [`super::access`] combines it with the administrator's lists. A frozen guest is
//! thawed in every profile: what works while frozen does not depend on the profile.

use super::Command;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::probe::{System, confidential};

/// What the host can do with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Read facts about the guest. Nothing is changed, no file of a user is read.
    Query,
    /// Freeze and thaw filesystems, and read the reports about that.
    Freeze,
    /// Read and write files.
    File,
    /// Run programs.
    Exec,
    /// Stop or suspend the guest.
    Power,
    /// Change passwords, and read and change the keys of users.
    User,
    /// Change processors, memory, the clock, and the use of disks.
    Hardware,
}

/// What the profiles allow; `auto` is not among them: it stands for one of these.
pub(crate) const PROFILES: [(&str, &[Class]); 4] = {
    use Class::*;
    [
        ("full", &[Query, Freeze, File, Exec, Power, User, Hardware]),
        // By a file, a password or a key a program can be run as well.
        ("no-exec", &[Query, Freeze, Power, Hardware]),
        ("query", &[Query]),
        ("backup", &[Freeze]),
    ]
};

/// For the help and the completions.
pub(crate) const NAMES: &[&str] = &["full", "no-exec", "query", "backup", "auto"];

/// Every client sends these before anything else, so every profile allows them.
const ESSENTIAL: [&str; 4] = [
    "guest-sync",
    "guest-sync-delimited",
    "guest-ping",
    "guest-info",
];

/// The profile as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileName(pub(crate) String);

impl Default for ProfileName {
    fn default() -> Self {
        Self("full".into())
    }
}

/// The classes that are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Of [`PROFILES`].
    pub(crate) name: &'static str,
    classes: &'static [Class],
}

impl Default for Profile {
    fn default() -> Self {
        Self::named(PROFILES[0])
    }
}

impl Profile {
    const fn named((name, classes): (&'static str, &'static [Class])) -> Self {
        Self { name, classes }
    }

    /// `auto` is `backup` in a confidential guest and `full` elsewhere.
    pub(crate) fn find(wanted: &ProfileName, system: &System) -> Result<Self, Diagnostic> {
        let name = match wanted.0.as_str() {
            "auto" if confidential::technology(system).is_some() => "backup",
            "auto" => "full",
            name => name,
        };
        let found = PROFILES.into_iter().find(|(known, _)| *known == name);
        found.map(Self::named).ok_or_else(|| {
            let mut remedy = format!("choose {}", NAMES.join(", "));
            if let Some(question) = did_you_mean(name, NAMES.iter().copied()) {
                remedy = format!("{question} {remedy}");
            }
            Diagnostic::new("profile", format!("unknown profile '{name}'"), remedy)
        })
    }

    /// The agent gives up the rights that this profile does not need.
    pub(crate) fn is_confined(self) -> bool {
        self.name == "backup"
    }

    pub(super) fn allows(self, command: &Command) -> bool {
        self.classes.contains(&command.class) || ESSENTIAL.contains(&command.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{all, find};

    fn profile(name: &str) -> Profile {
        Profile::find(&ProfileName(name.into()), &System::host()).unwrap()
    }

    #[test]
    fn the_names_are_those_of_the_table_and_auto() {
        let table = PROFILES.map(|(name, _)| name);
        assert_eq!([&table[..], &["auto"]].concat(), NAMES);
        assert_eq!(ProfileName::default().0, Profile::default().name);
    }

    #[test]
    fn each_profile_allows_its_classes_and_what_every_client_needs() {
        for (name, classes) in PROFILES {
            for command in all() {
                let is_essential = ESSENTIAL.contains(&command.name);
                assert_eq!(
                    profile(name).allows(command),
                    classes.contains(&command.class) || is_essential,
                    "{name}: {}",
                    command.name
                );
            }
        }
        for name in ESSENTIAL {
            assert_eq!(find(name).unwrap().class, Class::Query, "{name}");
        }
    }

    /// Repeated on purpose: a command in the wrong class is open to a host that must not have it.
    #[test]
    fn exactly_these_commands_change_nothing() {
        let found = all().iter().filter(|command| command.class == Class::Query);
        let found: Vec<&str> = found.map(|command| command.name).collect();
        let documented = [
            "guest-sync-delimited",
            "guest-sync",
            "guest-ping",
            "guest-get-time",
            "guest-info",
            "guest-network-get-interfaces",
            "guest-get-vcpus",
            "guest-get-disks",
            "guest-get-fsinfo",
            "guest-get-memory-blocks",
            "guest-get-memory-block-info",
            "guest-get-host-name",
            "guest-get-users",
            "guest-get-timezone",
            "guest-get-osinfo",
            "guest-get-diskstats",
            "guest-get-cpustats",
            "guest-get-load",
            "guest-network-get-route",
            "x-guest-get-memory",
        ];
        assert_eq!(found, documented);
    }

    #[test]
    fn an_unknown_name_is_an_error_that_names_the_choices() {
        let error = |name: &str| {
            let error = Profile::find(&ProfileName(name.into()), &System::host());
            error.unwrap_err().to_string()
        };
        assert_eq!(
            error("bakcup"),
            "profile: unknown profile 'bakcup'; did you mean 'backup'? choose full, no-exec, query, backup, auto"
        );
        assert_eq!(
            error(""),
            "profile: unknown profile ''; choose full, no-exec, query, backup, auto"
        );
        assert!(error("Backup").starts_with("profile: unknown profile 'Backup'"));
    }

    #[test]
    fn auto_is_backup_in_a_confidential_guest_alone() {
        let root = tempfile::tempdir().unwrap();
        let auto = || {
            let system = System::at(root.path()).unwrap();
            Profile::find(&ProfileName("auto".into()), &system).map(|found| found.name)
        };
        assert_eq!(auto(), Ok("full"));
        std::fs::create_dir(root.path().join("dev")).unwrap();
        std::fs::write(root.path().join("dev/sev-guest"), "").unwrap();
        assert_eq!(auto(), Ok("backup"));
    }

    fn words(classes: &[Class]) -> String {
        let words: Vec<String> = classes
            .iter()
            .map(|class| format!("{class:?}").to_lowercase())
            .collect();
        words.join(", ")
    }

    #[test]
    fn the_documented_tables_are_these() {
        let text = include_str!("../../xtask/pages/configuration.md");
        let (_, text) = text.split_once("### Profiles").unwrap();
        let rows = text.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            Some((cells.next()?, cells.next()?.trim_end_matches(" |")))
        });
        let rows: Vec<(&str, &str)> = rows.collect();
        let row = |name: &str| {
            let found = rows.iter().find(|(first, _)| *first == name);
            found.unwrap_or_else(|| panic!("no row for {name}")).1
        };
        for (name, classes) in PROFILES {
            assert_eq!(row(&format!("`{name}`")), words(classes), "{name}");
        }
        for command in all() {
            let listed = row(&words(&[command.class]));
            let mut patterns = listed.split(", ").map(|pattern| pattern.trim_matches('`'));
            let is_meant = |pattern: &str| match pattern.strip_suffix('*') {
                Some(start) => command.name.starts_with(start),
                None => command.name == pattern,
            };
            let name = command.name;
            assert!(
                ESSENTIAL.contains(&name) || patterns.any(is_meant),
                "{name} is not in the row of its class in xtask/pages/configuration.md"
            );
        }
    }
}
