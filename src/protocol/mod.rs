//! Floor 0: the wire protocol, without I/O.
//!
//! Bytes become messages ([`framing`]), messages become requests ([`request`]), their arguments become typed structs
//! ([`arguments`]), and results become reply lines ([`reply`]). Error texts that the original has, too, are in [`error`].
//! `agent::session` reads and writes with it, handlers use [`arguments`] and [`value`].
//!
//! Always: no input panics or overflows the stack; the result does not depend on how the input was cut into pieces; the
//! memory of a message is freed when it is done. Not serde_json, because the original's dialect is not JSON alone
//! (strings between apostrophes, recovery after a bad byte, texts of errors), and replies have its order of members.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod base64;
pub mod error;
pub mod framing;
pub mod reply;
pub mod request;
pub mod text;
pub mod value;

mod dict;
mod lexer;
mod literal;
mod number;
mod output;
mod parser;
mod ser;

#[cfg(test)]
mod tests;
