//! Files of assignments as the shell writes them: os-release(5) and the session files of logind. Floor 1.
//!
//! An unquoted value ends at its first blank or semicolon, as QEMU's agent reads os-release; quotes and escapes are those
//! of os-release(5). A line that is not an assignment, or not UTF-8, is ignored alone.

/// Keys and unquoted values, in the order of the lines; comments are left out.
pub(crate) fn assignments(content: &[u8]) -> impl Iterator<Item = (&str, String)> {
    content.split(|&byte| byte == b'\n').filter_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
        if line.starts_with('#') {
            return None;
        }
        let (key, value) = line.split_once('=')?;
        Some((key.trim_end(), unquote(value.trim_start())))
    })
}

fn unquote(value: &str) -> String {
    if let Some(quoted) = value.strip_prefix('\'') {
        return quoted.split('\'').next().unwrap_or_default().to_owned();
    }
    let Some(quoted) = value.strip_prefix('"') else {
        return value
            .split([' ', ';'])
            .next()
            .unwrap_or_default()
            .to_owned();
    };
    let mut text = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => match characters.next() {
                Some(escaped @ ('$' | '\'' | '"' | '\\' | '`')) => text.push(escaped),
                Some(other) => text.extend(['\\', other]),
                None => text.push('\\'),
            },
            _ => text.push(character),
        }
    }
    text
}
