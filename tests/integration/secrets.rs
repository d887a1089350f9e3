//! What others on the machine could get to see: modes of all that the agent makes, and what stands
//! in logs, arguments and environments.

use crate::support::{
    Agent, Disk, Place, failed, in_namespace, install, is_ours, returned, wait_until,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// An agent with the file mode mask that service managers give, told of `hook`.
fn agent(place: &Place, args: &[&str]) -> Agent {
    place.agent_under(&["sh", "-c", "umask 0022; exec \"$0\" \"$@\""], args)
}

/// Makes our own hook master call what lies in `hooks.d` of the place.
fn master(place: &Place) -> String {
    let (dir, log) = (place.name("hooks.d"), place.name("hook.log"));
    fs::create_dir(&dir).expect("hooks.d");
    let text = format!("exec \"$QGA_BINARY\" hook \"$1\" --dir '{dir}' --log '{log}'");
    format!("-F{}", place.script("master", &text).display())
}

fn hook(place: &Place, name: &str, text: &str) {
    let script = place.script("a-hook", text);
    install(&script, &place.path("hooks.d").join(name));
}

fn modes(dir: &Path) -> BTreeMap<String, u32> {
    let entries = fs::read_dir(dir).expect("directory").map(|entry| {
        let entry = entry.expect("entry");
        let mode = entry.metadata().expect("metadata").permissions().mode();
        (
            entry.file_name().into_string().expect("text"),
            mode & 0o7777,
        )
    });
    entries.collect()
}

fn expected(names: &[(&str, u32)]) -> BTreeMap<String, u32> {
    let names = names.iter();
    names
        .map(|(name, mode)| ((*name).to_owned(), *mode))
        .collect()
}

#[test]
fn what_the_agent_makes_is_roots_alone() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let master = master(&place);
        hook(
            &place,
            "10-holds",
            "# qga-hook: type = hold\necho ready >&3\nread -r reason",
        );
        let agent = agent(&place, &[&master, "--fsfreeze-hold-limit=2"]);
        let state = place.path("state");
        // The handle counter: the original's mode, and nothing to hide.
        let always = ("qga.state", 0o644);
        let lock = ("qga.lock", 0o600);
        assert_eq!(modes(&state), expected(&[always, lock]));
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        let frozen = [
            always,
            lock,
            ("qga.state.isfrozen", 0o600),
            ("qga.guardian", 0o600),
            ("qga.hooks", 0o600),
            ("qga.hooks.0", 0o600),
        ];
        assert_eq!(modes(&state), expected(&frozen), "while frozen");
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        let thawed = [always, lock, ("qga.reports.json", 0o600)];
        wait_until("the guardian is gone", || {
            !state.join("qga.guardian").exists() && state.join("qga.reports.json").exists()
        });
        assert_eq!(modes(&state), expected(&thawed), "after the thaw");
        // One that is killed leaves the thaw, and a note on it, to its guardian.
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        agent.kill();
        wait_until("the thaw", || !disk.is_frozen());
        wait_until("the guardian is gone", || {
            !state.join("qga.guardian").exists()
        });
        let expired = [
            always,
            lock,
            ("qga.reports.json", 0o600),
            ("qga.state.expired", 0o600),
        ];
        assert_eq!(modes(&state), expected(&expired), "after the limit");
        let all = modes(&place.path(""));
        let of = |name: &str| all.get(name).copied();
        assert_eq!(of("hook.log"), Some(0o600));
        // The original's: what mask and bind(2) make of it; whoever may connect may do everything.
        assert_eq!((of("sock"), of("log")), (Some(0o755), Some(0o644)));
    });
}

#[test]
fn what_the_host_sends_is_in_no_log_argument_or_environment() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let master = master(&place);
        let seen = |file: &str| {
            format!(
                "{{ tr '\\0' ' ' </proc/$$/cmdline; env; }} >>'{}'",
                place.name(file)
            )
        };
        hook(&place, "10-looks", &seen("hook-saw"));
        // First in PATH, so that no real helper is ever run.
        place.script(
            "chpasswd",
            &format!("{}; cat >/dev/null", seen("helper-saw")),
        );
        let mut command = place.agent_command(&["-v", &master]);
        command.env(
            "PATH",
            format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", place.name("")),
        );
        let agent = Agent::start(command, &place.path("sock"));
        let mut client = agent.connect();
        let mut ask = |name: &str, arguments: &str| {
            client.ask(&format!(
                r#"{{"execute":"{name}","arguments":{{{arguments}}}}}"#
            ))
        };
        // "S3CRET:x", as a password, on the way into a program, and into a file.
        let secret = "UzNDUkVUOng=";
        let user = format!(r#""username":"tu","password":"{secret}","crypted":false"#);
        assert_eq!(ask("guest-set-user-password", &user), returned("{}"));
        let script = format!("{}; cat >/dev/null", seen("program-saw"))
            .replace('\\', "\\\\")
            .replace('"', "\\\"");
        let exec = format!(
            r#""path":"/bin/sh","arg":["-c","{script}"],"env":["TOKEN=S3CRET"],"input-data":"{secret}""#
        );
        assert!(ask("guest-exec", &exec).contains("pid"));
        wait_until("the program", || {
            place.read("program-saw").contains("TOKEN=S3CRET")
        });
        let open = format!(r#""path":"{}","mode":"w""#, place.name("file"));
        assert_eq!(ask("guest-file-open", &open), returned("1000"));
        let write = format!(r#""handle":1000,"buf-b64":"{secret}""#);
        assert!(ask("guest-file-write", &write).contains("\"count\": 8"));
        assert_eq!(
            ask("guest-ping", r#""password":"S3CRET""#),
            failed("Parameter 'password' is unexpected")
        );
        assert_eq!(ask("guest-fsfreeze-freeze", ""), returned("1"));
        assert_eq!(ask("guest-fsfreeze-thaw", ""), returned("1"));
        assert!(!disk.is_frozen());
        if !is_ours() {
            return;
        }
        // Answered when the report is written.
        ask("x-guest-fsfreeze-report", "");
        // A program that the host starts gets the environment that the host gives, and no other.
        let program = place.read("program-saw");
        let inherited = |line: &&str| line.starts_with("QGA_") || line.starts_with("PATH=");
        assert_eq!(program.lines().find(inherited), None, "{program}");
        for file in [
            "log",
            "stderr",
            "hook.log",
            "helper-saw",
            "hook-saw",
            "state/qga.reports.json",
        ] {
            let text = place.read(file);
            assert!(file == "stderr" || !text.is_empty(), "{file}");
            assert!(
                !text.contains("S3CRET") && !text.contains("UzND"),
                "{file}: {text}"
            );
        }
        // What a hook knows of the agent is what CONFIGURATION.md tells.
        let told = place.read("hook-saw");
        let mut names: Vec<&str> = told
            .lines()
            .filter_map(|line| line.split_once('=')?.0.strip_prefix("QGA_"))
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(
            names,
            [
                "CONF",
                "DEADLINE",
                "DEVICES",
                "HOLD_LIMIT",
                "HOOK_START",
                "MOUNTPOINTS",
                "PHASE",
                "RUN_ID",
                "THAW_REASON"
            ]
        );
        // Neither variable nor descriptor of the agent's own makes it into a hook or a helper.
        assert!(!place.read("helper-saw").contains("QGA_HOOK"));
    });
}
