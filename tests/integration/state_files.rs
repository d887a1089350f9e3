//! State files that are torn, foreign or no files: one warning, a safe course, and an agent that
//! starts.

use crate::support::disk::tmpfs;
use crate::support::{Agent, Disk, Place, in_namespace, is_ours, needs_root, returned, wait_until};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

/// What may be in place of a state file, by name.
const ODD: [&str; 9] = [
    "empty",
    "zeros",
    "garbage",
    "torn",
    "types",
    "huge",
    "directory",
    "fifo",
    "link",
];

/// Puts `kind` at `path`; `torn` and `types` are texts of that file.
fn put(place: &Place, path: &Path, kind: &str, torn: &str, types: &str) {
    fs::remove_file(path).or_else(|_| fs::remove_dir(path)).ok();
    let text = match kind {
        "empty" => Vec::new(),
        "zeros" => vec![0; 64],
        "garbage" => b"\xff\xfe what is this {[\n".to_vec(),
        "torn" => torn.into(),
        "types" => types.into(),
        "huge" => vec![b'9'; 20 << 20],
        "directory" => return fs::create_dir(path).expect("dir"),
        "fifo" => return mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).expect("fifo"),
        _ => {
            fs::write(place.path("target"), "of somebody else").expect("target");
            return symlink(place.path("target"), path).expect("link");
        }
    };
    fs::write(path, text).expect("file");
}

fn open(agent: &Agent) -> String {
    agent
        .connect()
        .ask(r#"{"execute":"guest-file-open","arguments":{"path":"/dev/null"}}"#)
}

fn handle(answer: &str) -> i64 {
    let number = answer
        .strip_prefix(r#"{"return": "#)
        .and_then(|rest| rest.strip_suffix('}'));
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn a_counter_that_cannot_be_read_goes_on_where_no_handle_was() {
    if !is_ours() {
        return; // it does not start
    }
    let mut known = vec![1234];
    for kind in ODD {
        let place = Place::new();
        let path = place.path("state/qga.state");
        put(
            &place,
            &path,
            kind,
            "[global]\nfd_counter=12",
            "[global]\nfd_counter=x\n",
        );
        let agent = place.agent(&[]);
        let warnings = || place.read("log").matches("warning: cannot read ").count();
        assert_eq!(warnings(), 1, "{kind}: {}", place.read("log"));
        assert!(place.read("log").contains("qga.state"), "{kind}");
        if kind == "directory" {
            // Without a successor on disk no handle is given out.
            assert!(open(&agent).contains("failed to commit persistent state"));
            continue;
        }
        let number = handle(&open(&agent));
        assert!(number > 1 << 30 && number < 1 << 31, "{kind}: {number}");
        assert!(!known.contains(&number), "{kind}: {number} again");
        known.push(number);
        assert!(agent.stop().success());
        let agent = place.agent(&[]);
        assert_eq!(handle(&open(&agent)), number + 1, "{kind}");
        assert_eq!(warnings(), 1, "{kind}: {}", place.read("log"));
        if kind == "link" {
            assert_eq!(place.read("target"), "of somebody else");
        }
    }
    // What its successor would not fit in.
    for text in [
        "9223372036854775807",
        "99999999999999999999",
        "-9999999999",
        "1e19",
    ] {
        let place = Place::new();
        fs::write(
            place.path("state/qga.state"),
            format!("[global]\nfd_counter={text}\n"),
        )
        .expect("file");
        let agent = place.agent(&[]);
        let number = handle(&open(&agent));
        assert!(number > 1 << 30 && number < 1 << 31, "{text}: {number}");
    }
}

/// Output of a tool that must not take long.
fn tool(place: &Place, name: &str) -> String {
    let mut command = place.command();
    command.args([name, "-t"]).arg(place.path("state"));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    wait_until(name, || child.try_wait().expect("wait").is_some());
    let output = child.wait_with_output().expect("output");
    let status = output.status.code();
    assert!(matches!(status, Some(0 | 1)), "{name}: {status:?}");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn a_freeze_that_expired_is_told_even_if_its_file_is_torn() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let path = place.path("state/qga.state.expired");
        let agent = place.agent(&[]);
        let torn = r#"{"when":1.7e9,"held":90"#;
        let types = r#"{"when":"now","held":null,"reason":1,"count":-1}"#;
        for kind in ODD {
            put(&place, &path, kind, torn, types);
            let status = tool(&place, "status");
            assert!(status.contains("late thaw"), "{kind}: {status}");
            let answer = agent.call("guest-fsfreeze-thaw");
            assert!(
                answer.contains("the freeze was ended at an unknown time"),
                "{kind}: {answer}"
            );
            assert!(answer.contains("qga.state.expired"), "{kind}: {answer}");
            if kind == "directory" {
                assert!(
                    place.read("log").contains("unable to delete"),
                    "{}",
                    place.read("log")
                );
                fs::remove_dir(&path).expect("dir");
            }
            assert!(!path.exists(), "{kind}");
            assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(0), "{kind}");
        }
        for when in ["1e19", "-1", "1e308", "9e18", "-1e19"] {
            let text = format!(
                r#"{{"when":{when},"held":{when},"reason":"of x","count":18446744073709551615,"new":[1]}}"#
            );
            fs::write(&path, text).expect("file");
            assert!(tool(&place, "status").contains("of x"), "{when}");
            let answer = agent.call("guest-fsfreeze-thaw");
            assert!(
                answer.contains("ended at an unknown time") && answer.contains("of x"),
                "{when}: {answer}"
            );
        }
        assert!(agent.stop().success());
    });
}

#[test]
fn reports_that_cannot_be_read_start_anew() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let _disk = Disk::ext4(&place.path("m"));
        let path = place.path("state/qga.reports.json");
        let agent = place.agent(&[]);
        let cycle = || {
            assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
            assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
            wait_until("the report", || {
                fs::symlink_metadata(&path)
                    .is_ok_and(|file| file.is_file() && file.len() > 64 && file.len() < 1 << 20)
            });
        };
        cycle();
        let whole = place.read("state/qga.reports.json");
        let wrong = whole.replacen(r#""started":"#, r#""started":null,"was":"#, 1);
        let ask = || agent.call("x-guest-fsfreeze-report");
        for kind in ODD {
            put(&place, &path, kind, &whole[..whole.len() / 2], &wrong);
            assert!(
                tool(&place, "report").contains("qga.reports.json"),
                "{kind}"
            );
            tool(&place, "status");
            tool(&place, "check");
            let answer = ask();
            assert!(!answer.contains(r#""started""#), "{kind}: {answer}");
            if kind == "directory" {
                assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
                assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
                // It is kept in memory.
                assert!(ask().contains(r#""started""#), "{}", ask());
                fs::remove_dir(&path).expect("dir");
            }
            cycle();
            assert!(ask().contains(r#""started""#), "{kind}");
        }
        assert_eq!(place.read("target"), "of somebody else");
        // Another version's members, and times beyond the calendar.
        for when in ["1e19", "-1", "1e308"] {
            let from = whole.find(r#""started":"#).expect("member");
            let to = from + whole[from..].find(',').expect("more");
            let text = format!(
                r#"{}"started":{when},"of-another-version":[]{}"#,
                &whole[..from],
                &whole[to..]
            );
            fs::write(&path, text).expect("file");
            for name in ["report", "status", "check"] {
                let said = tool(&place, name);
                assert!(!said.contains("new history"), "{when}: {said}");
            }
            assert!(ask().contains(r#""started""#), "{when}");
        }
        assert!(agent.stop().success());
    });
}

#[test]
fn no_file_of_the_agent_follows_a_link_of_another_user() {
    if !is_ours() {
        return;
    }
    let place = Place::new();
    let target = place.path("target");
    fs::write(&target, "untouched").expect("target");
    let state = place.path("state");
    for name in ["qga.state.new", "qga.lock"] {
        symlink(&target, state.join(name)).expect("link");
    }
    mkfifo(&state.join("qga.reports.json.new"), Mode::S_IRUSR).expect("fifo");
    let agent = place.agent(&[]);
    assert_eq!(handle(&open(&agent)), 1000);
    assert!(agent.stop().success());
    assert_eq!(place.read("target"), "untouched");
    // The pid file.
    let pid = place.path("pid");
    symlink(&target, &pid).expect("link");
    let status = place
        .agent_command(&["-d", "-f", &place.name("pid")])
        .status();
    assert!(status.expect("runs").success());
    wait_until("the error", || {
        place.read("log").contains("Could not create")
    });
    assert_eq!(place.read("target"), "untouched");
    // The log: a link of root's is an arrangement, one of somebody else's an attack.
    let log = place.path("link.log");
    symlink(&target, &log).expect("link");
    let link = place.name("link.log");
    assert!(place.agent(&["-v", "-l", &link]).stop().success());
    assert!(place.read("target").starts_with("untouched"));
    assert_ne!(place.read("target"), "untouched");
    if needs_root() {
        return;
    }
    fs::write(&target, "untouched").expect("target");
    std::os::unix::fs::lchown(&log, Some(65534), None).expect("chown");
    let child = place.agent_command(&["-v", "-l", &link]).spawn();
    let mut refused = Agent::adopt(child.expect("runs"));
    assert_eq!(refused.wait().code(), Some(1));
    assert!(
        place
            .read("stderr")
            .contains("it is a link that belongs to user 65534"),
        "{}",
        place.read("stderr")
    );
    assert_eq!(place.read("target"), "untouched");
}

#[test]
fn a_late_thaw_is_told_where_nothing_can_be_written() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let state = place.path("state");
        tmpfs(&state);
        let disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&["--fsfreeze-hold-limit=1"]);
        let none: Option<&str> = None;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, &state, none, flags, none).expect("read-only");
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        wait_until("the limit", || {
            agent.call("guest-fsfreeze-status").contains("thawed")
        });
        assert!(!disk.is_frozen());
        let answer = agent.call("guest-fsfreeze-thaw");
        assert!(answer.contains("within the hold limit"), "{answer}");
        assert!(
            !agent
                .call("guest-fsfreeze-thaw")
                .contains("within the hold limit")
        );
        let report = agent.call("x-guest-fsfreeze-report");
        assert!(report.contains(r#""end": "expiry""#), "{report}");
        // A marker that stays is another matter.
        let flags = MsFlags::MS_REMOUNT;
        mount(none, &state, none, flags, none).expect("writable");
    });
}

/// Sums of such times must not end the agent.
#[test]
fn times_beyond_all_bounds_are_no_end() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot id");
        let most = u64::MAX;
        let marker = format!(
            r#"{{"boot":"{}","id":"a","since-ms":{most},"limit-ms":{most},"devices":[]}}"#,
            boot.trim_end()
        );
        fs::write(place.marker(), marker).expect("marker");
        let expired = format!(r#"{{"when":1e19,"held":1e19,"reason":"x","count":{most}}}"#);
        fs::write(place.path("state/qga.state.expired"), expired).expect("expired");
        let agent = place.agent(&[]);
        let frozen = returned("\"frozen\"");
        assert_eq!(agent.call("guest-fsfreeze-status"), frozen);
        let told = agent.call("guest-fsfreeze-thaw");
        assert!(told.contains("10000000000000000000 s"), "{told}");
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(0));
    });
}
