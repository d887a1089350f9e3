//! A command's arguments as a typed struct. Floor 0.
//!
//! Commands declare their arguments as a struct with `#[derive(Deserialize)]` (and
//! `rename_all = "kebab-case"`); [`decode`] fills it and refuses what does not fit, in the
//! original's words. Declared members are looked at in the order of the struct's fields, then
//! come the members that are too many. The whole of the arguments is checked before the command
//! sees any.
//!
//! - Optional members are `Option<T>`; `#[serde(default)]` and `flatten` are not supported.
//! - JSON's null is a value (of the wrong type for everything here), never "absent".
//! - Enumerations are enums of unit variants.
//! - A member that is either a number (or boolean) or a name is an [`Alternate`].

mod alternate;
mod de;
mod path;

pub use alternate::{Alternate, Scalar};

use serde::de::DeserializeOwned;

use super::error::CommandError;
use super::value::Dict;

/// The arguments of a command that takes none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
pub struct NoArguments {}

/// Fills `T` from a request's arguments.
///
/// # Errors
/// The first problem, as the answer has to say it. Of several members that are too many, the
/// one sent last is named.
pub fn decode<T: DeserializeOwned>(arguments: Dict) -> Result<T, CommandError> {
    de::decode(arguments)
}

#[cfg(test)]
mod tests;
