//! The files that the agent writes: the logs and the state directory, and what they say. A write to a frozen filesystem
//! blocks, so the filesystem of each is looked up in the plan.

use super::{CheckContext, CheckResult, Subject, last_run};
use crate::freeze::history;
use crate::hooks::log;
use crate::probe::mountinfo::Mount;
use crate::state::StateDir;
use crate::sys::strerror;
use crate::tools::output::{count, join_pids};
use crate::tools::status::{FreezeState, Status};
use nix::unistd::{AccessFlags, eaccess};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

pub(super) fn check(context: &CheckContext<'_>) -> Vec<CheckResult> {
    let mut results = Vec::new();
    if context.config.hook().is_some() {
        let path = Path::new(log::DEFAULT_PATH);
        results.push(check_log(context, Subject::HookLog, path));
    }
    if let Some(path) = &context.config.logfile {
        results.push(check_log(context, Subject::Log, path));
    }
    results.extend(check_state(context));
    results
}

/// The error is the finding.
pub(in crate::tools) fn check_writable(
    about: Subject,
    path: &Path,
) -> Result<CheckResult, CheckResult> {
    let shown = path.display();
    let finding = |why: &str| {
        let what = format!("cannot write to {shown}");
        let remedy = "choose a regular file in a directory that root can write";
        Err(CheckResult::finding(about, what, why, remedy))
    };
    match fs::metadata(path) {
        Ok(data) if data.file_type().is_fifo() || data.file_type().is_block_device() => {
            return finding("FIFO or block device: writes may block indefinitely");
        }
        Ok(data) if !data.is_file() && !data.file_type().is_char_device() => {
            return finding("not a regular file");
        }
        Ok(_) => {
            if let Err(error) = eaccess(path, AccessFlags::W_OK) {
                return finding(&strerror(&error.into()));
            }
        }
        Err(_) => {
            let dir = path.parent().unwrap_or(Path::new("/"));
            if let Err(error) = eaccess(dir, AccessFlags::W_OK) {
                let why = strerror(&error.into());
                return finding(&format!("{}: {why}", dir.display()));
            }
        }
    }
    Ok(CheckResult::ok(about, shown.to_string()))
}

fn check_log(context: &CheckContext<'_>, about: Subject, path: &Path) -> CheckResult {
    let ok = match check_writable(about, path) {
        Ok(ok) => ok,
        Err(finding) => return finding,
    };
    match find_frozen_below(context, path) {
        None => ok,
        Some(on) => CheckResult::note(
            about,
            format!("{} is on {on}, which a freeze freezes", path.display()),
            "no problem, as it is only written before the freeze and after the thaw",
        ),
    }
}

fn check_state(context: &CheckContext<'_>) -> Vec<CheckResult> {
    let about = Subject::State;
    let dir = &context.config.statedir;
    let shown = dir.display();
    let remedy = "choose a directory in memory, such as /run: -t DIR, or statedir in [general]";
    if let Err(error) = eaccess(dir, AccessFlags::W_OK | AccessFlags::X_OK) {
        let what = format!("cannot write to {shown}");
        let why = strerror(&error.into());
        return vec![CheckResult::finding(about, what, why, remedy)];
    }
    let mut results = vec![match find_frozen_below(context, dir) {
        None => CheckResult::ok(about, format!("{shown} is writable and never frozen")),
        Some(on) => CheckResult::finding(
            about,
            format!("{shown} is on {on}, which a freeze freezes"),
            "the report, and that a freeze was ended early, can only be written after the thaw",
            remedy,
        ),
    }];
    match Status::find(dir, None) {
        Ok(status) => {
            results.push(check_marker(&status));
            let expired = status.expired.as_ref();
            results.extend(
                expired.map(|expired| CheckResult::note(Subject::LateThaw, &expired.text, "")),
            );
            results.push(check_agents(&status));
        }
        Err(error) => results.push(CheckResult::finding(
            about,
            "unknown whether filesystems are frozen",
            error,
            "run qemu-ga check as root",
        )),
    }
    let (reports, error) = history::read(&StateDir::new(dir));
    results.push(match error {
        Some(why) => CheckResult::finding(
            Subject::Reports,
            "cannot read the reports",
            why,
            "remove the file; the next freeze creates it",
        ),
        None => CheckResult::ok(
            Subject::Reports,
            format!("{} kept", count(reports.len(), "run")),
        ),
    });
    let last = reports.first();
    results.extend(last.map(|report| last_run::check_level(report, context.config.policy.freeze)));
    results
}

fn check_marker(status: &Status) -> CheckResult {
    let about = Subject::Marker;
    match (status.guardian, &status.agents[..]) {
        (None, _) if status.is_of_another_boot => CheckResult::note(
            about,
            "it is from an earlier boot",
            "nothing is frozen; the next start of the agent removes it",
        ),
        (None, []) if status.marked => CheckResult::finding(
            about,
            "it says that filesystems are frozen, but neither an agent nor a guardian runs",
            "it is stale, or filesystems stay frozen indefinitely",
            "run qemu-ga thaw --now: it thaws whatever is frozen and removes the marker",
        ),
        (None, _) if status.marked => CheckResult::finding(
            about,
            "filesystems are frozen without a guardian",
            "if the agent dies, they stay frozen",
            "let the host thaw, or run qemu-ga thaw --now",
        ),
        (Some(pid), _) if status.state != FreezeState::Thawed => CheckResult::note(
            about,
            format!("filesystems are {}", status.state.name()),
            format!("a freeze is in progress, guarded by process {pid}"),
        ),
        (None, _) if status.state != FreezeState::Thawed => CheckResult::note(
            about,
            format!(
                "no filesystem is frozen, but hooks are {}",
                status.state.name()
            ),
            "a freeze is in progress",
        ),
        _ => CheckResult::ok(about, "none: nothing is frozen"),
    }
}

fn check_agents(status: &Status) -> CheckResult {
    let about = Subject::Agent;
    match &status.agents[..] {
        [pid] => CheckResult::ok(about, format!("process {pid}")),
        [] => CheckResult::finding(
            about,
            "the agent does not run",
            "",
            "systemctl enable --now qemu-guest-agent; if it has failed: journalctl -u \
             qemu-guest-agent",
        ),
        many => CheckResult::finding(
            about,
            format!("{} share one state directory", count(many.len(), "agent")),
            format!("processes {}", join_pids(many)),
            "stop all but one, or give each its own --statedir",
        ),
    }
}

/// `None` if no freeze freezes the filesystem of `path`.
fn find_frozen_below(context: &CheckContext<'_>, path: &Path) -> Option<String> {
    let mount = mount_of(context.mounts, &nearest(path))?;
    let layers = context.survey.layers.get(&mount.mountpoint);
    let is_meant = |device| {
        let mut targets = context.plan.targets.iter();
        targets.find(|target| target.filesystem.device() == device)
    };
    // The device number of a btrfs mount belongs to its subvolume, not to the filesystem.
    let by_path = || {
        context.plan.targets.iter().find(|target| {
            target.filesystem.mountpoint == mount.mountpoint
                || target.alternatives.contains(&mount.mountpoint)
        })
    };
    let target = is_meant(mount.device())
        .or_else(by_path)
        .or_else(|| layers?.iter().find_map(|&device| is_meant(device)))?;
    Some(String::from_utf8_lossy(&target.filesystem.mountpoint).into_owned())
}

/// `path` without links, or its nearest ancestor that exists.
fn nearest(path: &Path) -> PathBuf {
    let mut ancestors = path.ancestors();
    let found = ancestors.find_map(|above| above.canonicalize().ok());
    found.unwrap_or_else(|| PathBuf::from("/"))
}

/// Of the longest mount points the last, which hides the others. `path` has no links.
fn mount_of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let holds = |mount: &&Mount| {
        let mountpoint = Path::new(std::ffi::OsStr::from_bytes(&mount.mountpoint));
        path.starts_with(mountpoint)
    };
    mounts
        .iter()
        .filter(holds)
        .max_by_key(|mount| mount.mountpoint.len())
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;
    use crate::config::Config;
    use crate::freeze::plan::{Plan, Survey, Target};
    use crate::probe::filesystems::Filesystem;
    use crate::probe::mountinfo::parse;

    fn with_context(mounts: &str, frozen: &[(&str, u32)], body: impl FnOnce(&CheckContext<'_>)) {
        let target = |&(mountpoint, minor): &(&str, u32)| Target {
            filesystem: Filesystem {
                mountpoint: mountpoint.into(),
                fstype: "ext4".into(),
                major: 8,
                minor,
                mount_id: 0,
            },
            alternatives: Vec::new(),
            device: String::new(),
            depends_on: Vec::new(),
            optional: false,
            is_read_only: false,
            batch: 0,
        };
        let plan = Plan {
            targets: frozen.iter().map(target).collect(),
            ..Plan::default()
        };
        body(&CheckContext {
            config: &Config::default(),
            mounts: &parse(mounts.as_bytes()),
            survey: &Survey::default(),
            plan: &plan,
        });
    }

    const MOUNTS: &str = "\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:5 / /proc rw - proc proc rw
3 1 8:1 /x /usr rw - ext4 /dev/sda1 rw
";

    #[test]
    fn the_filesystem_under_a_path_is_found() {
        with_context(MOUNTS, &[("/", 1)], |context| {
            let on = |path: &str| find_frozen_below(context, Path::new(path));
            assert_eq!(on("/nonexistent/file"), Some("/".into()));
            assert_eq!(on("/usr/nonexistent"), Some("/".into()));
            assert_eq!(on("/proc/self"), None);
        });
        with_context(MOUNTS, &[], |context| {
            assert_eq!(find_frozen_below(context, Path::new("/usr")), None);
        });
    }

    #[test]
    fn logs_where_a_write_could_block_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        with_context(MOUNTS, &[], |context| {
            let kind = |path: &Path| check_log(context, Subject::Log, path).kind;
            assert_eq!(kind(&path), Severity::Ok);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            assert_eq!(kind(&path), Severity::Finding);
            assert_eq!(kind(dir.path()), Severity::Finding);
            assert_eq!(kind(Path::new("/nonexistent/log")), Severity::Finding);
        });
        with_context(MOUNTS, &[("/", 1)], |context| {
            let result = check_log(context, Subject::Log, &dir.path().join("other"));
            assert_eq!(result.kind, Severity::Note);
        });
    }

    #[test]
    fn a_marker_without_agent_and_guardian_is_stale() {
        let status = |marked, agents: &[i32], guardian| Status {
            state: match marked {
                true => FreezeState::Frozen,
                false => FreezeState::Thawed,
            },
            marked,
            agents: agents.to_vec(),
            guardian,
            ..Status::default()
        };
        let kinds = |status: Status| [check_marker(&status).kind, check_agents(&status).kind];
        use Severity::{Finding, Note, Ok};
        assert_eq!(kinds(status(false, &[1], None)), [Ok, Ok]);
        assert_eq!(kinds(status(true, &[], None)), [Finding, Finding]);
        assert_eq!(kinds(status(true, &[1], None)), [Finding, Ok]);
        assert_eq!(kinds(status(true, &[1], Some(2))), [Note, Ok]);
        assert_eq!(kinds(status(false, &[1, 2], None)), [Ok, Finding]);
        let stale = check_marker(&status(true, &[], None));
        assert!(stale.text.remedy.contains("thaw --now"));
    }
}
