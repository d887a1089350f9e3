use super::*;
use crate::options::shown;
use qemu_ga::app::SUBCOMMANDS;
use qemu_ga::commands;
use qemu_ga::config::{Action, parse};
use std::ffi::OsString;
use std::io::Write;
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

/// The keys are the arms of two setters in the hooks' policy.
#[test]
fn every_key_of_the_hooks_settings_is_in_the_page() {
    let page = file("fsfreeze-hook.5");
    let source = include_str!("../hooks/policy.rs");
    let source = source.split("#[cfg(test)]").next().unwrap();
    let arms = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"'));
    let mut keys: Vec<&str> = arms
        .filter_map(|rest| Some(rest.split_once("\" => ")?.0))
        .filter(|key| !key.contains('"') && !["once", "hold", "continue", "abort"].contains(key))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    assert!(keys.len() >= 12 && keys.contains(&"kill-after"), "{keys:?}");
    for key in keys {
        assert!(page.contains(&roff::plain(key)), "{key}");
    }
}

/// The members of the structs that the handlers decode are the arguments that the page names.
#[test]
fn every_argument_of_the_page_is_one_of_the_source() {
    let source: String = [
        "exec/mod.rs",
        "file/mod.rs",
        "cpu.rs",
        "fsfreeze.rs",
        "fstrim.rs",
        "memory.rs",
        "password.rs",
        "power.rs",
        "ssh.rs",
        "sync.rs",
        "time.rs",
    ]
    .iter()
    .map(|file| std::fs::read_to_string(format!("src/commands/{file}")).unwrap())
    .collect();
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
            "qemu-ga.conf" => continue,
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
    assert!(looked_at > 0 || !std::path::Path::new("/usr/bin/groff").exists());
}
