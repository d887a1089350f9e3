//! JSON values. Floor 0.
//!
//! The parser makes them of requests, handlers of replies ([`to_value`]). Not serde_json's: its objects are sorted by name,
//! while ours keep the insertion order, on which the wire's order of members depends ([`Dict::wire_order`]).

pub use super::dict::Dict;
pub(crate) use super::ser::to_value;

/// One JSON value.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer that fits `i64`.
    Int(i64),
    /// An integer above `i64::MAX`.
    Uint(u64),
    /// Any other number.
    Double(f64),
    /// A string; U+0000 is allowed.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Dict),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or(Self::Uint(value), Self::Int)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl From<Vec<Value>> for Value {
    fn from(value: Vec<Value>) -> Self {
        Self::Array(value)
    }
}

impl From<Dict> for Value {
    fn from(value: Dict) -> Self {
        Self::Object(value)
    }
}
