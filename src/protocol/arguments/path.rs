//! Where in the arguments a value stands. Floor 0.

use std::fmt;

/// A value's place, linked from the inside out; it lives on the decoder's stack.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
    Element(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// The name alone, as enumerations and alternates say it; elements of lists have none and
    /// give their whole path.
    pub(super) fn leaf(&self) -> String {
        match self {
            Self::Member(_, name) => (*name).to_owned(),
            other => other.to_string(),
        }
    }
}

/// The dotted path: `vcpus[0].logical-id`.
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(Path::Root, name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Element(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}
