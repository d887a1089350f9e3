//! Command lines: the tables that describe them, the scanner ([`scan`]), and the help ([`help`]). No I/O.
//!
//! The agent's options ([`crate::config::options`]), the hook master and every tool are tables of [`OptionSpec`]s. The
//! scanner, `--help`, the manual pages and the completions read the same entry, so that an option is written down once.

pub mod help;
pub(crate) mod scan;

use scan::Found;
use std::ffi::{OsStr, OsString};

/// What a value is. The completions propose values by it, and CONFIGURATION.md names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// The path of a file.
    File,
    /// The path of a directory.
    Directory,
    /// A mount point.
    MountPoint,
    /// A hook, by its name in the hooks' directory or by its path.
    Hook,
    /// Seconds.
    Seconds,
    /// A whole number, 1 or more.
    Number,
    /// One of these words.
    Words(&'static [&'static str]),
    /// The name of a command of the wire.
    CommandName,
    /// A pattern that means filesystems.
    Pattern,
    /// Anything else.
    Text,
}

/// What an option takes, with the name that the help gives to the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// Nothing: a switch on the command line, a boolean in the file.
    Switch,
    /// A value.
    Value(&'static str, ValueKind),
    /// A value that is only recognized when attached (`-F/path`, `--fsfreeze-hook=/path`), and may be absent.
    Attached(&'static str, ValueKind),
    /// A comma separated list; repeated options add up.
    List(&'static str, ValueKind),
    /// A program and its arguments: all that follows.
    Program(&'static str),
}

impl Arg {
    /// The name and the kind of the value.
    pub const fn value(self) -> Option<(&'static str, ValueKind)> {
        match self {
            Arg::Value(name, kind) | Arg::Attached(name, kind) | Arg::List(name, kind) => {
                Some((name, kind))
            }
            Arg::Switch | Arg::Program(_) => None,
        }
    }
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// The letter after a single dash.
    pub short: Option<u8>,
    /// The name after two dashes; empty if there is none.
    pub long: &'static str,
    /// Older spellings of `long`: accepted on the command line and, with a warning, in the agent's file.
    pub old: &'static [&'static str],
    /// What it takes.
    pub arg: Arg,
    /// The default in words.
    pub default: Option<&'static str>,
    /// What it does, for the help and the manual; empty hides the option.
    pub help: &'static str,
    pub(crate) abbreviable: bool,
}

impl OptionSpec {
    pub(crate) const fn new(long: &'static str, arg: Arg, help: &'static str) -> Self {
        Self {
            short: None,
            long,
            old: &[],
            arg,
            default: None,
            help,
            abbreviable: false,
        }
    }

    pub(crate) const fn switch(long: &'static str, help: &'static str) -> Self {
        Self::new(long, Arg::Switch, help)
    }

    pub(crate) const fn short(self, letter: u8) -> Self {
        Self {
            short: Some(letter),
            ..self
        }
    }

    pub(crate) const fn default(self, words: &'static str) -> Self {
        Self {
            default: Some(words),
            ..self
        }
    }
}

pub(crate) const HELP: OptionSpec =
    OptionSpec::switch("help", "show this help and exit").short(b'h');

/// What a command line takes besides options.
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    /// Its name in the help.
    pub name: &'static str,
    /// What it is.
    pub kind: ValueKind,
    /// What it means.
    pub help: &'static str,
    pub(crate) required: bool,
    /// How many may be given.
    pub max: usize,
}

impl Operand {
    fn takes(&self, word: &OsStr) -> bool {
        match self.kind {
            ValueKind::Words(words) => words.iter().any(|known| *known == word),
            _ => true,
        }
    }
}

/// The command line of the hook master or of a tool.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// The words after `qemu-ga`.
    pub name: &'static str,
    /// What it is for, in half a line.
    pub summary: &'static str,
    /// What it does, in full sentences.
    pub about: &'static str,
    /// What it takes besides options.
    pub operand: Option<Operand>,
    /// Its options, in groups that several command lines may share; [`HELP`] is added to them.
    pub(crate) options: &'static [&'static [OptionSpec]],
    /// Each exit status and its meaning; [`MISTAKE_STATUS`] is added to them.
    pub(crate) exit: &'static [(u8, &'static str)],
}

/// Exit status of a tool for a mistake in its command line.
pub(crate) const MISTAKE_STATUS: u8 = 2;

impl Usage {
    /// All options, [`HELP`] last.
    pub fn options(&self) -> impl Iterator<Item = &'static OptionSpec> {
        self.options.iter().copied().flatten().chain([&HELP])
    }

    /// All exit statuses, in their order.
    pub fn exit_statuses(&self) -> Vec<(u8, &'static str)> {
        let mut all = self.exit.to_vec();
        all.push((MISTAKE_STATUS, "the command line is wrong"));
        all.sort_by_key(|(status, _)| *status);
        all
    }

    /// Parses the arguments after the name; `None` if the help is asked for. The error is half a sentence.
    pub(crate) fn parse(&self, args: &[OsString]) -> Result<Option<ParsedArgs>, String> {
        let options: Vec<&'static OptionSpec> = self.options().collect();
        let mut parsed = ParsedArgs::default();
        for found in scan::scan(&options, args) {
            match found {
                Found::Bad(mistake) => return Err(mistake),
                Found::Option(at, value) => {
                    let spec = options[at];
                    if spec.long == HELP.long {
                        return Ok(None);
                    }
                    if value.as_ref().is_some_and(|value| value.is_empty()) {
                        return Err(format!("option '--{}' needs a value", spec.long));
                    }
                    parsed.options.push((spec.long, value));
                }
                Found::Operand(word) => {
                    let is_meant = self.operand.is_some_and(|operand| {
                        parsed.operands.len() < operand.max && operand.takes(&word)
                    });
                    if !is_meant {
                        return Err(unexpected(&word));
                    }
                    parsed.operands.push(word);
                }
                Found::Program(words) => parsed.operands = words,
            }
        }
        match self.operand {
            Some(operand) if operand.required && parsed.operands.is_empty() => {
                Err(format!("missing argument: {}", operand.name))
            }
            _ => Ok(Some(parsed)),
        }
    }
}

pub(crate) fn unexpected(word: &OsStr) -> String {
    format!("unexpected argument '{}'", word.to_string_lossy())
}

/// What was given on a command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ParsedArgs {
    options: Vec<(&'static str, Option<OsString>)>,
    /// The arguments without a dash; with [`Arg::Program`], the program and its arguments.
    pub operands: Vec<OsString>,
}

impl ParsedArgs {
    /// `name` is written with the dashes.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(given, _)| is_named(given, name))
    }

    /// The last value if the option was given twice.
    pub(crate) fn value(&self, name: &str) -> Option<&OsStr> {
        let mut values = self.options.iter().rev();
        let found = values.find(|(given, _)| is_named(given, name))?;
        found.1.as_deref()
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<usize>, String> {
        self.value(name).map(|text| number(name, text)).transpose()
    }
}

fn is_named(long: &str, name: &str) -> bool {
    name.strip_prefix("--") == Some(long)
}

/// Fractions are allowed. `what` names the value in the error.
pub(crate) fn seconds(what: &str, text: &OsStr) -> Result<f64, String> {
    let parsed = text.to_str().and_then(|text| text.parse().ok());
    parsed
        .filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)
        .ok_or_else(|| {
            let shown = text.to_string_lossy();
            format!("{what}: expected a number of seconds, got '{shown}'")
        })
}

/// The number of a run, 1 for the last. `what` names it in the error.
pub(crate) fn number(what: &str, text: &OsStr) -> Result<usize, String> {
    let parsed = text.to_str().and_then(|text| text.parse().ok());
    parsed.filter(|&number| number > 0).ok_or_else(|| {
        let shown = text.to_string_lossy();
        format!("{what}: expected a number from 1 (the last run), got '{shown}'")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: Usage = Usage {
        name: "example",
        summary: "an example",
        about: "Does nothing.",
        operand: Some(Operand {
            name: "PATH",
            kind: ValueKind::File,
            help: "a path",
            required: false,
            max: 1,
        }),
        options: &[
            &[OptionSpec::switch("now", "do it")],
            &[
                OptionSpec::new("config", Arg::Value("FILE", ValueKind::File), "a file")
                    .short(b'c'),
                OptionSpec::new("run", Arg::Program("COMMAND"), "run it"),
            ],
        ],
        exit: &[(0, "always")],
    };

    fn parse(line: &str) -> Result<Option<ParsedArgs>, String> {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        USAGE.parse(&args)
    }

    fn parsed(line: &str) -> ParsedArgs {
        parse(line).unwrap().unwrap()
    }

    #[test]
    fn options_and_operands_in_any_order() {
        let given = parsed("--now /a -c /x --config=/y");
        assert!(given.has("--now") && !given.has("--run"));
        assert_eq!(given.value("--config"), Some(OsStr::new("/y")));
        assert_eq!(given.operands, ["/a"]);
        assert_eq!(parsed("-c/x").value("--config"), Some(OsStr::new("/x")));
        assert_eq!(parsed("-- --now").operands, ["--now"]);
        assert_eq!(parse("--now --help"), Ok(None));
        assert_eq!(parsed("-").operands, ["-"]);
    }

    #[test]
    fn a_program_takes_all_that_follows() {
        let given = parsed("--now --run ls --help -c");
        assert!(given.has("--now") && given.has("--run"));
        assert_eq!(given.operands, ["ls", "--help", "-c"]);
        assert_eq!(parsed("--run=ls -l").operands, ["ls", "-l"]);
        let mistake = "option '--run' needs a value".to_owned();
        assert_eq!(parse("--run"), Err(mistake));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, mistake) in [
            ("--what", "unknown option '--what'"),
            ("--no", "unknown option '--no'"),
            ("--now=1", "option '--now' takes no value"),
            ("-c", "option '-c' needs a value"),
            ("--config=", "option '--config' needs a value"),
            ("a b", "unexpected argument 'b'"),
        ] {
            assert_eq!(parse(line), Err(mistake.to_owned()), "{line}");
        }
        let required = Usage {
            operand: USAGE.operand.map(|operand| Operand {
                required: true,
                ..operand
            }),
            ..USAGE
        };
        assert_eq!(
            required.parse(&[]),
            Err("missing argument: PATH".to_owned())
        );
        assert_eq!(required.parse(&["-h".into()]), Ok(None));
        assert_eq!(number("--run", OsStr::new("3")), Ok(3));
        for wrong in ["0", "-1", "x", ""] {
            assert!(number("--run", OsStr::new(wrong)).is_err());
        }
    }
}
