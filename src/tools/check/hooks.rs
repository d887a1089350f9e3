//! The hook master, the hooks, and who could change them.

use super::{CheckContext, CheckResult};
use crate::adapters;
use crate::diagnostic::Diagnostic;
use crate::hooks::settings::HookKind;
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

pub fn check(scene: &CheckContext<'_>) -> Vec<CheckResult> {
    match scene.config.hook() {
        Some(hook) => {
            let mut results = master(hook);
            let dir = hooks_of(hook);
            let hold = scene.config.limits.hold;
            results.extend(installed(&dir, &locate::conf_beside(&dir), hold));
            results
        }
        None => vec![unused(&locate::default_dir())],
    }
}

/// Hooks that nobody calls.
fn unused(dir: &Path) -> CheckResult {
    let found = adapters::discover(dir, &locate::conf_beside(dir));
    if found.is_ok_and(|(found, _)| found.tasks.is_empty()) {
        return CheckResult::note(
            "hooks",
            "no hooks configured; applications are not quiesced",
        );
    }
    CheckResult::finding(
        "hooks",
        format!(
            "{} has hooks, but the agent is not told to call them",
            dir.display()
        ),
        format!(
            "add -F to the agent's command line, or fsfreeze-hook={} to [general] of its \
             configuration file",
            locate::default_master().display()
        ),
    )
}

fn master(hook: &Path) -> Vec<CheckResult> {
    let shown = trust::quoted(hook);
    let data = match fs::metadata(hook) {
        Ok(data) => data,
        Err(error) => {
            return vec![CheckResult::finding(
                "hook master",
                format!("{shown}: {}", strerror(&error)),
                "every freeze fails until it is there: install hooks/fsfreeze-hook of this \
                 project as that file (mode 755), or correct the path behind -F",
            )];
        }
    };
    if !data.is_file() || eaccess(hook, AccessFlags::X_OK).is_err() {
        return vec![CheckResult::finding(
            "hook master",
            format!("{shown} is not an executable file, so every freeze fails"),
            format!("chmod 755 {shown}"),
        )];
    }
    match trust::check(hook) {
        Ok(()) if locate::is_our_master(hook) => vec![CheckResult::fine("hook master", shown)],
        Ok(()) => vec![CheckResult::finding(
            "hook master",
            format!("{shown}: {}", locate::FOREIGN_MASTER),
            "install hooks/fsfreeze-hook of this project as that file (mode 755)",
        )],
        Err(refusal) => vec![refused("hook master", &refusal)],
    }
}

fn refused(about: &'static str, refusal: &Diagnostic) -> CheckResult {
    let (text, advice) = parts(refusal, "make it root's alone");
    CheckResult::finding(about, text, advice)
}

/// What failed and why, and the remedy or this one.
fn parts(fault: &Diagnostic, remedy: &str) -> (String, String) {
    let text = Diagnostic::new(&fault.what[..], &fault.why[..], "").to_string();
    let remedy = match fault.remedy.is_empty() {
        true => remedy,
        false => &fault.remedy,
    };
    (text, remedy.to_owned())
}

/// The hooks of `dir` with the settings in `conf`, under an agent that lets a freeze last for `hold`
/// (None: for ever).
pub fn installed(dir: &Path, conf: &Path, hold: Option<Duration>) -> Vec<CheckResult> {
    let shown = dir.display();
    let (found, _) = match adapters::discover(dir, conf) {
        Ok(found) => found,
        Err(refusal) => return faults(dir, conf, refusal),
    };
    let fit = found
        .tasks
        .iter()
        .filter(|s| s.eligibility == Eligibility::Fit);
    let mut results = vec![if dir.exists() {
        CheckResult::fine(
            "hooks",
            format!("{} in {shown}", count(fit.count(), "hook")),
        )
    } else {
        CheckResult::note("hooks", format!("there is no {shown}"))
    }];
    if !found.disabled.is_empty() {
        let names: Vec<&str> = found.disabled.iter().map(|s| s.name.as_str()).collect();
        let text = format!("switched off by enabled = no: {}", names.join(", "));
        results.push(CheckResult::note("hooks", text));
    }
    for step in &found.tasks {
        match &step.eligibility {
            Eligibility::Fit => results.extend(fit_step(step, hold)),
            Eligibility::Skipped(why) | Eligibility::Unfit { reason: why, .. } => {
                let (text, advice) = parts(why, "fix it");
                results.push(CheckResult::finding(
                    "hooks",
                    format!(
                        "{} is skipped: {text}; a freeze reaches at most the level filesystem",
                        step.name
                    ),
                    format!("{advice} (or move the file elsewhere)"),
                ));
            }
        }
    }
    results.extend(found.warnings.into_iter().map(|warning| {
        CheckResult::finding(
            "settings",
            warning,
            "correct that line; `qemu-ga hook list` shows what counts",
        )
    }));
    results
}

/// A refusal names the first fault; each is to be mended.
fn faults(dir: &Path, conf: &Path, first: Diagnostic) -> Vec<CheckResult> {
    let mut paths = vec![conf.to_owned(), dir.to_owned()];
    paths.extend(
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path()),
    );
    paths.sort_unstable();
    let exists = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|data| data.is_file() || path == dir)
    };
    let found = paths.into_iter().filter(exists);
    let mut faults = vec![first];
    for refusal in found.filter_map(|path| trust::check(&path).err()) {
        if !faults.contains(&refusal) {
            faults.push(refusal);
        }
    }
    let results = faults.iter().map(|fault| refused("hooks", fault));
    results.collect()
}

/// What is wrong with a hook that would be started.
fn fit_step(step: &HookTask, hold: Option<Duration>) -> Vec<CheckResult> {
    let (name, policy) = (&step.name, &step.policy);
    let mut results = Vec::new();
    let mut seen = Vec::new();
    for call in [&step.freeze, &step.thaw, &step.undo].into_iter().flatten() {
        if !seen.contains(&&call.program) {
            seen.push(&call.program);
            results.extend(interpreter(&call.program));
        }
    }
    if let Some(user) = &policy.user {
        let wrong = match Identity::find(user) {
            Ok(Some(_)) => None,
            Ok(None) => Some("there is no such user".to_owned()),
            Err(error) => Some(strerror(&error)),
        };
        results.extend(wrong.map(|why| {
            CheckResult::finding(
                "hooks",
                format!("{name} is to run as {user}: {why}"),
                "create the user, or correct user = in the hook's settings",
            )
        }));
    }
    let longest = policy
        .hold_timeout
        .filter(|_| policy.kind == HookKind::Hold);
    if let Some(longest) = longest.filter(|&longest| hold.is_none_or(|hold| longest < hold)) {
        let hold = hold.map_or("for ever".to_owned(), |hold| span(hold.as_secs_f64()));
        results.push(CheckResult::finding(
            "hooks",
            format!(
                "{name} lets go after {}, but a freeze may last {hold}: what comes after that is \
                 not consistent",
                span(longest.as_secs_f64())
            ),
            "leave hold-timeout out (or 0): it then follows the agent's fsfreeze-hold-limit",
        ));
    }
    if policy.timeout.is_none() {
        results.push(CheckResult::note(
            "hooks",
            format!("{name} has no limit (timeout = 0): if it hangs, the freeze waits for it"),
        ));
    }
    results
}

/// What would keep the kernel from starting the program.
fn interpreter(program: &Path) -> Option<CheckResult> {
    let shown = program.display();
    let mut head = Vec::new();
    let read = fs::File::open(program).and_then(|file| file.take(256).read_to_end(&mut head));
    if let Err(error) = read {
        // Root reads everything; a hook that others may only execute is theirs to judge.
        let text = format!("{shown} cannot be read: {}", strerror(&error));
        return Some(CheckResult::note("hooks", text));
    }
    if head.starts_with(b"\x7fELF") {
        return None;
    }
    let finding = |what: String, advice: String| {
        let text = format!("{shown} {what}");
        Some(CheckResult::finding("hooks", text, advice))
    };
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let Some(line) = line.strip_prefix(b"#!") else {
        return finding(
            "does not say what interprets it (status 126)".into(),
            "make its first line #!/bin/sh, or what it is written for".into(),
        );
    };
    if line.ends_with(b"\r") {
        return finding(
            "has line ends of Windows, so its interpreter is not found (status 127)".into(),
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
        format!("is written for '{missing}', which is not installed (status 127)"),
        "install it, or correct the first line".into(),
    )
}

/// Whether env(1) finds the command.
fn in_path(word: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_in = |dir: PathBuf| eaccess(&dir.join(word), AccessFlags::X_OK).is_ok();
    word.contains('=') || std::env::split_paths(&path).any(is_in)
}

#[cfg(test)]
mod tests {
    use super::super::ResultKind;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn masters_and_hooks() {
        let dir = tempfile::tempdir().unwrap();
        let hook = dir.path().join("hook");
        let kinds = |results: Vec<CheckResult>| results.iter().map(|r| r.kind).collect::<Vec<_>>();
        let missing = master(&hook);
        assert!(missing[0].text.ends_with("No such file or directory"));
        fs::write(&hook, "#!/bin/sh\n# QGA_BINARY\n").unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            master(&hook)[0]
                .advice
                .as_ref()
                .unwrap()
                .starts_with("chmod 755 ")
        );
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(kinds(master(&hook)), [ResultKind::Fine]);
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o777)).unwrap();
        let open = master(&hook);
        assert!(
            open[0].advice.as_ref().unwrap().contains("chmod go-w"),
            "{open:?}"
        );

        let hooks = dir.path().join("hook.d");
        let conf = dir.path().join("hook.conf");
        assert_eq!(kinds(installed(&hooks, &conf, None)), [ResultKind::Note]);
        fs::create_dir(&hooks).unwrap();
        assert_eq!(kinds(installed(&hooks, &conf, None)), [ResultKind::Fine]);
        assert_eq!(unused(&hooks).kind, ResultKind::Note);
        fs::write(hooks.join("README"), "").unwrap();
        fs::set_permissions(hooks.join("README"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            kinds(installed(&hooks, &conf, None)),
            [ResultKind::Fine, ResultKind::Finding]
        );
        assert_eq!(unused(&hooks).kind, ResultKind::Finding);
        fs::set_permissions(&hooks, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(kinds(installed(&hooks, &conf, None)), [ResultKind::Finding]);
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
        let told = |hold| -> Vec<(ResultKind, String)> {
            let results = installed(&hooks, &conf, hold);
            let shown = |text: String| text.replace(&format!("{}/", hooks.display()), "");
            let odd = results.into_iter().filter(|r| r.kind != ResultKind::Fine);
            odd.map(|r| (r.kind, shown(r.text))).collect()
        };
        let minute = Some(Duration::from_secs(60));
        let results = told(minute);
        let expected = [
            "1 has line ends of Windows",
            "2 does not say what interprets it",
            "3 is written for '/nonexistent/sh'",
            "4 is written for 'nonesuch-of-the-test'",
            "7 lets go after 5.00 s, but a freeze may last 1 min 0 s",
            "8 is to run as nobody-of-the-test: there is no such user",
            "9 has no limit",
        ];
        for ((_, text), expected) in results.iter().zip(expected) {
            assert!(text.starts_with(expected), "{text}");
        }
        assert!(
            results[7].1.contains("colour=red in [hooks]"),
            "{results:?}"
        );
        assert_eq!(results[6].0, ResultKind::Note);
        assert_eq!(results.len(), 8);
        let lasts =
            |results: &[(ResultKind, String)]| results.iter().any(|r| r.1.contains("lets go"));
        assert!(lasts(&told(None)) && !lasts(&told(Some(Duration::from_secs(5)))));
        // Every fault, not the first alone.
        for name in ["1", "2"] {
            fs::set_permissions(hooks.join(name), fs::Permissions::from_mode(0o757)).unwrap();
        }
        let results = installed(&hooks, &conf, minute);
        let advice: Vec<&str> = results.iter().filter_map(|r| r.advice.as_deref()).collect();
        assert_eq!(advice.len(), 2, "{results:?}");
        assert!(advice.iter().all(|advice| advice.contains("chmod go-w")));
    }
}
