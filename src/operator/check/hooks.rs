//! The hook master, the hooks, and who could change them.

use super::{Result, Scene};
use crate::hooks::step::Fitness;
use crate::hooks::{find, sources, trust};
use crate::operator::plan::hooks_of;
use crate::operator::present::count;
use crate::sys::strerror;
use nix::unistd::{AccessFlags, eaccess};
use std::fs;
use std::path::Path;

pub fn check(scene: &Scene<'_>) -> Vec<Result> {
    match scene.config.hook() {
        Some(hook) => {
            let mut results = master(hook);
            results.extend(directory(&hooks_of(hook)));
            results
        }
        None => vec![unused(&find::default_dir())],
    }
}

/// Hooks that nobody calls.
fn unused(dir: &Path) -> Result {
    let found = sources::read(dir, &find::conf_beside(dir), "");
    if found.is_ok_and(|(found, _)| found.steps.is_empty()) {
        return Result::note("hooks", "none is configured: applications are not told");
    }
    Result::finding(
        "hooks",
        format!(
            "{} has hooks, but the agent is not told to call them",
            dir.display()
        ),
        format!(
            "add -F to the agent's command line, or fsfreeze-hook={} to [general] of its \
             configuration file",
            find::default_master().display()
        ),
    )
}

fn master(hook: &Path) -> Vec<Result> {
    let shown = trust::quoted(hook);
    let data = match fs::metadata(hook) {
        Ok(data) => data,
        Err(error) => {
            return vec![Result::finding(
                "hook master",
                format!("{shown}: {}", strerror(&error)),
                "every freeze fails until it is there: install hooks/fsfreeze-hook of this \
                 project as that file (mode 755), or mend the path behind -F",
            )];
        }
    };
    if !data.is_file() || eaccess(hook, AccessFlags::X_OK).is_err() {
        return vec![Result::finding(
            "hook master",
            format!("{shown} is no executable file, so every freeze fails"),
            format!("chmod 755 {shown}"),
        )];
    }
    match trust::check(hook) {
        Ok(()) => vec![Result::fine("hook master", shown)],
        Err(refusal) => vec![refused("hook master", &refusal.0)],
    }
}

/// The refusal's line ends with the remedy.
fn refused(about: &'static str, line: &str) -> Result {
    let (text, advice) = line
        .split_once("; ")
        .unwrap_or((line, "make it root's alone"));
    Result::finding(about, text, advice)
}

fn directory(dir: &Path) -> Vec<Result> {
    let shown = dir.display();
    if !dir.exists() {
        return vec![Result::note(
            "hooks",
            format!("there is no {shown}: the hook master is all that is called"),
        )];
    }
    let found = match sources::read(dir, &find::conf_beside(dir), "") {
        Ok((found, _)) => found,
        Err(refusal) => return vec![refused("hooks", &refusal.0)],
    };
    let fit = found.steps.iter().filter(|s| s.fitness == Fitness::Fit);
    let mut results = vec![Result::fine(
        "hooks",
        format!("{} in {shown}", count(fit.count(), "hook")),
    )];
    for step in found.steps {
        let (Fitness::Skipped(why) | Fitness::Unfit { reason: why, .. }) = step.fitness else {
            continue;
        };
        let (text, advice) = why.split_once("; ").unwrap_or((&why, "mend it"));
        results.push(Result::finding(
            "hooks",
            format!("{} is passed over: {text}", step.name),
            format!("{advice} (or move the file elsewhere)"),
        ));
    }
    results.extend(found.warnings.into_iter().map(|warning| {
        Result::finding(
            "hooks",
            warning,
            "mend that line; `qemu-ga hook list` shows what counts",
        )
    }));
    results
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn masters_and_hooks() {
        let dir = tempfile::tempdir().unwrap();
        let hook = dir.path().join("hook");
        let kinds = |results: Vec<Result>| results.iter().map(|r| r.kind).collect::<Vec<_>>();
        let missing = master(&hook);
        assert!(missing[0].text.ends_with("No such file or directory"));
        fs::write(&hook, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            master(&hook)[0]
                .advice
                .as_ref()
                .unwrap()
                .starts_with("chmod 755 ")
        );
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(kinds(master(&hook)), [Kind::Fine]);
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o777)).unwrap();
        let open = master(&hook);
        assert!(
            open[0].advice.as_ref().unwrap().contains("chmod go-w"),
            "{open:?}"
        );

        let hooks = dir.path().join("hook.d");
        assert_eq!(kinds(directory(&hooks)), [Kind::Note]);
        fs::create_dir(&hooks).unwrap();
        assert_eq!(kinds(directory(&hooks)), [Kind::Fine]);
        assert_eq!(unused(&hooks).kind, Kind::Note);
        fs::write(hooks.join("README"), "").unwrap();
        fs::set_permissions(hooks.join("README"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(kinds(directory(&hooks)), [Kind::Fine, Kind::Finding]);
        assert_eq!(unused(&hooks).kind, Kind::Finding);
        fs::set_permissions(&hooks, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(kinds(directory(&hooks)), [Kind::Finding]);
    }
}
