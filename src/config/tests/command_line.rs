use super::*;
use crate::config::options::AgentOption;

#[test]
fn dump_of_the_defaults() {
    assert_eq!(dump(&run(&["-D"])), DEFAULTS);
    assert!(matches!(try_run(&["-D"]), Ok(Action::DumpConf(_))));
    assert!(matches!(try_run(&[]), Ok(Action::Run(_))));
}

#[test]
fn dump_of_everything() {
    let config = run(&[
        "-d",
        "-m",
        "isa-serial",
        "-l/l",
        "-f",
        "/f",
        "-F/h",
        "-t/s",
        "-vr",
        "-b",
        "guest-exec,guest-file-open",
        "-b",
        "a,b",
        "-a",
        "e,f",
    ]);
    let expected = "[general]
daemon=true
method=isa-serial
path=/dev/ttyS0
logfile=/l
pidfile=/f
fsfreeze-hook=/h
statedir=/s
verbose=true
retry-path=true
block-rpcs=guest-file-open,guest-exec,b,a
allow-rpcs=f,e
";
    assert_eq!(dump(&config), expected);
}

#[test]
fn dump_escapes() {
    assert_eq!(
        dumped(&run(&["-l", "  \t x \\y\tz;"]), "logfile").unwrap(),
        r"\s\s\t\sx \\y	z;"
    );
    assert_eq!(
        dumped(&run(&["-l", "x\n\ry"]), "logfile").unwrap(),
        r"x\n\ry"
    );
    // A list is escaped as a whole.
    assert_eq!(
        dumped(&run(&["-b", r" a,b\c"]), "block-rpcs").unwrap(),
        r"b\\c, a"
    );
    assert_eq!(
        dumped(&run(&["-b", "a, b"]), "block-rpcs").unwrap(),
        r"\sb,a"
    );
}

#[test]
fn dump_keeps_bytes_that_are_not_text() {
    let mut args = args(&["-l"]);
    args.push(OsString::from_vec(b"/\xff".to_vec()));
    let Ok(Action::Run(config)) = parse_in(&args, &|_| None, &NO_DIRS.map(Path::new)) else {
        panic!("not run")
    };
    assert!(config.dump().windows(11).any(|w| w == b"logfile=/\xff\n"));
}

#[test]
fn hook_value_counts_only_when_attached() {
    let hook = |list: &[&str]| dumped(&run(list), "fsfreeze-hook");
    let default = Some("/nonexistent/qemu/fsfreeze-hook".to_owned());
    assert_eq!(hook(&[]), None);
    assert_eq!(hook(&["-F", "/x"]), default);
    assert_eq!(hook(&["--fsfreeze-hook", "/x"]), default);
    assert_eq!(hook(&["-F/x"]).unwrap(), "/x");
    assert_eq!(hook(&["-F=/x"]).unwrap(), "=/x");
    assert_eq!(hook(&["--fsf=/x"]).unwrap(), "/x");
    assert_eq!(hook(&["--fsfreeze-hook="]).unwrap(), "");
    assert_eq!(hook(&["-rFx"]).unwrap(), "x");
}

#[test]
fn dev_null_switches_the_hook_off() {
    let config = run(&["-F/dev/null"]);
    assert_eq!(config.hook(), None);
    assert_eq!(dumped(&config, "fsfreeze-hook").unwrap(), "/dev/null");
    assert_eq!(run(&["-F/x"]).hook(), Some(Path::new("/x")));
}

#[test]
fn long_options_abbreviate() {
    assert_eq!(
        run(&["--me=unix-listen", "-p/x"]).method,
        Method::UnixListen
    );
    assert!(run(&["--verb"]).verbose);
    assert!(run(&["--dae"]).daemon);
    assert!(matches!(try_run(&["--vers"]), Ok(Action::Version(_))));
    assert!(matches!(try_run(&["--h"]), Ok(Action::Help(_))));
    // Two spellings of one option make no ambiguity.
    assert_eq!(dumped(&run(&["--bl", "x"]), "block-rpcs").unwrap(), "x");
    let error = error(&["--ver"]);
    assert_eq!(
        error.stderr,
        "qga: option '--ver' could be any of --verbose, --version\n"
    );
    assert_eq!(
        error.stdout,
        "Unknown option, try 'qga --help' for more information.\n"
    );
}

#[test]
fn old_spelling_of_the_block_list() {
    let config = run(&["--blacklist=a", "--block-rpcs=b", "--allow-rpcs", "c"]);
    assert_eq!(config.block_rpcs.names().collect::<Vec<_>>(), ["a", "b"]);
    assert!(config.allow_rpcs.names().any(|name| name == "c"));
}

#[test]
fn operands_and_the_service_option_are_ignored() {
    assert!(run(&["x", "-v", "y"]).verbose);
    assert!(!run(&["--", "-v"]).verbose);
    assert_eq!(dump(&run(&["-", "-s", "install", "x"])), DEFAULTS);
    assert!(run(&["-sx", "-v"]).verbose);
}

#[test]
fn bad_options() {
    for (list, complaint) in [
        (&["-Q"][..], "unknown option '-Q'"),
        (&["-vQv"], "unknown option '-Q'"),
        (&["--foo=1"], "unknown option '--foo'"),
        (
            &["--hold-limit-of-another-agent"],
            "unknown option '--hold-limit-of-another-agent'",
        ),
        (&["-m"], "option '-m' needs a value"),
        (&["--meth"], "option '--method' needs a value"),
        (&["--verb=x"], "option '--verbose' takes no value"),
        (&["-s"], "option '-s' needs a value"),
        (&["-\u{1b}"], "unknown option '-\\x1b'"),
    ] {
        let error = error(list);
        assert_eq!(error.stderr, format!("qga: {complaint}\n"), "{list:?}");
        assert_eq!(
            error.stdout,
            "Unknown option, try 'qga --help' for more information.\n"
        );
    }
}

#[test]
fn options_with_an_immediate_effect_come_in_order() {
    assert!(matches!(try_run(&["-V", "-Q"]), Ok(Action::Version(_))));
    error(&["-Q", "-V"]);
    assert!(matches!(
        try_run(&["-D", "-b", "help", "-V"]),
        Ok(Action::ListCommands)
    ));
    assert!(matches!(try_run(&["-a", "?"]), Ok(Action::ListCommands)));
    assert!(matches!(try_run(&["-ahelp"]), Ok(Action::ListCommands)));
    assert_eq!(
        dumped(&run(&["-b", "help,x"]), "block-rpcs").unwrap(),
        "x,help"
    );
    // The file comes before everything, wherever its name stands.
    assert!(
        error(&["-V", "-c", "/nonexistent/conf"])
            .stderr
            .contains("No such file or directory")
    );
    // A list in the file is never a question.
    assert_eq!(
        dumped(&from_file("[general]\nblock-rpcs=help\n"), "block-rpcs").unwrap(),
        "help"
    );
}

#[test]
fn empty_value_is_no_list() {
    assert!(run(&["-a", ""]).allow_rpcs.names().next().is_none());
    let config = run(&["-a", ",guest-info"]);
    assert_eq!(
        config.allow_rpcs.names().collect::<Vec<_>>(),
        ["", "guest-info"]
    );
}

#[test]
fn methods_and_their_paths() {
    assert_eq!(
        dumped(&run(&["-misa-serial"]), "path").unwrap(),
        "/dev/ttyS0"
    );
    // An empty path is a path: opening it will fail.
    assert_eq!(dumped(&run(&["-p", ""]), "path").unwrap(), "");
    assert_eq!(
        run(&["-m", "x", "-p", "y"]).method,
        Method::Unknown("x".into())
    );
    for (method, text) in [
        ("unix-listen", "must specify a path for this channel"),
        ("vsock-listen", "must specify a path for this channel"),
        ("foo", "unsupported channel method/type: foo"),
        ("", "unsupported channel method/type: "),
    ] {
        let error = error(&["-D", "-m", method]);
        assert!(error.stderr.starts_with(&format!("qga: {text}")), "{error}");
    }
}

#[test]
fn activated_socket_needs_no_path() {
    let own = std::process::id().to_string();
    let run = |pid: &str, fds: &str| {
        let env = |name: &str| match name {
            "LISTEN_PID" => Some(pid.into()),
            "LISTEN_FDS" => Some(fds.into()),
            _ => None,
        };
        parse_in(
            &args(&["-D", "-m", "unix-listen"]),
            &env,
            &NO_DIRS.map(Path::new),
        )
    };
    let Ok(Action::DumpConf(mut config)) = run(&own, "1") else {
        panic!("refused")
    };
    config.use_activated_socket(Method::VsockListen);
    assert_eq!(dumped(&config, "method").unwrap(), "vsock-listen");
    assert_eq!(dumped(&config, "path"), None);
    run("1", "1").unwrap_err();
    run(&own, "x").unwrap_err();
}

#[test]
fn help_names_every_option() {
    let Ok(Action::Help(help)) = try_run(&["--help"]) else {
        panic!("no help")
    };
    assert_eq!(
        help.lines().next(),
        Some("Usage: qga [-m <method> -p <path>] [<options>]")
    );
    assert!(help.contains("/etc/qemu/fsfreeze-hook"));
    assert!(help.lines().all(|line| line.len() < 80), "{help}");
    for AgentOption { spec, .. } in OPTIONS {
        assert!(help.contains(&format!("--{}", spec.long)), "{}", spec.long);
    }
    let Ok(Action::Version(version)) = try_run(&["-V"]) else {
        panic!("no version")
    };
    assert_eq!(
        version,
        format!(
            "QEMU Guest Agent {PROTOCOL_VERSION} (qemu-ga-rs {})\n",
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[test]
fn table_is_sound() {
    use std::collections::HashSet;
    let (mut shorts, mut names, mut keys) = (HashSet::new(), HashSet::new(), HashSet::new());
    for AgentOption { spec, key, .. } in OPTIONS {
        let name = spec.long;
        assert!(spec.short.is_none_or(|c| shorts.insert(c)), "{name}");
        for name in spec.old.iter().chain([&name]) {
            assert!(names.insert(*name), "{name}");
        }
        assert!(key.is_none_or(|key| keys.insert(key)), "{name}");
        if let Some((_, ValueKind::Words(words))) = spec.arg.value() {
            let told = |word: &&str| spec.help.contains(*word);
            assert!(words.iter().all(told), "{name}");
        }
    }
}
