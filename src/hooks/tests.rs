//! The runner on real little scripts, and the log line by line. What needs the built binary is in `tests/hooks/`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::exec::MAX_TAIL_BYTES;
use super::journal::{Journal, RunInfo};
use super::log::{HookLog, TAG};
use super::runner::{Options, Summary, run};
use super::settings::OnFailure;
use super::{HookRecord, HookStatus, Phase, discovery};
use crate::sys::syslog::Syslog;

/// A hook directory and a log of its own.
struct House {
    root: TempDir,
}

impl House {
    fn new() -> House {
        let root = tempfile::tempdir().expect("dir");
        fs::create_dir(root.path().join("d")).expect("dir");
        set_mode(&root.path().join("d"), 0o755);
        House { root }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("d")
    }

    fn hook(&self, name: &str, script: &str) -> PathBuf {
        self.file(name, &format!("#!/bin/sh\n{script}\n"), 0o755)
    }

    fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.dir().join(name);
        fs::write(&path, content).expect("file");
        set_mode(&path, mode);
        path
    }

    fn log_path(&self) -> PathBuf {
        self.root.path().join("hook.log")
    }

    fn options(&self) -> Options {
        Options {
            log: HookLog::new(&self.log_path()),
            total: None,
            on_total: OnFailure::Continue,
            stop: None,
            records: None,
            memory: Journal::in_dir(self.root.path()),
            adapters: &[],
            run: RunInfo::default(),
            only_run: String::new(),
            reason: None,
        }
    }

    /// The hooks' settings.
    fn conf(&self, text: &str) {
        fs::write(self.conf_path(), text).expect("conf");
    }

    fn conf_path(&self) -> PathBuf {
        self.root.path().join("d.conf")
    }

    fn run(&self, phase: Phase) -> Summary {
        self.run_with(phase, self.options())
    }

    fn run_with(&self, phase: Phase, mut options: Options) -> Summary {
        let (found, rules) =
            discovery::read(&self.dir(), &self.conf_path(), "", &[]).expect("not refused");
        options.total = rules.total_timeout;
        options.on_total = rules.defaults.on_failure;
        run(phase, Ok(found), options)
    }

    fn refused(&self) -> String {
        discovery::read(&self.dir(), &self.conf_path(), "", &[])
            .expect_err("refused")
            .to_string()
    }

    /// The log's lines; a dated line loses its date (which is checked), and paths lose the
    /// directory.
    fn log(&self) -> Vec<String> {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        let dir = format!("{}/", self.dir().display());
        text.lines()
            .map(|line| undated(line).unwrap_or(line).replace(&dir, ""))
            .collect()
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
}

/// What follows `<date>: ` where the line begins with a date as date(1) prints it in the C locale:
/// `Thu Nov 23 13:38:05 MSK 2023`.
fn undated(line: &str) -> Option<&str> {
    let days = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let shape = |text: &str, pattern: &str| {
        text.len() == pattern.len()
            && text
                .bytes()
                .zip(pattern.bytes())
                .all(|(got, want)| match want {
                    b'9' => got.is_ascii_digit(),
                    b'_' => got.is_ascii_digit() || got == b' ',
                    _ => got == want,
                })
    };
    let days_match = days.contains(&line.get(..3)?);
    let months_match = months.contains(&line.get(4..7)?);
    let time_matches = shape(line.get(7..20)?, " _9 99:99:99 ");
    let (zone, rest) = line.get(20..)?.split_once(' ')?;
    let zone_matches = zone
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '+' || c == '-');
    let year_matches = shape(rest.get(..6)?, "9999: ");
    (days_match && months_match && time_matches && zone_matches && year_matches).then(|| &rest[6..])
}

fn names(summary: &Summary) -> Vec<&str> {
    summary
        .hooks
        .iter()
        .map(|hook| hook.path.rsplit('/').next().unwrap_or_default())
        .collect()
}

#[test]
fn the_date_matcher_matches_dates_alone() {
    assert_eq!(
        undated("Thu Nov 23 13:38:05 MSK 2023: execute x freeze"),
        Some("execute x freeze")
    );
    assert_eq!(undated("Thu Nov  3 13:38:05 +03 2023: x"), Some("x"));
    for line in [
        "Thu Nov 23 13:38:05 2023: x",
        "2023-11-23: x",
        "Thu Nov 23 13:38:05 MSK 2023 x",
        "",
    ] {
        assert_eq!(undated(line), None, "{line}");
    }
}

#[test]
fn byte_order_on_freeze_and_reverse_on_thaw_with_exact_lines() {
    let house = House::new();
    for name in ["b", "10-x", "B", "é", "a.sh"] {
        house.hook(name, "echo \"$# $1 of $0\"");
    }
    let order = ["10-x", "B", "a.sh", "b", "é"];
    let expected = |order: Vec<&str>, phase: &str| -> Vec<String> {
        let one = |name: &&str| {
            [
                format!("execute {name} {phase}"),
                format!("1 {phase} of {name}"),
                format!("{name} finished with status=0"),
            ]
        };
        order.iter().flat_map(one).collect()
    };
    let summary = house.run(Phase::Freeze);
    assert_eq!(names(&summary), order);
    assert_eq!(house.log(), expected(order.to_vec(), "freeze"));
    fs::remove_file(house.log_path()).expect("a log");
    let summary = house.run(Phase::Thaw);
    let reversed: Vec<&str> = order.iter().rev().copied().collect();
    assert_eq!(names(&summary), reversed);
    assert_eq!(house.log(), expected(reversed, "thaw"));
}

#[test]
fn the_raw_line_has_date_path_and_status() {
    let house = House::new();
    let path = house.hook("h", "");
    house.run(Phase::Freeze);
    let text = fs::read_to_string(house.log_path()).expect("log");
    let lines: Vec<&str> = text
        .lines()
        .map(|line| undated(line).expect("a date"))
        .collect();
    let path = path.display();
    let finished = format!("{path} finished with status=0");
    assert_eq!(lines, [format!("execute {path} freeze"), finished]);
    assert_eq!(
        fs::metadata(house.log_path())
            .expect("log")
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
}

#[test]
fn skipped_names_directories_and_links() {
    let house = House::new();
    let endings = [
        "~",
        ".bak",
        ".orig",
        ".rpmnew",
        ".rpmorig",
        ".rpmsave",
        ".sample",
        ".dpkg-old",
        ".dpkg-new",
        ".dpkg-tmp",
        ".dpkg-dist",
        ".dpkg-bak",
        ".dpkg-backup",
        ".dpkg-remove",
    ];
    for ending in endings {
        house.hook(&format!("x{ending}"), "echo no");
    }
    house.hook(".hidden", "echo no");
    fs::create_dir(house.dir().join("directory")).expect("dir");
    house.hook("x.bak.sh", "");
    let elsewhere = house.root.path().join("elsewhere");
    fs::write(&elsewhere, "#!/bin/sh\necho linked\n").expect("file");
    set_mode(&elsewhere, 0o700);
    symlink("../elsewhere", house.dir().join("link")).expect("link");
    symlink("nowhere", house.dir().join("broken")).expect("link");
    house.run(Phase::Freeze);
    assert_eq!(
        house.log(),
        [
            "broken skipped: it leads nowhere: No such file or directory",
            "execute link freeze",
            "linked",
            "link finished with status=0",
            "execute x.bak.sh freeze",
            "x.bak.sh finished with status=0",
        ]
    );
}

#[test]
fn not_executable_names_the_remedy() {
    let house = House::new();
    let path = house.file("quiet", "#!/bin/sh\necho no\n", 0o644);
    let summary = house.run(Phase::Freeze);
    let why = format!(
        "not executable (mode 0644); to have it run: chmod +x {}",
        path.display()
    );
    assert_eq!(summary.hooks[0].status, HookStatus::Skipped(why));
    assert_eq!(
        house.log(),
        ["quiet skipped: not executable (mode 0644); to have it run: chmod +x quiet"]
    );
}

#[test]
fn failures_are_told_and_stop_nothing() {
    let house = House::new();
    house.hook("1", "echo out; echo err >&2; exit 3");
    house.hook("2", "kill -9 $$");
    house.file("3", "#!/nonexistent/interpreter\n", 0o755);
    house.file("4", "\u{7f}ELF not really\0", 0o755);
    house.hook("5", "printf 'no end of line'; exit 1");
    house.hook("6", r"printf 'a\0\377b'");
    let summary = house.run(Phase::Thaw);
    let statuses: Vec<i32> = summary
        .hooks
        .iter()
        .rev()
        .map(|hook| hook.status.number())
        .collect();
    assert_eq!(statuses[..3], [3, 137, 127]);
    assert_eq!(statuses[4..], [1, 0]);
    assert_ne!(statuses[3], 0, "what is no program fails");
    assert_eq!(summary.hooks[5].output, "out\nerr\n");
    assert_eq!(summary.hooks[1].output, "no end of line");
    assert_eq!(summary.hooks[0].output, "", "a hook that succeeded");
    let log = house.log();
    assert_eq!(
        log[..6],
        [
            "execute 6 thaw",
            "a\0\u{fffd}b",
            "6 finished with status=0",
            "execute 5 thaw",
            "no end of line",
            "5 finished with status=1",
        ]
    );
    assert_eq!(
        log[log.len() - 9..],
        [
            "execute 3 thaw",
            "3 cannot be run: No such file or directory; check that the interpreter in its first \
             line is installed",
            "3 finished with status=127",
            "execute 2 thaw",
            "2 finished with status=137",
            "execute 1 thaw",
            "out",
            "err",
            "1 finished with status=3",
        ]
    );
    let raw = fs::read(house.log_path()).expect("log");
    assert!(
        raw.windows(5).any(|bytes| bytes == b"a\0\xffb\n"),
        "bytes as they came"
    );
}

#[test]
fn output_is_in_the_log_as_it_comes() {
    let house = House::new();
    // The hook itself sees its first line in the log before it ends.
    let log = house.log_path();
    let wait = format!("until grep -q early {}; do sleep 0.01; done", log.display());
    house.hook("h", &format!("echo early; {wait}; echo seen"));
    house.run(Phase::Freeze);
    assert_eq!(house.log()[1..3], ["early", "seen"]);
}

#[test]
fn huge_output_and_a_bounded_tail() {
    let house = House::new();
    house.hook("h", "head -c 10000000 /dev/zero | tr '\\0' x; exit 1");
    let summary = house.run(Phase::Freeze);
    assert_eq!(summary.hooks[0].output, "x".repeat(MAX_TAIL_BYTES));
    let log = house.log();
    assert_eq!(log[1].len(), 1 << 20);
    let left = 10_000_000 - (1 << 20);
    assert_eq!(
        log[2],
        format!("[{left} more bytes of output are left out; output-limit is 1048576]")
    );
    assert_eq!(log[3], "h finished with status=1");
}

#[test]
fn a_deadline_ends_the_hook_and_the_next_one_runs() {
    let house = House::new();
    house.hook("1", "[ $1 = thaw ] || sleep 1000 & wait");
    house.hook("2", "");
    house.conf("[hook 1]\ntimeout=0.5\n");
    let summary = house.run(Phase::Freeze);
    assert_eq!(summary.hooks[0].status, HookStatus::TimedOut);
    assert!(!summary.stopped);
    let log = house.log();
    assert_eq!(
        log[..3],
        [
            "execute 1 freeze",
            "1 did not finish within 0.5 s and was ended",
            "1 finished with status=124"
        ]
    );
    assert_eq!(log[3], "execute 2 freeze");
}

#[test]
fn no_directory_or_an_empty_one_is_no_work() {
    let house = House::new();
    assert!(house.run(Phase::Freeze).hooks.is_empty());
    assert!(!house.log_path().exists(), "nothing to tell, no log");
    fs::remove_dir(house.dir()).expect("removed");
    assert!(house.run(Phase::Thaw).hooks.is_empty());
    fs::write(house.dir(), "").expect("a file in its place");
    let said = house.refused();
    assert!(
        said.starts_with("cannot read the hook directory ") && said.ends_with("Not a directory")
    );
}

#[test]
fn refuses_what_others_may_change_before_anything_runs() {
    let house = House::new();
    house.hook("1", "echo no");
    let second = house.hook("2", "echo no");
    set_mode(&second, 0o757);
    let remedy = |path: &Path, mode: &str| {
        format!(
            "refusing to run hooks: {0} is writable by all users (mode {mode}); after checking its \
             content, fix it with: chmod go-w {0}",
            path.display()
        )
    };
    assert_eq!(house.refused(), remedy(&second, "0757"));
    // One that does not run anyway harms nobody.
    set_mode(&second, 0o646);
    house.run(Phase::Freeze);
    set_mode(&second, 0o755);

    for mode in [0o777, 0o1777] {
        set_mode(&house.dir(), mode);
        assert_eq!(
            house.refused(),
            remedy(&house.dir(), &format!("{mode:04o}"))
        );
    }
    set_mode(&house.dir(), 0o755);

    set_mode(house.root.path(), 0o777);
    assert_eq!(house.refused(), remedy(house.root.path(), "0777"));
    // As /tmp: nobody can replace another's directory in it.
    set_mode(house.root.path(), 0o1777);
    house.run(Phase::Thaw);
    set_mode(house.root.path(), 0o755);

    // A link's target counts, and so does what leads to it.
    let open = house.root.path().join("open");
    fs::create_dir(&open).expect("dir");
    fs::write(open.join("tool"), "#!/bin/sh\n").expect("file");
    set_mode(&open.join("tool"), 0o755);
    symlink(open.join("tool"), house.dir().join("3")).expect("link");
    house.run(Phase::Freeze);
    set_mode(&open, 0o777);
    assert_eq!(house.refused(), remedy(&open, "0777"));
}

#[test]
fn refuses_other_owners_and_groups() {
    // Only root can give files away.
    if crate::left_out::needs_root() {
        return;
    }
    let house = House::new();
    let path = house.hook("1", "echo no");
    std::os::unix::fs::chown(&path, Some(1234), None).expect("chown");
    let said = house.refused();
    assert!(
        said.contains(" is owned by user 1234, not by root (mode 0755); "),
        "{said}"
    );
    assert!(
        said.ends_with(&format!("chown root: {}", path.display())),
        "{said}"
    );
    std::os::unix::fs::chown(&path, Some(0), Some(1234)).expect("chown");
    house.run(Phase::Freeze);
    set_mode(&path, 0o775);
    let said = house.refused();
    assert!(
        said.contains(" is writable by group 1234 (mode 0775); "),
        "{said}"
    );
    std::os::unix::fs::chown(&path, Some(0), Some(0)).expect("chown");
    house.run(Phase::Freeze);
}

#[test]
fn the_system_log_takes_the_lines_without_date() {
    let house = House::new();
    let path = house.hook("h", "echo one; printf two; exit 2");
    let socket = house.root.path().join("socket");
    let daemon = UnixDatagram::bind(&socket).expect("bind");
    daemon.set_nonblocking(true).expect("mode");
    let mut options = house.options();
    options.log = HookLog::to_system(Syslog::connect_to(&socket, TAG));
    let summary = house.run_with(Phase::Freeze, options);
    assert_eq!(
        (summary.lost_lines, summary.hooks[0].output.as_str()),
        (0, "one\ntwo")
    );
    let mut got = Vec::new();
    let mut buffer = [0; 1000];
    while let Ok(length) = daemon.recv(&mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(message.starts_with("<13>"), "{message}");
        got.push(
            message
                .split_once(" qemu-ga-freeze-hook: ")
                .expect("tag")
                .1
                .to_owned(),
        );
    }
    let path = path.display();
    let expected = [
        format!("execute {path} freeze"),
        "one".to_owned(),
        "two".to_owned(),
        format!("{path} finished with status=2"),
    ];
    assert_eq!(got, expected);
}

#[test]
fn an_unwritable_log_stops_no_hook() {
    let house = House::new();
    let ran = house.root.path().join("ran");
    house.hook("h", &format!("touch {}", ran.display()));
    fs::create_dir(house.log_path()).expect("a directory in the log's place");
    let summary = house.run(Phase::Freeze);
    assert_eq!(summary.hooks[0].status, HookStatus::Exited(0));
    assert!(ran.exists());
}

#[test]
fn records_are_one_json_line_each() {
    let house = House::new();
    let good = house.hook("1", "");
    house.hook("2", "echo why; kill -15 $$");
    house.file("3", "", 0o600);
    let file = tempfile::NamedTempFile::new().expect("file");
    let mut options = house.options();
    options.records = Some(file.reopen().expect("file"));
    let summary = house.run_with(Phase::Freeze, options);
    let text = fs::read_to_string(file.path()).expect("records");
    // Each start is noted, too.
    let (starts, records): (Vec<&str>, Vec<&str>) = text
        .lines()
        .partition(|line| line.starts_with("{\"start\":"));
    assert_eq!(starts.len(), 2, "{text}");
    let told: Vec<HookRecord> = records
        .iter()
        .map(|line| serde_json::from_str(line).expect("a record"))
        .collect();
    assert_eq!(told, summary.hooks);
    let start = format!(
        r#"{{"path":"{}","phase":"freeze","status":{{"exited":0}},"elapsed":"#,
        good.display()
    );
    assert!(records[0].starts_with(&start), "{text}");
    assert_eq!(
        (&told[1].status, told[1].output.as_str()),
        (&HookStatus::Signaled(15), "why\n")
    );
}

#[test]
fn words_are_taken_apart_as_they_were_joined() {
    let texts = [
        "/a b",
        "tab\there",
        "line\nend",
        "back\\slash",
        "\\040",
        "/plain",
    ];
    assert_eq!(super::words([&b"\xff\xc3\xa9"[..], b"b"]), "\\377é b");
    let joined = super::words(texts);
    assert_eq!(joined.split(' ').count(), texts.len());
    assert_eq!(super::from_words(&joined), texts);
}

/// A guardian that comes late must not wake what the next freeze has put to rest.
#[test]
fn hooks_of_another_run_are_left_alone() {
    let house = House::new();
    house.hook("10-a", "exit 0");
    let options = |id: &str, only: &str| Options {
        run: RunInfo {
            id: id.into(),
            ..RunInfo::default()
        },
        only_run: only.into(),
        ..house.options()
    };
    house.run_with(Phase::Freeze, options("2", ""));
    let late = house.run_with(Phase::Thaw, options("", "1"));
    assert_eq!(names(&late), [""; 0]);
    let own = house.run_with(Phase::Thaw, options("", "2"));
    assert_eq!(names(&own), ["10-a"]);
    // Another master was first.
    for only in ["2", "*"] {
        let late = house.run_with(Phase::Thaw, options("", only));
        assert_eq!(names(&late), [""; 0]);
    }
    house.run_with(Phase::Freeze, options("3", ""));
    let any = house.run_with(Phase::Thaw, options("", "*"));
    assert_eq!(names(&any), ["10-a"]);
}
