//! The hook master, the hooks, and who could change them. Hooks are found as the master finds them; nothing is started.

use super::{CheckContext, CheckResult, Subject};
use crate::adapters;
use crate::diagnostic::Diagnostic;
use crate::hooks::settings::{HookKind, HookSettings};
use crate::hooks::task::{Eligibility, HookTask};
use crate::hooks::{locate, trust};
use crate::sys::identity::Identity;
use crate::sys::strerror;
use crate::tools::output::{count, span};
use crate::tools::plan::hooks_of;
use nix::unistd::{AccessFlags, eaccess};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

const INSTALL_MASTER: &str = "install hooks/fsfreeze-hook of this project as that file (mode 755)";

pub(super) fn check(context: &CheckContext<'_>) -> Vec<CheckResult> {
    match context.config.hook() {
        Some(hook) => {
            let dir = hooks_of(hook);
            let hold = context.config.limits.hold;
            let mut results = vec![check_master(hook)];
            results.extend(check_installed(&dir, &locate::conf_beside(&dir), hold));
            results
        }
        None => vec![check_unused(&locate::default_dir())],
    }
}

fn check_unused(dir: &Path) -> CheckResult {
    let found = adapters::discover(dir, &locate::conf_beside(dir));
    if found.is_ok_and(|(found, _)| found.tasks.is_empty()) {
        let why = "applications are not quiesced";
        return CheckResult::note(Subject::Hooks, "no hooks configured", why);
    }
    CheckResult::finding(
        Subject::Hooks,
        format!("the hooks in {} are never called", dir.display()),
        "the agent runs without a hook master",
        format!(
            "add -F to the agent's command line, or fsfreeze-hook={} to [general] of its configuration file",
            locate::default_master().display()
        ),
    )
}

fn check_master(hook: &Path) -> CheckResult {
    let about = Subject::HookMaster;
    let shown = trust::quoted(hook);
    let failing = |why: String, remedy: String| {
        let what = format!("every freeze fails, as {shown} cannot be run");
        CheckResult::finding(about, what, why, remedy)
    };
    let data = match fs::metadata(hook) {
        Ok(data) => data,
        Err(error) => {
            let remedy = format!("{INSTALL_MASTER}, or correct the path of -F");
            return failing(strerror(&error), remedy);
        }
    };
    if !data.is_file() || eaccess(hook, AccessFlags::X_OK).is_err() {
        return failing(
            "not an executable file".into(),
            format!("chmod 755 {shown}"),
        );
    }
    match trust::check(hook) {
        Ok(()) if locate::is_our_master(hook) => CheckResult::ok(about, shown),
        Ok(()) => CheckResult::finding(about, shown, locate::FOREIGN_MASTER, INSTALL_MASTER),
        Err(refusal) => refused(about, &refusal),
    }
}

fn refused(about: Subject, refusal: &Diagnostic) -> CheckResult {
    let Diagnostic { what, why, remedy } = refusal;
    let remedy = match remedy.as_str() {
        "" => "let only root write it",
        remedy => remedy,
    };
    CheckResult::finding(about, what, why, remedy)
}

/// `hold` is the longest time for which the agent freezes; `None`: without limit.
pub(in crate::tools) fn check_installed(
    dir: &Path,
    conf: &Path,
    hold: Option<Duration>,
) -> Vec<CheckResult> {
    let shown = dir.display();
    let (found, _) = match adapters::discover(dir, conf) {
        Ok(found) => found,
        Err(refusal) => return check_trust(dir, conf, refusal),
    };
    let fit = found
        .tasks
        .iter()
        .filter(|s| s.eligibility == Eligibility::Fit);
    let mut results = vec![if dir.exists() {
        let text = format!("{} in {shown}", count(fit.count(), "hook"));
        CheckResult::ok(Subject::Hooks, text)
    } else {
        CheckResult::note(Subject::Hooks, format!("{shown} does not exist"), "")
    }];
    if !found.disabled.is_empty() {
        let names: Vec<&str> = found.disabled.iter().map(|s| s.name.as_str()).collect();
        let what = format!("disabled: {}", names.join(", "));
        results.push(CheckResult::note(Subject::Hooks, what, "enabled is no"));
    }
    for task in &found.tasks {
        match task.eligibility.refusal().cloned() {
            None => results.extend(check_task(task, hold)),
            Some(Diagnostic { why, remedy, .. }) => results.push(CheckResult::finding(
                Subject::Hooks,
                format!(
                    "{} is skipped, so a freeze reaches at most the level filesystem",
                    task.name
                ),
                why,
                match remedy.as_str() {
                    "" => "correct it, or move the file elsewhere".to_owned(),
                    remedy => format!("{remedy} (or move the file elsewhere)"),
                },
            )),
        }
    }
    results.extend(found.warnings.into_iter().map(|warning| {
        let remedy = "correct that line; qemu-ga hook list shows the settings in effect";
        CheckResult::finding(Subject::Settings, warning, "", remedy)
    }));
    results
}

/// The master stops at the first fault in the ownership, but an operator wants to fix all at once.
fn check_trust(dir: &Path, conf: &Path, first: Diagnostic) -> Vec<CheckResult> {
    let mut paths = vec![conf.to_owned(), dir.to_owned()];
    paths.extend(
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path()),
    );
    paths.sort_unstable();
    let is_checked = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|data| data.is_file() || path == dir)
    };
    let paths = paths.into_iter().filter(is_checked);
    let mut refusals = vec![first];
    for refusal in paths.filter_map(|path| trust::check(&path).err()) {
        if !refusals.contains(&refusal) {
            refusals.push(refusal);
        }
    }
    let refusals = refusals.iter();
    refusals
        .map(|refusal| refused(Subject::Hooks, refusal))
        .collect()
}

fn check_task(task: &HookTask, hold: Option<Duration>) -> Vec<CheckResult> {
    let (name, policy) = (&task.name, &task.policy);
    let mut results = Vec::new();
    let mut seen = Vec::new();
    for call in [&task.freeze, &task.thaw, &task.undo].into_iter().flatten() {
        if !seen.contains(&&call.program) {
            seen.push(&call.program);
            results.extend(check_interpreter(&call.program));
        }
    }
    results.extend(check_user(name, policy));
    results.extend(check_hold_timeout(name, policy, hold));
    if policy.timeout.is_none() {
        results.push(CheckResult::note(
            Subject::Hooks,
            format!("{name} has no limit (timeout = 0)"),
            "if it hangs, the freeze waits for it",
        ));
    }
    results
}

fn check_user(name: &str, policy: &HookSettings) -> Option<CheckResult> {
    let user = policy.user.as_ref()?;
    let why = match Identity::find(user) {
        Ok(Some(_)) => return None,
        Ok(None) => "unknown user".to_owned(),
        Err(error) => strerror(&error),
    };
    Some(CheckResult::finding(
        Subject::Hooks,
        format!("{name} cannot run as {user}"),
        why,
        "create the user, or correct user = in the hook's settings",
    ))
}

fn check_hold_timeout(
    name: &str,
    policy: &HookSettings,
    hold: Option<Duration>,
) -> Option<CheckResult> {
    let timeout = policy
        .hold_timeout
        .filter(|_| policy.kind == HookKind::Hold)?;
    if hold.is_some_and(|hold| timeout >= hold) {
        return None;
    }
    let hold = hold.map_or("without limit".to_owned(), |hold| {
        format!("for {}", span(hold.as_secs_f64()))
    });
    Some(CheckResult::finding(
        Subject::Hooks,
        format!(
            "{name} stops holding after {}, but a freeze may last {hold}",
            span(timeout.as_secs_f64())
        ),
        "a snapshot that is taken later is not consistent",
        "remove hold-timeout (or set it to 0), so that it follows the agent's fsfreeze-hold-limit",
    ))
}

fn check_interpreter(program: &Path) -> Option<CheckResult> {
    let shown = program.display();
    let mut head = Vec::new();
    let read = fs::File::open(program).and_then(|file| file.take(256).read_to_end(&mut head));
    if let Err(error) = read {
        // Only a user who is not root gets here: the agent reads every file.
        let what = format!("cannot read {shown}");
        return Some(CheckResult::note(Subject::Hooks, what, strerror(&error)));
    }
    if head.starts_with(b"\x7fELF") {
        return None;
    }
    let finding = |why: String, remedy: String| {
        let what = format!("{shown} cannot be started");
        Some(CheckResult::finding(Subject::Hooks, what, why, remedy))
    };
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let Some(line) = line.strip_prefix(b"#!") else {
        return finding(
            "its first line names no interpreter (status 126)".into(),
            "add #!/bin/sh, or the interpreter it is written for, as its first line".into(),
        );
    };
    if line.ends_with(b"\r") {
        return finding(
            "it has Windows line endings, so its interpreter is not found (status 127)".into(),
            format!("sed -i 's/\\r$//' {}", trust::quoted(program)),
        );
    }
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    let named = words.next().unwrap_or_default();
    let missing = if eaccess(Path::new(named), AccessFlags::X_OK).is_err() || named.is_empty() {
        named
    } else if named.ends_with("/env") {
        words.find(|word| !word.starts_with('-') && !in_path(word))?
    } else {
        return None;
    };
    finding(
        format!("its interpreter '{missing}' is not installed (status 127)"),
        "install it, or correct the first line".into(),
    )
}

/// True also for an assignment, which env(1) does not run.
fn in_path(word: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_in = |dir: PathBuf| eaccess(&dir.join(word), AccessFlags::X_OK).is_ok();
    word.contains('=') || std::env::split_paths(&path).any(is_in)
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn masters_and_hooks() {
        let dir = tempfile::tempdir().unwrap();
        let hook = dir.path().join("hook");
        let kinds = |results: Vec<CheckResult>| results.iter().map(|r| r.kind).collect::<Vec<_>>();
        let missing = check_master(&hook);
        assert_eq!(missing.text.why, "No such file or directory");
        fs::write(&hook, "#!/bin/sh\n# QGA_BINARY\n").unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(check_master(&hook).text.remedy.starts_with("chmod 755 "));
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(check_master(&hook).kind, Severity::Ok);
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o777)).unwrap();
        let open = check_master(&hook);
        assert!(open.text.to_string().contains("chmod go-w"), "{open:?}");

        let hooks = dir.path().join("hook.d");
        let conf = dir.path().join("hook.conf");
        assert_eq!(
            kinds(check_installed(&hooks, &conf, None)),
            [Severity::Note]
        );
        fs::create_dir(&hooks).unwrap();
        assert_eq!(kinds(check_installed(&hooks, &conf, None)), [Severity::Ok]);
        assert_eq!(check_unused(&hooks).kind, Severity::Note);
        fs::write(hooks.join("README"), "").unwrap();
        fs::set_permissions(hooks.join("README"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            kinds(check_installed(&hooks, &conf, None)),
            [Severity::Ok, Severity::Finding]
        );
        assert_eq!(check_unused(&hooks).kind, Severity::Finding);
        fs::set_permissions(&hooks, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(
            kinds(check_installed(&hooks, &conf, None)),
            [Severity::Finding]
        );
    }

    #[test]
    fn what_would_not_start_or_not_hold() {
        let dir = tempfile::tempdir().unwrap();
        let (hooks, conf) = (dir.path().join("h.d"), dir.path().join("h.conf"));
        fs::create_dir(&hooks).unwrap();
        let scripts = [
            ("1", "#!/bin/sh\r\n"),
            ("2", "echo\n"),
            ("3", "#!/nonexistent/sh\n"),
            ("4", "#!/usr/bin/env nonesuch-of-the-test\n"),
            ("5", "#!/usr/bin/env sh\n"),
            ("6", "\x7fELF"),
            (
                "7",
                "#!/bin/sh\n# qga-hook: type = hold\n# qga-hook: hold-timeout = 5\n",
            ),
            ("8", "#!/bin/sh\n# qga-hook: user = nobody-of-the-test\n"),
            ("9", "#!/bin/sh\n# qga-hook: timeout = 0\n"),
        ];
        for (name, text) in scripts {
            fs::write(hooks.join(name), text).unwrap();
            fs::set_permissions(hooks.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(&conf, "[hooks]\ncolour=red\n").unwrap();
        let list = |hold| -> Vec<(Severity, String)> {
            let results = check_installed(&hooks, &conf, hold);
            let shown = |text: String| text.replace(&format!("{}/", hooks.display()), "");
            let odd = results.into_iter().filter(|r| r.kind != Severity::Ok);
            odd.map(|r| (r.kind, shown(r.text.to_string()))).collect()
        };
        let minute = Some(Duration::from_secs(60));
        let results = list(minute);
        let expected = [
            "1 cannot be started: it has Windows line endings",
            "2 cannot be started: its first line names no interpreter",
            "3 cannot be started: its interpreter '/nonexistent/sh'",
            "4 cannot be started: its interpreter 'nonesuch-of-the-test'",
            "7 stops holding after 5.00 s, but a freeze may last for 1 min 0 s",
            "8 cannot run as nobody-of-the-test: unknown user",
            "9 has no limit",
        ];
        for ((_, text), expected) in results.iter().zip(expected) {
            assert!(text.starts_with(expected), "{text}");
        }
        assert!(
            results[7].1.contains("colour=red in [hooks]"),
            "{results:?}"
        );
        assert_eq!(results[6].0, Severity::Note);
        assert_eq!(results.len(), 8);
        let lasts =
            |results: &[(Severity, String)]| results.iter().any(|r| r.1.contains("stops holding"));
        assert!(lasts(&list(None)) && !lasts(&list(Some(Duration::from_secs(5)))));
        // Every fault, not the first alone.
        for name in ["1", "2"] {
            fs::set_permissions(hooks.join(name), fs::Permissions::from_mode(0o757)).unwrap();
        }
        let results = check_installed(&hooks, &conf, minute);
        let texts: Vec<String> = results.iter().map(|r| r.text.to_string()).collect();
        let is_named = |text: &String| text.contains("chmod go-w");
        assert!(texts.len() == 2 && texts.iter().all(is_named), "{texts:?}");
    }
}
