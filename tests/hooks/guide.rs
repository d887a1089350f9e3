//! What hooks/README.md shows is what happens: its examples are run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use qemu_ga::hooks::{ThawReason, Verdict};

use crate::support::{Place, binary, script, text};

const GUIDE: &str = include_str!("../../hooks/README.md");

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let rest = GUIDE.split(fence.as_str()).skip(1);
    rest.map(|block| block.split_once("```").expect("an end").0)
        .collect()
}

/// The blocks that are hooks, or the others of a shell.
fn shell(hooks: bool) -> Vec<&'static str> {
    let mut found = blocks("sh");
    found.retain(|block| block.starts_with("#!") == hooks);
    found
}

/// A place where the guide's programs are: `qemu-ga`, which looks for hooks there, and `myappctl`.
fn guided() -> Place {
    let place = Place::new();
    let bin = place.path.join("bin");
    fs::create_dir(&bin).expect("dir");
    let dir = place.dir();
    script(
        &bin.join("qemu-ga"),
        &format!(
            "log=; [ \"$2\" != check ] || log=--log=/dev/null\nexec '{}' \"$@\" --dir '{}' $log",
            binary().display(),
            dir.display()
        ),
    );
    script(
        &bin.join("myappctl"),
        &format!(
            "echo $1 >>'{}'; [ $1 != flush ] || echo 'myapp: 12 pages written'",
            place.path.join("calls").display()
        ),
    );
    place
}

fn write_hook(place: &Place, name: &str, text: &str) {
    let path = place.dir().join(name);
    fs::write(&path, text).expect("hook");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
}

fn sh(place: &Place, line: &str) -> Output {
    let path = std::env::var("PATH").expect("PATH");
    let path = format!("{}:{path}", place.path.join("bin").display());
    Command::new("sh")
        .args(["-c", line])
        .env("PATH", path)
        .output()
        .expect("sh")
}

/// Without dates and times, and with the guide's directory.
fn plain(place: &Place, said: &str) -> Vec<String> {
    let said = said.replace(
        &place.dir().display().to_string(),
        "/etc/qemu/fsfreeze-hook.d",
    );
    let line = |line: &str| match line.split_once(": ") {
        Some((date, rest)) if date.split_whitespace().count() == 6 => rest.to_owned(),
        _ => match line.split_once(" took ") {
            Some((before, after)) => {
                let after = after.split_once(", ").expect("a time").1;
                format!("{before} took some time, {after}")
            }
            None => line.to_owned(),
        },
    };
    said.lines().map(line).collect()
}

#[test]
fn the_first_example_does_what_the_guide_says() {
    let place = guided();
    write_hook(&place, "10-myapp", shell(true)[0]);
    assert!(shell(true)[0].lines().count() <= 10, "a hook in ten lines");
    let commands: Vec<&str> = shell(false).iter().flat_map(|b| b.lines()).collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    for command in &commands {
        let out = sh(&place, command);
        let told = text(&out.stdout) + &text(&out.stderr);
        assert!(out.status.success(), "{command}: {told}");
    }
    let tried = sh(&place, commands[0]);
    let shown = blocks("text");
    assert_eq!(shown.len(), 1);
    assert_eq!(plain(&place, &text(&tried.stdout)), plain(&place, shown[0]));
    let calls = place.lines("calls");
    assert_eq!(
        calls,
        ["flush", "pause", "resume", "flush", "pause", "resume"]
    );

    // The guide's other promise: where the application is not installed, that is no failure.
    let hook = place.freeze().hooks.remove(0);
    assert_eq!(hook.verdict, Some(Verdict::NotApplicable), "{hook:?}");
}

#[test]
fn the_holding_example_holds_its_lock_from_freeze_to_thaw() {
    let place = guided();
    let lock = place.path.join("lock");
    let quoted = format!("'{}'", lock.display());
    let example = shell(true)[1].replace("/run/myapp.lock", &quoted);
    assert!(example.contains(&quoted));
    write_hook(&place, "20-lock", &example);
    let out = sh(&place, "qemu-ga hook try 20-lock --hold 0.1");
    let said = plain(&place, &text(&out.stdout));
    assert!(out.status.success(), "{said:?}");
    assert_eq!(
        said[2],
        "--> freeze took some time, ready and holds: success"
    );
    assert!(said.contains(&"released: ok".to_owned()), "{said:?}");

    let is_free = || {
        sh(&place, &format!("flock -n {quoted} true"))
            .status
            .success()
    };
    assert!(is_free());
    assert!(place.freeze().hooks[0].is_success());
    assert!(!is_free(), "held while frozen");
    assert!(place.thaw(ThawReason::Ok).hooks[0].is_success());
    assert!(is_free());
    assert_eq!(shell(true).len(), 2, "every hook of the guide is run here");
}

#[test]
fn the_settings_example_is_understood() {
    let place = guided();
    let examples = blocks("ini");
    assert_eq!(examples.len(), 1);
    place.conf(examples[0]);
    place.hook("10-myapp", "");
    place.hook("20-database", "");
    let out = sh(&place, "qemu-ga hook list --json");
    let shown: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(shown["warnings"], serde_json::json!([]));
    assert_eq!(shown["total-timeout"], 300.0);
    let settings = |hook: usize| -> Vec<String> {
        let list = shown["hooks"][hook]["settings"]
            .as_array()
            .expect("settings");
        list.iter()
            .map(|s| format!("{} {} [{}]", s["key"], s["value"], s["name"]).replace('"', ""))
            .collect()
    };
    let first = [
        "on-failure abort [hook 10-myapp]",
        "timeout 120 [hooks]",
        "retries 2 [hook 10-myapp]",
        "retry-pause 5 [hook 10-myapp]",
    ];
    assert_eq!(settings(0), first);
    assert_eq!(settings(1).len(), 4, "{:?}", settings(1));
}
