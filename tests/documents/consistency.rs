//! docs/consistency.md, held against the code that decides.

use qemu_ga::freeze::report::{
    Applications, DeviceWatch, FilesystemOutcome, FilesystemRecord, Hold, NotFrozen, Report, RunEnd,
};
use qemu_ga::hooks::invoke::MasterReport;
use qemu_ga::hooks::{HookRecord, HookStatus, Phase, Verdict};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

fn record(outcome: FilesystemOutcome) -> FilesystemRecord {
    FilesystemRecord {
        outcome,
        ..FilesystemRecord::new(b"/data", "ext4")
    }
}

fn skipped(writable: bool) -> FilesystemRecord {
    FilesystemRecord {
        writable,
        ..record(FilesystemOutcome::Skipped)
    }
}

fn hook(status: HookStatus) -> HookRecord {
    HookRecord::new(
        "/etc/qemu/fsfreeze-hook.d/10-db".into(),
        Phase::Freeze,
        status,
    )
}

/// A run in which all is well: one filesystem, one hook.
fn good(hooks: Vec<HookRecord>, is_ours: bool) -> Report {
    let mut report = Report::begin(SystemTime::now());
    let root = record(FilesystemOutcome::Frozen);
    report.filesystems = vec![root];
    let master = MasterReport {
        failure: None,
        hooks,
        elapsed: Duration::ZERO,
        leaves_filesystems: false,
        is_ours,
    };
    report.hooks(Phase::Freeze, &master);
    report
}

/// The case as a run; `None`: the table has a case of which nothing is known here.
fn run(case: &str) -> Option<Report> {
    let exited = || hook(HookStatus::Exited(0));
    let not_applicable = || {
        let mut hook = hook(HookStatus::Exited(77));
        hook.verdict = Some(Verdict::NotApplicable);
        hook
    };
    let mut report = good(vec![exited()], true);
    let mut end = RunEnd::Thaw;
    let watch = Some(DeviceWatch {
        device: (8, 1),
        writes: 1,
    });
    match case {
        "frozen" | "succeeded" | "thawed by the host" | "not named" | "switched off" => {}
        "unchanged" => report.filesystems.push(FilesystemRecord {
            watch,
            ..skipped(false)
        }),
        "written" | "uncounted" | "covered" | "hidden" | "no directory" | "frozen by others" => {
            report.filesystems.push(skipped(false));
        }
        "read-only" | "hidden read-only" => report.filesystems.push(FilesystemRecord {
            read_only: true,
            ..skipped(false)
        }),
        "excluded" => report.skipped.push(skipped(false)),
        "optional" => report.filesystems.push(FilesystemRecord {
            optional: true,
            ..record(FilesystemOutcome::Failed)
        }),
        "no device node" | "mounted later" | "other namespace" | "unmounted in use" => {
            report.skipped.push(skipped(true));
        }
        "thawed by others" => report
            .filesystems
            .push(record(FilesystemOutcome::ThawedByOthers)),
        "optional, thawed by others" => report.filesystems.push(FilesystemRecord {
            optional: true,
            ..record(FilesystemOutcome::ThawedByOthers)
        }),
        "write-back error" => report.write_errors.push("failed to flush /data".into()),
        "named, not there" => report.requested_not_frozen.push(NotFrozen {
            mountpoint: "/data/".into(),
            reason: "nothing is mounted there".into(),
            writable: true,
        }),
        "left to an adapter" => report.filesystems = vec![skipped(false)],
        "failed" => report = good(vec![exited(), hook(HookStatus::Exited(3))], true),
        "timed out" => report = good(vec![exited(), hook(HookStatus::TimedOut)], true),
        "not called" => {
            report = good(
                vec![exited(), hook(HookStatus::Skipped("mode".into()))],
                true,
            );
        }
        "not applicable" => report = good(vec![exited(), not_applicable()], true),
        "none applicable" => report = good(vec![not_applicable()], true),
        "lost" => {
            let mut lost = hook(HookStatus::Exited(0));
            (lost.phase, lost.lost) = (Phase::Thaw, true);
            let master = MasterReport {
                failure: None,
                hooks: vec![lost],
                elapsed: Duration::ZERO,
                leaves_filesystems: false,
                is_ours: true,
            };
            report.hooks(Phase::Thaw, &master);
        }
        "no hooks" => report = good(Vec::new(), true),
        "foreign master" => report = good(Vec::new(), false),
        "thawed by a successor" => end = RunEnd::Recovery,
        "ended early" => end = RunEnd::Expiry,
        "nothing frozen" => (report.filesystems, end) = (Vec::new(), RunEnd::Nothing),
        "failure" => end = RunEnd::Failure,
        _ => return None,
    }
    report.end(end);
    Some(report)
}

/// The case that shows each; a new one does not compile without its case.
fn case_of_outcome(outcome: FilesystemOutcome) -> &'static str {
    match outcome {
        FilesystemOutcome::Frozen | FilesystemOutcome::Thawed => "frozen",
        FilesystemOutcome::Untouched => "failure",
        FilesystemOutcome::ThawedByOthers => "thawed by others",
        FilesystemOutcome::Skipped => "covered",
        FilesystemOutcome::Failed => "optional",
    }
}

fn case_of_hold(hold: Hold) -> &'static str {
    match hold {
        Hold::Frozen => "frozen",
        Hold::Unchanged => "unchanged",
        Hold::ReadOnly => "read-only",
    }
}

fn case_of_applications(applications: Applications) -> &'static str {
    match applications {
        Applications::Untouched => "no hooks",
        Applications::Quiet => "succeeded",
        Applications::Skipped => "not called",
        Applications::Unknown => "foreign master",
        Applications::Failed => "failed",
    }
}

/// The cells of the table.
fn rows() -> Vec<Vec<String>> {
    let text = include_str!("../../docs/consistency.md");
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let cells = |row: &str| {
        let cells = row.trim_matches(['|', ' ']).split(" | ");
        cells
            .map(|cell| cell.trim_matches('`').to_owned())
            .collect()
    };
    rows.map(cells)
        .filter(|row: &Vec<String>| row[0] != "Case")
        .collect()
}

#[test]
fn the_truth_table_is_what_the_code_decides() {
    let rows = rows();
    let mut seen = BTreeSet::new();
    for row in &rows {
        let [case, _, level, _] = &row[..] else {
            panic!("{row:?}: a row has four cells");
        };
        let report = run(case).unwrap_or_else(|| panic!("{case}: no such case"));
        assert_eq!(
            report.level.name(),
            level,
            "{case}: {:?}",
            report.level_reasons
        );
        let is_whole = level == "application";
        assert_eq!(report.level_reasons.is_empty(), is_whole, "{case}");
        assert!(seen.insert(case.as_str()), "{case}: twice");
    }
    use Applications::{Failed, Quiet, Skipped, Unknown, Untouched};
    let outcomes = [
        FilesystemOutcome::Frozen,
        FilesystemOutcome::Untouched,
        FilesystemOutcome::ThawedByOthers,
        FilesystemOutcome::Skipped,
        FilesystemOutcome::Failed,
    ];
    let needed = outcomes.map(case_of_outcome).into_iter();
    let needed = needed.chain([Hold::Frozen, Hold::Unchanged, Hold::ReadOnly].map(case_of_hold));
    let all = [Untouched, Quiet, Skipped, Unknown, Failed];
    for case in needed.chain(all.map(case_of_applications)) {
        assert!(seen.contains(case), "{case}: not in the table");
    }
}

#[test]
fn every_case_has_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for row in rows() {
        let name = &row[3];
        let (file, test) = match name.split_once("::") {
            Some((module, test)) => (format!("tests/integration/{module}.rs"), test),
            None => {
                let (file, test) = name.split_once(": ").expect("FILE: TEST");
                (file.to_owned(), test)
            }
        };
        let text = fs::read_to_string(root.join(&file));
        let text = text.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(
            text.contains(&format!("fn {test}()")),
            "{name}: no such test"
        );
    }
}
