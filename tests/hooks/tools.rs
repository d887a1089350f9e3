//! `qemu-ga hook list`, `check` and `try`, as a person calls them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use qemu_ga::hooks::ThawReason;
use serde_json::Value;

use crate::support::{Place, binary, hook, text};

fn call(place: &Place, args: &[&str]) -> Output {
    let dir = place.dir();
    let mut all = args.to_vec();
    all.extend(["--dir", dir.to_str().expect("text")]);
    hook(&all)
}

fn says(place: &Place, status: i32, args: &[&str]) -> String {
    let out = call(place, args);
    let told = text(&out.stdout) + &text(&out.stderr);
    assert_eq!(out.status.code(), Some(status), "{args:?}: {told}");
    told.replace(&format!("{}/", place.dir().display()), "")
}

/// Without line ends, which depend on the length of times.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn json(place: &Place, status: i32, args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.push("--json");
    serde_json::from_str(&says(place, status, &all)).expect("JSON")
}

#[test]
fn one_help_names_every_word_and_each_has_its_own() {
    let help = text(&hook(&["--help"]).stdout);
    for word in [
        "freeze|thaw",
        "hook list",
        "hook check",
        "hook try",
        "hook dismiss",
    ] {
        assert!(help.contains(word), "{help}");
    }
    for word in ["list", "check", "try", "dismiss"] {
        let out = hook(&[word, "--help"]);
        let usage = format!("Usage: qemu-ga hook {word} ");
        let help = text(&out.stdout);
        let by_help = Command::new(binary()).args(["help", "hook", word]).output();
        let by_help = by_help.expect("runs");
        assert!(help.starts_with(&usage), "{word}");
        assert_eq!(text(&by_help.stdout), help);
        assert_eq!(hook(&[word, "--what"]).status.code(), Some(2), "{word}");
    }
    assert_eq!(hook(&["try"]).status.code(), Some(2), "which?");
}

#[test]
fn list_has_the_order_the_settings_and_what_does_not_run() {
    let place = Place::new();
    for name in ["10-a", "20-b", "30-c", "40-off"] {
        place.hook(name, "# qga-hook: retries = 2");
    }
    place.hook("50-plain", "");
    let plain = fs::Permissions::from_mode(0o644);
    fs::set_permissions(place.dir().join("50-plain"), plain).expect("mode");
    place.conf(
        "[hooks]\ntimeout=9\n[hook 10-a]\nstage=60\n[hook 20-b]\nparallel=yes\nretries=3\n\
         [hook 30-c]\nparallel=yes\n[hook 40-off]\nenabled=no\n[hook missing]\nstage=1\n",
    );
    let shown = json(&place, 0, &["list"]);
    let hooks = shown["hooks"].as_array().expect("hooks");
    let word = |hook: &Value, key: &str| hook[key].as_str().unwrap_or_default().to_owned();
    let rows: Vec<_> = hooks
        .iter()
        .map(|hook| {
            (
                word(hook, "path"),
                word(hook, "state"),
                hook["parallel"] == true,
            )
        })
        .collect();
    let row = |path: &str, state: &str, parallel| (path.to_owned(), state.to_owned(), parallel);
    let expected = [
        row("50-plain", "skipped", false),
        row("20-b", "runs", false),
        row("30-c", "runs", true),
        row("10-a", "runs", false),
        row("40-off", "disabled", false),
    ];
    assert_eq!(rows, expected);
    let from = |hook: usize, key: &str| {
        let mut settings = hooks[hook]["settings"].as_array().expect("settings").iter();
        let found = settings.find(|setting| setting["key"] == key);
        let from = |setting| word(setting, "from") + " " + &word(setting, "name");
        found.map(|setting| word(setting, "value") + " " + from(setting).trim_end())
    };
    assert_eq!(from(1, "retries").as_deref(), Some("3 group hook 20-b"));
    assert_eq!(from(2, "retries").as_deref(), Some("2 script"));
    assert_eq!(from(2, "timeout").as_deref(), Some("9 group hooks"));
    assert_eq!(from(2, "user"), None);
    assert_eq!(shown["warnings"].as_array().expect("list").len(), 1);

    let told = says(&place, 0, &["list"]);
    assert!(
        told.lines().all(|line| line.chars().count() <= 80),
        "{told}"
    );
    let at = |text: &str| {
        told.find(text)
            .unwrap_or_else(|| panic!("no {text:?} in {told}"))
    };
    assert!(at("  1  20-b\n") < at("  2  30-c  in parallel with the previous one\n"));
    assert!(at("  3  10-a\n") < at("  -  40-off\n"));
    assert!(at("retries = 2 (in the script)") > 0);

    fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o777)).expect("mode");
    assert!(says(&place, 1, &["list"]).contains("chmod go-w"));
}

#[test]
fn check_finds_what_is_to_be_fixed() {
    let place = Place::new();
    place.hook("10-a", "");
    let log = ["check", "--log=/dev/null"];
    assert!(says(&place, 0, &log).ends_with("no problems found\n"));
    place.hook("20-b", "# qga-hook: user = nobody-of-the-test");
    fs::write(place.dir().join("30-c"), "#!/bin/sh\r\n").expect("file");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(place.dir().join("30-c"), mode).expect("mode");
    place.conf("[hooks]\ntimeout=soon\n");
    let results = json(&place, 1, &log);
    let findings: Vec<&Value> = results["results"]
        .as_array()
        .expect("results")
        .iter()
        .filter(|result| result["kind"] == "finding")
        .collect();
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert!(findings.iter().all(|f| f["remedy"] != ""));
    assert!(says(&place, 1, &log).ends_with("3 findings\n"));
    let nowhere = ["check", "--log", "/nonexistent/log"];
    assert!(
        says(&place, 1, &nowhere)
            .contains("cannot write to /nonexistent/log: /nonexistent: No such")
    );
}

#[test]
fn try_runs_one_hook_and_says_what_it_means() {
    let place = Place::new();
    place.hook("10-other", "echo no >>\"$0.bak\"");
    place.hook(
        "20-app",
        "echo \"told $1, ${QGA_THAW_REASON-none}\"; [ $1 = thaw ] || exit ${STATUS-0}",
    );
    let told = says(&place, 0, &["try", "20-app"]);
    assert!(told.contains("told freeze, none\n"), "{told}");
    assert!(told.contains("told thaw, ok\n"), "{told}");
    assert_eq!(told.matches("status 0: success").count(), 2, "{told}");

    place.hook(
        "20-app",
        "echo \"told $1, ${QGA_THAW_REASON-none}\"; exit 4",
    );
    let told = says(&place, 1, &["try", "20-app"]);
    assert!(
        told.contains("status 4: FAILED; a freeze would go on"),
        "{told}"
    );
    place.conf("[hook 20-app]\non-failure=abort\nretries=1\nretry-pause=0\n");
    let told = says(&place, 1, &["try", "20-app"]);
    let freeze = "status 4: FAILED, after 2 tries; the freeze would fail";
    assert!(
        unwrapped(&told).contains(freeze) && told.contains("told thaw, failed"),
        "{told}"
    );
    place.conf("[hook 20-app]\nnot-applicable=4\n");
    assert!(says(&place, 0, &["try", "20-app"]).contains("status 4: not applicable"));

    let story = json(&place, 0, &["try", "20-app"]);
    assert_eq!(story["succeeded"], true);
    assert_eq!(story["calls"][1]["verdict"], "not-applicable");
    assert!(
        story["log"]
            .as_str()
            .expect("log")
            .contains("told thaw, ok\n")
    );

    // Nothing of an agent's was touched, and no other hook called.
    assert!(!place.path.join("qga.hooks").exists());
    assert!(place.log().is_empty());
    assert!(!place.dir().join("10-other.bak").exists());
    assert!(says(&place, 1, &["try", "30-none"]).contains("no such hook: 30-none"));
}

#[test]
fn try_says_what_a_freeze_says_of_misspelt_settings() {
    let place = Place::new();
    place.hook("10-db", "# qga-hook: colour = blue");
    place.conf("[hooks]\ncolor=red\n");
    let told = says(&place, 0, &["try", "10-db"]);
    for wrong in ["colour = ", "color="] {
        assert_eq!(told.matches(wrong).count(), 1, "{told}");
    }
    let shown = json(&place, 0, &["try", "10-db"]);
    assert_eq!(shown["warnings"].as_array().expect("a list").len(), 2);
    place.conf("[hook 10-db]\nenabled=no\n");
    let told = says(&place, 0, &["try", "10-db"]);
    assert!(told.contains("10-db: a freeze does not call it"), "{told}");
}

#[test]
fn try_takes_paths_samples_and_limits() {
    let place = Place::new();
    place.conf("[hook 20-app]\nsuccess=3\n");
    place.hook("20-app.sample", "echo a sample; exit 3");
    // The settings that it will have.
    assert!(says(&place, 0, &["try", "20-app.sample"]).contains("status 3: success"));
    let path = place.dir().join("20-app.sample");
    let path = path.to_str().expect("text");
    assert!(says(&place, 0, &["try", path]).contains("a sample\n"));
    place.hook("hangs", "exec sleep 1000");
    let told = says(&place, 1, &["try", "hangs", "--limit", "0.1"]);
    assert_eq!(
        told.matches("not finished in time: FAILED").count(),
        2,
        "{told}"
    );
    let wrong = call(&place, &["try", "hangs", "--limit", "soon"]);
    assert_eq!(wrong.status.code(), Some(2));
}

const HOLDER: &str = "# qga-hook: type = hold\necho ready >&3\nread -r why || why=failed\n\
    echo \"let go: $why\"";

#[test]
fn try_has_holding_hooks_hold_beside_those_of_the_agent() {
    let place = Place::new();
    place.hook("10-db", HOLDER);
    place.freeze();
    let told = says(&place, 0, &["try", "10-db"]);
    assert!(told.contains("ready and holds: success"), "{told}");
    assert!(told.contains("let go: ok\n"), "{told}");
    let agents = place.thaw(ThawReason::Ok);
    assert!(!agents.hooks[0].lost, "the agent's own still held");

    place.hook("10-db", "# qga-hook: type = hold\nexit 0");
    let told = says(&place, 1, &["try", "10-db"]);
    assert!(
        told.contains("status 0 before it was ready: FAILED"),
        "{told}"
    );
    assert!(told.contains("--> nothing to call"), "{told}");
}

#[test]
fn a_person_who_stops_the_pause_still_gets_the_thaw() {
    let place = Place::new();
    place.hook("10-db", HOLDER);
    let mut person = Command::new(binary())
        .args(["hook", "try", "10-db", "--hold", "1000", "--dir"])
        .arg(place.dir())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let out = BufReader::new(person.stdout.take().expect("stdout"));
    let mut lines = out.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("--> freeze")));
    let pid = i32::try_from(person.id()).expect("pid");
    qemu_ga::sys::process::kill(pid, nix::libc::SIGINT).expect("sent");
    let rest: Vec<String> = lines.collect();
    assert!(rest.contains(&"let go: ok".to_owned()), "{rest:?}");
    assert_eq!(person.wait().expect("ended").code(), Some(0));
}

/// `qemu-ga hook try NAME` at a terminal of its own, which script(1) makes; what is written to it is typed.
fn at_terminal(place: &Place, name: &str) -> std::process::Child {
    let command = format!(
        "'{}' hook try {name} --dir '{}'",
        binary().display(),
        place.dir().display()
    );
    Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script(1)")
}

/// A place in which hooks of other users can be run; `None`: only root can be another.
fn open_to_other_users() -> Option<Place> {
    if crate::left_out::needs_root() {
        return None;
    }
    let place = Place::new();
    let above = place.path.parent().expect("above");
    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).expect("mode");
    Some(place)
}

#[test]
fn the_hook_of_a_user_types_nothing_at_the_operator_s_terminal() {
    let Some(place) = open_to_other_users() else {
        return;
    };
    place.hook(
        "10-db",
        "perl -e 'open(T, \"+<\", \"/dev/tty\") or die \"cannot open: $!\\n\"; \
         $x = \"x\"; ioctl(T, 0x5412, $x) or die \"cannot type: $!\\n\"; print \"typed\\n\"'",
    );
    place.conf("[hook 10-db]\nuser=nobody\n");
    let told = at_terminal(&place, "10-db").wait_with_output();
    let told = text(&told.expect("ended").stdout);
    let refused = "cannot open: No such device or address";
    assert_eq!(told.matches(refused).count(), 2, "{told}");
}

#[test]
fn ctrl_c_ends_the_hook_of_a_user_and_says_so() {
    use std::io::Write;
    let Some(place) = open_to_other_users() else {
        return;
    };
    place.hook(
        "10-db",
        "[ $1 = thaw ] || { echo pid $$; exec sleep 1000; }",
    );
    place.conf("[hook 10-db]\nuser=nobody\n");
    let mut person = at_terminal(&place, "10-db");
    let out = BufReader::new(person.stdout.take().expect("stdout"));
    let mut lines = out.lines().map_while(Result::ok);
    let pid = lines.find_map(|line| line.strip_prefix("pid ").map(|pid| pid.trim().to_owned()));
    let pid: i32 = pid.expect("it runs").parse().expect("number");
    let mut keys = person.stdin.take().expect("stdin");
    keys.write_all(b"\x03").expect("typed");
    let rest: Vec<String> = lines.collect();
    let says = |what: &str| rest.iter().any(|line| line.contains(what));
    assert!(says("was ended because the run was stopped"), "{rest:?}");
    assert!(says(" freeze took ") && says(", stopped: "), "{rest:?}");
    assert!(says(" thaw took "), "{rest:?}");
    assert!(qemu_ga::sys::process::stat(pid).is_none_or(|stat| !stat.is_running));
    person.wait().expect("ended");
}
