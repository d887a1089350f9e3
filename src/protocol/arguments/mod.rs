//! A command's arguments as a typed struct. Floor 0.
//!
//! A command declares its arguments as a struct with `#[derive(Deserialize)]` (and `rename_all = "kebab-case"`); [`decode`]
//! fills it, and returns an error in the original's words for what does not fit. Declared members are checked in the
//! order of the struct's fields, then members that are not declared; the handler runs only if all of them are right.
//!
//! - The types are those of the schema: `bool`, `i64` (its `int`), `u64`, `String`, structs, `Vec`, enums of names.
//! - Optional members are `Option<T>`; `#[serde(default)]` and `flatten` are not supported.
//! - JSON's null is a value (of the wrong type for everything here), never "absent".
//! - An alternate of the schema, a name or a number (or boolean), is an enum with a variant `Integer(i64)` (or
//!   `Boolean(bool)`) after the names. Errors name the type, so the enum is called as in the schema:
//!
//! ```
//! use qemu_ga::protocol::arguments::decode;
//! use qemu_ga::protocol::value::Dict;
//!
//! #[derive(Debug, PartialEq, serde::Deserialize)]
//! #[serde(rename_all = "kebab-case")]
//! enum GuestFileWhence { Set, Cur, End, Integer(i64) }
//!
//! #[derive(serde::Deserialize)]
//! struct Arguments { whence: GuestFileWhence }
//!
//! let whence = |arguments: Dict| decode::<Arguments>(arguments).map(|arguments| arguments.whence);
//! assert_eq!(whence([("whence", "end")].into_iter().collect()), Ok(GuestFileWhence::End));
//! assert_eq!(whence([("whence", 2_i64)].into_iter().collect()), Ok(GuestFileWhence::Integer(2)));
//! let error = whence([("whence", true)].into_iter().collect()).unwrap_err();
//! assert_eq!(error.desc, "Invalid parameter type for 'whence', expected: GuestFileWhence");
//! ```

mod de;
mod path;

use serde::de::DeserializeOwned;

use super::error::CommandError;
use super::value::Dict;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct NoArguments {}

/// Fails with the first problem. Of several members that are too many, the one sent last is named.
pub fn decode<T: DeserializeOwned>(arguments: Dict) -> Result<T, CommandError> {
    de::decode(arguments)
}

#[cfg(test)]
mod tests;
