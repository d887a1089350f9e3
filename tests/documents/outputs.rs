//! Blocks that show what a tool prints: the tool is run on what the block shows, and says the same, but
//! for numbers, times and the length of bars.

use std::fs;
use std::path::Path;

use crate::blocks::root;
use crate::support::disk::tmpfs;
use crate::support::{Disk, Place, binary, in_namespace, install, returned};
use crate::{Runner, blocks_of};

/// A line with one blank where there are several, `T` for a time, `N` for a number, and no bar.
fn plain(line: &str) -> String {
    if let Some(rest) = line.strip_prefix("Run ") {
        let end = rest.rsplit_once(": ").map_or("", |(_, end)| end);
        return format!("Run N, DATE: {end}");
    }
    if line.starts_with("  grace periods ") {
        // It depends on the machine.
        return "  grace periods".to_owned();
    }
    let is_bar = |c: char| c == '█' || c == '#';
    let words = line.trim_end_matches(|c| is_bar(c) || c == ' ');
    let mut told = String::new();
    let indent = words.len() - words.trim_start().len();
    told.push_str(&words[..indent]);
    for word in words.split_whitespace() {
        let comma = if word.ends_with(',') { "," } else { "" };
        let bare = word.trim_end_matches(',');
        if ["ms", "s", "µs", "min"].contains(&bare) && told.ends_with("N ") {
            told.truncate(told.len() - 2);
            // `15 min 0 s` is one time.
            if told.ends_with("T ") {
                told.truncate(told.len() - 2);
            }
            told.push('T');
        } else if bare.starts_with(|c: char| c.is_ascii_digit()) && !bare.contains('-') {
            told.push('N');
            told.push_str(if bare.ends_with('.') { "." } else { "" });
        } else {
            let loops = bare.trim_end_matches(|c: char| c.is_ascii_digit());
            told.push_str(if loops.ends_with("loop") { loops } else { bare });
        }
        told.push_str(comma);
        told.push(' ');
    }
    told.trim_end().to_owned()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(plain).collect()
}

/// The machine of the examples, in the middle of a freeze and after it.
fn shown_by_the_tools(check: impl FnOnce(&str, &str) + Send + 'static) {
    in_namespace(|| {
        let place = Place::new();
        for dir in ["/etc/qemu", "/img"] {
            fs::create_dir_all(dir).expect("dir");
        }
        for dir in ["/etc/qemu", "/srv", "/var/log"] {
            tmpfs(Path::new(dir));
        }
        fs::create_dir_all("/etc/qemu/fsfreeze-hook.d").expect("dir");
        install(
            &root().join("hooks/fsfreeze-hook"),
            Path::new("/etc/qemu/fsfreeze-hook"),
        );
        for (name, text) in [
            ("10-application.sh", "sleep 0.2"),
            (
                "20-database.sh",
                "[ $1 = thaw ] || { echo connecting; echo 'ERROR 2002 (HY000): cannot connect to local server'; exit 3; }",
            ),
        ] {
            let script = place.script(name, text);
            install(&script, &Path::new("/etc/qemu/fsfreeze-hook.d").join(name));
        }
        let data = Disk::ext4_in(Path::new("/img/a.img"), Path::new("/srv/data"));
        let database = Disk::ext4_in(Path::new("/srv/data/b.img"), Path::new("/srv/data/db"));
        let _order = database.thaw_first();
        let agent = place.agent(&["-F/etc/qemu/fsfreeze-hook"]);
        let tool = |name: &str| {
            let mut command = std::process::Command::new(binary());
            command.args([name, "-t", &place.name("state")]);
            command.env("LC_ALL", "C.UTF-8").env_remove("QGA_CONF");
            let done = command.output().expect("runs");
            assert!(done.status.success(), "{done:?}");
            String::from_utf8(done.stdout).expect("text")
        };
        let plan = tool("plan");
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(2));
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(2));
        // It is kept after the answer to the thaw.
        place.report();
        let report = tool("report");
        check(&plan, &report);
        drop(agent);
        drop(database);
        drop(data);
    });
}

#[test]
fn every_shown_output_is_what_the_tool_says() {
    shown_by_the_tools(|plan, report| {
        let mut seen = Vec::new();
        for block in blocks_of(Runner::Output) {
            let shown = lines(&block.text);
            let first = shown[0]
                .split([' ', ','])
                .next()
                .expect("a word")
                .to_owned();
            let real = match first.as_str() {
                // Its end, what is not frozen and why, is left out.
                "What" => lines(plan).into_iter().take(shown.len()).collect(),
                "Run" => lines(report),
                other => panic!("{}: what prints '{other}'?", block.place()),
            };
            assert_eq!(shown, real, "{}", block.place());
            seen.push(first);
        }
        assert_eq!(seen, ["What", "Run"]);
    });
}

/// `qemu-ga log` knows the lines that operators look for.
#[test]
fn every_shown_log_is_read_as_what_it_says() {
    for block in blocks_of(Runner::Log) {
        let file = tempfile::NamedTempFile::new().expect("file");
        fs::write(file.path(), &block.text).expect("file");
        let mut command = std::process::Command::new(binary());
        command.args(["log", "--json", "--log"]).arg(file.path());
        let done = command.output().expect("runs");
        let runs: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
        let hook = &runs["runs"][0]["entries"][0];
        assert_eq!(hook["status"], 0, "{}: {runs}", block.place());
        assert_eq!(hook["phase"], "freeze", "{}: {runs}", block.place());
    }
}

#[test]
fn numbers_and_times_do_not_count() {
    let told = [
        ("  flush           0.4 ms  █", "  flush T"),
        (
            "  limits         thawed after 15 min 0 s at the latest",
            "  limits thawed after T at the latest",
        ),
        (
            "  grace periods  expedited while freezing",
            "  grace periods",
        ),
        ("  1  20-database.sh", "  N 20-database.sh"),
        (
            "       depends on loop5, file /a on / (tmpfs)",
            "       depends on loop, file /a on / (tmpfs)",
        ),
        (
            "Run 660c-4dc5, Sat Nov 21 05:10:36 UTC 2026: the host thawed",
            "Run N, DATE: the host thawed",
        ),
        ("1. Hooks, called", "N. Hooks, called"),
    ];
    for (line, expected) in told {
        assert_eq!(plain(line), expected);
    }
}
