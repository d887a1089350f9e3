use super::*;

#[test]
fn dump_is_read_back_as_it_was() {
    let config = run(&[
        "-l",
        " \t\\s\n x",
        "-b",
        "a,,b,",
        "-F",
        "-m",
        "unix-listen",
        "-p",
        "",
    ]);
    let again = from_file(config.dump());
    assert_eq!(dumped(&again, "logfile"), dumped(&config, "logfile"));
    assert_eq!(again.logfile, config.logfile);
    assert_eq!(again.path, Some(PathBuf::new()));
    assert_eq!(dumped(&config, "block-rpcs").unwrap(), ",b,,a");
    assert_eq!(dumped(&again, "block-rpcs").unwrap(), "a,,b,");
}

#[test]
fn command_line_comes_on_top_of_the_file() {
    let file =
        file("[general]\nmethod=isa-serial\npath=/f\nverbose=true\nblock-rpcs=a,b\nallow-rpcs=\n");
    let config = run(&["-p", "/1", "-c", &file.1, "-b", "c,d", "-p", "/2"]);
    assert_eq!(config.method, Method::IsaSerial);
    assert_eq!(config.path.as_deref(), Some(Path::new("/2")));
    assert!(config.verbose);
    assert_eq!(dumped(&config, "block-rpcs").unwrap(), "b,a,d,c");
    assert!(config.allow_rpcs.names().next().is_none());
}

#[test]
fn last_file_named_counts() {
    let (a, b) = (
        file("[general]\nverbose=1\n"),
        file("[general]\nretry-path=1\n"),
    );
    let config = run(&["-c", &a.1, "--config", &b.1]);
    assert!(!config.verbose && config.retry_path);
}

#[test]
fn environment_and_default_files() {
    let dir = tempfile::tempdir().unwrap();
    let (debian, redhat) = (dir.path().join("qemu"), dir.path().join("qemu-ga"));
    let dirs = [debian.as_path(), redhat.as_path()];
    let path_of = |conf: Option<&OsStr>, list: &[&str]| {
        let env = |name: &str| conf.filter(|_| name == "QGA_CONF").map(OsStr::to_owned);
        match parse_in(&args(list), &env, &dirs) {
            Ok(Action::Run(config)) => config.path.unwrap().to_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let default = "/dev/virtio-ports/org.qemu.guest_agent.0";
    assert_eq!(path_of(None, &[]), default);
    fs::create_dir(&redhat).unwrap();
    fs::write(redhat.join("qemu-ga.conf"), "[general]\npath=/redhat\n").unwrap();
    assert_eq!(path_of(None, &[]), "/redhat");
    fs::create_dir(&debian).unwrap();
    fs::write(debian.join("qemu-ga.conf"), "[general]\npath=/debian\n").unwrap();
    assert_eq!(path_of(None, &[]), "/debian");
    // What the variable names counts alone, even when it is missing or empty.
    assert_eq!(path_of(Some(OsStr::new("/nonexistent/conf")), &[]), default);
    assert_eq!(path_of(Some(OsStr::new("")), &[]), default);
    let named = file("[general]\npath=/named\n");
    assert_eq!(path_of(Some(OsStr::new(&named.1)), &[]), "/named");
    let other = file("[general]\npath=/other\n");
    assert_eq!(
        path_of(Some(OsStr::new(&named.1)), &["-c", &other.1]),
        "/other"
    );

    // The default hook follows the same layouts.
    fs::write(redhat.join("fsfreeze-hook"), "").unwrap();
    let hook = |expected: &Path| match parse_in(&args(&["-F"]), &|_| None, &dirs) {
        Ok(Action::Run(config)) => assert_eq!(config.hook(), Some(expected)),
        other => panic!("{other:?}"),
    };
    hook(&redhat.join("fsfreeze-hook"));
    fs::write(debian.join("fsfreeze-hook"), "").unwrap();
    hook(&debian.join("fsfreeze-hook"));
}

#[test]
fn files_that_cannot_be_read() {
    let (head, dir) = (
        "qga: error loading configuration from path: ",
        tempfile::tempdir().unwrap(),
    );
    let missing = "No such file or directory; check the path after -c";
    for (path, reason) in [
        ("/nonexistent/conf", missing),
        ("", missing),
        ("/dev/null", "Not a regular file; name a configuration file"),
        (
            dir.path().to_str().unwrap(),
            "Not a regular file; name a configuration file",
        ),
        (
            "/dev/null/x",
            "Not a directory; make it readable for the agent",
        ),
    ] {
        let error = error(&["-c", path]);
        assert_eq!(error.stderr, format!("{head}{path}, {reason}\n"));
        assert_eq!(error.stdout, "");
    }
    let large = vec![b'#'; (1 << 20) + 1];
    assert_eq!(
        bad_file(large),
        "larger than 1 MiB; name a configuration file\n"
    );
    // The default file may be missing, but not be unreadable.
    fs::create_dir(dir.path().join("qemu-ga.conf")).unwrap();
    let result = parse_in(&args(&[]), &|_| None, &[dir.path()]);
    assert!(result.unwrap_err().stderr.contains("Not a regular file"));
}

#[test]
fn files_that_are_wrong() {
    let neither = |line: &str, number| {
        format!(
            "'{line}' is neither a group, a key with a value nor a comment (line {number}); write \
             key=value, or # before a comment\n"
        )
    };
    assert_eq!(
        bad_file("# x\nverbose=true\n[general]\n"),
        "Key file does not start with a group (line 2); put a line [general] before the first key\n"
    );
    assert_eq!(bad_file("[general]\nverbose\n"), neither("verbose", 2));
    assert_eq!(bad_file("[general]\n=true\n"), neither("=true", 2));
    assert_eq!(bad_file("[general]\n;x\n"), neither(";x", 2));
    assert_eq!(bad_file("[other]\nfoo\n"), neither("foo", 2));
    for line in ["[general", "[general]x"] {
        assert_eq!(
            bad_file(format!("\n{line}\nverbose=true\n")),
            format!(
                "'{line}' is neither a group, a key with a value nor a comment (line 2); write a \
                 group as [name], alone on its line\n"
            )
        );
    }
    for name in ["", "a[b", "gen\teral"] {
        assert_eq!(
            bad_file(format!("[{name}]\n")),
            format!(
                "Invalid group name: {} (line 1); write a group as [name]\n",
                name.escape_debug()
            )
        );
    }
    for key in ["logfile[", "logfile]", "a[b][c]", "logfile[]"] {
        assert_eq!(
            bad_file(format!("[general]\n{key}=x\n")),
            format!("Invalid key name: {key} (line 2); a key has no brackets\n")
        );
    }
    for value in ["yes", "", "True", "true x", "\\strue", "2"] {
        assert_eq!(
            bad_file(format!("[general]\nverbose={value}\n")),
            format!(
                "the value '{}' of 'verbose' is not a boolean (line 2); use true or false\n",
                value
            )
        );
    }
    assert_eq!(
        bad_file("[general]\nlogfile=a\\qb\n"),
        "the value of 'logfile' has an unknown escape '\\q' (line 2); use \\s \\t \\n \\r or \\\\\n"
    );
    assert_eq!(
        bad_file("[general]\nlogfile=a\\\n"),
        "the value of 'logfile' has an unknown escape '\\' (line 2); use \\s \\t \\n \\r or \\\\\n"
    );
    assert_eq!(
        bad_file(b"[general]\nlogfile=\xff\n"),
        "the value of 'logfile' is not UTF-8 (line 2); save the file as UTF-8\n"
    );
    assert_eq!(
        bad_file("[general]\nlogfile=a\0b\n"),
        "the value of 'logfile' holds a NUL byte (line 2); write the line again\n"
    );
    assert!(bad_file("\u{feff}[general]\n").starts_with("'\\u{feff}[general]' is neither"));
}

#[test]
fn files_that_are_right() {
    assert_eq!(dump(&from_file("")), DEFAULTS);
    assert_eq!(
        dump(&from_file(
            "\n  # x\n[general]\n[other]\nverbose=maybe\n x y=\\q\n"
        )),
        DEFAULTS
    );
    for value in ["true", "1", "true  ", " 1\t", "true\r"] {
        assert!(
            from_file(format!("  [general] \n  verbose  =  {value}")).verbose,
            "{value:?}"
        );
    }
    let log = |text: &str| {
        dumped(
            &from_file(format!("[general]\nlogfile={text}\n")),
            "logfile",
        )
    };
    assert_eq!(log(r"a\sb\tc\nd\\e").unwrap(), "a b\tc\\nd\\\\e");
    assert_eq!(log("  a;b  ").unwrap(), "a;b  ");
    assert_eq!(log("a # b=c").unwrap(), "a # b=c");
    assert_eq!(log("").unwrap(), "");
    assert_eq!(log("a\r").unwrap(), "a");
    let list = |text: &str| {
        dumped(
            &from_file(format!("[general]\nblock-rpcs={text}\n")),
            "block-rpcs",
        )
    };
    assert_eq!(list("a,b , c").unwrap(), "\\sc,b ,a");
    assert_eq!(list("a,,b,").unwrap(), ",b,,a");
    assert_eq!(list(r"a\sb,\\x").unwrap(), r"\\x,a b");
    // Groups may be taken up again; a value that is overridden does no harm.
    let config = from_file("[general]\nverbose=bad\n[x]\n[general]\nverbose=1\nlogfile[de]=y\n");
    assert!(config.verbose && config.logfile.is_none());
}

#[test]
fn unknown_old_and_repeated_keys_are_warnings() {
    let file = file(
        "[general]\ndaemonize=true\nfoo=\\q\nblacklist=a\nblock-rpcs=b\nverbose=1\nverbose=0\n\
         [qemu-ga-rs]\nbar=1\n[other]\nbaz=1\n",
    );
    let config = run(&["-c", &file.1]);
    assert!(!config.daemon && !config.verbose);
    assert_eq!(config.block_rpcs.names().collect::<Vec<_>>(), ["a", "b"]);
    let expected = [
        "2): unknown key 'daemonize' in [general]; ignored; did you mean 'daemon'?",
        "3): unknown key 'foo' in [general]; ignored; check its spelling",
        "4): key 'blacklist' in [general] is an old spelling; read as 'block-rpcs'",
        "7): key 'verbose' in [general] is also in line 6; the last one is used",
        "9): unknown key 'bar' in [qemu-ga-rs]; ignored; check its spelling",
    ];
    assert_eq!(
        config.warnings,
        expected.map(|text| format!("{} (line {text}", file.1))
    );
}

mod any_bytes {
    use super::*;
    use crate::keyfile;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keyfile_never_panics(text in prop::collection::vec(
            prop_oneof![Just(b'['), Just(b']'), Just(b'='), Just(b'\\'), Just(b'\n'), Just(b'a'),
                any::<u8>()],
            0..80,
        )) {
            if let Ok(entries) = keyfile::parse(&text) {
                for entry in entries {
                    let _ = (entry.string(), entry.boolean());
                }
            }
        }

        #[test]
        fn keyfile_values_come_back(value in r"[ \t\\]{0,3}[^\x00\x0b\x0c]*") {
            let mut text = b"[g]\nk=".to_vec();
            text.extend(keyfile::escape(value.as_bytes()));
            let entries = keyfile::parse(&text).unwrap();
            prop_assert_eq!(entries.len(), 1);
            prop_assert_eq!(entries[0].string(), Ok(value));
        }

        #[test]
        fn scanner_never_panics(list in prop::collection::vec("-{0,2}[a-zA-Z=]{0,6}", 0..5)) {
            let list: Vec<OsString> = list.into_iter().map(Into::into).collect();
            scan(&options::specs(), &list);
        }
    }
}
