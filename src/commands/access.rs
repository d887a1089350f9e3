//! Which commands are allowed: the administrator's lists, and while frozen the fixed one.

use super::Command;

/// The administrator's lists. Names are compared literally; unknown ones do no harm.
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
