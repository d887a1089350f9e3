//! The scanner, with the rules of getopt_long(3): options and operands may be mixed, `--` ends the options, short
//! options may be grouped. Long ones may be abbreviated only if their entry allows it. The scan goes on after a bad
//! option, so that the caller decides when to report it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::{Arg, OptionSpec};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The option at this index of the table and, if it has one, its value.
    Option(usize, Option<OsString>),
    Operand(OsString),
    Program(Vec<OsString>),
    /// The complaint, in half a sentence.
    Bad(String),
}

/// `args` do not include the program's name.
pub(crate) fn scan(options: &[&OptionSpec], args: &[OsString]) -> Vec<Found> {
    let mut scanner = Scanner {
        options,
        rest: args.iter(),
        found: Vec::new(),
    };
    while let Some(arg) = scanner.rest.next() {
        match arg.as_bytes() {
            b"--" => {
                let operands = scanner.rest.by_ref().cloned().map(Found::Operand);
                scanner.found.extend(operands);
            }
            [b'-', b'-', name @ ..] => scanner.long(name),
            [b'-', letters @ ..] if !letters.is_empty() => scanner.short(letters),
            _ => scanner.found.push(Found::Operand(arg.clone())),
        }
    }
    scanner.found
}

struct Scanner<'a> {
    options: &'a [&'a OptionSpec],
    rest: std::slice::Iter<'a, OsString>,
    found: Vec<Found>,
}

fn os(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}

impl Scanner<'_> {
    fn bad(&mut self, complaint: String) {
        self.found.push(Found::Bad(complaint));
    }

    fn short(&mut self, letters: &[u8]) {
        let mut letters = letters;
        while let [letter, tail @ ..] = letters {
            letters = tail;
            let shown = letter.escape_ascii();
            let is_named = |spec: &&OptionSpec| spec.short == Some(*letter);
            let Some(at) = self.options.iter().position(is_named) else {
                self.bad(format!("unknown option '-{shown}'"));
                continue;
            };
            let takes_tail = self.options[at].arg != Arg::Switch && !tail.is_empty();
            let attached = takes_tail.then(|| os(std::mem::take(&mut letters)));
            self.add(at, attached, &format_args!("-{shown}"));
        }
    }

    fn long(&mut self, text: &[u8]) {
        let (name, attached) = match text.iter().position(|byte| *byte == b'=') {
            Some(at) => (&text[..at], Some(os(&text[at + 1..]))),
            None => (text, None),
        };
        let shown = String::from_utf8_lossy(name);
        match self.find(name)[..] {
            [] => self.bad(format!("unknown option '--{shown}'")),
            [at] => self.add(at, attached, &format_args!("--{}", self.options[at].long)),
            ref several => {
                let names = several.iter().map(|at| self.options[*at].long);
                let names: Vec<String> = names.map(|name| format!("--{name}")).collect();
                let names = names.join(", ");
                self.bad(format!("option '--{shown}' could be any of {names}"));
            }
        }
    }

    fn add(&mut self, at: usize, attached: Option<OsString>, shown: &dyn std::fmt::Display) {
        let mut value = || attached.clone().or_else(|| self.rest.next().cloned());
        let found = match self.options[at].arg {
            Arg::Switch if attached.is_some() => {
                Found::Bad(format!("option '{shown}' takes no value"))
            }
            Arg::Switch | Arg::Attached(..) => Found::Option(at, attached),
            Arg::Value(..) | Arg::List(..) => match value() {
                Some(value) => Found::Option(at, Some(value)),
                None => Found::Bad(format!("option '{shown}' needs a value")),
            },
            Arg::Program(_) => match value() {
                Some(program) => {
                    self.found.push(Found::Option(at, None));
                    let words = [program].into_iter().chain(self.rest.by_ref().cloned());
                    Found::Program(words.collect())
                }
                None => Found::Bad(format!("option '{shown}' needs a value")),
            },
        };
        self.found.push(found);
    }

    /// The option of that exact name, else all that may be abbreviated so.
    fn find(&self, name: &[u8]) -> Vec<usize> {
        let names = |at: &usize| {
            let spec = self.options[*at];
            let all = [spec.long].into_iter().chain(spec.old.iter().copied());
            all.filter(|name| !name.is_empty())
        };
        let all = 0..self.options.len();
        let exact = |at: &usize| names(at).any(|long| long.as_bytes() == name);
        if let Some(only) = all.clone().find(exact) {
            return vec![only];
        }
        let begins = |at: &usize| names(at).any(|long| long.as_bytes().starts_with(name));
        all.filter(|at| self.options[*at].abbreviable && begins(at))
            .collect()
    }
}
