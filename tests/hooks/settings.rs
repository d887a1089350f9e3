//! Settings that cannot be read: what was meant to protect never falls away in silence.

use std::fs;
use std::process::Command;

use qemu_ga::hooks::ThawReason;

use crate::support::{Place, hook, text};

/// A hook that is harmless to call, with a setting of its own, and one whose settings protect.
fn place(conf: &[u8]) -> Place {
    let place = Place::new();
    place.hook("a", "exit 5");
    place.hook("db", "id -un");
    fs::write(place.path.join("fsfreeze-hook.conf"), conf).expect("conf");
    place
}

/// The findings of `qemu-ga hook check`, each with what to do.
fn findings(place: &Place) -> Vec<String> {
    let dir = place.dir();
    let out = hook(&[
        "check",
        "--json",
        "--log=/dev/null",
        "--dir",
        dir.to_str().expect("text"),
    ]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    let shown: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let all = shown["results"]
        .as_array()
        .or(shown.as_array())
        .expect("a list");
    let is_finding = |one: &&serde_json::Value| one["kind"] == "finding";
    all.iter()
        .filter(is_finding)
        .map(ToString::to_string)
        .collect()
}

fn called(place: &Place, name: &str) -> bool {
    place.log().contains(&format!("execute {name} freeze"))
}

const WHOLE: &str = "[hook a]\nsuccess=5\n";
const DB: &str = "[hook db]\nuser=nobody\non-failure=abort\n";

#[test]
fn what_the_broken_part_named_is_not_run_and_fails_the_freeze() {
    let rows: [(String, &str); 19] = [
        (
            format!("{WHOLE}[hook db\nuser=nobody\non-failure=abort\n"),
            "line 3",
        ),
        (format!("[hook db \"x\n{}\n{WHOLE}", &DB[10..]), "line 1"),
        (format!("{WHOLE}hook db]\nuser=nobody\n"), "line 3"),
        (format!("{WHOLE}hook db\nuser=nobody\n"), "line 3"),
        (
            format!("{WHOLE}[hook db] on-failure=abort\nuser=nobody\n"),
            "line 3",
        ),
        (format!("{WHOLE}[]\nuser=nobody\n"), "line 3"),
        (format!("{WHOLE}{DB}us\0er=nobody\n"), "line 6"),
        (format!("{WHOLE}[hook db]\nuser=no\0body\n"), "line 4"),
        (format!("{WHOLE}[hook db]\nuser: nobody\n"), "line 4"),
        (format!("{WHOLE}[hook db]\nuser nobody\n"), "line 4"),
        (
            format!("user=nobody\n{WHOLE}[hook db]\ntimeout=3\n"),
            "line 1",
        ),
        (format!("{WHOLE}[hooks\non-failure=abort\n"), "line 3"),
        (format!("{WHOLE}[hook db]\nusr=nobody\n"), "line 4"),
        (format!("{WHOLE}[hook db]\nonfailure=abort\n"), "line 4"),
        (format!("{WHOLE}[hook db]\non-failure=abrot\n"), "line 4"),
        (format!("{WHOLE}[hook db]\nenabled=nope\n"), "line 4"),
        (format!("{WHOLE}[hook db]\npolicy=abort\n"), "line 4"),
        (format!("{WHOLE}[Hook db]\non-failure=abort\n"), "line 4"),
        (format!("{WHOLE}[db]\non-failure=abort\n"), "line 4"),
    ];
    for (conf, line) in rows {
        let place = place(conf.as_bytes());
        let report = place.freeze();
        let log = place.log();
        let failure = report
            .failure
            .unwrap_or_else(|| panic!("{conf:?}: {log:?}"));
        assert!(failure.contains(line), "{conf:?}: {failure}");
        assert!(!called(&place, "db"), "{conf:?}: {log:?}");
        assert!(log.iter().any(|l| l.contains(line)), "{conf:?}: {log:?}");
        if called(&place, "a") {
            assert!(report.hooks[0].is_success(), "{conf:?}: {log:?}");
        }
        let told = findings(&place);
        assert!(
            told.iter().any(|one| one.contains(line)),
            "{conf:?}: {told:?}"
        );
        place.thaw(ThawReason::Failed);
        assert!(!place.log().contains(&"execute db thaw".to_owned()));
    }
}

#[test]
fn the_rest_of_the_file_keeps_its_force() {
    let place = place(format!("[hook db\nuser=nobody\n{WHOLE}").as_bytes());
    let report = place.freeze();
    assert!(report.failure.is_some() && called(&place, "a"));
    assert!(report.hooks[0].is_success(), "{:?}", report.hooks);
}

#[test]
fn a_policy_that_was_not_abort_lets_the_freeze_go_on() {
    let rows = [
        "[hook db]\non-failure=continue\nuser: nobody\n",
        "[hook db\non-failure=continue\nuser=nobody\n",
    ];
    for conf in rows {
        let place = place(format!("{WHOLE}{conf}").as_bytes());
        let report = place.freeze();
        assert_eq!(report.failure, None, "{conf:?}: {:?}", place.log());
        assert!(!called(&place, "db") && called(&place, "a"));
        assert!(!report.hooks[1].is_success(), "the level must show it");
    }
    // Unless what cannot be read may have been just that.
    let place = place(b"[hook db]\non-failure=continue\non-failure: abort\n");
    assert!(place.freeze().failure.is_some());
}

#[test]
fn what_can_be_meant_in_one_way_only_counts_and_is_told() {
    // Only root can be another user.
    if crate::left_out::needs_root() {
        return;
    }
    let rows = [
        (format!("\u{feff}{DB}{WHOLE}"), "byte order mark"),
        (format!("; a comment\n{DB}; another\n{WHOLE}"), "line 1"),
        (format!("{DB}{WHOLE}[hook db]\ntimeout=7\n"), "line 6"),
        (format!("{DB}timeout=7\ntimeout=8\n{WHOLE}"), "line 5"),
    ];
    for (conf, told) in rows {
        let place = place(conf.as_bytes());
        let above = place.path.parent().expect("above");
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(above, fs::Permissions::from_mode(0o755)).expect("mode");
        let report = place.freeze();
        let log = place.log();
        assert_eq!(report.failure, None, "{conf:?}: {log:?}");
        assert!(report.hooks.iter().all(|h| h.is_success()), "{log:?}");
        assert!(log.contains(&"nobody".to_owned()), "{conf:?}: {log:?}");
        assert!(log.iter().any(|l| l.contains(told)), "{conf:?}: {log:?}");
        assert!(findings(&place).iter().any(|one| one.contains(told)));
    }
}

#[test]
fn a_file_that_cannot_be_read_at_all_lets_no_hook_run() {
    let make: [(&str, &str); 4] = [
        ("mkdir", "is not a regular file"),
        ("mkfifo", "is not a regular file"),
        ("ln -s fsfreeze-hook.conf", "symbolic links"),
        ("truncate -s 1048577", "1 MiB"),
    ];
    for (command, why) in make {
        let place = Place::new();
        place.hook("db", "id -un");
        let line = format!("cd \"$1\" && {command} fsfreeze-hook.conf && chmod go-w .");
        let made = Command::new("sh")
            .args(["-c", &line, "sh"])
            .arg(&place.path)
            .status();
        assert!(made.expect("sh").success(), "{command}");
        let report = place.freeze();
        let failure = report.failure.unwrap_or_else(|| panic!("{command}"));
        assert!(failure.contains("fsfreeze-hook.conf"), "{failure}");
        assert!(failure.contains(why), "{failure}");
        assert_eq!(report.hooks, []);
        assert!(!called(&place, "db"), "{command}");
        let told = findings(&place);
        assert!(
            told.iter().any(|one| one.contains(why)),
            "{command}: {told:?}"
        );
    }
    // Two bytes a character, as some editors save it.
    let wide: Vec<u8> = format!("\u{feff}{DB}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let place = place(&wide);
    assert!(place.freeze().failure.is_some() && !called(&place, "db"));
    assert!(findings(&place).len() < 30, "not a finding for every byte");
}

#[test]
fn another_system_s_scripts_do_not_run_by_settings_that_cannot_be_read() {
    for conf in [
        "[alibaba]\npre-script=PRE\npost-script: PRE\n",
        "[alibaba\nenabled=no\n",
        "[alibaba]\npre-script=PRE\nenabled=nay\n",
        "[Alibaba]\nenabled=no\n",
    ] {
        let place = Place::new();
        let pre = place.path.join("pre");
        let conf = conf.replace("PRE", &pre.display().to_string());
        crate::support::script(&pre, "echo no");
        fs::set_permissions(&pre, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .expect("mode");
        place.conf(&conf);
        let failure = place.freeze().failure.unwrap_or_else(|| panic!("{conf}"));
        assert!(failure.contains("line "), "{conf}: {failure}");
        assert!(!place.log().contains(&"no".to_owned()), "{conf}");
    }
}

#[test]
fn settings_in_a_script_that_are_nearly_right_are_told() {
    let far = "\n:".repeat(60);
    let rows = [
        "#qga-hook: timeout = 5".to_owned(),
        "# qga-hook timeout = 5".to_owned(),
        "# QGA-Hook: timeout = 5".to_owned(),
        "#  qga-hook: timeout = 5".to_owned(),
        "## qga-hook: timeout = 5".to_owned(),
        "# qga_hook: timeout = 5".to_owned(),
        "// qga-hook: timeout = 5".to_owned(),
        "# qga-hook: timeout: 5".to_owned(),
        format!("{far}\n# qga-hook: timeout = 5"),
        format!("{}\n# qga-hook: timeout = 5", "#\n".repeat(9000)),
    ];
    for head in rows {
        let place = Place::new();
        place.hook("a", &head);
        assert_eq!(place.freeze().failure, None);
        let log = place.log();
        let number = 1 + head.lines().count();
        let told =
            |line: &String| line.contains("qga-hook") && line.contains(&format!("line {number}"));
        assert!(log.iter().any(told), "{head:?}: {log:?}");
        assert!(findings(&place).iter().any(told), "{head:?}");
    }
    // No first line, no settings: that is told, too.
    let place = Place::new();
    crate::support::executable(&place.dir().join("a"), "# qga-hook: timeout = 5\n");
    place.freeze();
    assert!(
        place
            .log()
            .iter()
            .any(|l| l.contains("line 1") && l.contains("#!")),
        "{:?}",
        place.log()
    );
    // What is right, or only speaks of it, is not.
    let place = Place::new();
    place.hook("a", "# qga-hook: timeout = 5\n# lines of qga-hook: see the manual\necho '# qga-hook: x = y' >&2\n");
    place.freeze();
    assert!(
        !place.log().iter().any(|l| l.contains("is not read")),
        "{:?}",
        place.log()
    );
}
