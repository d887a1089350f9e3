//! Which commands are allowed: the profile and the administrator's lists, and while frozen a fixed list. Floor 4.
//!
//! The dispatcher asks before each command, and guest-info shows the same answer. The lists come from `--allow-rpcs` and
//! `--block-rpcs`; the fixed list is [`Command::while_frozen`].

use super::Command;
use super::profile::Profile;
use crate::diagnostic::{Diagnostic, did_you_mean};

/// Commands of other systems' agents, which lists for all guests name: RHEL 10's has Windows' guest-get-devices.
const FOREIGN_COMMANDS: [&str; 1] = ["guest-get-devices"];

/// The names of the list `key` that mean no command.
pub fn unknown_names<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Vec<Diagnostic> {
    let known = || super::all().iter().map(|command| command.name);
    // An empty entry comes of a comma too many, and allows or blocks nothing.
    let is_known = |name: &str| {
        name.is_empty() || super::find(name).is_some() || FOREIGN_COMMANDS.contains(&name)
    };
    let unknown = names.filter(|name| !is_known(name));
    unknown
        .map(|name| {
            let remedy = did_you_mean(name, known())
                .unwrap_or_else(|| "run \"qemu-ga -b help\" for a list".into());
            Diagnostic::new(key, format!("unknown command '{name}'"), remedy)
        })
        .collect()
}

/// The administrator's, whose names are compared literally.
#[derive(Debug, Default, Clone)]
pub struct AccessPolicy {
    profile: Profile,
    allow: Vec<String>,
    block: Vec<String>,
}

impl AccessPolicy {
    /// An empty `allow` allows every command.
    pub fn new(profile: Profile, allow: Vec<String>, block: Vec<String>) -> Self {
        Self {
            profile,
            allow,
            block,
        }
    }

    /// The strictest decides: a command must be in the profile and in the list of allowed commands, if there is one, and
    /// not in that of blocked ones. While frozen none of them has an effect: a blocked guest-fsfreeze-thaw would leave
    /// the guest frozen.
    pub fn allows(&self, command: &Command, frozen: bool) -> bool {
        if frozen {
            return command.while_frozen;
        }
        let listed = |list: &[String]| list.iter().any(|name| name == command.name);
        self.profile.allows(command)
            && (self.allow.is_empty() || listed(&self.allow))
            && !listed(&self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::find;
    use crate::commands::profile::{PROFILES, ProfileName};
    use crate::probe::System;

    fn policy_of(profile: &str, allow: &[&str], block: &[&str]) -> AccessPolicy {
        let list = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        let profile = ProfileName(profile.to_owned());
        let profile = Profile::find(&profile, &System::host()).unwrap();
        AccessPolicy::new(profile, list(allow), list(block))
    }

    fn policy(allow: &[&str], block: &[&str]) -> AccessPolicy {
        policy_of("full", allow, block)
    }

    #[test]
    fn names_that_mean_no_command() {
        let check = |name: &str| unknown_names("block-rpcs", [name].into_iter());
        assert_eq!(check("guest-ping"), []);
        assert_eq!(check("guest-get-devices"), []);
        let unknown = &check("guest-pnig")[0];
        assert_eq!(unknown.why, "unknown command 'guest-pnig'");
        assert_eq!(unknown.remedy, "did you mean 'guest-ping'?");
        assert!(check("x")[0].remedy.contains("-b help"));
    }

    #[test]
    fn block_wins_over_allow_and_frozen_over_both() {
        let ping = find("guest-ping").unwrap();
        let time = find("guest-get-time").unwrap();
        assert!(policy(&[], &[]).allows(ping, false));
        assert!(!policy(&["guest-info"], &[]).allows(ping, false));
        assert!(policy(&["guest-ping"], &[]).allows(ping, false));
        assert!(!policy(&["guest-ping"], &["guest-ping"]).allows(ping, false));
        assert!(!policy(&["", "guest-info"], &[]).allows(ping, false));
        assert!(policy(&["guest-info"], &["guest-ping"]).allows(ping, true));
        assert!(!policy(&[], &[]).allows(time, true));
    }

    /// Every combination of the three, for a command that the profile has and one that it lacks.
    #[test]
    fn the_strictest_of_profile_and_lists_decides() {
        for (profile, _) in PROFILES {
            let alone = policy_of(profile, &[], &[]);
            for name in ["guest-exec", "guest-fsfreeze-freeze", "guest-get-time"] {
                let command = find(name).unwrap();
                let in_profile = alone.allows(command, false);
                for allow in [&[][..], &[name], &["guest-ping"]] {
                    for block in [&[][..], &[name], &["guest-ping"]] {
                        let listed = allow.is_empty() || allow.contains(&name);
                        let expected = in_profile && listed && !block.contains(&name);
                        let policy = policy_of(profile, allow, block);
                        assert_eq!(
                            policy.allows(command, false),
                            expected,
                            "{profile} {name} {allow:?} {block:?}"
                        );
                        assert!(!policy.allows(command, true), "{profile} {name}");
                    }
                }
            }
            let thaw = find("guest-fsfreeze-thaw").unwrap();
            assert!(alone.allows(thaw, true), "{profile}: a freeze is thawed");
        }
    }
}
