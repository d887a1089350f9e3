//! docs/json.md, held against what the tools print before, during and after a freeze. That the page has no other members
//! is a unit test of `src/tools/mod.rs`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::json_page::Page;
use crate::support::disk::tmpfs;
use crate::support::{Disk, Place, binary, in_namespace, install, returned};

/// Runs each tool with `--json`; what it prints is in the table with the heading.
fn check_all(page: &mut Page, place: &Place, calls: &[(&str, &[&str])]) {
    for (heading, args) in calls {
        let mut command = Command::new(binary());
        command.args(*args).arg("--json");
        if !matches!(args[0], "hook" | "log") || args.contains(&"dismiss") {
            command.args(["-t", &place.name("state")]);
        }
        let done = command.env_remove("QGA_CONF").output().expect("runs");
        let object = serde_json::from_slice(&done.stdout);
        let object = object.unwrap_or_else(|e| panic!("{args:?}: {e}: {done:?}"));
        let faults = page.check(heading, &object);
        assert!(faults.is_empty(), "{args:?}: {faults:#?}\n{object:#}");
    }
}

#[test]
fn every_member_that_a_tool_prints_is_in_the_page() {
    in_namespace(|| {
        let place = Place::new();
        fs::create_dir_all("/etc/qemu").expect("dir");
        for dir in ["/etc/qemu", "/srv", "/var/log"] {
            tmpfs(Path::new(dir));
        }
        fs::create_dir_all("/etc/qemu/fsfreeze-hook.d").expect("dir");
        let master = crate::blocks::root().join("hooks/fsfreeze-hook");
        install(&master, Path::new("/etc/qemu/fsfreeze-hook"));
        for (name, text) in [
            ("10-app", "# qga-hook: timeout = 9"),
            ("20-db", "[ $1 = thaw ] || { echo no server; exit 3; }"),
        ] {
            let script = place.script(name, text);
            install(&script, &Path::new("/etc/qemu/fsfreeze-hook.d").join(name));
        }
        fs::write("/etc/qemu/fsfreeze-hook.d/README", "").expect("file");
        // Not on /srv itself, where the checkout may be.
        let data = Disk::ext4(Path::new("/srv/data"));
        let agent = place.agent(&["-F/etc/qemu/fsfreeze-hook"]);
        let mut page = Page::read();
        let always: &[(&str, &[&str])] = &[
            ("qemu-ga plan", &["plan"]),
            ("qemu-ga check", &["check"]),
            ("qemu-ga check", &["hook", "check"]),
            ("qemu-ga status", &["status"]),
            ("qemu-ga status", &["thaw"]),
            ("qemu-ga hook list", &["hook", "list"]),
        ];
        check_all(&mut page, &place, always);
        check_all(
            &mut page,
            &place,
            &[("qemu-ga hook try", &["hook", "try", "20-db"])],
        );
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        let of_runs: &[(&str, &[&str])] = &[
            ("run", &["report"]),
            ("qemu-ga report", &["report", "--list"]),
            ("qemu-ga log", &["log"]),
        ];
        check_all(&mut page, &place, of_runs);
        check_all(&mut page, &place, &[("qemu-ga status", &["status"])]);
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        place.report();
        check_all(&mut page, &place, always);
        check_all(&mut page, &place, of_runs);
        let require: &[&str] = &["report", "--require", "application"];
        check_all(&mut page, &place, &[("qemu-ga report --require", require)]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        check_all(
            &mut page,
            &place,
            &[("qemu-ga thaw --now", &["thaw", "--now"])],
        );
        drop(agent);
        drop(data);
    });
}
