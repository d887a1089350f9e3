//! Which commands are allowed: the administrator's lists, and while frozen a fixed list. Floor 4.
//!
//! The dispatcher asks before each command, and guest-info shows the same answer. The lists come from `--allow-rpcs` and
//! `--block-rpcs`; the fixed list is [`Command::while_frozen`].

use super::Command;

/// The administrator's lists. Names are compared literally; a name that no command has is not an error, because one
/// configuration serves agents of several versions.
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

    /// Whether `command` may run. While frozen the lists have no effect: a blocked guest-fsfreeze-thaw would leave the guest
    /// frozen.
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
