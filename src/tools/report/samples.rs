//! A report with every member set. The test of docs/json.md calls this.

use super::runs::Runs;
use crate::freeze::report::{
    Applications, DeviceWatch, FilesystemOutcome, FilesystemRecord, Hold, Level, NotFrozen, Report,
    RunEnd, Stages,
};
use crate::hooks::{HookRecord, HookStatus, Phase, Verdict};
use crate::state::Expiry;
use crate::tools::output;

pub(in crate::tools) fn full_report() -> Report {
    let text = || "x".to_owned();
    let filesystem = full_filesystem();
    let statuses = [
        HookStatus::Exited(1),
        HookStatus::Signaled(9),
        HookStatus::Skipped(text()),
        HookStatus::cannot_run(text()),
        HookStatus::TimedOut,
        HookStatus::Cancelled,
    ];
    let hook = |status| HookRecord {
        elapsed: 0.5,
        output: text(),
        source: text(),
        tries: Some(2),
        verdict: Some(Verdict::NotApplicable),
        error: Some(text()),
        lost: true,
        tags: ["none", "crash", "filesystem", "application"]
            .map(|level| (level.to_owned(), text()))
            .into(),
        ..HookRecord::new(text(), Phase::Thaw, status)
    };
    Report {
        id: text(),
        started: 1.5,
        requested: Some(vec![text()]),
        requested_not_frozen: vec![NotFrozen {
            mountpoint: text(),
            reason: text(),
            writable: true,
        }],
        level: Level::Crash,
        level_reasons: vec![text()],
        end: Some(RunEnd::Expiry),
        ended_because: Some(Expiry::HOLD_LIMIT.into()),
        applications: Applications::Quiet,
        applications_seconds: 1.0,
        filesystems_seconds: 1.0,
        filesystems: vec![filesystem.clone()],
        skipped: vec![filesystem],
        hooks: statuses.map(hook).to_vec(),
        tags: vec![text()],
        stages: Stages::default(),
        errors: vec![text()],
        write_errors: vec![text()],
        mountpoints: String::new(),
    }
}

fn restored() -> serde_json::Value {
    let restored = crate::freeze::snapshot::sample().restored.unwrap();
    super::restored::value(&restored)
}

fn full_filesystem() -> FilesystemRecord {
    let text = || "x".to_owned();
    FilesystemRecord {
        device: text(),
        outcome: FilesystemOutcome::ThawedByOthers,
        detail: Some(text()),
        freeze_seconds: 0.5,
        optional: true,
        held: Some(Hold::ReadOnly),
        read_only: true,
        watch: Some(DeviceWatch {
            device: (8, 1),
            writes: 2,
        }),
        writable: true,
        ..FilesystemRecord::new(b"/", "ext4")
    }
}

pub(in crate::tools) fn samples() -> Vec<(&'static str, serde_json::Value)> {
    let runs = Runs {
        reports: vec![full_report()],
        work: Some(crate::tools::live::sample()),
    };
    vec![
        ("run", runs.value(0)),
        (
            "qemu-ga report",
            output::named("runs", &vec![runs.value(0)]),
        ),
        ("qemu-ga report --require", super::require::sample()),
        ("qemu-ga report --restored", restored()),
    ]
}
