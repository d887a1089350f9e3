//! Floor 4: the commands, one file per domain.
//!
//! Each domain has a table of [`Command`]s; [`all`] joins them in the upstream order of registration. The dispatcher
//! (`agent::dispatch`), guest-info, `-b help`, the allow and block lists, completion and the list of what works while
//! frozen are all made of this table. A handler decodes its arguments before it does anything else, and returns a reply or
//! an error; it never writes to the channel itself. CONTRIBUTING.md says how to add a command.

pub(crate) mod access;
mod cpu;
mod disk;
pub(crate) mod exec;
pub(crate) mod file;
mod fs;
mod fsfreeze;
mod fstrim;
mod info;
mod memory;
mod network;
mod password;
mod power;
mod pressure;
pub(crate) mod profile;
mod ssh;
pub(crate) mod sync;
mod time;
mod users;
mod worker;

use crate::child::Child;
use crate::freeze::Freezer;
use crate::freeze::snapshot::SnapshotFile;
use crate::probe;
use crate::protocol::error::CommandError;
use crate::protocol::value::{Dict, Value, to_value};
use access::AccessPolicy;
use profile::Class;
use serde::Serialize;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;

/// It outlives every channel.
pub(crate) struct Context {
    pub(crate) freezer: Freezer,
    pub(crate) policy: AccessPolicy,
    pub(crate) files: file::Files,
    pub(crate) children: exec::Children,
    /// `None`: it is switched off.
    pub(crate) snapshot: Option<SnapshotFile>,
}

#[derive(Debug)]
pub(crate) enum Answer {
    /// `{"return": …}`.
    Value(Value),
    /// The same after a 0xFF byte (guest-sync-delimited).
    Delimited(Value),
    /// No reply on success (guest-shutdown and the suspend commands).
    NoReply,
}

pub(crate) type CommandResult = Result<Answer, CommandError>;

pub(crate) type CommandFuture<'a> = Pin<Box<dyn Future<Output = CommandResult> + 'a>>;

#[derive(Clone, Copy)]
pub(crate) enum Handler {
    /// Within the session's task; must not block.
    Now(fn(&mut Context, Dict) -> CommandResult),
    /// Awaited; signals are handled meanwhile.
    Later(for<'a> fn(&'a mut Context, Dict) -> CommandFuture<'a>),
}

/// One command.
#[derive(Clone, Copy)]
pub struct Command {
    /// Place in the upstream order of registration, from 1; ours follow from 1000.
    pub(crate) position: u16,
    /// Name on the wire.
    pub name: &'static str,
    /// What the host can do with it.
    pub class: Class,
    /// It works while filesystems are frozen.
    pub while_frozen: bool,
    /// Success is answered.
    pub answers: bool,
    /// A guest-sync that arrives while it runs is answered before it.
    pub(crate) interruptible: bool,
    pub(crate) handler: Handler,
}

impl Command {
    const fn new(position: u16, name: &'static str, class: Class, handler: Handler) -> Self {
        Self {
            position,
            name,
            class,
            while_frozen: false,
            answers: true,
            interruptible: false,
            handler,
        }
    }

    const fn now(
        position: u16,
        name: &'static str,
        class: Class,
        handler: fn(&mut Context, Dict) -> CommandResult,
    ) -> Self {
        Self::new(position, name, class, Handler::Now(handler))
    }

    const fn later(
        position: u16,
        name: &'static str,
        class: Class,
        handler: for<'a> fn(&'a mut Context, Dict) -> CommandFuture<'a>,
    ) -> Self {
        Self::new(position, name, class, Handler::Later(handler))
    }

    /// May take minutes: the client may stop waiting and send a guest-sync.
    const fn interruptible(self) -> Self {
        Self {
            interruptible: true,
            ..self
        }
    }

    /// The command must not write to any filesystem, or it blocks until a thaw that it keeps from coming.
    const fn also_frozen(self) -> Self {
        Self {
            while_frozen: true,
            ..self
        }
    }

    /// The guest shuts down, or answers only after it resumes.
    const fn without_reply(self) -> Self {
        Self {
            answers: false,
            ..self
        }
    }
}

/// Every command, in the order of registration.
pub fn all() -> &'static [Command] {
    static ALL: LazyLock<Vec<Command>> = LazyLock::new(|| {
        let tables = [
            sync::COMMANDS,
            fsfreeze::COMMANDS,
            info::COMMANDS,
            fs::COMMANDS,
            file::COMMANDS,
            exec::COMMANDS,
            power::COMMANDS,
            time::COMMANDS,
            fstrim::COMMANDS,
            network::COMMANDS,
            cpu::COMMANDS,
            memory::COMMANDS,
            pressure::COMMANDS,
            disk::COMMANDS,
            users::COMMANDS,
            password::COMMANDS,
            ssh::COMMANDS,
        ];
        let mut all = tables.concat();
        // guest-info and -b help list them in this order.
        all.sort_unstable_by_key(|command| command.position);
        all
    });
    &ALL
}

/// The command of that exact name.
pub fn find(name: &str) -> Option<&'static Command> {
    all().iter().find(|command| command.name == name)
}

fn answer(reply: impl Serialize) -> CommandResult {
    Ok(Answer::Value(to_value(&reply)))
}

fn empty() -> CommandResult {
    Ok(Answer::Value(Value::Object(Dict::default())))
}

/// `CALL("PATH"): REASON`, as the original's.
fn probe_error(error: probe::Error) -> CommandError {
    let probe::Error { call, path, source } = error;
    let reason = crate::sys::strerror(&source);
    CommandError::generic(format!("{call}(\"{}\"): {reason}", path.display()))
}

/// The helper's output is the error text if it fails to do `action`.
fn run_helper(child: Child, action: &str) -> Result<(), CommandError> {
    let outcome = child
        .run()
        .map_err(|error| CommandError::generic(error.text(action)))?;
    outcome
        .failure(action)
        .map_or(Ok(()), |text| Err(CommandError::generic(text)))
}

#[cfg(test)]
fn reply_line(reply: impl Serialize) -> String {
    let mut line = Vec::new();
    crate::protocol::reply::write(&mut line, None, Ok(&to_value(&reply)), false);
    String::from_utf8(line).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// For Linux in the order of registration (QEMU's qga/qapi-schema.json; unchanged from 10.0 to 11.1).
    const UPSTREAM: [&str; 43] = [
        "guest-sync-delimited",
        "guest-sync",
        "guest-ping",
        "guest-get-time",
        "guest-set-time",
        "guest-info",
        "guest-shutdown",
        "guest-file-open",
        "guest-file-close",
        "guest-file-read",
        "guest-file-write",
        "guest-file-seek",
        "guest-file-flush",
        "guest-fsfreeze-status",
        "guest-fsfreeze-freeze",
        "guest-fsfreeze-freeze-list",
        "guest-fsfreeze-thaw",
        "guest-fstrim",
        "guest-suspend-disk",
        "guest-suspend-ram",
        "guest-suspend-hybrid",
        "guest-network-get-interfaces",
        "guest-get-vcpus",
        "guest-set-vcpus",
        "guest-get-disks",
        "guest-get-fsinfo",
        "guest-set-user-password",
        "guest-get-memory-blocks",
        "guest-set-memory-blocks",
        "guest-get-memory-block-info",
        "guest-exec-status",
        "guest-exec",
        "guest-get-host-name",
        "guest-get-users",
        "guest-get-timezone",
        "guest-get-osinfo",
        "guest-ssh-get-authorized-keys",
        "guest-ssh-add-authorized-keys",
        "guest-ssh-remove-authorized-keys",
        "guest-get-diskstats",
        "guest-get-cpustats",
        "guest-get-load",
        "guest-network-get-route",
    ];

    #[test]
    fn positions_are_those_of_the_upstream_list() {
        for command in all() {
            let (name, position) = (command.name, usize::from(command.position));
            if name.starts_with("x-") {
                assert!(
                    position >= 1000,
                    "{name}: a command of our own takes the next free position from 1000"
                );
                continue;
            }
            assert_eq!(
                UPSTREAM.get(position - 1),
                Some(&name),
                "{name} at {position}: a command of upstream's schema takes its position there (UPSTREAM in \
                 src/commands/mod.rs, to be extended by commands that are new upstream); another is called x-guest-…"
            );
        }
        for pair in all().windows(2) {
            let [first, second] = [pair[0], pair[1]];
            assert_ne!(
                first.position, second.position,
                "{} and {} have the same position",
                first.name, second.name
            );
        }
    }

    fn names(which: fn(&Command) -> bool) -> Vec<&'static str> {
        all()
            .iter()
            .filter(|&command| which(command))
            .map(|command| command.name)
            .collect()
    }

    #[test]
    fn exactly_the_documented_commands_have_no_reply() {
        let documented = [
            "guest-shutdown",
            "guest-suspend-disk",
            "guest-suspend-ram",
            "guest-suspend-hybrid",
        ];
        assert_eq!(
            names(|command| !command.answers),
            documented,
            "a client waits for a reply until its timeout if this is wrong, so the list is repeated on purpose: here, in \
             SILENT of tests/integration/info.rs and in tests/vm/checks/acceptance_replies.py"
        );
    }

    #[test]
    fn exactly_the_documented_commands_work_while_frozen() {
        let documented = [
            "guest-sync-delimited",
            "guest-sync",
            "guest-ping",
            "guest-info",
            "guest-fsfreeze-status",
            "guest-fsfreeze-thaw",
            "x-guest-fsfreeze-report",
        ];
        assert_eq!(
            names(|command| command.while_frozen),
            documented,
            "a command that writes to a frozen filesystem blocks until the thaw, so the list is repeated on purpose: add a \
             command with also_frozen() here, in src/commands/mod.rs, if it writes to no filesystem and no log"
        );
    }

    /// Without the lists of guest-info, which have every name.
    fn tests_of(folder: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests")
            .join(folder);
        let files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        let lines: Vec<String> = texts
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .filter(|line| !line.contains("supported_commands"))
            .collect();
        lines.join("\n")
    }

    #[test]
    fn every_command_is_tested_over_the_wire_and_our_own_are_in_compat() {
        let tests = tests_of("integration") + &tests_of("compliance/cases");
        let compat = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/COMPAT.md");
        let compat = std::fs::read_to_string(compat).unwrap();
        for Command { name, .. } in all() {
            assert!(
                tests.contains(&format!("\"{name}\"")),
                "no test sends {name}: add a test to tests/integration/, and a case to tests/compliance/cases/ if the \
                 original has the command"
            );
            assert!(
                !name.starts_with("x-") || compat.contains(&format!("`{name}`")),
                "docs/COMPAT.md does not mention {name}: add a row, as the original does not have it"
            );
        }
    }
}
