use super::*;
use crate::options::shown;
use qemu_ga::adapters::ADAPTERS;
use qemu_ga::app::TOOLS;
use qemu_ga::commands;
use qemu_ga::config::{Action, parse};
use qemu_ga::hooks::adapter::{Adapter, Discovered, DiscoveryContext};
use qemu_ga::hooks::settings::{HookConfig, HookSettings};
use std::ffi::OsString;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn escaped(name: &str) -> String {
    name.replace('-', "\\-")
}

fn file(name: &str) -> String {
    let files = files().unwrap();
    files.into_iter().find(|(n, _)| *n == name).unwrap().1
}

#[test]
fn every_option_and_every_tool_is_in_the_page_and_the_completion() {
    let page = file("qemu-ga.8");
    let completions = ["qemu-ga.bash", "qemu-ga.fish", "_qemu-ga"].map(file);
    for option in shown() {
        let long = option.spec.long;
        let tag = format!(r"\fB\-\-{}\fR", escaped(long));
        assert!(page.contains(&tag), "{long}");
        if let Some((_, key)) = option.key {
            let key = format!("\\fB{}\\fR", escaped(key));
            assert!(page.contains(&key), "key {key}");
        }
    }
    for tool in TOOLS.iter().flat_map(|tool| tool.all()) {
        let name = tool.usage.name;
        let heading = format!("\n.SS \"qemu\\-ga {name}\"\n");
        assert!(page.contains(&heading), "{name}");
        for completion in &completions {
            let options = tool.usage.options();
            let mut all = options.map(|spec| spec.long).chain([tool.word()]);
            assert!(all.all(|word| completion.contains(word)), "{name}");
        }
    }
}

#[test]
fn every_command_is_described_once() {
    let page = file("qemu-ga-ref.7");
    let mut told: Vec<&str> = reference::sections()
        .iter()
        .map(|(name, _)| *name)
        .collect();
    told.sort_unstable();
    let mut all: Vec<&str> = commands::all().iter().map(|command| command.name).collect();
    all.sort_unstable();
    assert_eq!(told, all);
    for name in all {
        let heading = format!("\n.SS {}\n", escaped(name));
        assert!(page.contains(&heading), "{name}");
    }
    assert!(page.contains("(since QEMU 0.15; works while filesystems are frozen)"));
}

#[test]
fn the_committed_reference_is_the_one_that_is_made() {
    let committed = include_str!("../../CONFIGURATION.md");
    assert!(
        committed == file("CONFIGURATION.md"),
        "CONFIGURATION.md differs from the tables; run: cargo xtask manual target/manual && cp target/manual/CONFIGURATION.md ."
    );
    assert!(!committed.contains("{{"));
}

fn keys(section: &str) -> Vec<String> {
    let entries = settings::section(section).unwrap();
    let mut keys: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
    keys.sort_unstable();
    keys
}

/// The keys are the arms of setters.
fn arms(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap();
    let arms = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"'));
    let mut keys: Vec<String> = arms
        .filter_map(|rest| Some(rest.split_once("\" => ")?.0))
        .flat_map(|arm| arm.split("\" | \""))
        .filter(|key| !["once", "hold", "continue", "abort"].contains(key))
        .filter(|key| !["yes", "true", "1", "on", "no", "false", "0", "off"].contains(key))
        .map(ToOwned::to_owned)
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[test]
fn every_key_of_the_hooks_settings_is_described() {
    let page = file("fsfreeze-hook.5");
    let mut told = keys("hook");
    told.extend(keys("hooks alone"));
    told.sort_unstable();
    let setters = concat!(
        include_str!("../../src/hooks/settings.rs"),
        include_str!("../../src/hooks/settings/rules.rs")
    );
    assert_eq!(told, arms(setters));
    for key in &told {
        assert!(page.contains(&escaped(key)), "{key}");
    }
    let policy = HookSettings::default().settings();
    assert_eq!(keys("hook").len(), policy.len());
    assert!(policy.iter().all(|(key, _)| told.iter().any(|t| t == key)));
}

/// What an adapter finds below `root` with these settings of its group.
fn found(adapter: &Adapter, root: &Path, settings: &str) -> Discovered {
    let text = format!("[{}]\n{settings}", adapter.name);
    let rules = HookConfig::parse(root, text.as_bytes(), ADAPTERS);
    (adapter.discover)(&DiscoveryContext {
        root,
        rules: &rules,
        devices: "",
    })
}

/// The texts in the adapters' file `name` that are keys of the adapter's group.
fn accepted(adapter: &Adapter, name: &str) -> Vec<String> {
    let place = tempfile::tempdir().unwrap();
    let source = std::fs::read_to_string(root().join(format!("src/adapters/{name}.rs"))).unwrap();
    let is_key = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let words = source.split('"').filter(is_key);
    let mut keys: Vec<String> = words
        .filter(|word| !word.is_empty())
        .filter(|key| {
            let warnings = found(adapter, place.path(), &format!("{key}=x\n")).warnings;
            let is_unknown = |text: &String| text.contains("is not a setting of this group");
            !warnings.iter().any(is_unknown)
        })
        .map(str::to_owned)
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[test]
fn every_key_of_an_adapter_is_described() {
    let mut common = keys("adapter");
    common.push("on-failure".to_owned());
    common.sort_unstable();
    for adapter in ADAPTERS {
        let name = adapter.name;
        let shared = accepted(adapter, "script");
        assert!(common.iter().all(|key| shared.contains(key)), "{name}");
        let mut known = accepted(adapter, name);
        known.extend(shared.into_iter().filter(|key| !common.contains(key)));
        known.push("on-failure".to_owned());
        known.sort_unstable();
        known.dedup();
        assert_eq!(
            keys(name),
            known,
            "xtask/pages/settings.md, section {name}: left what it describes, right the adapter's keys"
        );
    }
}

fn scripts() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let script = place.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
    std::fs::create_dir(place.path().join("bin")).unwrap();
    std::fs::set_permissions(place.path().join("bin"), Permissions::from_mode(0o755)).unwrap();
    for name in ["bin/agent_func.sh", "x_freeze.sh", "x_unfreeze.sh"] {
        std::fs::copy(&script, place.path().join(name)).unwrap();
    }
    place
}

#[test]
fn the_described_defaults_of_an_adapter_are_its_own() {
    let place = scripts();
    let script = place.path().join("script");
    let defaults = |section: &str| -> Vec<(String, String, String)> {
        let entries = settings::section(section).unwrap().into_iter();
        entries.map(|e| (e.name, e.kind, e.default)).collect()
    };
    for adapter in ADAPTERS {
        let name = adapter.name;
        let source =
            std::fs::read_to_string(root().join(format!("src/adapters/{name}.rs"))).unwrap();
        let described = defaults(name);
        let files = described
            .iter()
            .filter_map(|(key, kind, default)| match &kind[..] {
                "path" => Some(format!("{key}={}\n", script.display())),
                "directory" if default.is_empty() => {
                    Some(format!("{key}={}\n", place.path().display()))
                }
                _ => None,
            });
        let found = found(adapter, place.path(), &files.collect::<String>());
        assert_eq!(found.warnings, [""; 0], "{name}");
        let task = &found.tasks[0];
        let limit = task.freeze.as_ref().and_then(|call| call.timeout);
        // VMware's is one for all scripts.
        let limit = limit.or(task.budget);
        let limit = limit.map(|limit| limit.as_secs().to_string());
        let settings = task.policy.settings();
        for (key, kind, default) in defaults("adapter").into_iter().chain(described) {
            let real = match key.as_str() {
                "enabled" => continue,
                "timeout" => limit.clone(),
                "freeze-filesystems" => {
                    Some(["yes", "no"][usize::from(found.leaves_filesystems)].into())
                }
                _ if kind == "path" || kind == "directory" => {
                    let is_usual = default.is_empty() || source.contains(&default[1..]);
                    assert!(
                        is_usual,
                        "{name}: {default} is not in src/adapters/{name}.rs"
                    );
                    continue;
                }
                key => {
                    let found = settings.iter().find(|(known, _)| *known == key);
                    found.map(|(_, value)| value.clone())
                }
            };
            assert_eq!(
                real,
                Some(default),
                "xtask/pages/settings.md, section {name}: {key}"
            );
        }
    }
}

fn sources(dir: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            texts.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            texts.push(std::fs::read_to_string(path).unwrap());
        }
    }
    texts
}

#[test]
fn every_variable_is_described() {
    let sections = [
        "variables of the agent",
        "variables of a hook",
        "variables of a master",
        "variables of the build",
    ];
    let mut told: Vec<String> = sections.iter().flat_map(|name| keys(name)).collect();
    told.retain(|name| name.starts_with("QGA_"));
    told.sort_unstable();
    let sources = sources(&root().join("src"));
    let quoted = sources.iter().flat_map(|text| text.split('"'));
    let mut known: Vec<&str> = quoted
        .filter(|word| word.starts_with("QGA_"))
        .filter(|word| word.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .filter(|word| *word != "QGA_")
        .collect();
    known.sort_unstable();
    known.dedup();
    assert_eq!(told, known);
}

#[test]
fn every_variable_of_the_services_is_described() {
    let unit = include_str!("../../rpm/qemu-guest-agent.service");
    let line = unit.lines().find_map(|l| l.strip_prefix("Environment="));
    let mut known: Vec<&str> = line.unwrap().split("= ").collect();
    for name in &mut known {
        *name = name.trim_end_matches('=');
    }
    known.sort_unstable();
    assert_eq!(keys("/etc/sysconfig/qemu-ga"), known);
    for name in &known {
        assert!(unit.contains(&format!("${name}")) || unit.contains(&format!("${{{name}}}")));
        assert!(include_str!("../../rpm/qemu-ga.sysconfig").contains(name));
    }
    let init = include_str!("../../debian/qemu-guest-agent.init");
    let head = init
        .split_once("qemu-guest-agent may set\n")
        .expect("the head")
        .1;
    let known: Vec<&str> = head
        .lines()
        .map_while(|line| line.strip_prefix("#   ")?.split_whitespace().next())
        .collect();
    assert_eq!(keys("/etc/default/qemu-guest-agent"), known);
}

#[test]
fn every_argument_of_the_page_is_one_of_the_source() {
    let source = sources(&root().join("src/commands")).concat();
    let mut seen = 0;
    for (command, lines) in reference::sections() {
        for (name, optional) in reference::arguments(&lines) {
            let optional = if optional { "Option<" } else { "" };
            let field = format!("    {}: {optional}", name.replace('-', "_"));
            let renamed = format!("rename = \"{name}\"");
            let known = source.contains(&field) || source.contains(&renamed);
            assert!(known, "{command}: {name}");
            seen += 1;
        }
    }
    assert!(seen > 25, "{seen}");
}

#[test]
fn the_sample_configuration_changes_nothing_and_its_values_are_understood() {
    let sample = file("qemu-ga.conf");
    let dump = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let args = ["qemu-ga", "-D", "-c"].map(OsString::from);
        let args: Vec<OsString> = args.into_iter().chain([file.path().into()]).collect();
        match parse(&args, &|_| None).unwrap() {
            Action::DumpConf(config) => {
                let warnings = config.warnings.clone();
                (String::from_utf8(config.dump()).unwrap(), warnings)
            }
            _ => panic!("no dump"),
        }
    };
    let (as_it_is, warnings) = dump(&sample);
    assert_eq!(as_it_is, dump("").0);
    assert!(warnings.is_empty());
    let set: String = sample
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let (set, warnings) = dump(&set);
    assert_eq!(warnings, Vec::<String>::new());
    assert!(
        set.contains("fsfreeze-hook=/etc/qemu/fsfreeze-hook\n"),
        "{set}"
    );
}

/// What groff and the shells say of the files; one that is not installed is skipped.
#[test]
fn the_formatters_find_nothing_to_complain_of() {
    let mut looked_at = 0;
    for (name, text) in files().unwrap() {
        let (program, args): (&str, &[&str]) = match name {
            "qemu-ga.bash" => ("bash", &["-n"]),
            "qemu-ga.fish" => ("fish", &["--no-execute"]),
            "_qemu-ga" => ("zsh", &["-n"]),
            "qemu-ga.conf" | "CONFIGURATION.md" => continue,
            _ => ("groff", &["-man", "-ww", "-z", "-Tutf8", "-K", "utf-8"]),
        };
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else { continue };
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.is_empty(), "{name}: {said}");
        looked_at += 1;
    }
    assert!(looked_at > 0 || !Path::new("/usr/bin/groff").exists());
}
