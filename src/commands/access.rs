//! Which commands are allowed: the administrator's lists, and while frozen a fixed list. Floor 4.
//!
//! The dispatcher asks before each command, and guest-info shows the same answer. The lists come from `--allow-rpcs` and
//! `--block-rpcs`; the fixed list is [`Command::while_frozen`].

use super::Command;
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
    allow: Vec<String>,
    block: Vec<String>,
}

impl AccessPolicy {
    /// An empty `allow` allows every command.
    pub fn new(allow: Vec<String>, block: Vec<String>) -> Self {
        Self { allow, block }
    }

    /// While frozen the lists have no effect: a blocked guest-fsfreeze-thaw would leave the guest frozen.
    pub fn allows(&self, command: &Command, frozen: bool) -> bool {
        if frozen {
            return command.while_frozen;
        }
        let listed = |list: &[String]| list.iter().any(|name| name == command.name);
        (self.allow.is_empty() || listed(&self.allow)) && !listed(&self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::find;

    fn policy(allow: &[&str], block: &[&str]) -> AccessPolicy {
        let list = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        AccessPolicy::new(list(allow), list(block))
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
}
