use super::*;
use crate::options::shown;
use qemu_ga::app::SUBCOMMANDS;
use qemu_ga::commands;
use qemu_ga::config::{Action, parse};
use qemu_ga::hooks::settings::{HookConfig, HookSettings};
use qemu_ga::hooks::sources::{ADAPTERS, DiscoveryContext};
use std::ffi::OsString;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn file(name: &str) -> String {
    let files = files().unwrap();
    files.into_iter().find(|(n, _)| *n == name).unwrap().1
}

#[test]
fn every_option_and_every_tool_is_in_the_page_and_the_completion() {
    let page = file("qemu-ga.8");
    let completion = file("qemu-ga.bash");
    for spec in shown() {
        let tag = format!("\\fB{}\\fR", roff::plain(&format!("--{}", spec.long)));
        assert!(page.contains(&tag), "{}", spec.long);
        assert!(completion.contains(&format!("--{}", spec.long)));
        if let Some((_, key)) = spec.key {
            let key = format!("\\fB{}\\fR", roff::plain(key));
            assert!(page.contains(&key), "key {key}");
        }
    }
    for tool in SUBCOMMANDS {
        assert!(
            page.contains(&format!(".SS \"qemu\\-ga {}\"", tool.name)),
            "{}",
            tool.name
        );
        assert!(completion.contains(&format!("        {}) words=", tool.name)));
        assert!(
            qemu_ga::app::usage(tool.name).is_some(),
            "no help of {}",
            tool.name
        );
    }
    assert_eq!(qemu_ga::app::usage("guardian"), None);
    let thaw: Vec<String> = completion::options_of("thaw")
        .into_iter()
        .map(|t| t.name)
        .collect();
    assert_eq!(
        thaw,
        [
            "--config",
            "--force",
            "--help",
            "--json",
            "--now",
            "--statedir",
            "-c",
            "-t"
        ]
    );
}

#[test]
fn every_command_is_described_once() {
    let page = file("qemu-ga-ref.7");
    let sections = reference::sections().unwrap();
    let mut told: Vec<&str> = sections
        .iter()
        .flat_map(|(_, entries)| entries.iter().map(|entry| entry.name.as_str()))
        .collect();
    told.sort_unstable();
    let mut all: Vec<&str> = commands::all().iter().map(|command| command.name).collect();
    all.sort_unstable();
    assert_eq!(told, all);
    for name in all {
        assert!(
            page.contains(&format!(".SS \"{}\"", roff::plain(name))),
            "{name}"
        );
    }
}

#[test]
fn the_committed_reference_is_the_one_that_is_made() {
    let committed = include_str!("../../CONFIGURATION.md");
    assert!(
        committed == file("CONFIGURATION.md"),
        "CONFIGURATION.md is not what the tables say; make it anew: cargo run --example manual -- target/manual && cp target/manual/CONFIGURATION.md ."
    );
    assert!(!committed.contains("{{"));
}

fn keys(section: &str) -> Vec<String> {
    let entries = settings::section(section).unwrap();
    assert!(entries.iter().all(|entry| !entry.prose.is_empty()));
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
        include_str!("../hooks/settings.rs"),
        include_str!("../hooks/settings/rules.rs")
    );
    assert_eq!(told, arms(setters));
    for key in &told {
        assert!(page.contains(&roff::plain(key)), "{key}");
    }
    let policy = HookSettings::default().settings();
    assert_eq!(keys("hook").len(), policy.len());
    assert!(policy.iter().all(|(key, _)| told.iter().any(|t| t == key)));
}

#[test]
fn every_key_of_an_adapter_is_described_with_its_default() {
    let common = arms(include_str!("../hooks/sources/script.rs"));
    let mut told = keys("adapter");
    told.push("on-failure".to_owned());
    told.sort_unstable();
    assert_eq!(told, common);

    let root = tempfile::tempdir().unwrap();
    let script = root.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
    std::fs::create_dir(root.path().join("bin")).unwrap();
    std::fs::set_permissions(root.path().join("bin"), Permissions::from_mode(0o755)).unwrap();
    for name in ["bin/agent_func.sh", "x_freeze.sh", "x_unfreeze.sh"] {
        std::fs::copy(&script, root.path().join(name)).unwrap();
    }
    let defaults = |section: &str| -> Vec<(String, String, String)> {
        let entries = settings::section(section).unwrap().into_iter();
        entries.map(|e| (e.name, e.kind, e.default)).collect()
    };
    for adapter in ADAPTERS {
        let name = adapter.name;
        let source = std::fs::read_to_string(format!("src/hooks/sources/{name}.rs")).unwrap();
        let mut known = arms(&source);
        // The only key of its group is no arm.
        let only = source.split_once("if key != \"");
        known.extend(only.map(|(_, rest)| rest.split('"').next().unwrap().to_owned()));
        // Those of a pair of scripts are a list of its contract.
        if let Some((_, rest)) = source.split_once("keys: [") {
            let listed = rest.split_once(']').unwrap().0;
            known.extend(
                listed
                    .split(", ")
                    .map(|key| key.trim_matches('"').to_owned()),
            );
            known.push("timeout".to_owned());
        }
        known.push("on-failure".to_owned());
        known.sort_unstable();
        assert_eq!(keys(name), known, "{name}");

        // Every file that it can be told of is there.
        let told = defaults(name);
        let files = told
            .iter()
            .filter_map(|(key, kind, default)| match &kind[..] {
                "path" => Some(format!("{key}={}\n", script.display())),
                "directory" if default.is_empty() => {
                    Some(format!("{key}={}\n", root.path().display()))
                }
                _ => None,
            });
        let named: String = files.collect();
        let rules = HookConfig::parse(root.path(), format!("[{name}]\n{named}").as_bytes());
        let scene = DiscoveryContext {
            root: root.path(),
            rules: &rules,
            devices: "",
        };
        let found = (adapter.discover)(&scene);
        assert_eq!(found.warnings, [""; 0], "{name}");
        let step = &found.tasks[0];
        let limit = step.freeze.as_ref().and_then(|call| call.timeout);
        // VMware's is one for all scripts.
        let limit = limit.or(step.budget);
        let limit = limit.map(|limit| limit.as_secs().to_string());
        let settings = step.policy.settings();
        let default_of = |key: &str| {
            let found = settings.iter().find(|(known, _)| *known == key);
            found.map(|(_, value)| value.clone())
        };
        for (key, kind, default) in defaults("adapter").into_iter().chain(told) {
            let real = match key.as_str() {
                "enabled" => continue,
                "timeout" => limit.clone(),
                "freeze-filesystems" => {
                    Some(["yes", "no"][usize::from(found.leaves_filesystems)].into())
                }
                _ if kind == "path" || kind == "directory" => {
                    let place = default.is_empty() || source.contains(&default[1..]);
                    assert!(place, "{name}: {default} is no usual place");
                    continue;
                }
                key => default_of(key),
            };
            assert_eq!(real, Some(default), "{name}: {key}");
        }
    }
}

/// Every Rust file below `dir`.
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
    let sources = sources(Path::new("src"));
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

/// The members of the structs that the handlers decode are the arguments that the page names.
#[test]
fn every_argument_of_the_page_is_one_of_the_source() {
    let source = sources(Path::new("src/commands")).concat();
    for (_, entries) in reference::sections().unwrap() {
        for entry in entries {
            for (name, _, _) in &entry.arguments {
                let optional = name.ends_with('?');
                let name = name.trim_end_matches('?');
                let field = format!(
                    "    {}: {}",
                    name.replace('-', "_"),
                    if optional { "Option<" } else { "" }
                );
                let renamed = format!("rename = \"{name}\"");
                assert!(
                    source.contains(&field) || source.contains(&renamed),
                    "{}: {name}",
                    entry.name
                );
            }
        }
    }
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

/// What groff and bash say of the files; passes over a machine that has neither.
#[test]
fn the_formatters_find_nothing_to_complain_of() {
    let mut looked_at = 0;
    for (name, text) in files().unwrap() {
        let (program, args): (&str, &[&str]) = match name {
            "qemu-ga.bash" => ("bash", &["-n"]),
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
