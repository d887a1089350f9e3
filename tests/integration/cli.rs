//! The command line and the configuration file.

use crate::support::{Place, binary, is_ours, returned};
use std::fs;
use std::process::Output;

fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// What `--dump-conf` prints with `args`.
fn whole_dump(place: &Place, args: &[&str]) -> String {
    let out = place.run(&[&["-D"], args].concat());
    assert!(out.status.success(), "{}", stderr(&out));
    stdout(&out)
}

/// The original's part of it.
fn dump(place: &Place, args: &[&str]) -> String {
    let whole = whole_dump(place, args);
    let general = whole.split("[qemu-ga-rs]\n").next();
    general.unwrap_or_default().to_owned()
}

const DEFAULTS: &str = "[general]
daemon=false
method=virtio-serial
path=/dev/virtio-ports/org.qemu.guest_agent.0
pidfile=/var/run/qemu-ga.pid
statedir=/var/run
verbose=false
retry-path=false
block-rpcs=
allow-rpcs=
";

#[test]
fn dump_conf() {
    let place = Place::new();
    assert_eq!(dump(&place, &[]), DEFAULTS);
    let all = dump(
        &place,
        &[
            "-m",
            "isa-serial",
            "-l",
            " /l\\",
            "-F/h",
            "-t",
            "/s",
            "-f",
            "/f",
            "-vr",
            "-b",
            "guest-exec,guest-file-open",
            "-b",
            "a,b",
            "-a",
            "c",
            "--method=unix-listen",
            "-p",
            "/p",
        ],
    );
    let expected = "[general]
daemon=false
method=unix-listen
path=/p
logfile=\\s/l\\\\
pidfile=/f
fsfreeze-hook=/h
statedir=/s
verbose=true
retry-path=true
block-rpcs=guest-file-open,guest-exec,b,a
allow-rpcs=c
";
    assert_eq!(all, expected);
}

const OWN_DEFAULTS: &str = "[qemu-ga-rs]
profile=full
fsfreeze-mode=all
fsfreeze-include=
fsfreeze-exclude=
fsfreeze-optional=
fsfreeze-strict=false
fsfreeze-ignore-frozen=false
fsfreeze-normal-rcu=false
fsfreeze-hold-limit=900
fsfreeze-step-limit=300
snapshot-file=/var/lib/qemu-ga/snapshot.json
restore-hooks=/etc/qemu/restore-hook.d
";

#[test]
fn a_dump_shows_our_own_keys_and_what_was_refused() {
    if !is_ours() {
        return;
    }
    let place = Place::new();
    let defaults = DEFAULTS.to_owned() + OWN_DEFAULTS;
    assert_eq!(whole_dump(&place, &[]), defaults);
    let file = place.name("conf");
    fs::write(&file, &defaults).expect("file");
    assert_eq!(whole_dump(&place, &["-c", &file]), defaults);
    // What was meant is not in effect, and that is said.
    let out = place.run(&["-D", "--fsfreeze-hold-limit=15m"]);
    assert!(out.status.success() && stdout(&out).ends_with(OWN_DEFAULTS));
    let refused = "qemu-ga: --fsfreeze-hold-limit=15m is not a number of seconds from 0 to 604800";
    assert!(stderr(&out).starts_with(refused), "{}", stderr(&out));
}

#[test]
fn a_dump_is_a_configuration_that_means_the_same_but_for_the_order_of_lists() {
    let place = Place::new();
    let first = dump(&place, &["-l", " /l", "-F/h", "-v", "-b", "x"]);
    let file = place.name("conf");
    fs::write(&file, &first).expect("file");
    assert_eq!(dump(&place, &["-c", &file]), first);
}

#[test]
fn version_and_help() {
    let place = Place::new();
    for option in ["-V", "--version", "--vers"] {
        let out = place.run(&[option]);
        let text = stdout(&out);
        assert!(out.status.success());
        assert_eq!(text.lines().count(), 1);
        let number = text.strip_prefix("QEMU Guest Agent ").expect("the name");
        let number = number.split_whitespace().next().expect("a number");
        assert_eq!(number.split('.').count(), 3, "{text}");
    }
    for option in ["-h", "--help"] {
        let out = place.run(&[option]);
        let text = stdout(&out);
        assert!(out.status.success());
        let first = format!(
            "Usage: {} [-m <method> -p <path>] [<options>]\n",
            binary().display()
        );
        assert!(text.starts_with(&first), "{text}");
        for word in [
            "--fsfreeze-hook",
            "/fsfreeze-hook",
            "--block-rpcs",
            "--retry-path",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

#[test]
fn list_of_commands() {
    let place = Place::new();
    let list = stdout(&place.run(&["-b", "help"]));
    let names: Vec<&str> = list.lines().collect();
    assert_eq!(
        names[..3],
        ["guest-sync-delimited", "guest-sync", "guest-ping"]
    );
    assert!(names.contains(&"guest-fsfreeze-thaw"));
    for args in [["-b", "?"], ["-a", "help"], ["-a", "?"]] {
        assert_eq!(stdout(&place.run(&args)), list);
    }
}

#[test]
fn unknown_options() {
    let place = Place::new();
    for option in ["-Q", "--nonsense", "-m"] {
        let out = place.run(&[option]);
        assert_eq!(out.status.code(), Some(1));
        let hint = format!(
            "Unknown option, try '{} --help' for more information.\n",
            binary().display()
        );
        assert_eq!(stdout(&out), hint);
        assert!(!stderr(&out).is_empty());
    }
}

#[test]
fn a_configuration_that_cannot_be_used() {
    let place = Place::new();
    let cases = [
        (
            "no group",
            "verbose=true\n",
            "Key file does not start with a group",
        ),
        ("garbage", "[general]\nverbose\n", ""),
        ("bad boolean", "[general]\nverbose=yes\n", "verbose"),
        ("empty boolean", "[general]\ndaemon=\n", "daemon"),
    ];
    for (name, text, reason) in cases {
        let file = place.name(name);
        fs::write(&file, text).expect("file");
        let out = place.run(&["-c", &file, "-D"]);
        assert_eq!(out.status.code(), Some(1), "{name}");
        let said = stderr(&out);
        let start = format!("error loading configuration from path: {file}, ");
        assert!(said.contains(&start) && said.contains(reason), "{said}");
    }
    let missing = place.name("missing");
    let out = place.run(&["-c", &missing, "-D"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains(&format!("{missing}, No such file or directory")));
    let out = place.run(&["-c", &place.name("state"), "-D"]);
    assert_eq!(out.status.code(), Some(1));
    fs::write(place.path("empty"), "").expect("file");
    assert_eq!(dump(&place, &["-c", &place.name("empty")]), DEFAULTS);
}

#[test]
fn the_file_of_the_environment_and_of_the_option() {
    let place = Place::new();
    fs::write(place.path("env"), "[general]\nverbose=1\npath=/env\n").expect("file");
    fs::write(place.path("opt"), "# note\n[general]\npath = /opt\n").expect("file");
    let run = |args: &[&str], conf: &str| {
        let mut command = place.command();
        let out = command
            .env("QGA_CONF", place.path(conf))
            .arg("-D")
            .args(args);
        stdout(&out.output().expect("runs"))
    };
    assert!(run(&[], "env").contains("\npath=/env\n"));
    assert!(run(&[], "env").contains("\nverbose=true\n"));
    assert!(run(&[], "missing").starts_with(DEFAULTS));
    let named = run(&["-c", &place.name("opt")], "env");
    assert!(named.contains("\npath=/opt\n") && named.contains("\nverbose=false\n"));
    assert!(run(&["-p", "/cmd"], "env").contains("\npath=/cmd\n"));
}

#[test]
fn old_spellings_of_the_block_list() {
    if !is_ours() {
        return; // the original refuses the option and ignores the key
    }
    let place = Place::new();
    assert!(dump(&place, &["--blacklist=guest-exec"]).contains("\nblock-rpcs=guest-exec\n"));
    let file = place.name("conf");
    fs::write(&file, "[general]\nblacklist=guest-ping\ndaemonize=true\n").expect("file");
    let agent = place.agent(&["-c", &file]);
    let blocked = crate::support::disabled("guest-ping");
    assert_eq!(agent.call("guest-ping"), blocked);
    let log = place.read("log");
    let warnings = [
        "key 'blacklist' in [general] is an old spelling; read as 'block-rpcs'",
        "unknown key 'daemonize' in [general]; ignored; did you mean 'daemon'?",
    ];
    for warning in warnings {
        assert!(log.contains(warning), "{log}");
    }
}

#[test]
fn unknown_keys_and_groups_do_no_harm() {
    let place = Place::new();
    let file = place.name("conf");
    fs::write(&file, "[other]\nverbose=maybe\n[general]\nnonsense=1\n").expect("file");
    let agent = place.agent(&["-c", &file]);
    assert_eq!(agent.call("guest-ping"), returned("{}"));
    if is_ours() {
        let log = place.read("log");
        assert!(
            log.contains("warning: ") && log.contains("key 'nonsense'"),
            "{log}"
        );
        assert!(!log.contains("maybe"), "{log}");
    }
}

#[test]
fn a_dump_leaves_the_pid_file_of_a_running_daemon_alone() {
    if !is_ours() {
        return; // it deletes it
    }
    let place = Place::new();
    fs::write(place.path("pid"), "1\n").expect("file");
    let text = dump(&place, &["-d", "-f", &place.name("pid")]);
    assert!(text.starts_with("[general]\ndaemon=true\n"), "{text}");
    assert_eq!(place.read("pid"), "1\n");
}
