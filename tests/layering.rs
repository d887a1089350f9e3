//! The floors of src/lib.rs, held against what the files import.

#![allow(clippy::expect_used)] // helpers of tests, outside of #[test] itself

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const MOST_LINES: usize = 600;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// A module's floor, and the modules of the same floor that it may use.
#[derive(Debug, Default)]
struct Floor {
    level: u32,
    sideways: Vec<String>,
}

/// The names in `` [`name`] `` brackets.
fn names(text: &str) -> Vec<String> {
    let pieces = text.split("[`").skip(1);
    pieces
        .filter_map(|piece| Some(piece.split_once("`]")?.0.to_owned()))
        .collect()
}

/// The table in the crate's documentation: `` //! | floor | [`module`], … | text; uses [`other`] | ``.
fn floors() -> BTreeMap<String, Floor> {
    let text = fs::read_to_string(source().join("lib.rs")).expect("lib.rs");
    let mut floors = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let cells: Vec<&str> = line.split(" | ").collect();
        let Ok(level) = cells[0].parse() else {
            continue; // the head and the line under it
        };
        let uses = cells[2].split_once("uses ").map_or("", |(_, uses)| uses);
        for module in names(cells[1]) {
            let sideways = names(uses);
            floors.insert(module, Floor { level, sideways });
        }
    }
    floors
}

/// Every file of src/ with its text.
fn files() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut open = vec![source()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).expect("src/") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("text");
                files.push((
                    path.strip_prefix(source()).expect("inside").to_owned(),
                    text,
                ));
            }
        }
    }
    assert!(files.len() > 20, "src/ was not found");
    files
}

/// The module that a file belongs to.
fn module_of(file: &Path) -> String {
    let first = file.iter().next().expect("a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The text without comments: floors may be named in them.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| match line.find("//") {
        // Not the slashes of an address in a string.
        Some(at) if !line[..at].ends_with(':') => &line[..at],
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules named by `crate::x` and `crate::{x, y::z}`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in text.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            found.push(first_name(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && !c.is_whitespace() => {
                    found.push(first_name(&group[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn first_name(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn no_import_runs_up_a_floor() {
    let floors = floors();
    let mut wrong = Vec::new();
    for (file, text) in files() {
        let module = module_of(&file);
        // The manual's maker is a program of its own, above the library.
        if ["lib", "main", "manual"].contains(&module.as_str()) {
            continue;
        }
        let Some(own) = floors.get(&module) else {
            wrong.push(format!("{}: '{module}' has no floor", file.display()));
            continue;
        };
        for used in imports(&code(&text)) {
            // A constant or macro of the crate itself belongs to no floor.
            let Some(floor) = floors.get(&used) else {
                continue;
            };
            let allowed = used == module || floor.level < own.level || own.sideways.contains(&used);
            if !allowed {
                let (up, down) = (floor.level, own.level);
                let file = file.display();
                wrong.push(format!(
                    "{file}: {module} (floor {down}) uses {used} (floor {up})"
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "against the table in src/lib.rs:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_table_names_every_module_and_no_other() {
    let text = fs::read_to_string(source().join("lib.rs")).expect("lib.rs");
    let declared = text.lines().filter_map(|line| {
        line.strip_prefix("pub mod ")
            .or_else(|| line.strip_prefix("pub(crate) mod "))
    });
    let mut declared: Vec<&str> = declared.map(|name| name.trim_end_matches(';')).collect();
    declared.sort_unstable();
    let floors = floors();
    let named: Vec<&str> = floors.keys().map(String::as_str).collect();
    assert_eq!(named, declared);
}

#[test]
fn the_readers_of_this_test_see_what_they_should() {
    let text = "use crate::{a, b::{c, d}, e::f};\nuse crate::g::h; // crate::not\n crate::i()";
    assert_eq!(imports(&code(text)), ["a", "b", "e", "g", "i"]);
    let floors = floors();
    assert_eq!(floors["protocol"].level, 0);
    assert_eq!(floors["freeze"].sideways, ["hooks"]);
    assert!(floors["app"].level > floors["commands"].level);
}

#[test]
fn unsafe_is_for_sys_alone() {
    let is_word = |text: &str| {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.into_iter().any(|word| word == "unsafe")
    };
    let wrong: Vec<PathBuf> = files()
        .into_iter()
        .filter(|(file, _)| module_of(file) != "sys")
        .filter(|(_, text)| {
            code(text)
                .lines()
                .any(|line| is_word(&without_strings(line)))
        })
        .map(|(file, _)| file)
        .collect();
    assert_eq!(wrong, Vec::<PathBuf>::new());
}

fn without_strings(line: &str) -> String {
    line.split('"').step_by(2).collect::<Vec<_>>().join("\"")
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = files()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > MOST_LINES)
        .map(|(file, text)| format!("{}: {} lines", file.display(), text.lines().count()))
        .collect();
    assert_eq!(
        long,
        Vec::<String>::new(),
        "split what has more than {MOST_LINES} lines"
    );
}
