//! Blocks of settings: the parsers that read such a file have nothing to say against them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use qemu_ga::config::options::Group;
use qemu_ga::config::{Action, parse};
use qemu_ga::keyfile;

use crate::blocks::{Block, read};
use crate::support::left_out::needs_program;
use crate::support::{binary, in_namespace};
use crate::{Runner, blocks_of};

/// What the agent warns of in the configuration file `path`.
fn warnings(path: &Path) -> Vec<String> {
    let args = ["qemu-ga", "--dump-conf", "--config"].map(OsString::from);
    let args: Vec<OsString> = args.into_iter().chain([path.into()]).collect();
    match parse(&args, &|_| None) {
        Ok(Action::DumpConf(config)) => config.warnings,
        other => panic!("{other:?}"),
    }
}

fn of_the_agent(block: &Block) {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("qemu-ga.conf");
    fs::write(&path, format!("{}no-such-key=1\n", block.text)).expect("file");
    assert_eq!(warnings(&path).len(), 1, "a warning can be seen");
    fs::write(&path, &block.text).expect("file");
    assert_eq!(warnings(&path), [""; 0], "{}", block.place());
    let shown = Command::new(binary())
        .args(["--dump-conf", "-c"])
        .arg(&path)
        .output()
        .expect("runs");
    assert!(shown.status.success() && shown.stderr.is_empty());
    let shown = String::from_utf8(shown.stdout).expect("text");
    for entry in keyfile::parse(block.text.as_bytes()).expect("a key file") {
        let line = format!("{}=", entry.key);
        assert!(
            shown.lines().any(|shown| shown.starts_with(&line)),
            "{}: {line} is not in effect:\n{shown}",
            block.place()
        );
    }
}

fn of_the_hooks(block: &Block) {
    let dir = tempfile::tempdir().expect("dir");
    let hooks = dir.path().join("fsfreeze-hook.d");
    fs::create_dir(&hooks).expect("dir");
    for entry in keyfile::parse(block.text.as_bytes()).expect("a key file") {
        if let Some(name) = entry.group.strip_prefix("hook ") {
            let path = hooks.join(name);
            fs::write(&path, "#!/bin/sh\n").expect("hook");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
        }
    }
    let conf = dir.path().join("fsfreeze-hook.conf");
    let list = |text: &str| -> serde_json::Value {
        fs::write(&conf, text).expect("file");
        let shown = Command::new(binary())
            .args(["hook", "list", "--json", "--dir"])
            .arg(&hooks)
            .output()
            .expect("runs");
        serde_json::from_slice(&shown.stdout).expect("JSON")
    };
    let wrong = list(&format!("{}no-such-key=1\n", block.text));
    assert_eq!(wrong["warnings"].as_array().map(Vec::len), Some(1));
    let shown = list(&block.text);
    assert_eq!(
        shown["warnings"],
        serde_json::json!([]),
        "{}",
        block.place()
    );
}

#[test]
fn every_block_of_settings_is_understood() {
    // Its hooks are root's, below directories that are root's.
    in_namespace(|| {
        for block in blocks_of(Runner::Settings) {
            let entries = keyfile::parse(block.text.as_bytes());
            let entries = entries.unwrap_or_else(|e| panic!("{}: {e}", block.place()));
            let is_agents = |group: &str| Group::ALL.iter().any(|known| known.name() == group);
            let agents = entries.iter().filter(|e| is_agents(&e.group)).count();
            if agents == entries.len() {
                of_the_agent(&block);
            } else {
                assert_eq!(agents, 0, "{}: of one file", block.place());
                of_the_hooks(&block);
            }
        }
    });
}

/// The one that libvirt is given in the VM tier, where it is seen to work.
#[test]
fn every_piece_of_a_domain_is_that_of_the_tests() {
    if needs_program("python3") {
        return;
    }
    let domain = read("tests/vm/lib/virt.py");
    for block in blocks_of(Runner::Domain) {
        for line in block.text.lines() {
            assert!(domain.contains(line.trim()), "{}: {line}", block.place());
        }
        let parser = "import sys, xml.dom.minidom; xml.dom.minidom.parseString(sys.argv[1])";
        let done = Command::new("python3")
            .args(["-c", parser, &block.text])
            .status();
        assert!(done.expect("python3").success(), "{}", block.place());
    }
}
