//! Globs for mount points, types and devices. Pure.
//!
//! `*` matches any text, slashes included: `/data/*` is everything below `/data` at any depth, as with find(1)'s
//! `-path`. So `**` means the same as `*`. `/data/*` does not match `/data` itself. `?` is one character, `[a-c]` one
//! of a set, `[!a-c]` or `[^a-c]` one outside of it; a backslash removes the special meaning of the next character. The
//! whole text has to match. Mount points need not be UTF-8: a byte that is not part of a character counts as one.

/// A character, or a byte that is not part of one.
type Unit = u32;

/// First unit of such bytes, above all characters.
const BYTES: Unit = 0x11_0000;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Star,
    Any,
    Exactly(Unit),
    Set {
        negated: bool,
        ranges: Vec<(Unit, Unit)>,
    },
}

/// A parsed glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<Token>);

impl Glob {
    /// Parses a glob.
    ///
    /// # Errors
    /// A set without an end or with a reversed range, or a backslash at the end; the error follows the pattern in the
    /// warning.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let mut tokens = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' if tokens.last() == Some(&Token::Star) => continue,
                '*' => Token::Star,
                '?' => Token::Any,
                '[' => set(&mut rest)?,
                '\\' => Token::Exactly(rest.next().ok_or("ends with a lone backslash")?.into()),
                c => Token::Exactly(c.into()),
            });
        }
        Ok(Self(tokens))
    }

    /// Whether the whole of `text` matches. Takes time proportional to the product of the lengths at worst.
    pub fn matches(&self, text: &[u8]) -> bool {
        let text = units(text);
        let (mut token, mut unit) = (0, 0);
        // The last star, and the end of what it has matched so far; a mismatch backtracks there.
        let mut star: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(token), text.get(unit)) {
                (None, None) => return true,
                (Some(Token::Star), _) => {
                    star = Some((token, unit));
                    token += 1;
                }
                (Some(expected), Some(&found)) if expected.fits(found) => {
                    token += 1;
                    unit += 1;
                }
                _ => match star {
                    Some((at, matched)) if matched < text.len() => {
                        star = Some((at, matched + 1));
                        (token, unit) = (at + 1, matched + 1);
                    }
                    _ => return false,
                },
            }
        }
    }
}

impl Token {
    fn fits(&self, unit: Unit) -> bool {
        match self {
            Self::Star | Self::Any => true,
            Self::Exactly(exactly) => *exactly == unit,
            Self::Set { negated, ranges } => {
                let inside = ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&unit));
                inside != *negated
            }
        }
    }
}

/// Parses a set after its `[`, up to and including the `]`. A `]` as the first member is a member.
fn set(rest: &mut std::str::Chars<'_>) -> Result<Token, &'static str> {
    const OPEN: &str = "has a '[' without its ']'";
    let mut negated = false;
    let mut ranges: Vec<(Unit, Unit)> = Vec::new();
    let mut next = rest.next().ok_or(OPEN)?;
    if next == '!' || next == '^' {
        negated = true;
        next = rest.next().ok_or(OPEN)?;
    }
    loop {
        if next == ']' && !ranges.is_empty() {
            return Ok(Token::Set { negated, ranges });
        }
        let low = match next {
            '\\' => rest.next().ok_or(OPEN)?,
            c => c,
        };
        next = rest.next().ok_or(OPEN)?;
        let mut high = low;
        if next == '-' {
            next = rest.next().ok_or(OPEN)?;
            if next == ']' {
                // A dash right before the end is a member.
                ranges.push((low.into(), low.into()));
                ranges.push(('-'.into(), '-'.into()));
                continue;
            }
            high = match next {
                '\\' => rest.next().ok_or(OPEN)?,
                c => c,
            };
            if high < low {
                return Err("has a range the wrong way round");
            }
            next = rest.next().ok_or(OPEN)?;
        }
        ranges.push((low.into(), high.into()));
    }
}

fn units(text: &[u8]) -> Vec<Unit> {
    let mut units = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        units.extend(chunk.valid().chars().map(Unit::from));
        units.extend(chunk.invalid().iter().map(|&byte| BYTES + Unit::from(byte)));
    }
    units
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
                &["/data/a", "/data/a/b"],
                &["/data", "/database"],
            ),
            ("/data/**", &["/data/a", "/data/a/b"], &["/data"]),
            ("/d?", &["/da", "/dä", "/d/"], &["/d", "/daa"]),
            ("*", &["", "/", "/a/b"], &[]),
            ("/a*b*c", &["/abc", "/axbxbxc"], &["/ab", "/acb"]),
            ("/s[a-cx]1", &["/sb1", "/sx1"], &["/sd1", "/s1", "/s-1"]),
            ("/s[!a-c]", &["/sd", "/s!"], &["/sa", "/s"]),
            ("/s[^a]", &["/sb"], &["/sa"]),
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
    }

    #[test]
    fn globs_that_are_wrong() {
        for glob in ["[", "[]", "[a", "[!", "[!]", "[a-", "[a-]x[", "[\\"] {
            assert_eq!(Glob::new(glob), Err("has a '[' without its ']'"), "{glob}");
        }
        assert_eq!(Glob::new("[b-a]"), Err("has a range the wrong way round"));
        assert_eq!(Glob::new("/a\\"), Err("ends with a lone backslash"));
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
        fn a_path_matches_itself_escaped(path: String) {
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
