//! Manual pages: Markdown in, man(7) macros out.
//!
//! A heading is a section, one of the second level a subsection. A definition list is a list of tags, code is bold,
//! emphasis is italic (a name to fill in). Other Markdown is an error, so that nothing gets lost.

use anyhow::bail;
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use roff::{Inline, Roff, bold, italic, roman};

/// The arguments of the macro `TH`; see man(7).
pub struct Head<'a> {
    pub name: &'a str,
    pub section: u8,
    pub source: &'a str,
    pub manual: &'a str,
}

/// Stands for a backslash until the page is rendered: roff doubles one, which is wrong in a macro's argument.
const BACKSLASH: char = '\u{e000}';

/// What groff would replace by a typographic character.
const GLYPHS: [(char, &str); 4] = [
    (BACKSLASH, "\\e"),
    ('`', "\\(ga"),
    ('^', "\\(ha"),
    ('~', "\\(ti"),
];

pub fn page(head: &Head<'_>, markdown: &str) -> anyhow::Result<String> {
    let mut page = Page::default();
    let section = head.section.to_string();
    let name = heading(&head.name.to_uppercase());
    page.roff
        .control("TH", [&name, &section, "\"\"", head.source, head.manual]);
    // Names of options must not be hyphenated or spread.
    page.roff.control("nh", []).control("ad", ["l"]);
    for event in Parser::new_ext(markdown, Options::ENABLE_DEFINITION_LIST) {
        page.add(event)?;
    }
    let mut text = page.roff.render();
    for (character, glyph) in GLYPHS {
        text = text.replace(character, glyph);
    }
    Ok(format!(
        ".\\\" Made by xtask from the agent's own tables.\n{text}"
    ))
}

/// Text of a heading: roff does not escape a macro's arguments.
fn heading(text: &str) -> String {
    text.replace('-', "\\-")
}

#[derive(Default)]
struct Page {
    roff: Roff,
    line: Vec<Inline>,
    is_italic: bool,
    /// Lines are not filled.
    is_example: bool,
    /// The next paragraph needs no macro: it follows a heading or a tag.
    is_opened: bool,
    in_definition: bool,
}

impl Page {
    fn add(&mut self, event: Event<'_>) -> anyhow::Result<()> {
        match event {
            Event::Start(tag) => self.start(&tag)?,
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.is_example => {
                for line in text.lines() {
                    self.push(roman, line);
                    self.end_line();
                }
            }
            Event::Text(text) if self.is_italic => self.push(italic, &text),
            Event::Text(text) => self.push(roman, &text),
            Event::Code(text) => self.push(bold, &text),
            Event::SoftBreak => self.end_line(),
            other => bail!("a manual page cannot have this Markdown: {other:?}"),
        }
        Ok(())
    }

    fn start(&mut self, tag: &Tag<'_>) -> anyhow::Result<()> {
        match tag {
            Tag::Emphasis => self.is_italic = true,
            Tag::CodeBlock(_) => {
                self.is_example = true;
                self.roff.control("PP", []).control("RS", ["4"]);
                self.roff.control("EX", []);
            }
            Tag::Paragraph if self.is_opened => self.is_opened = false,
            Tag::Paragraph if self.in_definition => {
                self.roff.control("IP", []);
            }
            Tag::Paragraph => {
                self.roff.control("PP", []);
            }
            Tag::DefinitionListTitle => {
                self.roff.control("TP", []);
            }
            Tag::DefinitionListDefinition => {
                (self.in_definition, self.is_opened) = (true, true);
            }
            Tag::Heading { .. } | Tag::DefinitionList => {}
            other => bail!("a manual page cannot have this Markdown: {other:?}"),
        }
        Ok(())
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Emphasis => self.is_italic = false,
            TagEnd::CodeBlock => {
                self.is_example = false;
                self.roff.control("EE", []).control("RE", []);
            }
            TagEnd::Heading(level) => {
                let words = std::mem::take(&mut self.line).into_iter();
                let words = words.map(|part| match part {
                    Inline::Roman(text) | Inline::Bold(text) | Inline::Italic(text) => text,
                    Inline::LineBreak => String::new(),
                });
                let title = heading(&words.collect::<String>());
                let is_section = level == HeadingLevel::H1;
                self.roff
                    .control(if is_section { "SH" } else { "SS" }, [title.as_str()]);
                self.is_opened = true;
            }
            TagEnd::DefinitionListDefinition => {
                self.end_line();
                (self.in_definition, self.is_opened) = (false, false);
            }
            _ => self.end_line(),
        }
    }

    fn push(&mut self, style: fn(String) -> Inline, text: &str) {
        let text = text.replace('\\', &BACKSLASH.to_string());
        self.line.push(style(text.replace('…', "...")));
    }

    fn end_line(&mut self) {
        if !self.line.is_empty() {
            self.roff.text(std::mem::take(&mut self.line));
        }
    }
}

/// As Markdown in which no mark means anything.
pub fn literal(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if "\\`*_<[".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head<'_> = Head {
        name: "a-b",
        section: 7,
        source: "s 1",
        manual: "m",
    };

    #[test]
    fn markdown_becomes_macros() {
        let text = "# NAME\n\na-b - x\n\ntext `-F` of *FILE*\n.dot\n\n`--x`\n: what\n  more\n\n`y`\n: z\n\n\
                    ```\n.code \\ it's\n\n~\n```\n";
        let page = page(&HEAD, text).unwrap();
        for expected in [
            ".TH A\\-B 7 \"\" \"s 1\" m\n.nh\n.ad l\n",
            ".SH NAME\na\\-b \\- x\n.PP\ntext \\fB\\-F\\fR of \\fIFILE\\fR\n\\&.dot\n",
            ".TP\n\\fB\\-\\-x\\fR\nwhat\nmore\n.TP\n\\fBy\\fR\nz\n",
            ".PP\n.RS 4\n.EX\n\\&.code \\e it\\*(Aqs\n\n\\(ti\n.EE\n.RE\n",
        ] {
            assert!(page.contains(expected), "{expected}: {page}");
        }
    }

    #[test]
    fn what_it_does_not_know_is_an_error() {
        for text in ["a <b> c", "| a |\n", "- a\n", "[a](b)"] {
            let done = page(&HEAD, text);
            assert!(done.is_err() || text.starts_with('|'), "{text}");
        }
        let text = page(&HEAD, &literal("a* `b` <c> [d](e) _f_ \\g")).unwrap();
        assert!(
            text.ends_with("a* \\(gab\\(ga <c> [d](e) _f_ \\eg\n"),
            "{text}"
        );
    }
}
