//! Where the dependencies come from, under which licences, and which may never be among them: the
//! part of deny.toml that needs no cargo-deny.

#![allow(clippy::expect_used)] // helpers of tests, outside of #[test] itself

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The workspace's packages.
const OURS: [&str; 2] = [env!("CARGO_PKG_NAME"), "xtask"];

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
}

/// The text behind `key = [`, up to the bracket that closes it.
fn list<'a>(text: &'a str, key: &str) -> &'a str {
    let start = text.find(&format!("\n{key} = [")).expect(key);
    let rest = &text[start..];
    let open = rest.find('[').expect("[");
    let mut depth = 0;
    let end = rest[open..].find(|c| {
        depth += i32::from(c == '[') - i32::from(c == ']');
        depth == 0
    });
    &rest[open..open + end.expect("]")]
}

/// The strings in quotes.
fn strings(text: &str) -> Vec<&str> {
    text.split('"').skip(1).step_by(2).collect()
}

/// Whether a licence can be chosen so that all it demands is allowed.
fn is_allowed(licence: &str, allowed: &[&str]) -> bool {
    // The older form of OR.
    let licence = licence.replace(" / ", " OR ").replace('/', " OR ");
    let mut parts = licence
        .split(" AND ")
        .map(|part| part.trim_matches(['(', ')']));
    parts.all(|part| part.split(" OR ").any(|one| allowed.contains(&one)))
}

/// name, licence and source of all that a build for this machine needs. What cargo has not downloaded yet it downloads: the
/// crates of xtask, where only the agent was built.
fn packages() -> Vec<(String, String, Option<String>)> {
    let version = Command::new("rustc").arg("-vV").output().expect("rustc");
    let version = String::from_utf8(version.stdout).expect("text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let metadata = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--locked",
            "--format-version=1",
            "--filter-platform",
        ])
        .arg(host.expect("host"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    let said = String::from_utf8_lossy(&metadata.stderr);
    assert!(metadata.status.success(), "{said}");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages
        .map(|package| {
            let licence = text(&package["license"]).unwrap_or_default();
            (
                text(&package["name"]).expect("name"),
                licence,
                text(&package["source"]),
            )
        })
        .collect()
}

#[test]
fn licences_sources_and_names() {
    let rules = file("deny.toml");
    let allowed = strings(list(&rules, "allow"));
    let exceptions: BTreeMap<&str, &str> = strings(list(&rules, "exceptions"))
        .chunks(2)
        .map(|pair| (pair[0], pair[1]))
        .collect();
    let banned = strings(list(&rules, "deny"));
    let registry = format!("registry+{}", strings(list(&rules, "allow-registry"))[0]);
    assert!(!allowed.is_empty() && !banned.is_empty());
    let packages = packages();
    assert!(packages.len() > 20, "the dependencies were not found");
    for (name, licence, source) in &packages {
        let excepted = exceptions
            .get(name.as_str())
            .is_some_and(|one| one == licence);
        assert!(
            excepted || is_allowed(licence, &allowed),
            "{name} is under '{licence}': see deny.toml"
        );
        assert!(!banned.contains(&name.as_str()), "{name}: see deny.toml");
        if !OURS.contains(&name.as_str()) {
            assert_eq!(source.as_ref(), Some(&registry), "{name}");
        }
    }
}

/// What the registry serves must be what was looked at.
#[test]
fn every_dependency_has_a_checksum() {
    let lock = file("Cargo.lock");
    for package in lock.split("[[package]]").skip(1) {
        let is_ours = |name: &&str| package.contains(&format!("name = \"{name}\"\n"));
        assert!(
            OURS.iter().any(is_ours) || package.contains("\nchecksum = \""),
            "{package}"
        );
    }
}

#[test]
fn licence_expressions() {
    let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"];
    for fine in [
        "MIT",
        "MIT/Apache-2.0",
        "Unlicense OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
    ] {
        assert!(is_allowed(fine, &allowed), "{fine}");
    }
    for refused in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "LGPL-2.1 / MPL-2.0",
    ] {
        assert!(!is_allowed(refused, &allowed), "{refused}");
    }
}
