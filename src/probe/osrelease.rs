//! Name and version of the distribution (os-release(5)). Floor 1.
//!
//! What QEMU's agent understands reads the same here (`envfile`), and the last of repeated lines is used. Beyond that,
//! single quotes are understood, and an invalid line is ignored alone instead of invalidating the file. guest-get-osinfo
//! calls this.

use std::fs;
use std::path::Path;

use super::System;
use super::envfile::assignments;

/// The variables of these names; absent ones are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsRelease {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) pretty_name: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) version_id: Option<String>,
    pub(crate) variant: Option<String>,
    pub(crate) variant_id: Option<String>,
}

/// A file that cannot be read is like an empty one.
pub(crate) fn read(system: &System, override_path: Option<&Path>) -> OsRelease {
    let content = match override_path {
        Some(path) => fs::read(path),
        None => fs::read(system.path("/etc/os-release"))
            .or_else(|_| fs::read(system.path("/usr/lib/os-release"))),
    };
    content.map(|content| parse(&content)).unwrap_or_default()
}

/// Parses os-release(5).
pub fn parse(content: &[u8]) -> OsRelease {
    let mut found = OsRelease::default();
    for (key, value) in assignments(content) {
        let member = match key {
            "ID" => &mut found.id,
            "NAME" => &mut found.name,
            "PRETTY_NAME" => &mut found.pretty_name,
            "VERSION" => &mut found.version,
            "VERSION_ID" => &mut found.version_id,
            "VARIANT" => &mut found.variant,
            "VARIANT_ID" => &mut found.variant_id,
            _ => continue,
        };
        *member = Some(value);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn debian() {
        let found = parse(
            b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\n\
              VERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n\
              HOME_URL=\"https://www.debian.org/\"\n",
        );
        let expected = OsRelease {
            id: some("debian"),
            name: some("Debian GNU/Linux"),
            pretty_name: some("Debian GNU/Linux 12 (bookworm)"),
            version: some("12 (bookworm)"),
            version_id: some("12"),
            variant: None,
            variant_id: None,
        };
        assert_eq!(found, expected);
    }

    /// Each pair was answered the same by the original agent.
    #[test]
    fn values_as_the_original_reads_them() {
        for (line, value) in [
            ("NAME=plain", "plain"),
            ("NAME=", ""),
            ("NAME=\"\"", ""),
            ("  NAME  =  foo  ", "foo"),
            ("NAME = \"a b\" c", "a b"),
            ("NAME=a\tb;c", "a\tb"),
            ("NAME=a;b c", "a"),
            ("NAME=;x", ""),
            ("NAME=a # c", "a"),
            ("NAME=a#b", "a#b"),
            ("NAME=a\\b", "a\\b"),
            ("NAME=a\"b\"c", "a\"b\"c"),
            ("NAME=\"a\\nb\\$c\\'d\\\"e\\\\f\\`g\"", "a\\nb$c'd\"e\\f`g"),
            ("NAME=\"b\"\r", "b"),
            ("NAME=\"é\"", "é"),
            ("NAME=x\nNAME=y", "y"),
        ] {
            assert_eq!(parse(line.as_bytes()).name, some(value), "{line:?}");
        }
    }

    #[test]
    fn comments_and_other_keys_are_ignored() {
        let content = b"\n#NAME=x\n # NAME=y\nNAME[de]=x\nexport NAME=z\nname=a\nID_LIKE=b\n";
        assert_eq!(parse(content), OsRelease::default());
    }

    #[test]
    fn single_quotes_hold_a_value() {
        assert_eq!(
            parse(b"NAME='Foo \"Bar\" \\x' tail").name,
            some("Foo \"Bar\" \\x")
        );
        assert_eq!(parse(b"NAME='open").name, some("open"));
        assert_eq!(parse(b"NAME=\"open").name, some("open"));
    }

    #[test]
    fn an_invalid_line_is_ignored_alone() {
        let found = parse(b"ID=debian\nnonsense\n[section]\n=x\nVERSION=\xff\nNAME=Debian");
        assert_eq!((found.id, found.name), (some("debian"), some("Debian")));
        assert_eq!(found.version, None);
    }

    #[test]
    fn the_files_in_their_order() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path()).unwrap();
        let write = |path: &str, content: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            path
        };
        assert_eq!(read(&system, None), OsRelease::default());
        write("usr/lib/os-release", "ID=vendor");
        assert_eq!(read(&system, None).id, some("vendor"));
        write("etc/os-release", "ID=admin");
        assert_eq!(read(&system, None).id, some("admin"));
        let own = write("own", "ID=own");
        assert_eq!(read(&system, Some(&own)).id, some("own"));
        assert_eq!(read(&system, Some(&root.path().join("none"))).id, None);
    }
}
