//! Settings in a script itself: `# qga-hook: key = value` in its first lines.
//!
//! A line that looks like a setting but is not written this way is reported and not used: if several spellings were
//! accepted, no reader of a script could know which of its lines apply.

use crate::keyfile::excerpt;

const MARK: &str = "# qga-hook:";
const MAX_HEAD_LINES: usize = 50;
const MAX_REPORTED_LINES: usize = 5;

#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    pub key: String,
    pub value: String,
    pub line: usize,
}

/// The settings in the file that begins with `text`, and a text with the remedy for each malformed line.
pub fn read(text: &[u8]) -> (Vec<Setting>, Vec<String>) {
    let (mut settings, mut malformed) = (Vec::new(), Vec::new());
    if text.contains(&0) {
        return (settings, malformed);
    }
    let is_script = text.starts_with(b"#!");
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line);
        let line = line.trim();
        let number = index + 1;
        match line.strip_prefix(MARK) {
            Some(setting) if is_script && index < MAX_HEAD_LINES => {
                let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
                settings.push(Setting {
                    key: key.trim().to_owned(),
                    value: value.trim().to_owned(),
                    line: number,
                });
            }
            _ if is_near(line) && malformed.len() < MAX_REPORTED_LINES => malformed.push(format!(
                "(line {number}): '{}' is not read as a setting; write {MARK} KEY = VALUE, in the first \
                 {MAX_HEAD_LINES} lines of a file that begins with #!",
                excerpt(line)
            )),
            _ => (),
        }
    }
    (settings, malformed)
}

/// Whether a line looks like a setting: a comment in any language, the mark in some spelling, a key and a value.
fn is_near(line: &str) -> bool {
    let text = line.trim_start_matches(|c: char| !c.is_alphanumeric());
    let text = text.to_ascii_lowercase();
    let Some(text) = text.strip_prefix("qga") else {
        return false;
    };
    let text = text.trim_start_matches(['-', '_', ' ', '.']);
    let Some(text) = text.strip_prefix("hook") else {
        return false;
    };
    let text = text.trim_start_matches(|c: char| !c.is_alphanumeric());
    let (key, _) = text.split_once(['=', ':']).unwrap_or((text, ""));
    let key = key.split_whitespace().next().unwrap_or_default();
    text.contains('=')
        || super::HookSettings::default()
            .settings()
            .iter()
            .any(|(known, _)| *known == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_what_is_nearly_one() {
        let text = b"#!/bin/sh\n# qga-hook: a = b=c\n  # qga-hook: d\n#qga-hook: e = f\n# qga-hook is good\n";
        let (settings, malformed) = read(text);
        let found: Vec<_> = settings
            .iter()
            .map(|s| (&s.key[..], &s.value[..], s.line))
            .collect();
        assert_eq!(found, [("a", "b=c", 2), ("d", "", 3)]);
        assert_eq!(malformed.len(), 1, "{malformed:?}");
        assert!(
            malformed[0].starts_with("(line 4): '#qga-hook: e = f' is not read"),
            "{malformed:?}"
        );
        let (settings, malformed) = read(b"\x7fELF\0\n# qga-hook: a = b\n");
        assert!(settings.is_empty() && malformed.is_empty());
    }
}
