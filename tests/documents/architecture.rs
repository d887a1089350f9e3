//! docs/architecture.md against the code: limits, messages, files and processes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::blocks::{heading, read, root};
use crate::text::{below, spans};
use crate::{Runner, blocks_of};

const PAGE: &str = "docs/architecture.md";

/// Where a constant of time must be in the table of limits.
const TIMED: [&str; 6] = [
    "src/agent",
    "src/child",
    "src/commands/worker.rs",
    "src/freeze",
    "src/hooks",
    "src/state",
];

/// The lines below a heading.
fn section<'a>(text: &'a str, title: &str) -> Vec<&'a str> {
    let lines = text.lines().skip_while(|line| heading(line) != Some(title));
    let section = lines.skip(1).take_while(|line| heading(line).is_none());
    section.collect()
}

/// The cells of each row of a table below a heading, without the head.
fn rows<'a>(text: &'a str, title: &str) -> Vec<Vec<&'a str>> {
    let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect();
    let rows = section(text, title).into_iter();
    rows.filter(|line| line.starts_with("| `"))
        .map(cells)
        .collect()
}

/// The product that a constant is made of: `15 * 60`, `86_400`.
fn product(text: &str) -> Option<u64> {
    let parse = |factor: &str| factor.trim().replace('_', "").parse::<u64>().ok();
    text.split('*').map(parse).product()
}

/// The value of a constant as the table has it.
fn value(line: &str) -> Option<String> {
    let told = line.split_once(" = ")?.1.trim_end_matches(';');
    let called = |function: &str| {
        let inner = told.split_once(function)?.1.split(')').next()?;
        product(inner)
    };
    if let Some(seconds) = called("from_secs(") {
        return Some(format!("{seconds} s"));
    }
    if let Some(millis) = called("from_millis(") {
        return Some(format!("{millis} ms"));
    }
    if let Some(number) = told.strip_suffix(" << 20") {
        return Some(format!("{number} MiB"));
    }
    Some(product(told)?.to_string())
}

/// The lines of a source file that are no test's.
fn product_lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("a source file");
    let text = text.split("#[cfg(test)]\nmod tests {").next();
    text.unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The source files below `path` that are no tests.
fn sources(path: &Path) -> Vec<std::path::PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).expect("a directory") {
        let path = entry.expect("entry").path();
        let name = path.file_stem().and_then(|name| name.to_str());
        if !["simulator", "tests"].map(Some).contains(&name) {
            found.extend(sources(&path));
        }
    }
    found
}

fn name_in(file: &Path) -> String {
    let name = file.strip_prefix(root()).expect("below the root");
    name.to_str().expect("text").to_owned()
}

#[test]
fn every_limit_has_the_value_of_its_constant() {
    let text = read(PAGE);
    let rows = rows(&text, "Limits");
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let name = row[0].trim_matches('`');
        let source = read(row[2].trim_matches('`'));
        let told = source
            .lines()
            .find(|line| line.contains(&format!("const {name}: ")))
            .unwrap_or_else(|| panic!("{PAGE}: {row:?}: no such constant"));
        let told = value(told).unwrap_or_else(|| panic!("{told}"));
        // `3600 s` of the table may be a plain number of seconds.
        let is_same = told == row[1] || row[1].strip_suffix(" s") == Some(&told);
        assert!(is_same, "{PAGE}: {row:?}: {told}");
    }
}

#[test]
fn every_constant_of_time_is_a_limit() {
    let text = read(PAGE);
    let rows = rows(&text, "Limits");
    let known: BTreeSet<(String, &str)> = rows
        .iter()
        .map(|row| {
            (
                row[2].trim_matches('`').to_owned(),
                row[0].trim_matches('`'),
            )
        })
        .collect();
    let mut missing = Vec::new();
    let mut seen = 0;
    for file in TIMED.iter().flat_map(|top| sources(&root().join(top))) {
        let file_name = name_in(&file);
        for line in product_lines(&file) {
            let Some((name, kind)) = line
                .split_once("const ")
                .and_then(|(_, rest)| rest.split_once(": "))
            else {
                continue;
            };
            if !["Duration =", "Option<Duration> ="]
                .iter()
                .any(|kinds| kind.starts_with(kinds))
            {
                continue;
            }
            seen += 1;
            if !known.contains(&(file_name.clone(), name)) {
                missing.push(format!("{file_name}: {name}: {:?}", value(&line)));
            }
        }
    }
    assert!(seen > 30, "{seen}");
    assert!(missing.is_empty(), "{PAGE} lacks {missing:#?}");
}

/// The messages of the guardian's protocol, all of them.
#[test]
fn every_message_of_the_guardian_is_in_the_page() {
    let text = read(PAGE);
    let rows = rows(&text, "Messages of the guardian");
    let mut told: Vec<&str> = rows.iter().flat_map(|row| spans(row[0])).collect();
    told.sort_unstable();
    let source = read("src/freeze/guardian/mod.rs");
    let mut known = Vec::new();
    for name in ["pub enum Request {", "pub enum Response {"] {
        let body = source.split(name).nth(1).expect("an enum");
        let body = body.split("\n}").next().expect("its end");
        let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
        let variants = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
        known.extend(variants.filter_map(|line| line.split([' ', ',', '(']).next()));
    }
    known.sort_unstable();
    assert_eq!(told, known);
}

/// The state directory's files, and the members of the marker.
#[test]
fn every_file_of_the_state_directory_is_in_the_page() {
    let text = read(PAGE);
    let rows = rows(&text, "The state directory");
    let told: BTreeSet<&str> = rows.iter().flat_map(|row| spans(row[0])).collect();
    // Its name is put together.
    let mut known = BTreeSet::from(["qga.hooks.N".to_owned()]);
    for file in sources(&root().join("src")) {
        for line in product_lines(&file) {
            let literals = line.split('"').skip(1).step_by(2);
            let names =
                literals.filter(|text| text.starts_with("qga.") && !text.contains([' ', '{']));
            known.extend(names.map(str::to_owned));
        }
    }
    let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    assert_eq!(told, known);
    let source = read("src/state/mod.rs");
    let marker = source.split("pub struct Marker {").nth(1).expect("Marker");
    let members = marker.lines().take_while(|line| *line != "}");
    let members = members.filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next());
    let page = section(&text, "The state directory").join("\n");
    let said = spans(&page);
    let mut seen = 0;
    for member in members {
        let member = member.replace('_', "-");
        assert!(said.contains(&&member[..]), "{PAGE}: {member}");
        seen += 1;
    }
    assert_eq!(seen, 6);
}

/// The processes are called in lists what the drawing calls them, and all are drawn.
#[test]
fn the_drawing_has_every_process() {
    let drawn: String = blocks_of(Runner::Drawing)
        .into_iter()
        .map(|block| block.text)
        .collect();
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    let words = drawn.split(|c| !is_part(c));
    let drawn: BTreeSet<&str> = words.filter(|word| word.starts_with("qga-")).collect();
    let source = below(&root().join("src"));
    let named = ["set_process_name(c\"", "const NAME: &CStr = c\""];
    let known: BTreeSet<&str> = named
        .iter()
        .flat_map(|call| source.split(call).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert_eq!(drawn, known);
}
