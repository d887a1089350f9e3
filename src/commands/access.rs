//! Which commands are allowed: the administrator's lists, and while frozen the fixed one.

use super::Command;
use crate::diagnostic::{Diagnostic, did_you_mean};

/// Commands that agents of other systems have. A list that is deployed to all guests names them, and they mean nothing
/// here: RHEL 10's list has the first, which is Windows' alone.
const FOREIGN_COMMANDS: [&str; 1] = ["guest-get-devices"];

/// The names of a list that mean no command, each with what to do.
pub fn unknown_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Diagnostic> {
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
            Diagnostic::new("", format!("unknown command '{name}'"), remedy)
        })
        .collect()
}

/// The administrator's lists, whose names are compared literally.
#[derive(Debug, Default, Clone)]
pub struct AccessPolicy {
    allow: Vec<String>,
    block: Vec<String>,
}

impl AccessPolicy {
    /// A list without entries does not exist: an empty `allow` allows everything.
    pub fn new(allow: Vec<String>, block: Vec<String>) -> Self {
        Self { allow, block }
    }

    /// Whether `command` may run. While frozen the lists do not count, so that nobody can lock
    /// himself out of the thaw.
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
        let check = |name: &str| unknown_names([name].into_iter());
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
