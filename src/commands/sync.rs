//! Synchronisation, liveness and what the agent is.

use super::{Answer, Command, Context, Outcome, all, answer, empty};
use crate::protocol::arguments::{NoArguments, decode};
use crate::version::PROTOCOL_VERSION;
use serde::{Deserialize, Serialize};

pub(super) const COMMANDS: &[Command] = &[
    Command::now(1, "guest-sync-delimited", |_, arguments| {
        let Id { id } = decode(arguments)?;
        Ok(Answer::Delimited(id.into()))
    })
    .also_frozen(),
    Command::now(2, "guest-sync", |_, arguments| {
        let Id { id } = decode(arguments)?;
        answer(id)
    })
    .also_frozen(),
    Command::now(3, "guest-ping", |_, arguments| {
        let NoArguments {} = decode(arguments)?;
        ping()
    })
    .also_frozen(),
    Command::now(6, "guest-info", |context, arguments| {
        let NoArguments {} = decode(arguments)?;
        answer(info(context))
    })
    .also_frozen(),
];

#[derive(Deserialize)]
struct Id {
    id: i64,
}

fn ping() -> Outcome {
    tracing::info!(target: crate::AUDIT, "guest-ping called");
    empty()
}

#[derive(Serialize)]
struct Info {
    version: &'static str,
    supported_commands: Vec<CommandInfo>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct CommandInfo {
    name: &'static str,
    enabled: bool,
    success_response: bool,
}

/// Every command, the newest first.
fn info(context: &Context) -> Info {
    let frozen = context.freezer.is_frozen();
    let describe = |command: &Command| CommandInfo {
        name: command.name,
        enabled: context.policy.allows(command, frozen),
        success_response: command.answers,
    };
    Info {
        version: PROTOCOL_VERSION,
        supported_commands: all().iter().rev().map(describe).collect(),
    }
}
