//! An operator's tool: its command line ([`Usage`]), the tools under it, and what it does.

use super::output;
use crate::cli::{MISTAKE_STATUS, OptionSpec, Usage, help, unexpected};
pub(crate) use crate::cli::{ParsedArgs, number, seconds};
use std::ffi::OsString;

/// A tool for operators.
#[derive(Debug)]
pub struct Tool {
    /// Its command line.
    pub usage: Usage,
    /// Those whose name begins with this one's: `hook list`.
    pub subcommands: &'static [Tool],
    pub(crate) run: fn(&ParsedArgs) -> Result<u8, ToolError>,
}

pub(crate) const JSON: OptionSpec = OptionSpec::switch("json", "write JSON");

/// Why a tool ended before its work was done.
#[derive(Debug)]
pub(crate) enum ToolError {
    Mistake(String),
    Failed(String),
}

impl From<String> for ToolError {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl Tool {
    /// The last word of its name.
    pub fn word(&self) -> &'static str {
        let name = self.usage.name;
        name.rsplit(' ').next().unwrap_or(name)
    }

    /// This tool and those under it.
    pub fn all(&'static self) -> impl Iterator<Item = &'static Tool> {
        [self].into_iter().chain(self.subcommands)
    }

    pub(crate) fn run_cli(&self, args: &[OsString]) -> u8 {
        if let Some((tool, rest)) = find(self.subcommands, args) {
            return tool.run_cli(rest);
        }
        let name = self.usage.name;
        let ended = match self.usage.parse(args) {
            Ok(Some(given)) => (self.run)(&given),
            Ok(None) => Ok(output::print(&self.help())),
            Err(mistake) => Err(ToolError::Mistake(mistake)),
        };
        match ended {
            Ok(status) => status,
            Err(ToolError::Mistake(mistake)) => {
                let help = self.help();
                output::print_error(&format!("qemu-ga {name}: {mistake}\n{help}"));
                MISTAKE_STATUS
            }
            Err(ToolError::Failed(why)) => {
                output::print_error(&format!("qemu-ga {name}: {why}\n"));
                1
            }
        }
    }

    pub(crate) fn help(&self) -> String {
        let help = self.usage.help();
        match self.subcommands {
            [] => help,
            tools => format!("{help}\n{}", summaries(tools)),
        }
    }
}

pub(crate) fn find<'a>(
    tools: &'static [Tool],
    args: &'a [OsString],
) -> Option<(&'static Tool, &'a [OsString])> {
    let (word, rest) = args.split_first()?;
    let tool = tools.iter().find(|tool| tool.word() == word)?;
    Some((tool, rest))
}

pub(crate) fn summaries(tools: &[Tool]) -> String {
    let row = |tool: &Tool| {
        let usage = tool.usage;
        (format!("qemu-ga {}", usage.name), usage.summary.to_owned())
    };
    let rows: Vec<_> = tools.iter().map(row).collect();
    let head = "Tools; \"qemu-ga help TOOL\" describes one:\n";
    head.to_owned() + &help::columns(&rows)
}

/// The help of the tool that `words` name; `None` without a word. The error names the first word that is no tool.
pub(crate) fn help_of(
    tools: &'static [Tool],
    words: &[OsString],
) -> Result<Option<String>, String> {
    let (mut tools, mut words, mut named) = (tools, words, None);
    while let Some(word) = words.first() {
        let Some((tool, rest)) = find(tools, words) else {
            return Err(unexpected(word));
        };
        (tools, words, named) = (tool.subcommands, rest, Some(tool));
    }
    Ok(named.map(Tool::help))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn tool(name: &'static str, subcommands: &'static [Tool]) -> Tool {
        Tool {
            usage: Usage {
                name,
                summary: "an example",
                about: "Does nothing.",
                operand: None,
                options: &[&[JSON]],
                exit: &[(0, "always")],
            },
            subcommands,
            run: |_| Ok(0),
        }
    }

    static TOOLS: [Tool; 2] = [tool("a", &[]), tool("b", &[tool("b c", &[])])];

    #[test]
    fn help_finds_a_tool_and_those_under_it() {
        let help = |words: &str| {
            let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
            help_of(&TOOLS, &words)
        };
        assert_eq!(help(""), Ok(None));
        let text = help("b c").unwrap().unwrap();
        assert!(text.starts_with("Usage: qemu-ga b c [--json]\n"), "{text}");
        let text = help("b").unwrap().unwrap();
        assert!(text.ends_with("\n  qemu-ga b c  an example\n"), "{text}");
        assert_eq!(help("b d"), Err("unexpected argument 'd'".to_owned()));
        assert_eq!(help("a c"), Err("unexpected argument 'c'".to_owned()));
    }
}
