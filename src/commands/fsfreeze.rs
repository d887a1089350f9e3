//! The freeze family.

use super::{Command, CommandResult, Context, Waiting, answer};
use crate::freeze::report::Report;
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::error::CommandError;
use crate::protocol::text;
use crate::protocol::value::Dict;
use serde::{Deserialize, Serialize};

pub(super) const COMMANDS: &[Command] = &[
    Command::now(14, "guest-fsfreeze-status", |context, arguments| {
        let NoArguments {} = decode(arguments)?;
        answer(if context.freezer.is_frozen() {
            "frozen"
        } else {
            "thawed"
        })
    })
    .also_frozen(),
    Command::later(15, "guest-fsfreeze-freeze", |context, arguments| {
        Box::pin(async move {
            let NoArguments {} = decode(arguments)?;
            freeze(context, None).await
        })
    })
    .interruptible(),
    Command::later(16, "guest-fsfreeze-freeze-list", freeze_list).interruptible(),
    Command::later(17, "guest-fsfreeze-thaw", |context, arguments| {
        Box::pin(async move {
            let NoArguments {} = decode(arguments)?;
            counted(context.freezer.thaw().await)
        })
    })
    .also_frozen()
    .interruptible(),
    Command::later(1000, "x-guest-fsfreeze-report", |context, arguments| {
        Box::pin(async move {
            let NoArguments {} = decode(arguments)?;
            answer(Reports {
                reports: context
                    .freezer
                    .reports()
                    .await
                    .map_err(|e| CommandError::generic(e.to_string()))?,
            })
        })
    })
    .also_frozen(),
];

/// The last runs, the newest first; while frozen the run at work before them.
#[derive(Serialize)]
struct Reports {
    reports: Vec<Report>,
}

#[derive(Deserialize)]
struct FreezeList {
    mountpoints: Option<Vec<String>>,
}

fn freeze_list(context: &mut Context, arguments: Dict) -> Waiting<'_> {
    Box::pin(async move {
        let FreezeList { mountpoints } = decode(arguments)?;
        let bytes = |names: Vec<String>| names.iter().map(|n| text::to_os_bytes(n)).collect();
        freeze(context, mountpoints.map(bytes)).await
    })
}

async fn freeze(context: &Context, only: Option<Vec<Vec<u8>>>) -> CommandResult {
    tracing::info!(target: crate::AUDIT, "guest-fsfreeze called");
    counted(context.freezer.freeze(only).await)
}

fn counted(result: Result<u64, crate::freeze::FreezeError>) -> CommandResult {
    match result {
        Ok(count) => answer(count),
        Err(error) => Err(CommandError::generic(error.to_string())),
    }
}
