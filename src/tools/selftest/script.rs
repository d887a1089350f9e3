//! The steps of the selftest, in order. The first that fails ends it. Whatever fails, the filesystems are thawed before
//! the writer is waited for.

use super::client::Client;
use super::rig::{Agent, Filesystems, HOOK_LOG, MOUNTPOINTS};
use super::sandbox;
use super::transcript::Transcript;
use super::writer::Writer;
use crate::freeze::report::FilesystemOutcome;
use crate::hooks::log::LogLine;
use crate::hooks::{HookStatus, Phase};
use anyhow::{Context, ensure};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Long enough to see that writes block.
const HOLD_TIME: Duration = Duration::from_secs(1);
const WRITER_RESUME_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn run(transcript: &mut Transcript) -> anyhow::Result<()> {
    transcript.step("private mount namespace, no real filesystem in it", || {
        sandbox::enter(None)
    })?;
    let _filesystems =
        transcript.step("two ext4 filesystems made, loop-mounted", Filesystems::make)?;
    let agent = transcript.step("agent started on a unix socket", Agent::start)?;
    let mut client = transcript.step("guest-ping replied", || {
        let mut client = Client::connect(Agent::socket())?;
        client.call("guest-ping")?;
        Ok(client)
    })?;
    let writer = transcript.step("writer started", || {
        let file = Path::new(MOUNTPOINTS[1]).join("writer");
        let writer = Writer::start(&file)?;
        ensure!(writer.resumes(WRITER_RESUME_TIMEOUT), "no write returned");
        Ok(writer)
    })?;
    let result = freeze_and_thaw(transcript, &mut client, &writer);
    if result.is_err() {
        // The writer is waited for below, and it must not be blocked then.
        client.call("guest-fsfreeze-thaw").ok();
    }
    transcript.agent_log = fs::read_to_string(Agent::log()).unwrap_or_default();
    result?;
    transcript.writer_stood_still = Some(writer.stop()?.as_secs_f64());
    transcript.step("agent ended by SIGTERM", || agent.stop())?;
    transcript.step("hooks ran before the freeze and after the thaw", || {
        check_hooks(HOOK_LOG)
    })?;
    transcript.hook_log = fs::read_to_string(HOOK_LOG)?
        .lines()
        .map(str::to_owned)
        .collect();
    transcript.report = Some(Agent::report()?);
    Ok(())
}

fn freeze_and_thaw(
    transcript: &mut Transcript,
    client: &mut Client,
    writer: &Writer,
) -> anyhow::Result<()> {
    let all = json!(MOUNTPOINTS.len());
    transcript.step("guest-fsfreeze-freeze returned 2", || {
        let count = client.call("guest-fsfreeze-freeze")?;
        ensure!(count == all, "it returned {count}");
        Ok(())
    })?;
    transcript.step("a write blocks", || {
        // The write that was in progress at the freeze may still return.
        std::thread::sleep(Duration::from_millis(20));
        let before = writer.writes();
        std::thread::sleep(HOLD_TIME);
        let more = writer.writes() - before;
        ensure!(more == 0, "{more} writes returned");
        Ok(())
    })?;
    transcript.step("status is frozen, other commands are refused", || {
        let status = client.call("guest-fsfreeze-status")?;
        ensure!(status == "frozen", "status is {status}");
        let text = client.refused("guest-get-time")?;
        ensure!(text.contains("has been disabled"), "the error is: {text}");
        Ok(())
    })?;
    transcript.step("guest-fsfreeze-thaw returned 2", || {
        let count = client.call("guest-fsfreeze-thaw")?;
        ensure!(count == all, "it returned {count}");
        Ok(())
    })?;
    transcript.step("writes return again", || {
        ensure!(writer.resumes(WRITER_RESUME_TIMEOUT), "no write returned");
        Ok(())
    })
}

/// Each hook ran twice, in the documented order, with status 0, and while the filesystems were writable.
fn check_hooks(log: &str) -> anyhow::Result<()> {
    let text =
        fs::read_to_string(log).with_context(|| format!("cannot read the hook log {log}"))?;
    let ends = text
        .lines()
        .filter(|line| {
            let read = LogLine::parse(line);
            matches!(read, Some((_, LogLine::Finished { status: 0, .. })))
        })
        .count();
    ensure!(
        ends == 4,
        "the hook log has {ends} hooks with status 0 instead of 4:\n{text}"
    );
    let wrote = fs::read_to_string("/srv/data/hook-wrote").context("no hook wrote")?;
    ensure!(
        wrote == "freeze hook\nthaw hook\n",
        "the hook wrote {wrote:?}"
    );
    let report = Agent::report()?;
    let order: Vec<(Phase, &str)> = report
        .hooks
        .iter()
        .map(|hook| {
            let name = hook.path.rsplit('/').next().unwrap_or_default();
            (hook.phase, &name[..2.min(name.len())])
        })
        .collect();
    let expected = [
        (Phase::Freeze, "10"),
        (Phase::Freeze, "20"),
        (Phase::Thaw, "20"),
        (Phase::Thaw, "10"),
    ];
    ensure!(
        order == expected,
        "the hooks ran in another order; the hook log has:\n{text}"
    );
    ensure!(
        report
            .hooks
            .iter()
            .all(|hook| hook.status == HookStatus::Exited(0)),
        "a hook failed; the hook log has:\n{text}"
    );
    let frozen: Vec<&str> = report
        .filesystems
        .iter()
        .filter(|f| f.outcome == FilesystemOutcome::Thawed)
        .map(|f| f.mountpoint.as_str())
        .collect();
    ensure!(
        frozen == [MOUNTPOINTS[1], MOUNTPOINTS[0]],
        "frozen in the order {frozen:?}"
    );
    Ok(())
}
