//! Command line and file as the caller sees them. Expected dumps are what the original prints for the same input.

mod command_line;
mod conf_file;
mod freeze;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::version::PROTOCOL_VERSION;

const NO_DIRS: [&str; 1] = ["/nonexistent/qemu"];

fn args(args: &[&str]) -> Vec<OsString> {
    std::iter::once("qga")
        .chain(args.iter().copied())
        .map(OsString::from)
        .collect()
}

fn try_run(list: &[&str]) -> Result<Action, ConfigError> {
    parse_in(&args(list), &|_| None, &NO_DIRS.map(Path::new))
}

fn run(list: &[&str]) -> Config {
    match try_run(list) {
        Ok(Action::Run(config) | Action::DumpConf(config)) => config,
        other => panic!("{list:?}: {other:?}"),
    }
}

fn error(list: &[&str]) -> ConfigError {
    match try_run(list) {
        Err(error) => error,
        Ok(action) => panic!("{list:?}: {action:?}"),
    }
}

fn dumps(config: &Config) -> (String, String) {
    let all = String::from_utf8(config.dump()).unwrap();
    let (general, own) = all.split_once("[qemu-ga-rs]\n").unwrap();
    (general.to_owned(), own.to_owned())
}

fn dump(config: &Config) -> String {
    dumps(config).0
}

fn dumped(config: &Config, key: &str) -> Option<String> {
    let dump = String::from_utf8(config.dump()).unwrap();
    let line = dump
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.map(str::to_owned)
}

struct File(
    #[expect(dead_code, reason = "removed when dropped")] tempfile::TempDir,
    String,
);

fn file(text: impl AsRef<[u8]>) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qemu-ga.conf");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    File(dir, path)
}

fn from_file(text: impl AsRef<[u8]>) -> Config {
    run(&["-c", &file(text).1])
}

fn bad_file(text: impl AsRef<[u8]>) -> String {
    let file = file(text);
    let error = error(&["-c", &file.1]);
    assert_eq!(error.stdout, "");
    let head = format!("qga: error loading configuration from path: {}, ", file.1);
    error
        .stderr
        .strip_prefix(&head)
        .unwrap_or_else(|| panic!("{error}"))
        .to_owned()
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

/// The compiler asks for a new method's arms; this asks for the rest.
#[test]
fn every_method_is_parsed_and_documented() {
    let arms = include_str!("mod.rs").lines().filter_map(|line| {
        let (variant, name) = line.trim().split_once(" => \"")?;
        variant.starts_with("Method::").then_some(name)
    });
    let names: Vec<&str> = arms.map(|name| name.trim_end_matches("\",")).collect();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        let method = Method::from_name(name);
        let is_known = method.name() == name && !matches!(method, Method::Unknown(_));
        assert!(is_known, "Method::from_name does not know {name}");
        for (file, text) in [
            ("config/options.rs", include_str!("options.rs")),
            ("transport/mod.rs", include_str!("../transport/mod.rs")),
            (
                "tools/check/system.rs",
                include_str!("../tools/check/system.rs"),
            ),
        ] {
            let code = text.split("#[cfg(test)]").next().unwrap_or(text);
            assert!(
                code.contains(&format!(" {name}")),
                "src/{file} does not name {name}"
            );
        }
    }
}
