//! What the agent writes to: the logs and the state directory, and the filesystems they are on.

use super::{CheckContext, CheckResult, last_run};
use crate::freeze::history;
use crate::hooks::log;
use crate::probe::mountinfo::Mount;
use crate::state::StateDir;
use crate::sys::strerror;
use crate::tools::output::count;
use crate::tools::status::Status;
use nix::unistd::{AccessFlags, eaccess};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

pub fn check(scene: &CheckContext<'_>) -> Vec<CheckResult> {
    let mut results = Vec::new();
    if scene.config.hook().is_some() {
        results.push(log_file(scene, "hook log", Path::new(log::DEFAULT_PATH)));
    }
    if let Some(path) = &scene.config.logfile {
        results.push(log_file(scene, "log", path));
    }
    results.extend(state(scene));
    results
}

/// Whether a log at `path` can be written.
///
/// # Errors
/// The finding.
pub fn writable(about: &'static str, path: &Path) -> Result<CheckResult, CheckResult> {
    let shown = path.display();
    let elsewhere = "choose a regular file in a directory that root can write";
    match fs::metadata(path) {
        Ok(data) if data.file_type().is_fifo() || data.file_type().is_block_device() => {
            return Err(CheckResult::finding(
                about,
                format!("{shown} is a FIFO or device: who writes there may block indefinitely"),
                elsewhere,
            ));
        }
        Ok(data) if !data.is_file() && !data.file_type().is_char_device() => {
            let text = format!("{shown} is not a regular file");
            return Err(CheckResult::finding(about, text, elsewhere));
        }
        Ok(_) if eaccess(path, AccessFlags::W_OK).is_err() => {
            let text = format!("{shown} is not writable");
            return Err(CheckResult::finding(about, text, elsewhere));
        }
        Ok(_) => {}
        Err(_) => {
            let dir = path.parent().unwrap_or(Path::new("/"));
            if let Err(error) = eaccess(dir, AccessFlags::W_OK) {
                let why = strerror(&error.into());
                let text = format!("{shown} cannot be made: {}: {why}", dir.display());
                return Err(CheckResult::finding(about, text, elsewhere));
            }
        }
    }
    Ok(CheckResult::fine(about, shown.to_string()))
}

fn log_file(scene: &CheckContext<'_>, about: &'static str, path: &Path) -> CheckResult {
    let fine = match writable(about, path) {
        Ok(fine) => fine,
        Err(finding) => return finding,
    };
    let shown = path.display();
    match frozen_under(scene, path) {
        None => fine,
        Some(on) => CheckResult::note(
            about,
            format!(
                "{shown} is on {on}, which a freeze takes: that is fine, for it is only written \
                 before the freeze and after the thaw"
            ),
        ),
    }
}

fn state(scene: &CheckContext<'_>) -> Vec<CheckResult> {
    let dir = &scene.config.statedir;
    let shown = dir.display();
    let choose = "choose a directory in memory, such as /run: -t DIR, or statedir in [general]";
    if let Err(error) = eaccess(dir, AccessFlags::W_OK | AccessFlags::X_OK) {
        let text = format!("{shown} is not writable: {}", strerror(&error.into()));
        return vec![CheckResult::finding("state", text, choose)];
    }
    let mut results = vec![match frozen_under(scene, dir) {
        None => CheckResult::fine("state", format!("{shown} is writable and never frozen")),
        Some(on) => CheckResult::finding(
            "state",
            format!(
                "{shown} is on {on}, which a freeze takes: what must be written then (that a \
                 freeze was ended, the report) has to wait"
            ),
            choose,
        ),
    }];
    match Status::find(dir, None) {
        Ok(status) => results.extend(marker(&status)),
        Err(error) => results.push(CheckResult::finding(
            "state",
            error,
            "run qemu-ga check as root",
        )),
    }
    let (reports, wrong) = history::read(&StateDir::new(dir));
    results.push(match wrong {
        Some(why) => CheckResult::finding(
            "reports",
            why,
            "remove the file; the next freeze makes it anew",
        ),
        None => CheckResult::fine("reports", format!("{} kept", count(reports.len(), "run"))),
    });
    let last = reports.first();
    results.extend(last.map(|report| last_run::check_level(report, scene.config.policy.freeze)));
    results
}

/// What marker, guardian and agent say together.
fn marker(status: &Status) -> Vec<CheckResult> {
    let mut results = Vec::new();
    let frozen = status.state != "thawed";
    results.push(match (status.guardian, &status.agents[..]) {
        (None, _) if status.is_of_another_boot => CheckResult::note(
            "marker",
            "it is of another boot, so nothing of it is frozen; the agent's start removes it",
        ),
        (None, []) if status.marked => CheckResult::finding(
            "marker",
            "it says that filesystems are frozen, but no agent runs and there is no guardian: it is \
             stale, or something is frozen for ever",
            "qemu-ga thaw --now thaws whatever is frozen and removes it",
        ),
        (None, _) if status.marked => CheckResult::finding(
            "marker",
            "filesystems are frozen, and there is no guardian if the agent dies",
            "let the host thaw, or run qemu-ga thaw --now",
        ),
        (Some(pid), _) if frozen => CheckResult::note(
            "marker",
            format!(
                "a freeze is at work, filesystems are {}; process {pid} stands guard",
                status.state
            ),
        ),
        (None, _) if frozen => {
            CheckResult::note("marker", format!("none, but hooks are {}", status.state))
        }
        _ => CheckResult::fine("marker", "none: nothing is frozen"),
    });
    if let Some(expired) = &status.expired {
        results.push(CheckResult::note("late thaw", expired));
    }
    results.push(match &status.agents[..] {
        [pid] => CheckResult::fine("agent", format!("process {pid}")),
        [] => CheckResult::finding(
            "agent",
            "it does not run",
            "systemctl start qemu-guest-agent (and enable it), or look why it ended: journalctl \
             -u qemu-guest-agent",
        ),
        many => CheckResult::finding(
            "agent",
            format!(
                "{} share one state directory: {many:?}",
                count(many.len(), "process")
            ),
            "stop all but one, or give each a --statedir of its own",
        ),
    });
    results
}

/// The mountpoint of the filesystem that holds `path`, if a freeze takes it.
fn frozen_under(scene: &CheckContext<'_>, path: &Path) -> Option<String> {
    let mount = mount_of(scene.mounts, &nearest(path))?;
    let layers = scene.survey.layers.get(&mount.mountpoint);
    let is_meant = |device| {
        let mut targets = scene.plan.targets.iter();
        targets.find(|target| target.filesystem.device() == device)
    };
    // btrfs shows an anonymous number; its mountpoints tell.
    let by_path = || {
        scene.plan.targets.iter().find(|target| {
            target.filesystem.mountpoint == mount.mountpoint
                || target.alternatives.contains(&mount.mountpoint)
        })
    };
    let target = is_meant(mount.device())
        .or_else(by_path)
        .or_else(|| layers?.iter().find_map(|&device| is_meant(device)))?;
    Some(String::from_utf8_lossy(&target.filesystem.mountpoint).into_owned())
}

/// `path` without links, or what of it exists.
fn nearest(path: &Path) -> PathBuf {
    let mut ancestors = path.ancestors();
    let found = ancestors.find_map(|above| above.canonicalize().ok());
    found.unwrap_or_else(|| PathBuf::from("/"))
}

/// The mount that `path`, which has no links, is in: of the longest mountpoints the last.
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
    use super::super::ResultKind;
    use super::*;
    use crate::config::Config;
    use crate::freeze::plan::{Plan, Survey, Target};
    use crate::probe::filesystems::Filesystem;
    use crate::probe::mountinfo::parse;

    fn with_scene(mounts: &str, frozen: &[(&str, u32)], body: impl FnOnce(&CheckContext<'_>)) {
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
        with_scene(MOUNTS, &[("/", 1)], |scene| {
            let on = |path: &str| frozen_under(scene, Path::new(path));
            assert_eq!(on("/nonexistent/file"), Some("/".into()));
            assert_eq!(on("/usr/nonexistent"), Some("/".into()));
            assert_eq!(on("/proc/self"), None);
        });
        with_scene(MOUNTS, &[], |scene| {
            assert_eq!(frozen_under(scene, Path::new("/usr")), None);
        });
    }

    #[test]
    fn logs_where_a_write_could_block_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        with_scene(MOUNTS, &[], |scene| {
            let kind = |path: &Path| log_file(scene, "log", path).kind;
            assert_eq!(kind(&path), ResultKind::Fine);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            assert_eq!(kind(&path), ResultKind::Finding);
            assert_eq!(kind(dir.path()), ResultKind::Finding);
            assert_eq!(kind(Path::new("/nonexistent/log")), ResultKind::Finding);
        });
        with_scene(MOUNTS, &[("/", 1)], |scene| {
            let result = log_file(scene, "log", &dir.path().join("other"));
            assert_eq!(result.kind, ResultKind::Note);
        });
    }

    #[test]
    fn a_marker_without_anybody_is_stale() {
        let status = |marked, agents: &[i32], guardian| Status {
            state: if marked { "frozen" } else { "thawed" },
            marked,
            agents: agents.to_vec(),
            guardian,
            ..Status::default()
        };
        let kinds = |status: Status| marker(&status).iter().map(|r| r.kind).collect::<Vec<_>>();
        use ResultKind::{Finding, Fine, Note};
        assert_eq!(kinds(status(false, &[1], None)), [Fine, Fine]);
        assert_eq!(kinds(status(true, &[], None)), [Finding, Finding]);
        assert_eq!(kinds(status(true, &[1], None)), [Finding, Fine]);
        assert_eq!(kinds(status(true, &[1], Some(2))), [Note, Fine]);
        assert_eq!(kinds(status(false, &[1, 2], None)), [Fine, Finding]);
        let stale = &marker(&status(true, &[], None))[0];
        assert!(stale.advice.as_ref().unwrap().contains("thaw --now"));
    }
}
