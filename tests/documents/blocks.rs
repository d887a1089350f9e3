//! The Markdown files of the tree, and their fenced blocks.

use std::fs;
use std::path::{Path, PathBuf};

/// The tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the tree.
pub fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Every document: its name from the root of the tree, and its text. The sources of the manual pages are
/// tested by xtask.
pub fn documents() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(root().join(&dir)).expect("a directory") {
            let entry = entry.expect("entry");
            let name = entry.file_name().into_string().expect("text");
            let path = dir.join(&name);
            if name.starts_with('.') || ["target", "vendor", "xtask"].contains(&name.as_str()) {
                continue;
            }
            // dpkg-buildpackage leaves the package's tree there.
            if path.ends_with("debian/qemu-ga-rs") {
                continue;
            }
            if entry.file_type().expect("type").is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                let name = path.to_str().expect("text").to_owned();
                found.push((name.clone(), read(&name)));
            }
        }
    }
    found.sort_unstable();
    assert!(found.len() >= 9, "{found:?}");
    found
}

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// Its document.
    pub file: String,
    /// The heading above it.
    pub heading: String,
    /// The word behind the fence.
    pub language: String,
    /// The line of the fence.
    pub line: usize,
    /// What stands between the fences, without their indentation.
    pub text: String,
}

impl Block {
    /// For messages.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

/// The text of a heading.
pub fn heading(line: &str) -> Option<&str> {
    let title = line.trim_start_matches('#').strip_prefix(' ')?;
    line.starts_with('#').then_some(title)
}

/// The blocks of every document.
pub fn every_block() -> Vec<Block> {
    let of = |(file, text): (String, String)| blocks(&file, &text).0;
    documents().into_iter().flat_map(of).collect()
}

/// The blocks of a document, and its text without them.
///
/// # Panics
/// A block does not end, or is marked by indentation alone: it could not be told what it is.
pub fn blocks(file: &str, text: &str) -> (Vec<Block>, String) {
    let (mut found, mut rest) = (Vec::new(), String::new());
    let mut title = "";
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let mut block = Block {
                file: file.to_owned(),
                heading: title.to_owned(),
                language: language.to_owned(),
                line: number + 1,
                text: String::new(),
            };
            loop {
                let (_, line) = lines
                    .next()
                    .unwrap_or_else(|| panic!("{}: no end", block.place()));
                if line.trim() == "```" {
                    break;
                }
                block.text += line.get(indent..).unwrap_or_default();
                block.text.push('\n');
            }
            found.push(block);
            continue;
        }
        assert!(
            indent < 4,
            "{file}:{}: an example by indentation: fence it, and say what it is",
            number + 1
        );
        title = heading(line).unwrap_or(title);
        rest += line;
        rest.push('\n');
    }
    (found, rest)
}

#[test]
fn blocks_are_found_with_their_headings() {
    let text = "# A\n```sh\n# no heading\nls\n```\ntext\n## B b\n1. x\n   ```ini\n   [a]\n\n   k=v\n   ```\n";
    let (found, rest) = blocks("f", text);
    let told: Vec<_> = found
        .iter()
        .map(|b| (b.heading.as_str(), b.language.as_str(), b.text.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("A", "sh", "# no heading\nls\n"),
            ("B b", "ini", "[a]\n\nk=v\n")
        ]
    );
    assert_eq!(rest, "# A\ntext\n## B b\n1. x\n");
}
