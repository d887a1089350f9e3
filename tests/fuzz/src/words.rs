//! Patterns and settings that an operator writes, and what hooks get in variables.

use qemu_ga::freeze::policy::{Glob, Pattern};
use qemu_ga::hooks::settings::HookSettings;
use qemu_ga::hooks::{from_words, words as joined};
use qemu_ga::keyfile::parse_time_limit;

/// A glob, a line end, and what it is to match. A text matches itself and nothing else; what matches does so with a star
/// before or after it as well.
pub fn globs(data: &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n');
    let (glob, text) = data.split_at(end.unwrap_or(data.len()));
    let text = text.get(1..).unwrap_or_default();
    let glob = String::from_utf8_lossy(glob);
    Pattern::parse(&glob).ok();
    parse_time_limit(&glob).ok();
    let literal: String = glob.chars().flat_map(|c| ['\\', c]).collect();
    let literal = match Glob::new(&literal) {
        Ok(literal) => literal,
        Err(why) => return assert!(glob.contains('\0'), "a literal {why}"),
    };
    assert!(literal.matches(glob.as_bytes()));
    assert_eq!(literal.matches(text), glob.as_bytes() == text);
    let Ok(plain) = Glob::new(&glob) else { return };
    if !glob.contains(['*', '?', '[', '\\']) {
        assert_eq!(plain.matches(text), glob.as_bytes() == text);
    }
    if plain.matches(text) {
        let longer =
            |before: &str, after: &str| [before.as_bytes(), text, after.as_bytes()].concat();
        let wider = |glob: String| Glob::new(&glob).expect("a glob with a star");
        assert!(wider(format!("{glob}*")).matches(&longer("", "/x")));
        assert!(wider(format!("*{glob}")).matches(&longer("x/", "")));
        assert!(wider(format!("*{glob}*")).matches(&longer("", "")));
    }
}

/// Words come out of a variable as they went in; settings that are taken are told so that they are taken again.
pub fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parts: Vec<&str> = text.split('\0').filter(|part| !part.is_empty()).collect();
    let variable = joined(parts.iter().copied());
    assert!(!variable.contains(['\n', '\t']));
    assert_eq!(from_words(&variable), parts);
    from_words(&text);
    let mut policy = HookSettings::default();
    for line in text.lines() {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let before = policy.settings();
        if policy.set(key, value).is_err() {
            assert_eq!(
                policy.settings(),
                before,
                "a refused value changed something"
            );
        }
    }
    let settings = policy.settings();
    let mut again = HookSettings::default();
    for (key, value) in &settings {
        again.set(key, value).expect("its own words");
    }
    assert_eq!(again.settings(), settings);
}
