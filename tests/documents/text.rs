//! The text between the blocks: commands in it are understood, links lead somewhere.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use qemu_ga::app::TOOLS;
use qemu_ga::config::options::OPTIONS;

use crate::blocks::{blocks, documents, heading, read, root};
use crate::support::binary;

/// Options of other programs that the documents name.
const FOREIGN: [&str; 2] = ["--locked", "--test"];

/// What stands between backquotes.
pub fn spans(text: &str) -> Vec<&str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

/// A call with a value for each name that stands for one.
fn words(call: &str) -> Vec<String> {
    let plain = call.replace(['[', ']', '…'], "");
    plain
        .split_whitespace()
        .map(|word| if word == "N" { "1" } else { word }.to_owned())
        .collect()
}

#[test]
fn every_call_of_the_agent_is_understood() {
    let mut seen = 0;
    for (file, text) in documents() {
        for span in spans(&blocks(&file, &text).1) {
            let Some(call) = span.strip_prefix("qemu-ga ") else {
                continue;
            };
            let mut args = words(call);
            seen += 1;
            // It would run the other words instead.
            if args[0] == "selftest" && args.get(1).is_some_and(|arg| arg == "--run") {
                args.truncate(1);
            }
            // Whatever is asked for, help comes first: nothing is done.
            args.push("--help".into());
            let done = Command::new(binary())
                .args(&args)
                .stdin(Stdio::null())
                .output();
            let done = done.expect("runs");
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{file}: `{span}`: {said}");
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn every_option_in_the_text_is_one() {
    let scripts = [
        "tests/run",
        "tests/vm/run",
        "tests/bench/run",
        "host/qga_host/snapshot.py",
        "host/qga_host/fleet.py",
    ];
    let scripts = scripts.map(read);
    for (file, text) in documents() {
        for span in spans(&blocks(&file, &text).1) {
            let name = span.split([' ', '=', '[']).next().unwrap_or_default();
            let Some(long) = name.strip_prefix("--").filter(|long| !long.is_empty()) else {
                continue;
            };
            let is_agents = OPTIONS
                .iter()
                .any(|option| option.spec.long == long || option.spec.old.contains(&long));
            let mut tools = TOOLS.iter().flat_map(|tool| tool.all());
            let is_tools = tools.any(|tool| tool.usage.options().any(|spec| spec.long == long));
            let is_of_tests = scripts.iter().any(|text| text.contains(name));
            assert!(
                is_agents || is_tools || is_of_tests || FOREIGN.contains(&name),
                "{file}: `{span}`"
            );
        }
    }
}

/// The text of a file, or of all below a directory.
pub fn below(path: &Path) -> String {
    if !path.is_dir() {
        return fs::read_to_string(path).unwrap_or_default();
    }
    let entries = fs::read_dir(path).expect("a directory");
    entries
        .map(|entry| below(&entry.expect("entry").path()))
        .collect()
}

/// The tests that a document names without a file.
fn check_tests_named_in(file: &str, least: usize) {
    let cases = below(&root().join("tests/compliance/cases"));
    let mut seen = 0;
    for span in spans(&read(file)) {
        let Some((module, name)) = span.split_once("::") else {
            continue;
        };
        seen += 1;
        let known = match (module, name) {
            ("compliance", name) => cases.contains(name),
            (module, "*") => root()
                .join(format!("tests/integration/{module}.rs"))
                .exists(),
            (module, name) => {
                read(&format!("tests/integration/{module}.rs")).contains(&format!("fn {name}("))
            }
        };
        assert!(known, "{file}: `{span}`");
    }
    assert!(seen > least, "{file}: {seen}");
}

#[test]
fn every_difference_names_a_test() {
    check_tests_named_in("docs/COMPAT.md", 40);
}

#[test]
fn every_limit_of_an_actor_names_a_test() {
    check_tests_named_in("docs/threat-model.md", 30);
}

/// `path` and `path: function`, of a test for example.
#[test]
fn every_file_in_the_text_is_there() {
    let mut functions = 0;
    for (file, text) in documents() {
        for span in spans(&blocks(&file, &text).1) {
            let (path, function) = span.split_once(": ").unwrap_or((span, ""));
            let path = path.split([' ', ':']).next().unwrap_or_default();
            let is_ours = ["docs/", "tests/", "src/", "hooks/", "debian/", "rpm/"]
                .iter()
                .any(|top| path.starts_with(top));
            if !is_ours || path.contains("NAME") || path.contains('…') {
                continue;
            }
            let place = root().join(path);
            assert!(
                place.exists() || place.with_extension("rs").exists(),
                "{file}: `{span}`"
            );
            if !function.is_empty() {
                functions += 1;
                let told = below(&place);
                let known = ["fn", "def"].map(|word| format!("{word} {function}("));
                assert!(
                    known.iter().any(|known| told.contains(known)),
                    "{file}: there is no {function} in {path}"
                );
            }
        }
    }
    assert!(functions > 10, "{functions}");
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter_map(|c| match c {
        ' ' | '-' => Some('-'),
        c if c.is_alphanumeric() || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

fn anchors(text: &str) -> Vec<String> {
    let rest = blocks("", text).1;
    rest.lines().filter_map(heading).map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for (file, text) in documents() {
        let rest = blocks(&file, &text).1;
        for piece in rest.split("](").skip(1) {
            let target = piece.split(')').next().unwrap_or_default();
            if target.starts_with("https://") {
                continue;
            }
            seen += 1;
            let (path, title) = target.split_once('#').unwrap_or((target, ""));
            let name = match path {
                "" => file.clone(),
                path => {
                    let dir = Path::new(&file).parent().expect("a directory");
                    dir.join(path).to_str().expect("text").to_owned()
                }
            };
            assert!(root().join(&name).exists(), "{file}: {target} is not there");
            assert!(
                title.is_empty() || anchors(&read(&name)).iter().any(|known| known == title),
                "{file}: {target}: there is no such heading"
            );
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn anchors_are_those_of_the_web_page() {
    assert_eq!(anchor("The agent: qemu-ga.conf"), "the-agent-qemu-gaconf");
    assert_eq!(anchor("[hooks] and [hook NAME]"), "hooks-and-hook-name");
}
