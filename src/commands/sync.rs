//! Floor 4: guest-sync, guest-sync-delimited, guest-ping and guest-info.
//!
//! What a host sends before anything else. All of it works while frozen and takes no time. A guest-sync also tells the
//! session that its client stopped waiting for an earlier request ([`is_sync`], [`reply`]): it is answered while an
//! interruptible request still runs, so it must not need the context.

use super::{Answer, Class, Command, CommandResult, Context, all, answer, empty};
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::request::Request;
use crate::protocol::value::Dict;
use crate::version::PROTOCOL_VERSION;
use serde::{Deserialize, Serialize};

pub(super) const COMMANDS: &[Command] = &[
    Command::now(1, DELIMITED, Class::Query, |_, arguments| {
        delimited(arguments)
    })
    .also_frozen(),
    Command::now(2, PLAIN, Class::Query, |_, arguments| plain(arguments)).also_frozen(),
    Command::now(3, "guest-ping", Class::Query, |_, arguments| {
        let NoArguments {} = decode(arguments)?;
        ping()
    })
    .also_frozen(),
    Command::now(6, "guest-info", Class::Query, |context, arguments| {
        let NoArguments {} = decode(arguments)?;
        answer(info(context))
    })
    .also_frozen(),
];

const PLAIN: &str = "guest-sync";
const DELIMITED: &str = "guest-sync-delimited";

#[derive(Deserialize)]
struct Id {
    id: i64,
}

fn plain(arguments: Dict) -> CommandResult {
    let Id { id } = decode(arguments)?;
    answer(id)
}

fn delimited(arguments: Dict) -> CommandResult {
    let Id { id } = decode(arguments)?;
    Ok(Answer::Delimited(id.into()))
}

/// Whether the command is answered while an interruptible one runs.
pub fn is_sync(name: &str) -> bool {
    name == PLAIN || name == DELIMITED
}

/// The answer to a request for which [`is_sync`] holds.
pub fn reply(request: Request) -> CommandResult {
    if request.execute == DELIMITED {
        delimited(request.arguments)
    } else {
        plain(request.arguments)
    }
}

fn ping() -> CommandResult {
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

/// The last registered first, as in the original's reply.
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
