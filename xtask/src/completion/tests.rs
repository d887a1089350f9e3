//! The scripts in their shells. A shell that is not installed is skipped; tests/run installs all three.

use super::*;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Directories as in HOOK_DIRS, with a hook whose name would be harmful if a shell expanded it.
struct Scene(tempfile::TempDir);

const HARMFUL: &str = "30-$(touch expanded) `touch expanded`";

impl Scene {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hooks = dir.path().join("hooks");
        fs::create_dir_all(hooks.join("sub")).unwrap();
        for name in ["10-database", "20-cache", HARMFUL] {
            fs::write(hooks.join(name), "").unwrap();
        }
        let script = script.replace(HOOK_DIRS[0], hooks.to_str().unwrap());
        fs::write(dir.path().join("script"), script).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A line each; `None` if there is no such shell.
    fn run(&self, shell: &str, args: &[&str]) -> Option<Vec<String>> {
        let done = Command::new(shell)
            .args(args)
            .current_dir(self.path())
            .env("HOME", self.path())
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.is_empty(), "{args:?}: {said}");
        assert!(!self.path().join("expanded").exists(), "{args:?}");
        let text = String::from_utf8(done.stdout).unwrap();
        let lines = text.lines().filter(|line| !line.is_empty());
        Some(lines.map(str::to_owned).collect())
    }
}

/// A word that must be among the proposals, and one that must not.
type Case = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

/// Command lines up to the cursor. A shell that divides words at `=` gets them divided.
const CASES: &[Case] = &[
    (
        "",
        &["plan", "hook", "selftest", "help"],
        &["list", "--now"],
    ),
    ("pl", &["plan"], &["check"]),
    ("-", &["--method", "--help"], &["--now"]),
    (
        "hook ",
        &["list", "check", "try", "dismiss", "freeze", "thaw"],
        &["plan"],
    ),
    ("hook c", &["check"], &["list"]),
    (
        "hook try ",
        &["10-database", "20-cache"],
        &["sub", "list", "plan"],
    ),
    ("hook try 1", &["10-database"], &["20-cache"]),
    (
        "hook try --",
        &["--limit", "--dir", "--json"],
        &["--log", "--now"],
    ),
    ("hook list --", &["--dir", "--conf"], &["--limit"]),
    ("help ", &["plan", "hook"], &["help", "list"]),
    ("help hook ", &["list", "dismiss"], &["plan"]),
    ("thaw --", &["--now", "--force", "--config"], &["--all"]),
    (
        "report --require ",
        &["crash", "application"],
        &["--json", "plan"],
    ),
    ("report --require c", &["crash"], &["application"]),
    ("plan ", &["/proc"], &["check"]),
    ("plan --json /pr", &["/proc"], &["/"]),
    ("-m ", &["virtio-serial", "vsock-listen"], &["plan"]),
    ("--fsfreeze-mode hooks", &["hooks-only"], &["all"]),
    ("--block-rpcs guest-p", &["guest-ping"], &["guest-sync"]),
    (
        "--block-rpcs guest-ping,guest-file-o",
        &["guest-ping,guest-file-open"],
        &["guest-ping"],
    ),
    ("--fsfreeze-exclude /pr", &["/proc"], &["type:"]),
    ("log --hook 2", &["20-cache"], &["10-database"]),
    ("log --log fi", &["file"], &["script"]),
];

fn check(shell: &str, complete: impl Fn(&str) -> Option<Vec<String>>) {
    for (line, expected, unwanted) in CASES {
        let Some(found) = complete(line) else { return };
        for word in *expected {
            assert!(
                found.iter().any(|f| f == word),
                "{shell}: {line}: no {word} in {found:?}"
            );
        }
        for word in *unwanted {
            assert!(
                found.iter().all(|f| f != word),
                "{shell}: {line}: {word} in {found:?}"
            );
        }
    }
}

/// Words, as bash has them at the cursor.
fn in_bash(scene: &Scene, words: &[&str]) -> Option<Vec<String>> {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let command = format!(
        "source ./script\nCOMP_WORDS=(qemu-ga {}) COMP_CWORD={}\n_qemu_ga\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        words.len()
    );
    scene.run("bash", &["--norc", "-c", &command])
}

#[test]
fn bash_completes() {
    let scene = Scene::new(&bash());
    check("bash", |line| {
        in_bash(&scene, &line.split(' ').collect::<Vec<_>>())
    });
    let found = |words: &[&str]| in_bash(&scene, words).unwrap();
    assert_eq!(found(&["report", "--require", "=", "cr"]), ["crash"]);
    let all = ["crash", "filesystem", "application"];
    assert_eq!(found(&["report", "--require", "="]), all);
    // A value that must be attached is not completed as the next word.
    assert_eq!(found(&["--fsfreeze-hook", "=", "fi"]), ["file"]);
    assert_eq!(found(&["-F", "fi"]), [""; 0]);
    assert_eq!(found(&["hook", "try", "3"]).len(), 1);
}

#[test]
fn fish_completes() {
    let scene = Scene::new(&fish());
    let complete = |line: &str| {
        let line = quoted(&format!("qemu-ga {line}"));
        let command = format!("source ./script; complete -C {line}");
        let found = scene.run("fish", &["--no-config", "-c", &command])?;
        let words = found
            .iter()
            .map(|line| line.split('\t').next().unwrap_or(line));
        Some(words.map(str::to_owned).collect::<Vec<_>>())
    };
    check("fish", complete);
    if let Some(found) = complete("report --require=cr") {
        assert_eq!(found, ["--require=crash"]);
    }
}

/// zsh completes in a terminal alone: a second one runs in a pseudoterminal, and waits for each proposal.
const ZSH: &str = r#"
zmodload zsh/zpty
while read -r line expected; do
    zpty z zsh -f -i
    zpty -w z 'PS1=; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -d ./dump; echo rea""dy'
    zpty -r -m z out '*ready*'
    zpty -n -w z "qemu-ga ${line//_/ }"$'\t'
    zpty -r -m z out "*$expected*"
    print -r -- $line
    zpty -d z
done <cases
"#;

#[test]
fn zsh_completes() {
    let scene = Scene::new("");
    fs::write(scene.path().join("_qemu-ga"), zsh()).unwrap();
    fs::write(scene.path().join("cases"), ZSH_CASES).unwrap();
    if Command::new("zsh").arg("--version").output().is_err() {
        return;
    }
    let found = scene.run("timeout", &["60", "zsh", "-f", "-c", ZSH]);
    let lines = ZSH_CASES
        .lines()
        .map(|case| case.split(' ').next().unwrap_or(case));
    assert_eq!(found.unwrap(), lines.collect::<Vec<_>>());
}

/// A line up to the cursor with `_` for a blank, and what zsh adds to it.
const ZSH_CASES: &str = "hook_c heck
hook_try_--l imit
report_--require=app lication
plan_/pro proc
-m_vi rtio
--block-rpcs_guest-ping,guest-file-o pen
";
