//! Command line scanner with the rules of getopt_long(3), over the table of options.
//!
//! Long options may be abbreviated, options and operands may be mixed, operands are ignored, `--`
//! ends the options, an [`Arg::Attached`] value counts only when attached. The scan never stops at
//! a bad option: what to do about it, and when, is the caller's business.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::options::{Arg, Id, OPTIONS, Spec};

/// What stands on the command line, in its order.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// An option and, if it takes one and has one, its value.
    Option(Id, Option<OsString>),
    /// Not an option that exists, or not used as it must be: one sentence that says what.
    Bad(String),
}

/// Scans `args`, which does not include the program's name.
pub fn scan(args: &[OsString]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_bytes() {
            b"--" => break,
            [b'-', b'-', name @ ..] => found.push(long(name, &mut rest)),
            [b'-', letters @ ..] if !letters.is_empty() => short(letters, &mut rest, &mut found),
            _operand => {}
        }
    }
    found
}

type Rest<'a> = std::slice::Iter<'a, OsString>;

fn os(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}

fn short(letters: &[u8], rest: &mut Rest<'_>, found: &mut Vec<Found>) {
    let mut letters = letters;
    while let [letter, tail @ ..] = letters {
        letters = tail;
        let Some(spec) = OPTIONS.iter().find(|spec| spec.short == Some(*letter)) else {
            found.push(Found::Bad(format!(
                "there is no option '-{}'",
                letter.escape_ascii()
            )));
            continue;
        };
        let value = match spec.arg {
            Arg::Switch => None,
            Arg::Attached(_) if tail.is_empty() => None,
            Arg::Value(_) | Arg::List(_) if tail.is_empty() => match rest.next() {
                Some(next) => Some(next.clone()),
                None => {
                    let letter = letter.escape_ascii();
                    found.push(Found::Bad(format!("option '-{letter}' needs a value")));
                    return;
                }
            },
            Arg::Attached(_) | Arg::Value(_) | Arg::List(_) => {
                letters = &[];
                Some(os(tail))
            }
        };
        found.push(Found::Option(spec.id, value));
    }
}

fn long(text: &[u8], rest: &mut Rest<'_>) -> Found {
    let (name, attached) = match text.iter().position(|b| *b == b'=') {
        Some(at) => (&text[..at], Some(os(&text[at + 1..]))),
        None => (text, None),
    };
    let shown = String::from_utf8_lossy(name);
    let spec = match find_option(name) {
        Ok(spec) => spec,
        Err(candidates) if candidates.is_empty() => {
            return Found::Bad(format!("there is no option '--{shown}'"));
        }
        Err(candidates) => {
            let names: Vec<String> = candidates
                .iter()
                .map(|spec| format!("--{}", spec.long))
                .collect();
            return Found::Bad(format!(
                "option '--{shown}' could be any of {}",
                names.join(", ")
            ));
        }
    };
    match (spec.arg, attached) {
        (Arg::Switch, Some(_)) => Found::Bad(format!("option '--{}' takes no value", spec.long)),
        (Arg::Value(_) | Arg::List(_), None) => match rest.next() {
            Some(next) => Found::Option(spec.id, Some(next.clone())),
            None => Found::Bad(format!("option '--{}' needs a value", spec.long)),
        },
        (_, attached) => Found::Option(spec.id, attached),
    }
}

/// The option of that exact name, else the only one whose name starts so, else all of those.
fn find_option(name: &[u8]) -> Result<&'static Spec, Vec<&'static Spec>> {
    fn names(spec: &Spec) -> impl Iterator<Item = &'static str> {
        std::iter::once(spec.long)
            .chain(spec.old.iter().copied())
            .filter(|name| !name.is_empty())
    }
    if let Some(spec) = OPTIONS
        .iter()
        .find(|spec| names(spec).any(|n| n.as_bytes() == name))
    {
        return Ok(spec);
    }
    let candidates: Vec<&Spec> = OPTIONS
        .iter()
        .filter(|spec| spec.abbreviable && names(spec).any(|n| n.as_bytes().starts_with(name)))
        .collect();
    match candidates[..] {
        [only] => Ok(only),
        _ => Err(candidates),
    }
}
