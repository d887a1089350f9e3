//! The crates that are linked into the agent: their licenses and notices, and what the RPM states about them.
//!
//! Only what gets into the binary counts: no crate for tests, builds or macros, and none of another system than Linux.
//! The list is the same on all of the packages' processors, so it is made for one of them.

use anyhow::{Context, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const PLATFORM: &str = "x86_64-unknown-linux-gnu";
const AGENT: &str = "qemu-ga-rs";

const INTRODUCTION: &str = "\
Licenses and copyright notices of the crates that are linked into qemu-ga.

The sources of each crate are at https://crates.io/crates/NAME/VERSION. Those of the crates under MPL-2.0 are used
unchanged. The Rust standard library is linked, too: Copyright The Rust Project contributors, MIT OR Apache-2.0,
https://github.com/rust-lang/rust. The static binary also contains musl: Copyright 2005-2020 Rich Felker, et al., MIT,
https://musl.libc.org.
";

/// A crate in the binary.
struct Linked {
    name: String,
    version: String,
    /// An SPDX expression.
    license: String,
    directory: PathBuf,
}

/// The files about crates, in addition to the manual pages.
///
/// # Errors
/// cargo does not know the crates, or a file of theirs cannot be read.
pub fn files() -> anyhow::Result<Vec<(&'static str, String)>> {
    let crates = linked(&metadata()?)?;
    Ok(vec![
        ("third-party-notices.txt", notices(&crates)?),
        ("crates.spec", spec(&crates)),
    ])
}

fn metadata() -> anyhow::Result<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/cargo");
    let done = Command::new(script)
        .args(["metadata", "--format-version=1", "--filter-platform"])
        .arg(PLATFORM)
        .output()
        .context("cannot run xtask/cargo")?;
    if !done.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&done.stderr));
    }
    serde_json::from_slice(&done.stdout).context("cannot read the output of cargo metadata")
}

/// By name and version.
fn linked(metadata: &Value) -> anyhow::Result<Vec<Linked>> {
    let by_id = |list: &Value| -> BTreeMap<String, Value> {
        let entries = list.as_array().into_iter().flatten();
        entries
            .map(|entry| (text(&entry["id"]), entry.clone()))
            .collect()
    };
    let packages = by_id(&metadata["packages"]);
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let agent = packages
        .iter()
        .find(|(_, package)| package["name"] == AGENT)
        .context("cargo metadata does not list the agent")?;
    let mut seen = BTreeSet::new();
    let mut waiting = vec![agent.0.clone()];
    while let Some(id) = waiting.pop() {
        let node = nodes.get(&id).context("unknown crate")?;
        let dependencies = node["deps"].as_array().into_iter().flatten();
        for dependency in dependencies.filter(|one| is_normal(one)) {
            let id = text(&dependency["pkg"]);
            if !is_macro(&packages[&id]) && seen.insert(id.clone()) {
                waiting.push(id);
            }
        }
    }
    let mut crates: Vec<Linked> = seen.iter().map(|id| describe(&packages[id])).collect();
    crates.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(crates)
}

fn is_normal(dependency: &Value) -> bool {
    let kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
    kinds.map(|kind| &kind["kind"]).any(Value::is_null)
}

fn is_macro(package: &Value) -> bool {
    let targets = package["targets"].as_array().into_iter().flatten();
    let mut kinds = targets.flat_map(|target| target["kind"].as_array().into_iter().flatten());
    kinds.any(|kind| kind == "proc-macro")
}

fn describe(package: &Value) -> Linked {
    let manifest = PathBuf::from(text(&package["manifest_path"]));
    Linked {
        name: text(&package["name"]),
        version: text(&package["version"]),
        license: in_one_form(&text(&package["license"])),
        directory: manifest.parent().unwrap_or(&manifest).to_owned(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `MIT/Apache-2.0`, the older form, and `MIT OR Apache-2.0` are `Apache-2.0 OR MIT`.
fn in_one_form(license: &str) -> String {
    let license = license.replace('/', " OR ");
    let choices: BTreeSet<&str> = license.split(" OR ").map(str::trim).collect();
    choices.into_iter().collect::<Vec<_>>().join(" OR ")
}

/// The licenses of all, for RPM's tag.
fn license_tag(crates: &[Linked]) -> String {
    let own = in_one_form(env!("CARGO_PKG_LICENSE"));
    let others = crates.iter().map(|one| one.license.clone());
    let all: BTreeSet<String> = others.chain([own]).collect();
    let in_brackets = all.into_iter().map(|license| match license.contains(' ') {
        true => format!("({license})"),
        false => license,
    });
    in_brackets.collect::<Vec<_>>().join(" AND ")
}

fn spec(crates: &[Linked]) -> String {
    let mut spec = format!("License: {}\n", license_tag(crates));
    for Linked { name, version, .. } in crates {
        let _ = writeln!(spec, "Provides: bundled(crate({name})) = {version}");
    }
    spec
}

fn notices(crates: &[Linked]) -> anyhow::Result<String> {
    let mut notices = INTRODUCTION.to_owned();
    let mut by_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    notices.push_str("\nLicenses\n\n");
    for one in crates {
        let title = format!("{} {}", one.name, one.version);
        let _ = writeln!(notices, "  {title}: {}", one.license);
        for text in license_texts(&one.directory)? {
            by_text.entry(text).or_default().push(title.clone());
        }
    }
    let mut texts: Vec<(Vec<String>, String)> = by_text
        .into_iter()
        .map(|(text, titles)| (titles, text))
        .collect();
    texts.sort();
    for (titles, text) in texts {
        let line = "-".repeat(100);
        let _ = write!(notices, "\n{line}\n{}\n\n{text}\n", titles.join(", "));
    }
    Ok(notices)
}

/// The texts that a distributor has to include: of several licenses to choose from, MIT's; else all.
fn license_texts(directory: &Path) -> anyhow::Result<Vec<String>> {
    let read = |path: &Path| -> anyhow::Result<String> {
        let text =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        Ok(text.trim().to_owned())
    };
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            let beginnings = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];
            beginnings
                .iter()
                .any(|word| name.to_uppercase().starts_with(word))
        })
        .collect();
    names.sort();
    if names.iter().any(|name| name == "LICENSE-MIT") {
        names.retain(|name| name == "LICENSE-MIT" || name.starts_with("NOTICE"));
    }
    names
        .iter()
        .map(|name| read(&directory.join(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licenses_are_written_in_one_form() {
        for written in ["MIT/Apache-2.0", "MIT OR Apache-2.0", "Apache-2.0 OR MIT"] {
            assert_eq!(in_one_form(written), "Apache-2.0 OR MIT");
        }
        assert_eq!(in_one_form("MPL-2.0"), "MPL-2.0");
    }

    #[test]
    fn every_linked_crate_has_its_notice_and_no_other_has() {
        let crates = linked(&metadata().unwrap()).unwrap();
        let notices = notices(&crates).unwrap();
        for one in &crates {
            assert!(!one.license.is_empty(), "{}", one.name);
            let texts = license_texts(&one.directory).unwrap();
            let title = format!("{} {}", one.name, one.version);
            assert!(!texts.is_empty(), "{title} has no license text");
            for text in texts {
                assert!(text.len() > 100 && notices.contains(&text), "{title}");
            }
        }
        let linked: Vec<&str> = crates.iter().map(|one| &one.name[..]).collect();
        for name in ["libc", "serialport", "tokio"] {
            assert!(linked.contains(&name), "{name}");
        }
        // Of macros, of tests, of Windows, of this tool.
        for name in ["syn", "proptest", "windows-sys", "roff", AGENT] {
            assert!(!linked.contains(&name), "{name}");
        }
        assert!(notices.contains("Mozilla Public License"));
    }

    #[test]
    fn the_spec_states_licenses_and_crates() {
        let crates = linked(&metadata().unwrap()).unwrap();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../rpm/qemu-ga-rs.spec");
        let written = std::fs::read_to_string(file).unwrap();
        // Other crates than Cargo.lock's are Debian's business.
        if std::env::var_os("CRATES_DIRECTORY").is_none() {
            assert!(
                written.contains(&format!("\n{}", spec(&crates))),
                "replace License and bundled() by crates.spec of `cargo xtask manual target/manual`"
            );
        }
    }
}
