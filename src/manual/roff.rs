//! Manual pages from a light markup, as man(7) macros.
//!
//! `# ` a section, `## ` a subsection, `@ ` a tag whose text follows, four blanks an example that stays
//! as it is, `` `bold` ``, `*italic*` (a name to fill in), and an empty line between paragraphs.

use std::fmt::Write;

/// What the head of a page says.
pub struct Head<'a> {
    /// The page's name.
    pub name: &'a str,
    /// The manual's section.
    pub section: u8,
    /// Where it is from.
    pub source: &'a str,
    /// Which manual it belongs to.
    pub manual: &'a str,
}

/// The page that the markup means.
pub fn page(head: &Head<'_>, markup: &str) -> String {
    let mut page = format!(
        ".\\\" Made by src/manual from the agent's own tables.\n.TH {} {} \"\" \"{}\" \"{}\"\n",
        quoted(&head.name.to_uppercase()),
        head.section,
        head.source,
        head.manual
    );
    page += ".nh\n.ad l\n";
    let mut place = Place::Between;
    for line in markup.lines() {
        if let Some(example) = line.strip_prefix("    ") {
            if place != Place::Example {
                page += ".PP\n.RS 4\n.EX\n";
                place = Place::Example;
            }
            page += &guarded(plain(example));
            page.push('\n');
            continue;
        }
        if place == Place::Example {
            page += ".EE\n.RE\n";
            place = Place::Between;
        }
        if line.trim().is_empty() {
            place = Place::Between;
        } else if let Some(title) = line.strip_prefix("## ") {
            let _ = writeln!(page, ".SS \"{}\"", plain(title));
            place = Place::Opened;
        } else if let Some(title) = line.strip_prefix("# ") {
            let _ = writeln!(page, ".SH \"{}\"", plain(title));
            place = Place::Opened;
        } else if let Some(tag) = line.strip_prefix("@ ") {
            let _ = write!(page, ".TP\n{}\n", inline(tag));
            place = Place::Opened;
        } else {
            if place == Place::Between {
                page += ".PP\n";
            }
            let _ = writeln!(page, "{}", inline(line));
            place = Place::Opened;
        }
    }
    if place == Place::Example {
        page += ".EE\n.RE\n";
    }
    page
}

#[derive(PartialEq)]
enum Place {
    /// A paragraph has to be opened before text.
    Between,
    /// Text goes on.
    Opened,
    /// Lines stay as they are.
    Example,
}

/// Text without markup.
pub fn plain(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped += "\\e",
            '-' => escaped += "\\-",
            '\'' => escaped += "\\(aq",
            '`' => escaped += "\\(ga",
            '^' => escaped += "\\(ha",
            '~' => escaped += "\\(ti",
            '"' => escaped += "\\(dq",
            '…' => escaped += "...",
            c => escaped.push(c),
        }
    }
    escaped
}

/// Text with `bold` and *italic* words; a backslash takes the meaning of the mark behind it.
fn inline(text: &str) -> String {
    let (mut out, mut run, mut open) = (String::new(), String::new(), None);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if matches!(chars.peek(), Some('`' | '*')) => run.extend(chars.next()),
            '`' | '*' if open.is_none_or(|mark| mark == c) => {
                out += &plain(&std::mem::take(&mut run));
                out += match (open, c) {
                    (Some(_), _) => "\\fR",
                    (None, '`') => "\\fB",
                    (None, _) => "\\fI",
                };
                open = if open.is_some() { None } else { Some(c) };
            }
            c => run.push(c),
        }
    }
    out += &plain(&run);
    guarded(out)
}

/// A line that begins with a dot would be a macro.
fn guarded(line: String) -> String {
    if line.starts_with('.') {
        format!("\\&{line}")
    } else {
        line
    }
}

fn quoted(text: &str) -> String {
    text.replace('-', "\\-")
}

/// Text in which no mark means anything, as markup.
pub fn literal(text: &str) -> String {
    text.replace('*', "\\*").replace('`', "\\`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_macros() {
        let head = Head {
            name: "a-b",
            section: 7,
            source: "s",
            manual: "m",
        };
        let text =
            "# NAME\na-b - x\n\ntext `-F` of *FILE*\n.dot\n@ `--x`\nwhat\n\n    .code \\ it's\n";
        let page = page(&head, text);
        assert!(page.contains(".TH A\\-B 7 \"\" \"s\" \"m\"\n"));
        assert!(page.contains(
            ".SH \"NAME\"\na\\-b \\- x\n.PP\ntext \\fB\\-F\\fR of \\fIFILE\\fR\n\\&.dot\n"
        ));
        assert!(page.contains(".TP\n\\fB\\-\\-x\\fR\nwhat\n"));
        assert_eq!(inline(&literal("a* `b`")), "a* \\(gab\\(ga");
        assert!(page.ends_with(".PP\n.RS 4\n.EX\n\\&.code \\e it\\(aqs\n.EE\n.RE\n"));
    }
}
