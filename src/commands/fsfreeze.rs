//! Floor 4: guest-fsfreeze-status, -freeze, -freeze-list and -thaw, and x-guest-fsfreeze-report of our own.
//!
//! Only the wire's side: arguments, replies and the error texts. The freeze itself is [`crate::freeze`]'s, whose thread
//! does the work while the session's task waits here and can be interrupted by a guest-sync.

use super::{Class, Command, CommandFuture, CommandResult, Context, answer, worker};
use crate::freeze::report::Report;
use crate::freeze::restored;
use crate::freeze::snapshot::{Restored, SNAPSHOT_TIMEOUT};
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::error::CommandError;
use crate::protocol::text;
use crate::protocol::value::Dict;
use crate::version::AGENT_VERSION;
use serde::{Deserialize, Serialize};

pub(super) const COMMANDS: &[Command] = &[
    Command::now(
        14,
        "guest-fsfreeze-status",
        Class::Freeze,
        |context, arguments| {
            let NoArguments {} = decode(arguments)?;
            answer(if context.freezer.is_frozen() {
                "frozen"
            } else {
                "thawed"
            })
        },
    )
    .also_frozen(),
    Command::later(
        15,
        "guest-fsfreeze-freeze",
        Class::Freeze,
        |context, arguments| {
            Box::pin(async move {
                let NoArguments {} = decode(arguments)?;
                freeze(context, None).await
            })
        },
    )
    .interruptible(),
    Command::later(16, "guest-fsfreeze-freeze-list", Class::Freeze, freeze_list).interruptible(),
    Command::later(
        17,
        "guest-fsfreeze-thaw",
        Class::Freeze,
        |context, arguments| {
            Box::pin(async move {
                let NoArguments {} = decode(arguments)?;
                counted(context.freezer.thaw().await)
            })
        },
    )
    .also_frozen()
    .interruptible(),
    Command::later(
        1000,
        "x-guest-fsfreeze-report",
        Class::Freeze,
        |context, arguments| {
            Box::pin(async move {
                let NoArguments {} = decode(arguments)?;
                let reports = context.freezer.reports().await;
                answer(Reports {
                    agent_version: AGENT_VERSION,
                    reports: reports.map_err(|e| CommandError::generic(e.to_string()))?,
                    restored: restored(context).await,
                })
            })
        },
    )
    .also_frozen(),
];

/// The newest first; while frozen the present one leads.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Reports {
    agent_version: &'static str,
    reports: Vec<Report>,
    /// The copy from which this machine was started.
    restored: Option<Restored>,
}

/// A file that cannot be used was logged at the start.
async fn restored(context: &Context) -> Option<Restored> {
    let file = context.snapshot.clone()?;
    let read = move || Ok(restored::read(&file).ok().flatten());
    worker::run(SNAPSHOT_TIMEOUT, read).await.ok().flatten()
}

#[derive(Deserialize)]
struct FreezeList {
    mountpoints: Option<Vec<String>>,
}

fn freeze_list(context: &mut Context, arguments: Dict) -> CommandFuture<'_> {
    Box::pin(async move {
        let FreezeList { mountpoints } = decode(arguments)?;
        // A mount point may hold any bytes but NUL; the wire's text has them as UTF-8.
        let bytes = |names: Vec<String>| names.iter().map(|n| text::to_os_bytes(n)).collect();
        freeze(context, mountpoints.map(bytes)).await
    })
}

/// `None`: all mount points.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::reply_line;
    use crate::hooks::{HookRecord, HookStatus, Phase, Verdict};
    use std::time::SystemTime;

    /// The report is also a file, read and written by serde_json: its types have to be those of a reply, too.
    #[test]
    fn a_report_with_every_status_of_a_hook_is_a_reply() {
        let mut report = Report::begin(SystemTime::UNIX_EPOCH);
        let not_run = HookStatus::NotRun {
            status: 126,
            reason: "r".into(),
        };
        for status in [
            HookStatus::Exited(3),
            HookStatus::Signaled(9),
            not_run,
            HookStatus::Skipped("s".into()),
            HookStatus::TimedOut,
            HookStatus::Cancelled,
        ] {
            let mut record = HookRecord::new("/h".into(), Phase::Freeze, status);
            record.elapsed = 0.5;
            record.verdict = Some(Verdict::Failure);
            report.hooks.push(record);
        }
        let line = reply_line(Reports {
            agent_version: AGENT_VERSION,
            reports: vec![report.clone()],
            restored: None,
        });
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let file = serde_json::to_value(&report).unwrap();
        assert_eq!(line["return"]["reports"][0]["hooks"], file["hooks"]);
    }
}
