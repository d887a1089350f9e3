//! The command line of an operator's tool, from one small table each.

use super::output;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What a tool takes.
#[derive(Debug)]
pub struct Tool {
    /// The word behind `qemu-ga`.
    pub name: &'static str,
    /// The help, from `Usage:` on, in pieces.
    pub usage: &'static [&'static str],
    /// Options without a value; `--json` and `--help` are understood everywhere.
    pub flags: &'static [&'static str],
    /// Options with a value; an alias follows its name after a blank: `--config -c`.
    pub values: &'static [&'static str],
    /// How many words without a dash.
    pub max_operands: usize,
    /// What it does; returns the exit status.
    pub run: fn(&ParsedArgs) -> Result<u8, ToolError>,
}

/// Why a tool ended without having done its work.
#[derive(Debug)]
pub enum ToolError {
    /// A mistake in the command line.
    Mistake(String),
    /// It cannot be done.
    Failed(String),
}

impl From<String> for ToolError {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// What was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ParsedArgs {
    flags: Vec<&'static str>,
    values: Vec<(&'static str, OsString)>,
    /// The words without a dash.
    pub operands: Vec<OsString>,
}

impl ParsedArgs {
    /// Whether the option was given.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    /// The option's value; the last one counts.
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        let mut values = self.values.iter().rev();
        let found = values.find(|(given, _)| *given == name)?;
        Some(&found.1)
    }

    /// The option's value as a number from 1 up.
    ///
    /// # Errors
    /// It is none.
    pub fn number(&self, name: &str) -> Result<Option<usize>, String> {
        self.value(name).map(|text| number(name, text)).transpose()
    }
}

/// A number of seconds, fractions allowed.
///
/// # Errors
/// It is none; `what` names it.
pub fn seconds(what: &str, text: &OsStr) -> Result<f64, String> {
    let parsed = text.to_str().and_then(|text| text.parse().ok());
    parsed
        .filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)
        .ok_or_else(|| {
            let shown = text.to_string_lossy();
            format!("{what}: expected a number of seconds, got '{shown}'")
        })
}

/// A number from 1 up.
///
/// # Errors
/// It is none; `what` names it.
pub fn number(what: &str, text: &OsStr) -> Result<usize, String> {
    let parsed = text.to_str().and_then(|text| text.parse().ok());
    parsed.filter(|&number| number > 0).ok_or_else(|| {
        let shown = text.to_string_lossy();
        format!("{what} is a number from 1 (the last run) up, not '{shown}'")
    })
}

impl Tool {
    /// Takes the arguments behind the word apart, does the work, and tells of mistakes and failures;
    /// returns the exit status.
    pub fn run_cli(&self, args: &[OsString]) -> u8 {
        let (name, usage) = (self.name, self.usage.concat());
        let ended = match self.parse(args) {
            Ok(Some(given)) => (self.run)(&given),
            Ok(None) => Ok(output::print(&usage)),
            Err(mistake) => Err(ToolError::Mistake(mistake)),
        };
        match ended {
            Ok(status) => status,
            Err(ToolError::Mistake(mistake)) => {
                output::print_error(&format!("qemu-ga {name}: {mistake}\n{usage}"));
                2
            }
            Err(ToolError::Failed(why)) => {
                output::print_error(&format!("qemu-ga {name}: {why}\n"));
                1
            }
        }
    }

    /// `None`: the help is asked for.
    fn parse(&self, args: &[OsString]) -> Result<Option<ParsedArgs>, String> {
        let mut given = ParsedArgs::default();
        let mut args = args.iter();
        let mut only_words = false;
        while let Some(arg) = args.next() {
            let bytes = arg.as_bytes();
            if only_words || !bytes.starts_with(b"-") || bytes == b"-" {
                if given.operands.len() == self.max_operands {
                    return Err(format!("unexpected argument '{}'", arg.to_string_lossy()));
                }
                given.operands.push(arg.clone());
                continue;
            }
            if bytes == b"--" {
                only_words = true;
                continue;
            }
            let equals = bytes.iter().position(|&byte| byte == b'=');
            let (name, inline) = match equals {
                Some(at) if bytes.starts_with(b"--") => {
                    (&bytes[..at], Some(bytes[at + 1..].to_vec()))
                }
                _ => (bytes, None),
            };
            let name = String::from_utf8_lossy(name);
            if let Some(option) = find(self.values, &name) {
                let value = match inline {
                    Some(value) => Some(OsString::from_vec(value)),
                    None => args.next().cloned(),
                };
                let value = value.filter(|value| !value.is_empty());
                given
                    .values
                    .push((option, value.ok_or(format!("{name} needs a value"))?));
            } else if inline.is_some() {
                return Err(format!("unknown option '{name}=', or it takes no value"));
            } else if matches!(&*name, "--help" | "-h") {
                return Ok(None);
            } else if let Some(flag) = find(self.flags, &name).or(find(&["--json"], &name)) {
                given.flags.push(flag);
            } else {
                return Err(format!("unknown option '{name}'"));
            }
        }
        Ok(Some(given))
    }
}

/// The first word of the entry that has `name` among its words.
fn find(entries: &[&'static str], name: &str) -> Option<&'static str> {
    let found = entries
        .iter()
        .find(|entry| entry.split(' ').any(|word| word == name))?;
    found.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOL: Tool = Tool {
        name: "try",
        usage: &["Usage: …\n"],
        flags: &["--now"],
        values: &["--config -c"],
        max_operands: 1,
        run: |_| Ok(0),
    };

    fn parse(line: &str) -> Result<Option<ParsedArgs>, String> {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        TOOL.parse(&args)
    }

    #[test]
    fn options_and_words_in_any_order() {
        let given = parse("--now /a -c /x --config=/y --json").unwrap().unwrap();
        assert!(given.has("--now") && given.has("--json"));
        assert_eq!(given.value("--config"), Some(OsStr::new("/y")));
        assert_eq!(given.operands, ["/a"]);
        assert_eq!(parse("-- --now").unwrap().unwrap().operands, ["--now"]);
        assert_eq!(parse("--now --help"), Ok(None));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, mistake) in [
            ("--what", "unknown option '--what'"),
            ("--now=1", "unknown option '--now=', or it takes no value"),
            ("-c", "-c needs a value"),
            ("--config=", "--config needs a value"),
            ("a b", "unexpected argument 'b'"),
        ] {
            assert_eq!(parse(line), Err(mistake.to_owned()), "{line}");
        }
        assert_eq!(number("--run", OsStr::new("3")), Ok(3));
        for wrong in ["0", "-1", "x", ""] {
            assert!(number("--run", OsStr::new(wrong)).is_err());
        }
    }
}
