//! Globs for mount points, types and devices: fnmatch(3), byte by byte.
//!
//! `*` matches any text, slashes included: `/data/*` is everything below `/data` at any depth, as with find(1)'s
//! `-path`. So `**` means the same as `*`. `/data/*` does not match `/data` itself. `?` is one byte, because mount
//! points are bytes and need not be UTF-8. The whole text has to match.

use crate::sys::fnmatch::fnmatch;
use std::ffi::CString;

/// A glob that fnmatch(3) understands as it was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(CString);

impl Glob {
    /// fnmatch(3) knows no errors: it takes a `[` without its `]` for a character, in musl other than in glibc, and a
    /// backslash at the end matches nothing. Both are mistakes. The error follows the pattern in the warning.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'\\' => drop(rest.next().ok_or("ends with a lone backslash")?),
                b'[' => skip_set(&mut rest).ok_or("has a '[' without its ']'")?,
                _ => {}
            }
        }
        let text = CString::new(text).map_err(|_| "has a NUL character")?;
        Ok(Self(text))
    }

    /// Whether the whole of `text` matches. What contains NUL is no mount point, type or device.
    pub fn matches(&self, text: &[u8]) -> bool {
        CString::new(text).is_ok_and(|text| fnmatch(&self.0, &text))
    }
}

/// Skips a set after its `[`, up to its `]`, which cannot be its first member; `None` if it does not end.
fn skip_set(rest: &mut std::str::Bytes<'_>) -> Option<()> {
    let mut member = rest.next()?;
    if matches!(member, b'!' | b'^') {
        member = rest.next()?;
    }
    loop {
        if member == b'\\' {
            rest.next()?;
        }
        member = rest.next()?;
        if member == b']' {
            return Some(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(glob: &str, text: &str) -> bool {
        Glob::new(glob).unwrap().matches(text.as_bytes())
    }

    #[test]
    fn what_matches_and_what_does_not() {
        for (glob, yes, no) in [
            ("/data", &["/data"][..], &["/data/", "/dat", "/data2"][..]),
            (
                "/data/*",
                &["/data/a", "/data/a/b", "/data/.a"],
                &["/data", "/database"],
            ),
            ("/data/**", &["/data/a", "/data/a/b"], &["/data"]),
            ("/d?", &["/da", "/d/"], &["/d", "/daa", "/dä"]),
            ("/dä*", &["/dä", "/däb"], &["/d\u{e5}"]),
            ("*", &["", "/", "/a/b"], &[]),
            ("/a*b*c", &["/abc", "/axbxbxc"], &["/ab", "/acb"]),
            ("/s[a-cx]1", &["/sb1", "/sx1"], &["/sd1", "/s1", "/s-1"]),
            ("/s[!a-c]", &["/sd", "/s!"], &["/sa", "/s"]),
            ("/s[^a]", &["/sb"], &["/sa"]),
            ("/s[[:digit:]]", &["/s1"], &["/sd", "/s:]"]),
            ("[]a]", &["]", "a"], &["b", "[]a]"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[\\]-a]", &["]", "^", "a"], &["b", "-"]),
            ("\\*\\[", &["*["], &["x["]),
            ("", &[""], &["x"]),
            ("*.img", &[".img", "a.img.img"], &["a.img2"]),
        ] {
            for text in yes {
                assert!(matches(glob, text), "{glob} {text}");
            }
            for text in no {
                assert!(!matches(glob, text), "{glob} {text}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text() {
        assert!(Glob::new("/a?b").unwrap().matches(b"/a\xffb"));
        assert!(!Glob::new("/a?b").unwrap().matches(b"/a\xff\xfeb"));
        assert!(!Glob::new("/aÿb").unwrap().matches(b"/a\xffb"));
        assert!(!Glob::new("*").unwrap().matches(b"/a\0"));
    }

    #[test]
    fn globs_that_are_wrong() {
        for glob in ["[", "[]", "[a", "[!", "[!]", "[a-", "[a-]x[", "[\\"] {
            assert_eq!(Glob::new(glob), Err("has a '[' without its ']'"), "{glob}");
        }
        assert_eq!(Glob::new("/a\\"), Err("ends with a lone backslash"));
        assert_eq!(Glob::new("/a\0"), Err("has a NUL character"));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let glob = Glob::new(&("*a".repeat(200) + "b")).unwrap();
        assert!(!glob.matches(&b"a".repeat(4000)));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), path: Vec<u8>) {
            if let Ok(glob) = Glob::new(&text) {
                glob.matches(&path);
            }
        }

        #[test]
        fn a_path_matches_itself_escaped(path in "[^\0]*") {
            let escaped: String = path.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(matches(&escaped, &path));
            let starred = path.clone() + "*";
            if let Ok(glob) = Glob::new(&starred) {
                if !path.contains(['[', '\\']) {
                    prop_assert!(glob.matches((path + "/tail").as_bytes()));
                }
            }
        }
    }
}
